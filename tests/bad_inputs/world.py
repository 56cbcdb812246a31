"""What a case is, and the good data, banks and detectors that the cases spoil."""

import contextlib
import http.server
import io
import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.exceptions import NotFittedError

from sdmad_export.runner import ExportError
from sdmad_lite.cli import main
from sdmad_lite.clip.backbone import Backbone
from sdmad_lite.errors import SDMADError

CATEGORIES = ("Effusion", "Nodule")
LABELS = """image,Effusion,Nodule,patient_id,split
0.png,0,0,P0,train
1.png,1,0,P1,train
2.png,0,1,P2,train
3.png,0,0,P3,test
4.png,1,0,P4,test
5.png,0,1,P5,test
"""
BANK = {
    "name": "mine",
    "modality": "chest radiograph",
    "categories": list(CATEGORIES),
    "signs": [
        {"text": "blunted costophrenic angle", "categories": ["Effusion"]},
        {"text": "meniscus at the lung base", "categories": ["Effusion"]},
        {"text": "round opacity in a lung", "categories": ["Nodule"]},
        {"text": "small dense spot", "categories": ["Nodule"]},
    ],
    "normal_signs": [{"text": "clear lungs"}, {"text": "sharp costophrenic angles"}],
    "provenance": {"author": "A. Writer", "kind": "person", "date": "2025-01-31", "reviewed": False},
}


class CommandError(Exception):
    """What a command said after `error: `, having returned 2."""


@dataclass(frozen=True)
class Case:
    """A bad input.

    group: heading of the page. what: the input, in words. prepare: makes it in `world.path` and returns the call
    that has to fail. message: of the error, in full; {path} is the folder of the case, {clip} the model's name,
    {server} the server's address, and any other {word} stands for text of another library.
    """

    group: str
    what: str
    prepare: Callable[["World"], Callable[[], object]]
    message: str


@dataclass
class World:
    """A fresh folder for one case, and things made once for all cases that no case may change."""

    path: Path
    backbone: Backbone
    fitted: Path
    """Folder of a detector of the tiny CLIP."""
    server: str = ""

    def data(self, labels: str = LABELS) -> Path:
        """A good folder with labels.csv and six grey images."""
        folder = self.path / "data"
        folder.mkdir()
        for i in range(6):
            pixels = np.random.default_rng(i).integers(0, 255, (32, 32), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
        (folder / "labels.csv").write_text(labels, encoding="utf-8")
        return folder

    def bank(self, **changes) -> Path:
        """A bank's file, with some entries changed."""
        return self.write("bank.json", json.dumps({**BANK, **changes}))

    def write(self, name: str, content: str | bytes) -> Path:
        """A file of the case."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def detector(self, **changes) -> Path:
        """A copy of the fitted detector, with entries of detector.json changed."""
        folder = self.path / "detector"
        shutil.copytree(self.fitted, folder)
        state = json.loads((folder / "detector.json").read_text(encoding="utf-8"))
        (folder / "detector.json").write_text(json.dumps({**state, **changes}), encoding="utf-8")
        return folder

    def command(self, *arguments) -> None:
        """Run a command; what it says as an error is raised."""
        err = io.StringIO()
        with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()) as out:
            code = main([str(argument) for argument in arguments])
        said = err.getvalue()
        if code != 2:
            raise AssertionError(f"exit code {code}, not 2: {said}")
        assert "Traceback" not in said and not out.getvalue()
        raise CommandError(said.partition("error: ")[2].rstrip("\n"))

    def files(self) -> dict[str, bytes | None]:
        """Everything below the folder of the case."""
        found = sorted(self.path.rglob("*"))
        return {p.relative_to(self.path).as_posix(): p.read_bytes() if p.is_file() else None for p in found}

    def said(self, act: Callable[[], object]) -> str:
        """The message of the error that a call raises, without what differs between machines."""
        try:
            act()
        except (SDMADError, NotFittedError, CommandError, ExportError) as error:
            text = str(error).replace(str(self.path), "{path}").replace(self.backbone.name, "{clip}")
            return text.replace(self.server, "{server}") if self.server else text
        raise AssertionError("no error was raised")


def matches(template: str, message: str) -> bool:
    """Whether a message is the template's, where {path}, {clip} and {server} stand as they are."""
    parts = re.split(r"(\{[a-z]+\})", template)
    fixed = ("{path}", "{clip}", "{server}")
    wild = (".+" if re.fullmatch(r"\{[a-z]+\}", part) and part not in fixed else re.escape(part) for part in parts)
    return re.fullmatch("".join(wild), message, re.DOTALL) is not None


@contextlib.contextmanager
def serving(answer: Callable[[http.server.BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """Address of a server on loopback that answers every request by `answer`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            answer(self)

        do_POST = do_GET

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
