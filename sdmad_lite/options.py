"""Options that belong together; `cli.command` makes an option of each field."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from typer import Argument, Option

import sdmad_lite as sd

from .cli import output, remark
from .errors import DataError, SDMADError

if TYPE_CHECKING:
    from .clip.backbone import Backbone
    from .data import ImageTable
    from .deployment.memory import Memory
    from .detector import SDMAD
    from .signs.bank import SignBank

BANKS = ", ".join(sorted(path.stem for path in (Path(__file__).parent / "signs" / "banks").glob("*.json")))
DATA = "a folder with labels.csv or with a subfolder per class (images may be DICOM), or a .npz file"
SHAPE = "what becomes of images that are not square: all of them squashed, padded, or cropped (default: squash)"
CHOICES = ("missing", "size", "uncertain", "views", "official_split")
MAX_SEED = 2**32 - 1  # that numpy and torch both take
SPLIT = "rows to use, where the data have a split (default: 'fit' train, 'evaluate' test, others all)"
Device = Annotated[str | None, Option(help="cpu, cuda, ... (default: an accelerator if there is one)")]
DropCopies = Annotated[bool, Option("--drop-copies", help="leave out pictures with two labels or in two parts")]
FOLDER = "folder that 'sdmad fit' or SDMAD.save wrote"
ExcludeSupport = Annotated[bool, Option("--exclude-support", help="leave out what it was fitted on")]
FewImages = Annotated[list[str] | None, Argument(metavar="[IMAGE]...", help="image, DICOM file or folder")]


def parts_of(text: str | None) -> list[str]:
    """Names between commas."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def files_of(images: list[str] | None) -> dict[str, str]:
    """Name -> path of images, and of those in folders at any depth."""
    from .deployment.scoring import listed

    folders = {name: [path for _, path in listed(name)] for name in images or () if Path(name).is_dir()}
    return dict(listed([path for name in images for path in folders.get(name, [name])])) if images else {}


def set_in(group: object) -> str:
    """Options of a group that are not at their default, as Python writes them."""
    given = [(field.name, getattr(group, field.name), field.default) for field in fields(group)]  # type: ignore
    return ", ".join(
        f"{name}={value}" if value is False else f"{name}=" for name, value, usual in given if value != usual
    )


@dataclass(frozen=True)
class Source:
    """Images with labels."""

    data: Annotated[str, Option(help=DATA)]
    dataset: Annotated[str | None, Option(metavar="NAME", help="that --data holds, see 'sdmad data list'")] = None
    normal: Annotated[str | None, Option(metavar="CLASS", help="of the normal images (default: recognised)")] = None
    names: Annotated[str | None, Option(help="comma-separated, of the classes or columns of a .npz in order")] = None
    others: Annotated[
        str | None, Option(help="further findings of the data; images that show these alone are left out")
    ] = None
    missing: Annotated[str | None, Option(help="of a --dataset: 'skip' leaves out images that are not there")] = None
    size: Annotated[int | None, Option(help="of a --dataset that lies there in several sizes")] = None
    uncertain: Annotated[str | None, Option(help="labels of a --dataset: drop, negative, positive")] = None
    views: Annotated[str | None, Option(help="of a --dataset that has several: frontal, all")] = None
    official_split: Annotated[bool | None, Option(" /--no-official-split", help="do not use a --dataset's own")] = None

    def table(self, categories: tuple[str, ...], usual: str = "all") -> ImageTable:
        """The rows that --split asks for, or the usual ones where the data have a split.

        `categories` are those of the bank, () where labels do not count. Copies are not looked for.
        """
        choices = {name: getattr(self, name) for name in CHOICES if getattr(self, name) is not None}
        if choices and not self.dataset:
            raise SDMADError(f"{', '.join(f'{n}={v}' for n, v in choices.items())}: only beside dataset=; leave it out")
        if self.dataset and (self.normal, self.names, self.others) != (None, None, None):
            raise SDMADError("--dataset: knows its classes; leave --normal, --names and --others out")
        if not self.dataset:
            others = None if self.others is None else parts_of(self.others)
            names = parts_of(self.names) or None
            try:
                table = sd.load_data(self.data, categories, self.normal, names, others, drop_copies=None)
            except DataError as error:
                raise DataError(f"{error}{self._as_published(categories) if ' class' in str(error) else ''}") from None
        else:
            table = sd.load_dataset(self.dataset, self.data, **choices)
            before, table = len(table), table.matching(categories) if categories else table
            if len(table) < before:
                remark(f"left out: {before - len(table)} images that show other findings alone")
        return table.part_or(usual, getattr(self, "split", None))

    def _as_published(self, categories: tuple[str, ...]) -> str:
        """For the end of a message about class folders: the public sets that have these categories."""
        from sdmad_datasets import DATASETS

        folder = Path(self.data)
        known = not folder.is_dir() or any(folder.glob("*.csv")) or not categories
        names = [] if known else [name for name, entry in DATASETS.items() if entry.categories == categories]
        return f". A public set as published is read with --dataset {' or '.join(names)}" if names else ""


@dataclass(frozen=True)
class Part(Source):
    """Those of one part of the split."""

    split: Annotated[Literal["train", "val", "test", "all"] | None, Option(help=SPLIT)] = None


