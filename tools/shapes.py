"""What to make of a picture that is not square? `python tools/shapes.py` writes docs/results/shapes.md (ten minutes).

The model looks at a square. A picture of another shape is padded with black, squashed, or cut to its middle square.
Detectors are fitted on the samples, on square support images or on ones of mixed shapes, and score validation images
of each shape (of training patients, so that the choice saw no test image). `--real DIR BANK` adds a folder with
labels.csv and its sign bank. For teaching and research; not for clinical use.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from shared import difference, table
from tqdm import tqdm

from sdmad_lite import SDMAD, load_bank, load_clip, load_data
from sdmad_lite.clip.backbone import SHAPES
from sdmad_lite.data import draw_support, read_image
from sdmad_lite.evaluation.intervals import figure_text, mean_interval, paired
from sdmad_lite.evaluation.protocols import evaluate
from sdmad_lite.files import NOTICE

PAGE, SAMPLES, SEED, SHOTS, MIXED = Path("docs/results/shapes.md"), Path("data_samples"), 0, 16, "all of these mixed"
TEXT = """# What to make of a picture that is not square

The model looks at a square. `shape` says what becomes of another picture: padded with black (`pad`), squashed, or cut
to its middle square (`crop`, all that version 0.1.0 could). Mean average precision over categories; mean and 95 %
interval over {draws} support draws of 16 shots; {images} images of other training patients each, made in all of the
forms below; differences paired over draws, bold where the interval excludes zero. Square pictures are read alike by
all three. {notice}

Made by `python tools/shapes.py`; real sets are added by `--real`.

The default is `squash`: all of a picture is seen, and of the rows where it and `pad` clearly differ it is ahead in all
but one. `crop` is level with it, or ahead where the edges hold nothing: by 0.03 at most, but for wide black sides.
It is not the default, because whatever lies outside its square is lost, be it the finding. Black margins cost in every
setting: cut them away beforehand."""


def margins(image: Image.Image, left: int = 0, top: int = 0) -> Image.Image:
    """Black to both sides, or above alone."""
    out = Image.new(image.mode, (image.width + 2 * left, image.height + top))
    out.paste(image, (left, top))
    return out


def cut(image: Image.Image, across: float = 1, down: float = 1) -> Image.Image:
    """The middle of it."""
    x, y = round(image.width * (1 - across) / 2), round(image.height * (1 - down) / 2)
    return image.crop((x, y, image.width - x, image.height - y))


FORMS = {
    "square": lambda x: x,
    "half as much black above": lambda x: margins(x, top=x.height // 2),
    "black to the sides (16:9)": lambda x: margins(x, left=round(x.width * 7 / 18)),
    "drawn taller (3:4)": lambda x: x.resize((x.width, x.height * 4 // 3), Image.Resampling.BICUBIC),
    "drawn wider (4:3)": lambda x: x.resize((x.width * 4 // 3, x.height), Image.Resampling.BICUBIC),
    "sides cut off (4:5)": lambda x: cut(x, across=0.8),
    "top and bottom cut off (5:4)": lambda x: cut(x, down=0.8),
}


def mixed(images: list[Image.Image], rng: np.random.Generator) -> list[Image.Image]:
    """Each in one of the forms."""
    return [
        list(FORMS.values())[i](image)
        for image, i in zip(images, rng.integers(0, len(FORMS), len(images)), strict=True)
    ]


def measure(folder: Path, bank, draws: int, most: int, odd: bool) -> dict[tuple[str, str], dict[str, list[float]]]:
    """(shapes of the support set, form) -> setting -> the mAP of each draw; with `odd` also after fits on all forms."""
    clips = {setting: load_clip(device="cpu", shape=setting) for setting in SHAPES}
    train = load_data(folder, bank.categories).part_or("train")
    train = train.restricted([c for c, n in zip(train.categories, train.labels.sum(0), strict=True) if n >= 3 * SHOTS])
    bank, found = bank.restricted(list(train.categories)), {}
    for draw in tqdm(range(draws), desc=folder.name):
        rows, rng = draw_support(train, SHOTS, draw), np.random.default_rng([SEED, draw])
        rest = rng.permutation(np.flatnonzero(~np.isin(train.patients(), train.patients()[rows])))[:most]
        support, test = ([read_image(train.images[i], bank.color) for i in part] for part in (rows, rest))
        tests = {name: [form(image) for image in test] for name, form in FORMS.items()} | {MIXED: mixed(test, rng)}
        fits = {"square": (support, list(tests))} | ({"mixed": (mixed(support, rng), ["square", MIXED])} if odd else {})
        for kind, (images, names) in fits.items():
            detector = None
            for setting, clip in clips.items():
                if detector and kind == "square":  # the same in every setting
                    detector.backbone = clip
                else:
                    detector = SDMAD(bank, backbone=clip, random_state=draw).fit(images, train.labels[rows])
                for name in names:
                    scores = evaluate(detector.predict_proba(tests[name]), train.labels[rest], bank.categories)
                    found.setdefault((kind, name), {}).setdefault(setting, []).append(scores.multilabel.macro.ap)
    return found


def lines_of(title: str, found: dict) -> list[str]:
    """A table of one set."""
    rows, heads = {}, [*SHAPES, "squash over pad", "squash over crop"]
    for (kind, name), of in found.items():
        gains = (difference(asdict(paired(of["squash"], of[other]))) for other in ("pad", "crop"))
        label = name if kind == "square" else f"{name}, after a fit on mixed shapes"
        rows[label] = [figure_text(*mean_interval(of[setting])) for setting in SHAPES] + list(gains)
    return ["", f"## {title}", "", *table("test images", rows, heads)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", nargs=3, action="append", default=[], metavar=("TITLE", "DIR", "BANK"))
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--images", type=int, default=100, help="to score in each draw (default 100)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    sets = [(f"{name} phantoms", SAMPLES / name, f"{name}_phantoms") for name in ("chest", "brain", "fundus")]
    text = [TEXT.format(draws=args.draws, images=args.images, notice=NOTICE)]
    for title, folder, bank in [*sets, *args.real]:
        odd = bank == "chest_phantoms"  # three more fits for each draw
        text += lines_of(title, measure(Path(folder), load_bank(bank), args.draws, args.images, odd))
        PAGE.write_text("\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
