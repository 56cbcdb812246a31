"""A memory of confirmed cases: a detector that learns while it works, without training stage 1 again. [ours]

    memory = Memory("cases.db", detector)
    memory.add(images, [["Effusion"], []], who="Dr A. Reader")  # appended to the file, for good
    memory.detector().predict_proba(more_images)  # an SDMAD that has learnt from all cases
    memory.rollback(17, who="Dr A. Reader")  # as it was after entry 17, bit for bit

An entry holds who, when, the fingerprint of the detector, labels, and what that sees in the image: embeddings of the
whole and, if its signs look at them, of the patches (2 bytes a number), and activations h; never the image. All are
whole numbers of a small unit, and so are the cosines z that follow. Sums over them are exact in float64, so they are
the same in any order, whoever wrote.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from ..data import as_images
from ..data.labels import labels_by_name
from ..detector import SDMAD
from ..errors import CaseError
from ..selection import sign_scores
from .case_file import CaseFile, Entry
from .learning import drift, learnt, with_finding
from .moments import Moments
from .scoring import _content, about

GRID, FINE = 1024, 4096
"""Views and h are kept in units of 1/1024; embeddings of signs, and z, are rounded to 1/4096."""
ALARM = 10_000.0
"""Evidence of `drift` from which it is told: reached by chance once in so many cases, or less often."""


class Memory:
    """Cases of one detector in one SQLite file, which any number of programs may use at once.

    Args:
        path: of the file, which is made where there is none. detector: fitted, the same one for all entries.
        prior: see `learnt`. wait: seconds for another program to finish writing.

    Raises:
        CaseError: the file is locked, damaged, of a newer version, of another detector, or no memory.
    """

    def __init__(self, path: str | Path, detector: SDMAD, *, prior: float = 4.0, wait: float = 10.0):
        self.base, self.prior = detector, prior
        self.file = CaseFile(path, about(detector)["detector"], wait)
        self._begin(detector)
        self.refresh()

    def add(self, images, labels=None, *, who: str, self_made: bool = False) -> list[int]:
        """Append a case for each image, all or none; the numbers of the entries.

        Args:
            labels: for each image the names of what it shows, [] for a normal one; or what `SDMAD.fit` takes.
            who: confirmed them. self_made: take the detector's own decisions instead, which can make it worse.

        Raises:
            CaseError: no labels, an unknown category, an image that is a case already, or the file (see `Memory`).
        """
        images = as_images(images)[0]
        if self_made:
            mine = self.detector()
            labels = dict(zip(mine.bank.categories, mine.predict(images).T, strict=True))
        return self.add_embedded(self.embedded(images), labels, list(map(_content, images)), who, self_made)

    def __len__(self) -> int:
        """How many cases stand."""
        return int(self._sums.count[-1])

    def embedded(self, images) -> np.ndarray:
        """x (N, (1 + P) D + d) int16: views and h of images in units of 1/1024."""
        views, h = self.base.views(images)
        return (np.hstack([views.reshape(len(h), -1), h]) * GRID).round().clip(-32768, 32767).astype("<i2")

    def add_embedded(self, x, labels, images: Sequence[str], who: str, self_made: bool = False) -> list[int]:
        """`add` with what `embedded` gave, and for each image a text that no other image has."""
        if labels is None:
            raise CaseError("labels: none are given; confirm them, or take the detector's own with self_made=True")
        if not isinstance(labels, list) or not {str, list}.issuperset({type(n) for row in labels for n in [row, *row]}):
            categories = self._grown.bank.categories
            columns = np.asarray(labels_by_name(labels, categories))
            if columns.shape != (len(x), len(categories)) or not np.isin(columns, (0, 1)).all():
                raise CaseError(f"labels: give 0 or 1 for each of {len(x)} images and {len(categories)} categories")
            labels = [[c for c, y in zip(categories, row, strict=True) if y] for row in columns]
        if len(labels) != len(x):
            raise CaseError(f"labels: {len(labels)} lists of names for {len(x)} images; give one for each")
        kind = "self-made" if self_made else "confirmed"
        return self._append(who, [(kind, *case) for case in zip(labels, images, map(bytes, x), strict=True)])

    def add_finding(self, name: str, signs: Sequence[str], images, *, who: str) -> list[int]:
        """Append a category that the detector did not know, and three or more images that show it.

        Earlier cases count as being without it. `signs`: texts of what is visible, of which the bank may have some.

        Raises:
            BankError: the name or a sign does not fit the bank. CaseError: too few images, or see `add`.
        """
        images, signs, others = as_images(images)[0], list(signs), len(self)
        if len(images) < 3 or not others:
            what = f"{len(images)} images show it, beside {others} cases without it"
            raise CaseError(f"finding {name!r}: {what}; give at least 3, and add normal cases before")
        with self.base.installed() as clip:
            vectors = clip.encode_texts(signs).float().cpu().numpy()
        with_finding(self._grown, name, signs, vectors)  # refuses what does not fit
        cases = [
            ("confirmed", [name], _content(i), bytes(x)) for i, x in zip(images, self.embedded(images), strict=True)
        ]
        return self._append(who, [("finding", [name, signs], None, bytes(vectors)), *cases])

    def rollback(self, entry: int, *, who: str) -> None:
        """Be as after an entry, 0 for the start. Nothing is removed; a rollback is taken back in the same way."""
        if not 0 <= entry <= len(self.file.log):
            raise CaseError(
                f"entry {entry}: there are 1 to {len(self.file.log)}, and 0 for the detector as it was fitted"
            )
        self._append(who, [("rollback", entry, None, b"")])

    def detector(self) -> SDMAD:
        """What the cases that stand have made of the detector: `learnt`, a finding from its own cases alone."""
        self.refresh()
        known = len(self.base.bank.categories)
        return learnt(self._grown, self._sums, np.where(np.arange(len(self._sums.count) - 1) < known, self.prior, 0))

    def cases(self) -> tuple[list[Entry], np.ndarray, np.ndarray]:
        """The cases that stand, in order; their embeddings u (n, D) and activations h (n, d)."""
        wide, d = self.base.sign_embeddings_.shape[1], self.base.image_weights_.shape[1]
        with self.file.opened() as db:
            self._read(db)
            found = self._standing()
            x = [np.hstack([x[:, :wide], x[:, -d:]]) for _, x in self._blocks(db, found)]
        u, h = np.hsplit(np.vstack([np.zeros((0, wide + d)), *x]) / GRID, [wide])
        return found, u, h

    def prototypes(self) -> np.ndarray:
        """(C, D): the mean embedding of the cases of each category; nan where there is none."""
        found, u, _ = self.cases()
        shown = self._shown(found).reshape(len(found), -1)
        return shown.T @ u / np.where(self._sums.count, self._sums.count, np.nan)[:-1, None]

    def drift(self) -> tuple[np.ndarray, Entry | None]:
        """`drift` of the activations of the cases that stand, and the case at which it first reached `ALARM`."""
        cases, _, h = self.cases()
        evidence = drift(h)
        return evidence, next((case for case, e in zip(cases, evidence, strict=True) if e >= ALARM), None)

    def refresh(self) -> None:
        """Take in what was written since the last time, by whomever."""
        with self.file.opened() as db:
            self._read(db)

    def _append(self, who: str, rows: list[tuple]) -> list[int]:
        """Write (kind, about, image, x) as entries if all are in order."""
        with self.file.opened("IMMEDIATE") as db:
            self._read(db)  # what others wrote
            categories, images = [*self._grown.bank.categories], dict(self._images) if len(rows) > 1 else self._images
            for row, (kind, what, image, _) in enumerate(rows):
                if kind == "finding":
                    categories.append(what[0])
                elif kind != "rollback" and (unknown := set(what).difference(categories)):
                    names = ", ".join(categories)
                    raise CaseError(f"labels: {min(unknown)!r} is none of {names}; add it as a finding, with its signs")
                if image in images:
                    remedy = f"leave it out, or roll back to entry {images[image] - 1} first"
                    raise CaseError(f"image {row}: is entry {images[image]} already; {remedy}")
                images |= {image: len(self.file.log) + row + 1} if image and len(rows) > 1 else {}
            numbers = self.file.write(db, who, rows)
        self.refresh()
        return numbers

    def _entry(self, number: int) -> Entry:
        return self.file.log[number - 1]

    def _standing(self, finding: bool = False, after: int = 0) -> list[Entry]:
        """The cases or the findings that stand, but for the first few entries that do."""
        found = map(self._entry, self.file.standing[after:])
        return [entry for entry in found if (entry.kind == "finding") == finding]

    def _shown(self, cases: Sequence[Entry]) -> np.ndarray:
        """Y (n, C) of cases."""
        return np.array([[float(c in case.about) for c in self._grown.bank.categories] for case in cases])

    def _begin(self, grown: SDMAD) -> None:
        """Forget all cases, and go on with a detector that knows the findings that stand."""
        self._grown, self._taken, self._turns, self._images = grown, 0, self.file.turns, dict[str, int]()
        wide, categories = len(grown.membership.T) + grown.image_weights_.shape[1], len(grown.bank.categories)
        self._sums = Moments.none(wide, categories)

    def _read(self, db: sqlite3.Connection) -> None:
        self.file.read(db)
        # something that was taken in may stand no longer, and a finding asks all cases for its signs
        if self._turns != self.file.turns or self._standing(finding=True, after=self._taken):
            grown = self.base
            for entry in self._standing(finding=True):
                name, signs = entry.about
                vectors = np.frombuffer(self.file.blobs(db, [entry.id])[0], "<f4").reshape(len(signs), -1)
                grown = with_finding(grown, name, signs, vectors.copy())
            self._begin(grown)
        for block, x in self._blocks(db, self._standing(after=self._taken)):
            self._sums += Moments.of(self._features(x), self._shown(block))
            self._images |= {case.image or "": case.id for case in block}
        self._taken = len(self.file.standing)

    def _blocks(self, db: sqlite3.Connection, cases: Sequence[Entry]) -> Iterator[tuple[Sequence[Entry], np.ndarray]]:
        """Some cases at a time, with what `embedded` gave."""
        for start in range(0, len(cases), 64):
            block = cases[start : start + 64]
            x = [np.frombuffer(blob, "<i2") for blob in self.file.blobs(db, [case.id for case in block])]
            yield block, np.stack(x)

    def _features(self, x: np.ndarray) -> np.ndarray:
        """(n, S + d) z and h of what `embedded` gave, as whole numbers of units all the way."""
        config, v = self.base.alignment, (self._grown.sign_embeddings_.double() * FINE).round()
        views, h = np.hsplit(x.astype(np.float64), [-self.base.image_weights_.shape[1]])
        views = torch.from_numpy(views).unflatten(1, (-1, v.shape[1]))
        z = sign_scores(views, v, config.local, config.patches).numpy() / GRID
        return np.hstack([z.round() / FINE, h / GRID])
