"""A memory of confirmed cases: a detector that learns while it works, without training stage 1 again. [ours]

    memory = Memory("cases.db", detector)
    memory.add(images, [["Effusion"], []], who="Dr A. Reader")  # appended to the file, for good
    memory.detector().predict_proba(more_images)  # an SDMAD that has learnt from all cases
    memory.rollback(17, who="Dr A. Reader")  # as it was after entry 17, bit for bit

An entry holds who, when, the fingerprint of the detector, labels, and what that sees in the image; never the image.
Sums over cases are exact (see `case_file`), so they are the same in any order, whoever wrote.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..data import digests
from ..detector import SDMAD
from ..errors import CaseError
from .case_file import GRID, CaseFile, Entry, features_of, kept_form, names_shown
from .learning import drift, learnt, with_finding
from .moments import Moments
from .scoring import about, listed

ALARM = 10_000.0
"""Evidence of `drift` that is told: chance reaches it once in so many cases, or less often."""


class Memory:
    """Cases of one detector in one SQLite file, which any number of programs may use at once.

    Args:
        path: of the file, which is made where there is none. detector: fitted, the same one for all entries.
        prior: see `learnt`. wait: seconds for another program to finish writing.

    Raises:
        CaseError: the file is locked, damaged, of a newer version, of another detector, or no memory.
    """

    def __init__(self, path: str | Path, detector: SDMAD, *, prior: float = 4.0, wait: float = 10.0):
        self.base, self.prior, self.file = detector, prior, CaseFile(path, about(detector)["detector"], wait)
        self._begin(detector)
        self.refresh()

    def _begin(self, grown: SDMAD) -> None:
        """Forget all cases, and go on with a detector that knows the findings that stand."""
        self._grown, self._standing, self._taken, self._images = grown, self.file.standing, 0, dict[str, int]()
        self._sums = Moments.none(len(grown.bank.texts) + grown.image_weights_.shape[1], len(grown.bank.categories))

    def __len__(self) -> int:
        """How many cases stand."""
        return int(self._sums.count[-1])

    def add(self, images, labels=None, *, who: str, self_made: bool = False) -> list[int]:
        """Append a case for each image, all or none; the numbers of the entries.

        Args:
            labels: for each image the names of what it shows, [] for a normal one; or what `SDMAD.fit` takes.
            who: confirmed them. self_made: take the detector's own decisions instead, which can make it worse.

        Raises:
            CaseError: no labels, an unknown category, an image that is a case already, or the file (see `Memory`).
        """
        names, images = zip(*listed(images), strict=True)
        if self_made:
            mine = self.detector()
            labels = dict(zip(mine.bank.categories, mine.predict(images).T, strict=True))
        return self.add_embedded(self.embedded(images), labels, digests(images), who, self_made, names)

    def embedded(self, images) -> np.ndarray:
        """x (N, (1 + P) D + d) of images: what is kept of them, see `kept_form`."""
        return kept_form(*self.base.views(images))

    def add_embedded(self, x, labels, images: Sequence[str | None], who: str, self_made=False, names=()) -> list[int]:
        """`add` with what `embedded` gave, for each image a text that no other image has, and names for messages."""
        shown = names_shown(labels, len(x), self._grown.bank.categories)
        kind = "self-made" if self_made else "confirmed"
        return self._append(who, [(kind, *case) for case in zip(shown, images, map(bytes, x), strict=True)], names)

    def add_finding(self, name: str, signs: Sequence[str], images, *, who: str) -> list[int]:
        """Append a category that the detector did not know, and three or more images that show it.

        Earlier cases count as being without it. `signs`: texts of what is visible, of which the bank may have some.

        Raises:
            BankError: the name or a sign does not fit the bank. CaseError: too few images, or see `add`.
        """
        (names, images), signs, others = zip(*listed(images), strict=True), list(signs), len(self)
        if len(images) < 3 or not others:
            what = f"{len(images)} images show it, beside {others} cases without it"
            raise CaseError(f"finding {name!r}: {what}; give at least 3, and add normal cases before")
        with self.base.installed() as clip:
            vectors = clip.encode_texts(signs).float().cpu().numpy()
        with_finding(self._grown, name, signs, vectors)  # refuses what does not fit
        kept = zip(digests(images), map(bytes, self.embedded(images)), strict=True)
        rows = [("finding", [name, signs], None, bytes(vectors)), *(("confirmed", [name], *one) for one in kept)]
        return self._append(who, rows, (name, *names))

    def rollback(self, entry: int, *, who: str) -> None:
        """Be as after an entry, 0 for the start. Nothing is removed; a rollback is taken back in the same way."""
        if not 0 <= entry <= (last := len(self.file.log)):
            raise CaseError(f"entry {entry}: there are 1 to {last}, and 0 for the detector as it was fitted")
        self._append(who, [("rollback", entry, None, b"")])

    def detector(self) -> SDMAD:
        """What the cases that stand have made of the detector: `learnt`, a finding from its own cases alone."""
        self.refresh()
        known = len(self.base.bank.categories)
        return learnt(self._grown, self._sums, np.where(np.arange(len(self._sums.count) - 1) < known, self.prior, 0))

    def cases(self) -> tuple[list[Entry], np.ndarray, np.ndarray]:
        """The cases that stand, in order; their embeddings u (n, D) and activations h (n, d)."""
        wide, d = self.base.sign_embeddings_.shape[1], self.base.image_weights_.shape[1]
        found, x = list[Entry](), [np.zeros((0, wide + d))]
        with self.file.opened() as db:
            self._read(db)
            for block, kept in self.file.cases(db, self._standing):
                found += block
                x.append(np.hstack([kept[:, :wide], kept[:, -d:]]) / GRID)
        u, h = np.hsplit(np.vstack(x), [wide])
        return found, u, h

    def prototypes(self) -> np.ndarray:
        """(C, D): the mean embedding of the cases of each category; nan where there is none."""
        cases, u, _ = self.cases()
        return self._shown(cases).T @ u / np.where(self._sums.count, self._sums.count, np.nan)[:-1, None]

    def drift(self) -> tuple[np.ndarray, Entry | None]:
        """`drift` of the activations of the cases that stand, and the case at which it first reached `ALARM`."""
        cases, _, h = self.cases()
        evidence = drift(h)
        return evidence, next((case for case, e in zip(cases, evidence, strict=True) if e >= ALARM), None)

    def refresh(self) -> None:
        """Take in what was written since the last time, by whomever."""
        with self.file.opened() as db:
            self._read(db)

    def _append(self, who: str, rows: list[tuple], names: Sequence[str] = ()) -> list[int]:
        """Write (kind, about, image, x) as entries if all are in order; `names` of the rows are for messages."""
        with self.file.opened("IMMEDIATE") as db:
            self._read(db)  # what others wrote
            categories, own = [*self._grown.bank.categories], dict[str, int]()
            for row, (kind, what, image, _) in enumerate(rows):
                if kind == "finding":
                    categories.append(what[0])
                elif kind != "rollback" and (unknown := set(what).difference(categories)):
                    names = ", ".join(categories)
                    raise CaseError(f"labels: {min(unknown)!r} is none of {names}; add it as a finding, with its signs")
                if earlier := self._images.get(image) or own.get(image):
                    remedy = f"leave it out, or roll back to entry {earlier - 1} first"
                    raise CaseError(f"{names[row] if names else f'image {row}'}: is entry {earlier} already; {remedy}")
                own |= {image: len(self.file.log) + row + 1} if image else {}
            numbers = self.file.write(db, who, rows)
        self.refresh()
        return numbers

    def _read(self, db: sqlite3.Connection) -> None:
        """Bring the sums up to date."""
        self.file.read(db)
        standing = self.file.standing
        # something that was taken in may stand no longer, and a finding asks all cases for its signs
        if standing is not self._standing or any(entry.kind == "finding" for entry in standing[self._taken :]):
            grown = self.base
            for entry in (entry for entry in standing if entry.kind == "finding"):
                vectors = np.frombuffer(self.file.blobs(db, [entry])[0], "<f4").reshape(len(entry.about[1]), -1)
                grown = with_finding(grown, entry.about[0], entry.about[1], vectors.copy())
            self._begin(grown)
        for block, x in self.file.cases(db, standing[self._taken :]):
            self._sums += Moments.of(features_of(self._grown, x), self._shown(block))
            self._images |= {case.image or "": case.id for case in block}
        self._taken = len(standing)

    def _shown(self, cases: Sequence[Entry]) -> np.ndarray:
        """Y (n, C) of cases."""
        names = self._grown.bank.categories
        return np.array([c in case.about for case in cases for c in names], dtype=np.float64).reshape(-1, len(names))
