"""The file of a memory: SQLite, entries only ever appended, whole after a crash, for any number of programs. [ours]"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import CaseError
from ..files import claimed, new_file

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
}


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
        self.path, self.detector, self.wait, self.log = Path(path), detector, wait, list[Entry]()
        self.standing, self.turns = list[int](), 0  # entries that were not rolled back, and how often some were
        self._tips, self._before = [0], [0]  # by entry: the last one that stood then, and the one before that
        if not self.path.exists():
            with claimed(self.path), new_file(self.path) as temporary, closing(sqlite3.connect(temporary)) as db:
                db.executescript(SCHEMA)
        with self.opened() as db:
            application, version = (db.execute(f"PRAGMA {n}").fetchone()[0] for n in ("application_id", "user_version"))
            sound = db.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok"
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
        """Take new entries into `log`, and bring `standing` and `turns` up to date."""
        asked = "SELECT id, at, who, kind, about, image, detector FROM entries WHERE id > ? ORDER BY id"
        for number, at, who, kind, about, image, detector in db.execute(asked, [len(self.log)]):
            if detector != self.detector:
                other = f"{self.path}: it belongs to the detector {detector[:12]}, this one is {self.detector[:12]}"
                raise CaseError(f"{other}; load that one, or begin another file")
            self.log.append(entry := Entry(number, at, who, kind, json.loads(about), image))
            self._before.append(self._tips[-1])
            if entry.kind == "rollback":
                self.standing, self.turns = self._chain(self._tips[entry.about]), self.turns + 1
            else:
                self.standing.append(entry.id)
            self._tips.append(self.standing[-1] if self.standing else 0)

    def _chain(self, tip: int) -> list[int]:
        """What stood when `tip` was the last to stand."""
        found = []
        while tip:
            found.append(tip)
            tip = self._before[tip]
        return found[::-1]

    def write(self, db: sqlite3.Connection, who: str, rows: Sequence[tuple[str, Any, str | None, bytes]]) -> list[int]:
        """Append (kind, about, image, x), after `read`, in `opened("IMMEDIATE")`; their numbers."""
        if not (isinstance(who, str) and who.strip()):
            raise CaseError("who: name the person who answers for this entry")
        now, numbers = (
            datetime.now(UTC).isoformat(timespec="seconds"),
            [len(self.log) + i for i, _ in enumerate(rows, 1)],
        )
        for number, (kind, about, *case) in zip(numbers, rows, strict=True):
            line = (number, now, who, self.detector, kind, json.dumps(about), *case)
            db.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?)", line)
        return numbers

    def blobs(self, db: sqlite3.Connection, numbers: Sequence[int]) -> list[bytes]:
        """What some entries hold of images, in order."""
        ends = (min(numbers, default=1), max(numbers, default=0))
        found = dict(db.execute("SELECT id, x FROM entries WHERE id BETWEEN ? AND ?", ends).fetchall())
        return [found[number] for number in numbers]
