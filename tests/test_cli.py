"""The command line: what each command prints, writes and returns; a whole report by `run`; and docs/cli.md."""

import ast
import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import typer
from bad_inputs.world import BANK, LABELS, World, serving
from conftest import CATEGORIES, few_steps
from PIL import Image
from processes import Command

import sdmad_datasets as datasets
import sdmad_lite
from sdmad_datasets.cli import app as datasets_app
from sdmad_export.cli import app as export_app
from sdmad_federated.cli import app as federated_app
from sdmad_lite.cli import in_options, main
from sdmad_lite.clip.backbone import load_clip
from sdmad_lite.commands import app
from sdmad_lite.data import load_data
from sdmad_lite.detector import SDMAD
from sdmad_lite.errors import warn
from sdmad_lite.evaluation.protocols import PROTOCOLS, evaluate
from sdmad_llm.cli import app as llm_app
from sdmad_phantoms import sample_phantoms

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
SCRIPT = [sys.executable, "-m", "sdmad_lite"]


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_clip_name):
    """Data of six images, a bank, and a detector of the tiny CLIP fitted by the command on the three train images."""
    world = World(tmp_path_factory.mktemp("commands"), None, None)
    given = ["--data", str(world.data()), "--signs", str(world.bank()), "--out", str(world.path / "detector")]
    given += ["--backbone", tiny_clip_name, "--device", "cpu", "--steps", "2"]
    assert main(["fit", "--quiet", *given]) == 0
    world.fit, world.fitted = given, world.path / "detector"
    return world


@pytest.fixture
def ask(world, capsys):
    """Run a command with --json and return what it answered."""

    def run(*arguments, code=0):
        capsys.readouterr()
        assert main([*map(str, arguments), "--json", "--quiet"]) == code
        said = capsys.readouterr()
        assert said.err == ""
        return json.loads(said.out)

    return run


def probabilities(world, names=("3.png", "4.png", "5.png")):
    images = [world.path / "data" / name for name in names]
    return SDMAD.load(world.fitted).predict_proba(images)


# The program


def test_help_and_version_answer_without_loading_torch():
    code = "import sys; from sdmad_lite.cli import in_options, main; main(['--help']); print(*sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT).stdout
    heavy = {"torch", "open_clip", "matplotlib", "pydicom", "pyarrow", "sklearn", "scipy", "openai"}
    assert "predict" in said and not heavy & set(said.split())
    version = subprocess.run([*SCRIPT, "--version"], capture_output=True, text=True, cwd=ROOT)
    assert re.fullmatch(r"sdmad \d+\.\d+\.\d+\n", version.stdout) and version.returncode == 0


COMPANIONS = {"data": datasets_app, "federate": federated_app, "export": export_app, "signs generate": llm_app}


def parse(words):
    """Read a command's options as the program does, without running it."""
    own = next((name for name in COMPANIONS if words[: len(name.split())] == name.split()), "")
    command, words = typer.main.get_command(COMPANIONS.get(own, app)), words[len(own.split()) :]
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    command.make_context("sdmad", [word for word in words if word != "--json"])


COMMANDS = [["run"], ["signs", "check"], ["signs", "generate"], ["fit"], ["predict"], ["evaluate"], ["embed"]]
COMMANDS += [["decide"], ["subgroups"], ["export"]]
COMMANDS += [["federate", "serve"], ["federate", "join"]]
COMMANDS += [["memory", word] for word in ("add", "score", "log", "rollback")] + [["sites"]]
COMMANDS += [["data", "list"], ["data", "info"], ["data", "get"]]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_a_help_with_an_example_that_it_takes(command, capsys):
    assert main([*command, "--help"]) == 0
    example = capsys.readouterr().out.partition("example:\n")[2].replace("\\\n", "")
    given = shlex.split(example)
    assert given[0] == "sdmad" and given[1 : 1 + len(command)] == command
    parse(given[1:])


def test_two_runs_into_one_place_are_not_mixed(world, tmp_path):
    runs = {  # what is written -> the command, as often as it is started
        "detector": ["fit", *world.fit, "--steps=1"],
        "scores.parquet": ["predict", f"--detector={world.fitted}", f"--data={world.path / 'data'}", "--device=cpu"],
    }
    for name, given in runs.items():
        out = ["--quiet", f"--out={tmp_path / 'out' / name}"]
        started = [Command([*given, *out], tmp_path / f"{name} {i}") for i in range(2)]
        said = [one.done() for one in started]
        assert (0, "") in said
        assert all(code == 0 or (code == 2 and "writes it now" in text) for code, text in said), said
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(runs)
    SDMAD.load(tmp_path / "out" / "detector")
    assert pq.read_table(tmp_path / "out" / "scores.parquet").num_rows == 6


