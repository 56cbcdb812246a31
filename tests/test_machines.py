"""The commands on other machines: terminals, start methods, full disks, folders that stay, several at once."""

import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from bad_inputs.world import World

from sdmad_lite.cli import main
from sdmad_lite.errors import OutputError, SDMADError
from sdmad_lite.files import is_main, new_file, new_folder

ROOT = Path(__file__).parents[1]
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a device of Linux")


def sdmad(*words, before="", **more):
    """A command in a process of its own; `before` is what the shell does first."""
    line = f"{before} exec {sys.executable} -m sdmad_lite {' '.join(map(str, words))}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **more}
    return subprocess.run(["bash", "-c", line], capture_output=True, env=environment)


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_clip_name):
    """Six images, one with a name that few terminals can show, and a detector whose model any process can load."""
    world = World(tmp_path_factory.mktemp("machines"), None, None)
    data = world.data()
    (world.path / "胸片.png").write_bytes((data / "0.png").read_bytes())
    world.fitted = world.path / "detector"
    given = ["--data", str(data), "--signs", str(world.bank()), "--out", str(world.fitted), "--training-free"]
    assert main(["fit", "--quiet", *given, "--device", "cpu", "--backbone", tiny_clip_name]) == 0
    return world


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_a_terminal_shows_what_it_can(world, monkeypatch, encoding):
    given = ["predict", "--quiet", "--detector", str(world.fitted), f"{world.path}/胸片.png", "--device=cpu"]
    said = []
    for words in ([*given, "--json"], given):
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
        assert main(words) == 0
        sys.stdout.flush()
        said.append(sys.stdout.buffer.getvalue())
    assert json.loads(said[0].decode(encoding))["predictions"][0]["image"] == f"{world.path}/胸片.png"
    assert b".png  Effusion" in said[1]


@LINUX
@pytest.mark.parametrize("words", ["--help", "data list"])
def test_a_full_disk_behind_stdout_is_an_error(words):
    done = sdmad(words, "> /dev/full")
    assert done.returncode == 2 and re.fullmatch(rb"error: the output: No space left on device; .*\n", done.stderr)


def test_a_closed_stdout_is_no_traceback(world):
    assert sdmad("data list", ">&-").returncode == 0


SEVERAL = """import shlex, sys
from sdmad_lite.cli import main
codes = [main(shlex.split(words)) for words in sys.argv[1:]]
print(*codes)"""


@LINUX
def test_sixteen_open_files_and_a_terminal_of_ascii_are_enough_or_told(world, tmp_path):
    """In a process that has no more from its start on."""
    given = f"predict --detector {world.fitted} --device cpu --quiet"
    archive = f"{given} --data {world.path / 'data'} --out {tmp_path / 's.parquet'}"
    words = [f"{archive} --workers 1", archive, f"{given} '{world.path}/胸片.png'"]
    line = f"ulimit -n 16; exec {shlex.join([sys.executable, '-c', SEVERAL, *words])}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run(["bash", "-c", line], capture_output=True, env=environment)
    assert done.stderr.count(b"error") == 1 and b"only 16 files may be open at once" in done.stderr
    assert rb"\u80f8\u7247.png  Effusion" in done.stdout and done.stdout.endswith(b"\n2 0 0\n"), done.stderr