@dataclass(frozen=True)
class Images(Part):
    """Those of a command that can do without labels."""

    data: Annotated[str | None, Option(help=DATA)] = None  # type: ignore[assignment]

    def check(self) -> None:
        """Refuse options of data where there are none."""
        if not self.data and (given := set_in(self)):
            raise SDMADError(f"{given}: only beside data=; leave it out")


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A saved detector."""

    detector: Annotated[str, Option(help=FOLDER)]
    device: Device = None

    def load(self) -> SDMAD:
        """The detector."""
        return sd.SDMAD.load(self.detector, device=self.device)


@dataclass(frozen=True, kw_only=True)
class Cases(Fitted):
    """The memory of a detector."""

    memory: Annotated[str, Option(help="SQLite file of the cases; 'add' makes it where there is none")]

    def opened(self, new: bool = False) -> Memory:
        """The memory, which is made where there is none if it may be `new`."""
        from .deployment.memory import Memory

        if not (new or Path(self.memory).exists()):
            raise SDMADError(f"{self.memory}: no such memory; 'sdmad memory add' makes one")
        return Memory(self.memory, self.load())


@dataclass(frozen=True, kw_only=True)
class Judged(Fitted):
    """A detector, and by which images it is judged."""

    exclude_support: ExcludeSupport = False
    drop_copies: DropCopies = False
    resamples: Annotated[int, Option(min=0, help="of patients, for intervals; 0 for none")] = 200
    seed: Annotated[int, Option(min=0, max=MAX_SEED, help="of the resamples")] = 0

    def scores(self, source: Part) -> tuple:
        """Table of unseen images with those of its categories that there are, scores, thresholds and copies."""
        from .data import without_copies
        from .evaluation.seen_images import unseen

        fitted = self.load()
        known = fitted.bank.categories
        table = unseen(self.detector, source.table(known, usual="test"), self.exclude_support)
        table, copies = without_copies(source.data, table, self.drop_copies, not output.quiet)
        if missing := [c for c in known if c not in table.categories]:
            remark(f"not scored, the data have no column for them: {', '.join(missing)}")
        if self.resamples and not table.has_patients:
            remark("the data name no patients: intervals take every image for another one and may be too narrow")
        if not table.labels.any() or table.labels.all():
            what = "the images show none or all of the categories; give some with and some without"
            raise SDMADError(f"{source.data}: {what}")
        columns = [known.index(c) for c in table.categories]
        scores = fitted.predict_proba(table.images, progress=not output.quiet)[:, columns]
        return table, scores, fitted.thresholds_[columns], copies


@dataclass(frozen=True)
class Task:
    """What to look for, and how many examples there are."""

    signs: Annotated[str, Option(help=f"sign bank: a JSON file, or {BANKS}")]
    categories: Annotated[str | None, Option(help="comma-separated categories to use (default: all that fit)")] = None
    shots: Annotated[int | None, Option(min=1, help="positives per category ('run': 16, 'fit': all rows)")] = None
    seed: Annotated[int, Option(min=0, max=MAX_SEED, help="of the (first) draw and of everything random")] = 0

    def chosen(self, where: str, table: ImageTable) -> ImageTable:
        """The table with the --categories, all where none is named; refused where no image is normal."""
        from .data.names import plain

        spelled = {plain(name): name for name in table.categories}
        named = [spelled.get(plain(name), name) for name in parts_of(self.categories)]
        table = table.restricted(named) if named else table
        if table.labels.any(1).all():
            shown = f"each of the {len(table)} images shows some of {', '.join(table.categories)}"
            raise DataError(f"{where}: {shown}; add normal images, for scores are measured against them")
        return table


@dataclass(frozen=True)
class Model:
    """The frozen CLIP."""

    backbone: Annotated[str | None, Option(help="'embedded' (unless told otherwise) or an open_clip name")] = None
    pretrained: Annotated[str | None, Option(help="weights for another open_clip name: tag, file or 'random'")] = None
    device: Device = None
    shape: Annotated[Literal["squash", "pad", "crop"] | None, Option(help=SHAPE)] = None

    def load(self) -> Backbone:
        """The model, in each of several processes on a device of its own."""
        from .running import own_device

        return sd.load_clip(self.backbone or "embedded", self.pretrained, own_device(self.device), shape=self.shape)


@dataclass(frozen=True)
class Stage1:
    """How, and whether, the adapters are trained."""

    training_free: Annotated[bool, Option("--training-free", help="no stage 1: frozen model, signs selected")] = False
    steps: Annotated[int | None, Option(help="optimiser steps of stage 1 (default 100)")] = None
    lam: Annotated[float | None, Option(help="share of the frozen layers' output, 0 to 1 (default 0.7)")] = None
    checkpoint: Annotated[str | None, Option(metavar="DIR", help="keep the state here; a second call goes on")] = None

    def detector(self, bank: SignBank, backbone: Backbone, seed: int) -> SDMAD:
        """One that is not fitted yet."""
        if self.steps is not None and self.steps < 1:
            raise SDMADError(f"--steps is {self.steps}: it must be at least 1; to train nothing, give --training-free")
        if self.training_free and self != Stage1(training_free=True):
            raise SDMADError("--training-free: trains nothing; leave --steps, --lam and --checkpoint out")
        if self.training_free:
            return sd.SDMAD.training_free(bank, backbone=backbone, random_state=seed)
        adapters = sd.AdapterConfig() if self.lam is None else sd.AdapterConfig(lam=self.lam)
        alignment = sd.AlignmentConfig() if self.steps is None else sd.AlignmentConfig(steps=self.steps)
        return sd.SDMAD(bank, backbone=backbone, adapters=adapters, alignment=alignment, random_state=seed)


@dataclass(frozen=True)
class Scoring:
    """How many images are scored, and what is written; the fields are arguments of `write_scores`."""

    explain: Annotated[bool, Option(" /--scores-only", show_default=False, help="no parts of signs in --out")] = True
    resume: Annotated[bool, Option(" /--restart", show_default=False, help="start --out anew")] = True
    batch_size: Annotated[int | None, Option(min=1, help="(default 32, on an accelerator 128)")] = None
    workers: Annotated[int | None, Option(min=0, help="that read images for --out (default: by the machine)")] = None
