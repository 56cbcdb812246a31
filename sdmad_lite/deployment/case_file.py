"""The file of a memory: SQLite, entries only ever appended, whole after a crash, for any number of programs. [ours]

Of an image it keeps what a detector sees: embeddings of the whole and, if its signs look at them, of the patches, and
activations h. All are whole numbers of a small unit, and so are the cosines z that follow: no sum over cases rounds.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.labels import labels_by_name
from ..detector import SDMAD
from ..errors import CaseError
from ..files import claimed, new_file
from ..selection import sign_scores

VERSION, APPLICATION = 1, 0x5D3AD
SCHEMA = f"""
CREATE TABLE entries (id INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, who TEXT NOT NULL, detector TEXT NOT NULL,
    kind TEXT NOT NULL, about TEXT NOT NULL, image TEXT, x BLOB);
CREATE TRIGGER kept BEFORE UPDATE ON entries BEGIN SELECT RAISE(ABORT, 'entries are never changed'); END;
CREATE TRIGGER stays BEFORE DELETE ON entries BEGIN SELECT RAISE(ABORT, 'entries are never removed'); END;
PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {VERSION};
"""
REMEDIES = {
    "SQLITE_BUSY": "another program is writing to it; wait for it and try again",
    "SQLITE_READONLY": "it may not be written; give the right to, or work on a copy",
    "SQLITE_CORRUPT": "it is damaged; put a copy in its place",
    "SQLITE_NOTADB": "it is no memory of cases; name another file, or put a copy in its place",
    "SQLITE_CANTOPEN": "it cannot be opened; name a file, in a folder that may be read and written",
}


GRID, FINE = 1024, 4096
"""Views and h are kept in units of 1/1024; embeddings of signs, and z, are rounded to 1/4096."""


def kept_form(views: np.ndarray, h: np.ndarray) -> np.ndarray:
    """(N, (1 + P) D + d) int16, from what `SDMAD.views` gives."""
    return (np.hstack([views.reshape(len(h), -1), h]) * GRID).round().clip(-32768, 32767).astype("<i2")


def features_of(detector: SDMAD, x: np.ndarray) -> np.ndarray:
    """(n, S + d): z and h from what was kept, by sums of whole numbers below 2^53 all the way."""
    config, v = detector.alignment, (detector.sign_embeddings_.double() * FINE).round()
    views, h = np.hsplit(x.astype(np.float64), [-detector.image_weights_.shape[1]])
    views = torch.from_numpy(views).unflatten(1, (-1, v.shape[1]))
    z = sign_scores(views, v, config.local, config.patches).numpy() / GRID
    return np.hstack([z.round() / FINE, h / GRID])


def names_shown(labels: Any, count: int, categories: Sequence[str]) -> list[list[str]]:
    """For each of some images the names of what it shows, from these or from what `SDMAD.fit` takes."""
    if labels is None:
        raise CaseError("labels: none are given; confirm them, or take the detector's own with self_made=True")
    if not isinstance(labels, list) or not {str, list}.issuperset({type(n) for row in labels for n in [row, *row]}):
        columns = np.asarray(labels_by_name(labels, categories))
        if columns.shape != (count, len(categories)) or not np.isin(columns, (0, 1)).all():
            raise CaseError(f"labels: give 0 or 1 for each of {count} images and {len(categories)} categories")
        labels = [[c for c, y in zip(categories, row, strict=True) if y] for row in columns]
    if len(labels) != count:
        raise CaseError(f"labels: {len(labels)} lists of names for {count} images; give one for each")
    return labels


@dataclass(frozen=True)
class Entry:
    """A line of the log; kind: "confirmed" or "self-made" (cases), "finding", "rollback"."""

    id: int
    at: str  # UTC
    who: str
    kind: str
    about: Any  # names of what a case shows, [name, signs] of a finding, the entry that was rolled back to
    image: str | None = None  # SHA-256 of a case's image


class CaseFile:
    """Entries of one detector; `log` has those that were read. The file is made where there is none.

    Raises:
        CaseError: the file is locked, damaged, of a newer version, of another detector, or something else.
    """

    def __init__(self, path: str | Path, detector: str, wait: float):
        self.path, self.detector, self.wait = Path(path), detector, wait
        self.log, self.standing = list[Entry](), list[Entry]()  # the latter is another list after each rollback
        if not self.path.exists():
            with claimed(self.path), new_file(self.path) as temporary, closing(sqlite3.connect(temporary)) as db:
                db.executescript(SCHEMA)
        with self.opened() as db:
            asked = "application_id", "user_version", "quick_check(1)", "page_count", "page_size"
            application, version, check, *pages = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in asked)
            # what is missing of the last page SQLite takes for zeros
            sound = check == "ok" and self.path.stat().st_size == np.prod(pages)
            if application != APPLICATION or not sound:
                kind = "SQLITE_CORRUPT" if application == APPLICATION else "SQLITE_NOTADB"
                raise CaseError(f"{self.path}: {REMEDIES[kind]}")
            if version > VERSION:
                raise CaseError(f"{self.path}: it is of version {version}, newer than {VERSION}; update sdmad_lite")

    @contextmanager
    def opened(self, lock: str = "DEFERRED") -> Iterator[sqlite3.Connection]:
        """Inside the block the file stays as it is; what the block writes is on the disk at its end, or nothing is."""
        try:
            address = f"{self.path.resolve().as_uri()}?mode=rw"
            with closing(sqlite3.connect(address, self.wait, isolation_level=None, uri=True)) as db:
                db.execute("PRAGMA journal_mode = TRUNCATE")  # one file, and quick
                db.execute(f"BEGIN {lock}")
                yield db
                db.execute("COMMIT")
        except sqlite3.Error as error:
            known = (text for name, text in REMEDIES.items() if str(error.sqlite_errorname).startswith(name))
            raise CaseError(f"{self.path}: {next(known, 'look at its folder and disk')} ({error})") from None

    def read(self, db: sqlite3.Connection) -> None:
        """Take new entries into `log`, and those that were not rolled back into `standing`."""
        asked = "SELECT id, at, who, kind, about, image, detector FROM entries WHERE id > ? ORDER BY id"
        for number, at, who, kind, about, image, detector in db.execute(asked, [len(self.log)]):
            if detector != self.detector:
                other = f"{self.path}: it belongs to the detector {detector[:12]}, this one is {self.detector[:12]}"
                raise CaseError(f"{other}; load that one, or begin another file")
            self.log.append(entry := Entry(number, at, who, kind, json.loads(about), image))
            if entry.kind == "rollback":
                self.standing = self._stood_after(entry.about)
            else:
                self.standing.append(entry)

    def _stood_after(self, number: int) -> list[Entry]:
        """What stood after an entry: going back from it, a rollback leads on from where it led to."""
        found = []
        while number:
            entry = self.log[number - 1]
            number = entry.about if entry.kind == "rollback" else number - 1
            found += [entry] * (entry.kind != "rollback")
        return found[::-1]

    def write(self, db: sqlite3.Connection, who: str, rows: Sequence[tuple[str, Any, str | None, bytes]]) -> list[int]:
        """Append (kind, about, image, x), after `read`, in `opened("IMMEDIATE")`; their numbers."""
        if not (isinstance(who, str) and who.strip()):
            raise CaseError("who: name the person who answers for this entry")
        now, first = datetime.now(UTC).isoformat(timespec="seconds"), len(self.log) + 1
        for number, (kind, about, *case) in enumerate(rows, first):
            line = (number, now, who, self.detector, kind, json.dumps(about), *case)
            db.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?)", line)
        return list(range(first, first + len(rows)))

    def blobs(self, db: sqlite3.Connection, entries: Sequence[Entry]) -> list[bytes]:
        """What some entries hold of images, in order."""
        return [db.execute("SELECT x FROM entries WHERE id = ?", [entry.id]).fetchone()[0] for entry in entries]

    def cases(self, db: sqlite3.Connection, entries: Sequence[Entry]) -> Iterator[tuple[list[Entry], np.ndarray]]:
        """The cases among entries, some at a time, with what was kept of their images (n, w)."""
        cases = [entry for entry in entries if entry.kind != "finding"]
        for block in (cases[start : start + 64] for start in range(0, len(cases), 64)):
            yield block, np.stack([np.frombuffer(blob, "<i2") for blob in self.blobs(db, block)])