def test_another_folder_and_hash_seed_give_the_same_bits(world, tmp_path):
    """In a process of its own; the world's detector was fitted in this one, whose seed is by chance."""
    out = tmp_path / "detector"
    more = {"cwd": tmp_path, "env": os.environ | {"PYTHONHASHSEED": "1", "PYTHONPATH": str(ROOT)}}
    subprocess.run([*SCRIPT, "fit", "--quiet", *world.fit, f"--out={out}"], check=True, stdout=-3, **more)
    # support.json has a salt of its own
    written = [
        {path.name: path.read_bytes() for path in place.iterdir() if path.name != "support.json"}
        for place in (world.fitted, out)
    ]
    assert written[0] == written[1]


READERS = ("run", "fit", "evaluate", "embed", "check", "decide", "subgroups", "sites", "add")
RECOMMENDED = {  # whose messages are said by which commands
    "sdmad_lite/data": READERS,
    "sdmad_lite/deployment": ("predict",),
    "sdmad_lite/deployment/subgroups.py": ("subgroups",),
    "sdmad_lite/deployment/memory.py": ("add",),
    "sdmad_lite/evaluation/seen_images.py": ("evaluate", "subgroups", "sites"),
    "sdmad_lite/clip": ("run", "fit", "embed", "check"),
    "sdmad_lite/options.py": ("run", "fit"),
    "sdmad_datasets": READERS,
    "sdmad_federated": ("serve", "join"),
    "sdmad_llm/prompts.toml": ("generate",),
    "sdmad_export/page.py": ("export",),
}
IN_PYTHON = {"tokenizer", "max_bytes"}
NOT_SAID = {
    "drop_copies": {"embed", "check", "decide", "add"},
    "names": {"predict"},
    "least": {"predict", "serve"},
    "checkpoint": {"join"},
    "certificates": {"join"},
    "name": {"serve"},
    "certificate": {"serve"},
    "categories": {"evaluate", "embed", "check", "decide", "subgroups", "sites", "add"},
    "self_made": {"predict"},
}  # commands that never get to such a message


def said_in(place):
    """Every text of the code at a place that is no docstring."""
    if place.endswith(".toml"):
        return (yield from tomllib.loads((ROOT / place).read_text(encoding="utf-8")).values())
    files = [ROOT / place] if place.endswith(".py") else sorted((ROOT / place).rglob("*.py"))
    for tree in (ast.parse(file.read_text(encoding="utf-8")) for file in files):
        for node in ast.walk(tree):
            texts = [node.value] if isinstance(node, ast.Constant) else []
            yield from (t for t in texts if isinstance(t, str) and "\n    " not in t)


@pytest.mark.parametrize("place", RECOMMENDED)
def test_what_a_message_recommends_is_an_option_of_the_commands_that_say_it(place):
    group = typer.main.get_command(app)
    commands = group.commands | group.commands["signs"].commands | group.commands["memory"].commands
    commands |= typer.main.get_command(federated_app).commands
    commands |= {name: typer.main.get_command(of) for name, of in {"export": export_app, "generate": llm_app}.items()}
    every = {option for command in commands.values() for p in command.params for option in p.opts + p.secondary_opts}
    for text in said_in(place):
        for name in set(re.findall(r"(?<![^\s(])([a-z_]+)=", str(text))) - IN_PYTHON:
            for command in set(RECOMMENDED[place]) - NOT_SAID.get(name, set()):
                assert in_options(f"{name}=", commands[command]).startswith("--"), (text, command)
        of_others = {"--raw", "--to", "--variant", "--port", "--max-model-len"}
        assert {*re.findall(r"(?<!\S)--[a-z-]+", str(text))} <= every | of_others, text


def all_options(command):
    """Of a command and those below it."""
    for other in getattr(command, "commands", {}).values():
        yield from all_options(other)
    yield from (option for p in command.params for option in p.opts + p.secondary_opts if option[:2] == "--")


def test_the_page_names_each_option_that_exists_and_no_other():
    there = {
        option for program in (app, *COMPANIONS.values()) for option in all_options(typer.main.get_command(program))
    }
    told = {*re.findall(r"(?<![\w-])--[a-z][a-z-]*", re.sub(r".*http\.server.*", "", PAGE))}
    assert told - {"--help"} == there