SCRIPT = """import multiprocessing

multiprocessing.set_start_method({method!r})
{code}"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_the_script_of_the_page_runs_whatever_starts_a_process(world, tmp_path, method):
    code = re.search(
        r"```python\n(from sdmad_lite import SDMAD, score_archive.*?)```",
        (ROOT / "docs/scale.md").read_text("utf-8"),
        re.S,
    )[1]
    code = code.replace("build/detector", str(world.fitted)).replace("radiographs/", str(world.path / "data"))
    (tmp_path / "script.py").write_text(SCRIPT.format(method=method, code=code), encoding="utf-8")
    run = [sys.executable, "script.py"]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr.decode()
    assert (tmp_path / "scores.parquet" / "part-00000.parquet").exists()


def test_the_folder_where_one_stands_is_filled_in_place(tmp_path, monkeypatch):
    """`--out .`: it stays the same folder, whether empty or with an earlier run."""
    monkeypatch.chdir(tmp_path)
    number = os.stat(tmp_path).st_ino
    for text in ("old", "new"):
        with new_folder(".", "a.json") as folder:
            (folder / "a.json").write_text(text)
            (folder / f"{text}.txt").write_text("")
        assert sorted(os.listdir()) == ["a.json", f"{text}.txt"] and Path("a.json").read_text() == text
    assert os.stat(os.getcwd()).st_ino == number
    with pytest.raises(OutputError, match=r"exists and holds no b\.json"), new_folder(".", "b.json"):
        pass


@pytest.mark.skipif(os.name != "posix", reason="elsewhere such a folder cannot be removed")
def test_the_folder_where_one_stands_may_be_gone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gone").mkdir()
    os.chdir("gone")
    os.rmdir(tmp_path / "gone")
    with new_folder(tmp_path / "out", "a.json") as folder:
        (folder / "a.json").write_text("")
    assert (tmp_path / "out" / "a.json").exists()
    with pytest.raises(OutputError, match=r"^out: cannot be written \(.*choose another place"), new_folder("out", "a"):
        pass


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("two", "RANK and WORLD_SIZE of the environment are no whole numbers; unset both"),
        ("1.5", "RANK and WORLD_SIZE of the environment are no whole numbers; unset both"),
        ("-1", "RANK=-1 of the environment is none of WORLD_SIZE=1 processes; unset both"),
        ("1", "RANK=1 of the environment is none of WORLD_SIZE=1 processes; unset both"),
    ],
)
def test_a_number_of_processes_that_is_none_is_told(monkeypatch, value, message):
    monkeypatch.setenv("WORLD_SIZE", "")
    assert is_main()
    monkeypatch.setenv("RANK", value)
    with pytest.raises(SDMADError, match=message):
        is_main()


@pytest.mark.parametrize(("place", "message"), [("", "is a folder; name a file in it"), ("pipe", "is no file")])
def test_what_is_no_file_is_not_replaced(tmp_path, place, message):
    if place:
        os.mkfifo(tmp_path / place)
    with pytest.raises(OutputError, match=message), new_file(tmp_path / place):
        raise AssertionError("nothing is begun")


def test_predict_obeys_the_split_of_class_folders_and_refuses_what_it_would_not_use(world, tmp_path, capsys):
    for part, name, image in [
        ("train", "normal", 0),
        ("train", "Effusion", 1),
        ("test", "normal", 3),
        ("test", "Nodule", 5),
    ]:
        place = tmp_path / "set" / part / name / f"{image}.png"
        place.parent.mkdir(parents=True)
        place.write_bytes((world.path / "data" / f"{image}.png").read_bytes())
    given = ["predict", "--quiet", "--detector", str(world.fitted), "--device=cpu", f"--out={tmp_path / 'o.csv'}"]
    assert main([*given, f"--data={tmp_path / 'set'}", "--split=test"]) == 0
    lines = (tmp_path / "o.csv").read_text().splitlines()
    assert [line.partition(",")[0] for line in lines[1:]] == ["test/Nodule/5.png", "test/normal/3.png"]
    (tmp_path / "set" / "more").symlink_to(world.path / "data")
    assert main([*given, f"--data={tmp_path / 'set'}"]) == 2
    assert "set/more: is a link to a folder" in capsys.readouterr().err
    image = str(world.path / "data" / "3.png")
    for words in (["--split=test"], ["--format=csv"]):
        assert main([*given, image, *words]) == 2 and "leave" in capsys.readouterr().err
    assert main([*given[:-1], image, "--workers=2"]) == 2 and "go with --out" in capsys.readouterr().err


def test_no_home_is_no_error(world, tmp_path):
    given = ["signs generate Effusion --modality x --model m --server http://localhost:9/v1 --retries 0"]
    done = sdmad(*given, "--out", tmp_path / "g.json", before="unset HOME XDG_CACHE_HOME;", HOME="")
    assert done.returncode == 2 and b"Traceback" not in done.stderr