def test_ctrl_c_returns_130_and_leaves_nothing(world, tmp_path, monkeypatch, capsys):
    def stopped(*arguments, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(SDMAD, "fit", stopped)
    assert main(["fit", *world.fit, "--out", str(tmp_path / "out")]) == 130
    assert list(tmp_path.iterdir()) == [] and "stopped" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_met_with_silence():
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([*SCRIPT, "data", "list"], stdout=write, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    os.close(write)
    assert done.returncode == 141 and done.stderr == ""


def test_progress_goes_to_stderr_and_quiet_stops_it(world, capsys):
    given = ["predict", "--detector", str(world.fitted), str(world.path / "data" / "3.png"), "--json"]
    assert main(given) == 0
    said = capsys.readouterr()
    json.loads(said.out)
    assert "images" in said.err
    assert main(["--quiet", *given]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("python", "typed"),
    [
        ("say which with normal=, or normal='' for none", "say which with --normal, or --normal '' for none"),
        ("another folder, or resume=False", "another folder, or --restart"),
        ("load it with device='cpu'", "load it with --device cpu"),
        ("x/normal=1.png: pretrained='random'", "x/normal=1.png: pretrained='random'"),  # predict has no such option
    ],
)
def test_a_message_names_options_where_python_names_arguments(python, typed):
    assert in_options(python, typer.main.get_command(app).commands["predict"]) == typed


# fit


def test_fit_tells_the_signs_and_saves_a_detector_and_hashes(world, ask, tmp_path):
    out = tmp_path / "new"
    told = ask("fit", *world.fit, "--out", out, "--shots", 1, "--seed", 3, "--lam", 0.6)
    detector = SDMAD.load(out)
    signs = {category: [asdict(s) for s in rows] for category, rows in detector.selected_signs().items()}
    assert told["signs"] == signs and told["images"] == 3 and told["normal"] == 1
    assert told["positives"] == {"Effusion": 1, "Nodule": 1} and "not for clinical use" in told["notice"]
    assert detector.adapters.lam == 0.6 and detector.alignment.steps == 2 and detector.random_state == 3
    support = (out / "support.json").read_text()
    assert len(json.loads(support)["images"]) == len(json.loads(support)["patients"]) == 3
    assert "P0" not in support and ".png" not in support


def test_fit_of_some_categories_and_of_nothing_trained(world, ask, tmp_path):
    told = ask("fit", *world.fit[:-2], "--out", tmp_path / "new", "--categories", "nodule,", "--training-free")
    assert list(told["signs"]) == ["Nodule"] and told["images"] == 2
    assert SDMAD.load(tmp_path / "new").alignment.steps == 0


def test_fit_with_checkpoints_gives_the_same_detector(world, ask, tmp_path):
    ask("fit", *world.fit, "--out", tmp_path / "new", "--checkpoint", tmp_path / "state")
    weights = [(folder / "adapters.safetensors").read_bytes() for folder in (world.fitted, tmp_path / "new")]
    assert weights[0] == weights[1]


# predict


def test_predict_tells_the_parts_of_every_logit(world, ask):
    files = [world.path / "data" / f"{i}.png" for i in (3, 4, 5)]
    rows = ask("predict", "--detector", world.fitted, *files)["predictions"]
    assert [row["image"] for row in rows[::2]] == list(map(str, files))
    found = np.array([row["probability"] for row in rows]).reshape(3, 2)
    np.testing.assert_allclose(found, probabilities(world), rtol=1e-6)
    for row in rows:
        parts = [sign["contribution"] for sign in row["signs"]] + [
            row["normal_signs"],
            row["image_evidence"],
            row["bias"],
        ]
        assert sum(parts) == pytest.approx(row["logit"], abs=1e-6)
        assert row["detected"] == (row["probability"] >= row["threshold"]) and row["map"] is None


def test_predict_prints_a_table_with_the_notice_once(world, capsys):
    given = ["predict", "--quiet", "--detector", str(world.fitted), str(world.path / "data")]
    assert main(given) == 0
    said = capsys.readouterr().out
    assert said.count("not for clinical use") == 1 and said.count("Effusion ") == 6
    assert main([*given, "--format", "csv"]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert len(rows) == 12 and re.search(r" [+-]\d\.\d\d", rows[0]["signs"])


@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl"])
def test_predict_writes_a_row_for_each_image(world, ask, tmp_path, ending):
    out = tmp_path / f"scores.{ending}"
    given = ["predict", "--detector", world.fitted, "--data", world.path / "data", "--split", "test", "--workers", 0]
    told = ask(*given, "--out", out)
    assert told["images"] == 3 and told["errors"] == 0 and told["out"] == str(out)
    if ending == "parquet":
        rows = pq.read_table(out).to_pylist()
    elif ending == "csv":
        rows = list(csv.DictReader(out.read_text().splitlines()))
    else:
        rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["image"] for row in rows] == ["3.png", "4.png", "5.png"]
    found = [[float(row["Effusion"]), float(row["Nodule"])] for row in rows]
    np.testing.assert_allclose(found, probabilities(world), rtol=1e-5)
    assert "Effusion | bias" in rows[0]


def test_predict_keeps_a_broken_image_as_a_row_and_says_so(world, ask, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"")
    out = tmp_path / "scores.csv"
    given = ["predict", "--detector", world.fitted, tmp_path / "bad.png", world.path / "data" / "3.png"]
    told = ask(*given, "--out", out, "--scores-only", "--workers", 0, code=1)
    assert told["errors"] == 1
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert "the file is empty" in rows[0]["error"] and rows[0]["Nodule"] == "" and rows[1]["error"] == ""
    assert "Effusion | bias" not in rows[0]


def test_predict_draws_maps_and_names_them(world, ask, tmp_path):
    maps = tmp_path / "maps"
    given = ["predict", "--detector", world.fitted, world.path / "data" / "4.png", "--maps", maps]
    rows = ask(*given)["predictions"]
    drawn = [row["map"] for row in rows if row["map"]]
    assert drawn and all(Path(name).read_bytes().startswith(b"\x89PNG") for name in drawn)
    assert set(json.loads((maps / "maps.json").read_text())["maps"]) == {Path(name).name for name in drawn}
    assert [row["map"] is not None for row in rows] == [row["detected"] for row in rows] or len(drawn) == 1
    ask(*given)  # an earlier folder of maps is replaced


# evaluate


def test_evaluate_gives_three_protocols_with_intervals(world, ask, tmp_path):
    given = ["evaluate", "--detector", world.fitted, "--data", world.path / "data", "--out", tmp_path / "e.json"]
    told = ask(*given, "--resamples", 20)
    table = load_data(world.path / "data").part("test")
    plain = evaluate(probabilities(world), table.labels, table.categories, SDMAD.load(world.fitted).thresholds_)
    for protocol, found in plain.protocols().items():
        assert told["mean"][protocol]["macro"] == pytest.approx(asdict(found.macro), abs=1e-6)
        for name, score in found.per_category.items():
            assert told["mean"][protocol]["per_category"][name] == pytest.approx(asdict(score), abs=1e-6)
    assert told["images"] == told["patients"] == 3 and told["remarks"] == []
    assert json.loads((tmp_path / "e.json").read_text()) == told


@pytest.mark.parametrize(("place", "why"), [("labels.csv/e.json", "cannot be written"), ("", "is a folder")])
def test_a_bad_place_is_told_before_the_work(world, capsys, monkeypatch, place, why):
    def work(*_, **__):
        raise AssertionError("it began")

    monkeypatch.setattr("sdmad_lite.options.Judged.scores", work)
    monkeypatch.setattr("sdmad_llm.cli.generate_signs", work)
    data = world.path / "data"
    for given in (
        ["evaluate", "--detector", world.fitted, "--data", data],
        ["signs", "generate", "Effusion", "--modality", "chest radiograph", "--model", "m"],
    ):
        assert main([*map(str, given), "--out", str(data / place)]) == 2
        assert f"{data / place}: {why}" in capsys.readouterr().err


def test_evaluate_knows_what_the_detector_was_fitted_on(world, ask, tmp_path):
    other = World(tmp_path, None, None)
    data = other.data(LABELS.replace("P3", "P0").replace("0.png,0,0,P0,train\n", ""))  # P0 was in the support set
    given = ["evaluate", "--detector", world.fitted, "--data", data, "--resamples", 0]
    assert ask(*given)["remarks"] == [
        "1 images are of patients of the support set; leave them out with --exclude-support"
    ]
    told = ask(*given, "--split", "all", "--exclude-support")
    assert told["images"] == 2 and told["remarks"] == ["3 images of the support set's patients are left out"]


def test_evaluate_says_what_it_cannot_know(world, ask, tmp_path):
    other = World(tmp_path, None, world.fitted)
    folder = other.detector()
    (folder / "support.json").unlink()
    data = other.data("image,Effusion\n3.png,0\n4.png,1\n")
    remarks = ask("evaluate", "--detector", folder, "--data", data, "--resamples", 2)["remarks"]
    for part, remark in zip(("unchecked", "Nodule", "no patients"), remarks, strict=True):
        assert part in remark


# embed


def test_embeddings_before_and_after_the_adapters(world, ask, tmp_path):
    given = ["--detector", world.fitted, "--data", world.path / "data", "--split", "test"]
    assert ask("embed", *given, "--out", tmp_path / "e.npz")["images"] == 3
    found = np.load(tmp_path / "e.npz", allow_pickle=False)
    detector = SDMAD.load(world.fitted)
    images = [world.path / "data" / f"{i}.png" for i in (3, 4, 5)]
    np.testing.assert_allclose(found["image"], detector.backbone.encode_images(images), atol=1e-6)
    with detector.installed() as adapted:
        np.testing.assert_allclose(found["image_adapted"], adapted.encode_images(images), atol=1e-5)
    np.testing.assert_allclose(found["sign_adapted"], detector.sign_embeddings_, atol=1e-5)
    assert found["image_id"].tolist() == ["3.png", "4.png", "5.png"]
    assert found["sign_text"].tolist() == detector.bank.texts and found["labels"].shape == (3, 2)
    assert abs(found["image"] - found["image_adapted"]).max() > 1e-4
    ask("embed", *given, "--out", tmp_path / "e.parquet")
    rows = pq.read_table(tmp_path / "e.parquet").to_pylist()
    assert [row["kind"] for row in rows] == ["image"] * 3 + ["sign"] * 6
    assert rows[1]["categories"] == ["Effusion"] and rows[-1]["categories"] == ["normal"]
    np.testing.assert_allclose([row["adapted"] for row in rows[3:]], found["sign_adapted"], atol=1e-6)


# signs and data


def test_signs_check_returns_1_after_an_error(ask, tmp_path):
    assert ask("signs", "check", "chest_phantoms")["errors"] == 0
    signs = [*BANK["signs"][:3], {"text": "no small dense spot", "categories": ["Nodule"]}]
    path = World(tmp_path, None, None).bank(signs=signs)
    found = ask("signs", "check", path, code=1)["findings"]
    assert any(f["rule"] == "negation" and f["place"] and f["suggestion"] for f in found if f["severity"] == "error")
    few = World(tmp_path, None, None).bank()  # two signs of a category are a warning
    assert ask("signs", "check", few)["warnings"] > 0
    ask("signs", "check", few, "--strict", code=1)


def test_signs_generate_writes_a_bank_and_what_it_took(ask, tmp_path, monkeypatch):
    texts = {"Effusion": ["meniscus at the base", "veiled lower lung", "blunted angle"]}
    keys = []

    def answer(handler):
        request = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        keys.append(handler.headers["Authorization"])
        asked = "Effusion" if "category Effusion" in request["messages"][0]["content"] else None
        signs = [{"text": text, "also": []} for text in texts.get(asked, ["clear lungs", "slim heart", "sharp angles"])]
        content = json.dumps({"signs": signs if asked else [{"text": sign["text"]} for sign in signs]})
        choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        whole = {
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [choice],
            "usage": usage,
        }
        body = json.dumps(whole).encode()
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    monkeypatch.setenv("MY_KEY", "sk-mine")
    out = tmp_path / "mine.json"
    given = ["signs", "generate", "Effusion: fluid between the pleurae", "--modality", "chest radiograph", "--model=m"]
    given += ["--out", out, "--cache", tmp_path / "cache", "--key", "MY_KEY"]
    with serving(answer) as address:
        told = ask(*given, "--server", f"{address}/v1")
    assert told["usage"]["requests"] == 2 and told["usage"]["prompt_tokens"] == 200
    assert set(keys) == {"Bearer sk-mine"} and "sk-mine" not in out.read_text()
    assert ask("signs", "check", out)["errors"] == 0


def test_data_tells_what_is_known_of_each_set(ask, tmp_path, monkeypatch):
    assert set(ask("data", "list")["sets"]) == set(datasets.DATASETS)
    told = ask("data", "info", "nih_chest14")
    assert told["patients"] is True and "Data_Entry_2017.csv" in told["files"] and told["licence"] and told["citation"]
    fetched = lambda name, folder, progress, variant: [Path(folder) / f"{name}_{variant}"]  # noqa: E731
    monkeypatch.setattr("sdmad_datasets.cli.get_dataset", fetched)
    told = ask("data", "get", "breastmnist", "--variant", "28", "--to", tmp_path)
    assert told["files"] == [str(tmp_path / "breastmnist_28")] and told["licence"]


# The page

PASTED = [shlex.split(line)[1:] for line in re.findall(r"^    (sdmad .*)$", PAGE, re.MULTILINE)]
UNTRIED = (["run"], ["decide"], ["federate"], ["signs", "generate"], ["data", "get"])
"""They take minutes, a server or the network; here it is only checked that their options are right."""


def test_the_page_shows_every_command():
    assert {" ".join(command) for command in COMMANDS} == {
        " ".join(line[: 2 if line[0] in ("signs", "data", "memory", "federate") else 1]) for line in PASTED
    }
    for line in PASTED:
        parse(line)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The repository as its commands see it, with 120 train and 30 test images, so that this takes seconds."""
    root = tmp_path_factory.mktemp("root")
    chest = ROOT / "data_samples" / "chest"
    (root / "data_samples" / "chest").mkdir(parents=True)
    lines = (chest / "labels.csv").read_text(encoding="utf-8").splitlines()
    train, test = ([line for line in lines[1:] if f",{part}," in line] for part in ("train", "test"))
    kept = [lines[0], *train[:120], *test[:30]]
    (root / "data_samples" / "chest" / "labels.csv").write_text("\n".join(kept), encoding="utf-8")
    (root / "data_samples" / "chest" / "images").mkdir()
    for line in kept[1:]:
        name = line.partition(",")[0]
        os.link(chest / name, root / "data_samples" / "chest" / name)
    return root


def test_the_commands_of_the_page_run_as_they_stand(root, monkeypatch, capsys):
    """In their order, since one needs what another wrote; with fewer steps and resamples than unless told."""
    monkeypatch.chdir(root)
    quick = {"fit": ["--steps", "2"], "evaluate": ["--resamples", "2"], "subgroups": ["--least", "1"]}
    quick |= {"sites": ["--resamples", "2"]}
    for line in PASTED:
        if line[:2] not in UNTRIED and line[:1] not in UNTRIED:
            assert main([*line, *quick.get(line[0], [])]) == 0, capsys.readouterr().err
    made = {"detector", "export", "maps", "scores.csv", "scores.csv.about.json", "scores.parquet", "evaluation.json"}
    made |= {"embeddings.npz", "frozen.parquet", "cases.db", "cases.db-journal"}
    assert {path.name for path in (root / "build").iterdir()} == made


def test_a_detector_of_some_categories_is_scored_on_data_that_have_more(world, ask, capsys):
    some = world.path / "some"
    given = [some if word == str(world.fitted) else word for word in world.fit]
    ask("fit", *given, "--categories", "Effusion")
    scored = ask("evaluate", "--detector", some, "--data", world.path / "data", "--resamples", 0)
    assert list(scored["mean"]["multilabel"]["per_category"]) == ["Effusion"]
    ask("embed", "--detector", some, "--data", world.path / "data", "--out", world.path / "some.npz")
    capsys.readouterr()
    assert main(["embed", "--detector", str(some), "--data", str(world.path / "data"), "--out", f"{some}.npz"]) == 0
    assert "images show other findings alone" in capsys.readouterr().err
    table = load_data(world.path / "data")
    every = ask("predict", "--detector", some, "--data", world.path / "data", "--out", world.path / "some.csv")
    assert every["images"] == len(table)  # labels do not count here


# A whole report


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """60 phantoms of 30 patients, half of them in test; a fourth category has no positive in test."""
    folder = tmp_path_factory.mktemp("cli") / "sixty"
    (folder / "images").mkdir(parents=True)
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["image", *CATEGORIES, "Fibrosis", "patient_id", "sex", "split"])
        for i, p in enumerate(sample_phantoms(60, seed=21, categories=CATEGORIES, size=48)):
            Image.fromarray(p.image).save(folder / "images" / f"{i}.png")
            split = "train" if i // 2 % 2 else "test"
            rare = int(split == "train" and i % 3 == 0)
            shown = [int(c in p.categories) for c in CATEGORIES]
            writer.writerow([f"images/{i}.png", *shown, rare, p.patient.patient_id, p.patient.sex, split])
    return folder


@pytest.fixture
def arguments(data, bank, tiny_clip_name, tmp_path):
    """A run that works; a test changes one argument."""
    chosen = {
        "data": data,
        "signs": "chest_phantoms",
        "out": tmp_path / "report",
        "shots": 2,
        "draws": 2,
        "min-positives": 3,
        "backbone": tiny_clip_name,
        "device": "cpu",
    }

    def build(**changes):
        return ["run", *(f"--{k}={v}" for k, v in {**chosen, **changes}.items() if v is not None)]

    with few_steps():
        yield build


@pytest.fixture(scope="module")
def report(data, tiny_clip_name, tmp_path_factory):
    """One run, for reading only."""
    out = tmp_path_factory.mktemp("report") / "new" / "report"
    given = {"data": data, "signs": "chest_phantoms", "out": out, "shots": 2, "draws": 2, "min-positives": 3}
    given |= {"backbone": tiny_clip_name, "device": "cpu", "seed": 3}
    with few_steps():
        assert main(["run", *(f"--{k}={v}" for k, v in given.items())]) == 0
    return out


def test_a_run_leaves_all_of_the_report_and_nothing_beside_it(report):
    assert sorted(p.name for p in report.iterdir()) == ["detector", "metrics.json", "report.html", "signs.json"]
    assert [p.name for p in report.parent.iterdir()] == ["report"]


def rows(protocol):
    """Category, any and macro -> figures."""
    extra = {"any": protocol["any_anomaly"]} if protocol["any_anomaly"] else {}
    return protocol["per_category"] | extra | {"macro": protocol["macro"]}


def test_metrics_have_three_protocols_with_every_category_and_macro(report):
    metrics = json.loads((report / "metrics.json").read_text())
    for protocol in PROTOCOLS:
        mean, low, high = (rows(metrics[end][protocol]) for end in ("mean", "low", "high"))
        assert [*mean][:3] == [*CATEGORIES]
        for name, row in mean.items():
            assert 0 <= row["auroc"] <= 1 and 0 <= row["ap"] <= 1 and row["positives"] >= 3
            assert low[name]["auroc"] <= row["auroc"] <= high[name]["auroc"]
    macro = metrics["mean"]["multilabel"]["macro"]
    assert macro["categories"] == 3 and 0 <= macro["exact_match"] <= 1
    low, mean, high = (metrics["over_patients"][end]["auroc"] for end in ("low", "mean", "high"))
    assert low < mean < high and f"{mean:.3f}" in (report / "report.html").read_text().split("of the first draw:")[1]
    assert "not for clinical use" in metrics["notice"]


def test_metrics_count_the_test_images_and_name_what_was_left_out(report, data):
    metrics = json.loads((report / "metrics.json").read_text())
    with (data / "labels.csv").open() as stream:
        test = [row for row in csv.DictReader(stream) if row["split"] == "test"]
    for category in CATEGORIES:
        expected = sum(row[category] == "1" for row in test)
        score = metrics["mean"]["multilabel"]["per_category"][category]
        assert (score["positives"], score["negatives"]) == (expected, len(test) - expected)
    assert metrics["data"]["test"] == len(test) == 30
    assert list(metrics["left_out"]) == ["Fibrosis"] and "0 in test" in metrics["left_out"]["Fibrosis"]
    assert metrics["data"]["train"] + metrics["data"]["test"] + metrics["data"]["unused"] == 60
    assert metrics["data"]["seeds"] == [3, 4]
    assert set(metrics["subgroups"]) == {"sex=F", "sex=M"}
    first = [
        part["mean"]["multilabel"]["per_category"][CATEGORIES[0]] for part in (metrics, *metrics["subgroups"].values())
    ]
    assert first[0]["positives"] == sum(score["positives"] for score in first[1:])


def test_methods_are_compared_over_the_same_draws(report):
    metrics = json.loads((report / "metrics.json").read_text())
    first, *others = metrics["methods"].values()
    assert first["paired"] is None and first["macro"]["mean"] == metrics["mean"]["multilabel"]["macro"]
    for other in others:
        assert other["paired"]["difference"] == pytest.approx(
            first["macro"]["mean"]["ap"] - other["macro"]["mean"]["ap"]
        )
        assert other["paired"]["draws"] == 2


def test_signs_say_kept_or_dropped_and_why(report, bank):
    signs = json.loads((report / "signs.json").read_text())
    assert list(signs) == list(CATEGORIES)
    for category, rows in signs.items():
        assert {row["text"] for row in rows} == set(bank.signs_of(category))
        assert sum(row["weight"] for row in rows) == pytest.approx(1, abs=1e-4)
        for row in rows:
            assert row["reason"].startswith("kept" if row["kept"] else "dropped")
            assert row["kept"] <= row["kept_in_draws"] <= 2


def test_the_page_shows_pictures_and_numbers_and_loads_nothing_from_elsewhere(report):
    page = (report / "report.html").read_text(encoding="utf-8")
    assert page.count("<img ") >= 5 and "data:image/png;base64," in page
    assert "http://" not in page and "https://" not in page and 'src="/' not in page
    macro = next(iter(json.loads((report / "metrics.json").read_text())["methods"].values()))["macro"]
    assert f"{macro['mean']['ap']:.3f}" in page and f"{macro['low']['auroc']:.3f}" in page
    assert "not for clinical use" in page and "Fibrosis (" in page
    assert "{{" not in page and "{%" not in page and "None" not in page


def test_the_detector_of_the_report_loads_and_predicts(report, data):
    detector = SDMAD.load(report / "detector")
    assert detector.bank.categories == CATEGORIES
    assert detector.predict_proba([data / "images" / "0.png"]).shape == (1, 3)


def test_the_same_command_gives_the_same_metrics(report, arguments, tmp_path):
    assert main(arguments(seed=3)) == 0
    assert (tmp_path / "report" / "metrics.json").read_text() == (report / "metrics.json").read_text()
    assert (tmp_path / "report" / "signs.json").read_text() == (report / "signs.json").read_text()


def test_an_earlier_report_is_replaced_even_behind_a_link(arguments, tmp_path, capsys):
    """One draw, which has no interval."""
    disk, out = tmp_path / "disk", tmp_path / "report"
    disk.mkdir()
    (disk / "metrics.json").write_text("{}")
    (disk / "old.txt").write_text("old")
    out.symlink_to(disk, target_is_directory=True)
    assert main(arguments(draws=1, categories="Emphysema, Cardiomegaly")) == 0
    assert out.is_symlink() and not (disk / "old.txt").exists()
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["data"]["categories"] == ["Emphysema", "Cardiomegaly"]
    assert metrics["low"]["multilabel"]["macro"]["ap"] is None
    said = capsys.readouterr().out
    assert str(disk / "report.html") in said and "not for clinical use" in said
    assert "nan" not in said


def test_one_category_alone_makes_a_report(data, arguments, tmp_path):
    """Its example, the first test image that shows it, is the one that is tinted in this grey set."""
    tinted, table = shutil.copytree(data, tmp_path / "tinted"), load_data(data, ["Emphysema", *CATEGORIES])
    test = table.part("test")
    example = tinted / "images" / test.images[int(test.labels[:, 0].argmax())].name
    Image.merge("RGB", [Image.open(example).point(lambda x, k=k: x * k // 4) for k in (4, 3, 2)]).save(example)
    assert main(arguments(data=tinted, draws=1, categories="Emphysema")) == 0
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert (
        metrics["mean"]["discrimination"]["per_category"]["Emphysema"]["auroc"] is None
    )  # no other anomaly to tell it from
    assert metrics["mean"]["multilabel"]["macro"]["auroc"] is not None


def test_rows_of_validation_are_no_matter_to_a_report(data, arguments, tmp_path):
    """Nor is a copy among them; and they are not counted as images of other findings."""
    more = shutil.copytree(data, tmp_path / "copy")
    lines = (more / "labels.csv").read_text().splitlines()
    image, *shown = next(line for line in lines if line.endswith(",train")).split(",")
    shutil.copy(more / image, more / "copy.png")
    row = ["copy.png", *shown[:4], "somebody", shown[-2], "val"]
    (more / "labels.csv").write_text("\n".join([*lines, ",".join(row)]) + "\n")
    assert main(arguments(data=more, draws=1)) == 0
    assert json.loads((tmp_path / "report" / "metrics.json").read_text())["data"]["unused"] == 0


def test_a_folder_that_is_no_class_folder_is_told_of_the_public_set(tmp_path, capsys):
    for grey, name in enumerate(("notumor", "pituitary")):
        (tmp_path / name).mkdir()
        Image.new("L", (8, 8), grey).save(tmp_path / name / "1.png")
    given = ["--data", tmp_path, "--signs", "brain_tumor_mri", "--out", tmp_path / "out"]
    assert main(["fit", *map(str, given)]) == 2
    assert "is read with --dataset brain_tumor_mri\n" in capsys.readouterr().err


def test_a_category_without_test_images_is_reported_as_such(arguments, tmp_path):
    assert main(arguments(draws=1, categories="Emphysema,Fibrosis", **{"min-positives": None})) == 0
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())
    multilabel = metrics["mean"]["multilabel"]
    assert multilabel["per_category"]["Fibrosis"]["auroc"] is None and multilabel["macro"]["categories"] == 1
    assert "n/a" in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")


def test_a_run_that_fails_leaves_the_earlier_report_as_it_was(report, data, arguments, tmp_path):
    out = tmp_path / "report"
    shutil.copytree(report, out)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    broken = tmp_path / "copy"
    shutil.copytree(data, broken)
    (broken / "images" / "1.png").write_bytes((data / "images" / "1.png").read_bytes()[:200])
    assert main(arguments(data=broken)) == 2
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy", "report"]


def test_the_saved_detector_names_the_backbone_of_the_run(report, tiny_clip_name):
    state = json.loads((report / "detector" / "detector.json").read_text())
    assert state["backbone"]["name"] == tiny_clip_name
    assert state["backbone"]["fingerprint"] == load_clip(tiny_clip_name, device="cpu").fingerprint


@pytest.mark.parametrize("quiet", [True, False])
def test_what_a_reader_remarks_is_a_line_of_stderr(quiet, monkeypatch, capsys):
    """Said once, and left out by --quiet."""

    def remarking(*given):
        for _ in range(2):
            warn("2 of 9 images are odd")
        return []

    monkeypatch.setattr(sdmad_lite, "check_bank", remarking)
    assert main(["signs", "check", "chest_phantoms", *["--quiet"] * quiet]) == 0
    assert capsys.readouterr().err == ("" if quiet else "note: 2 of 9 images are odd\n")
