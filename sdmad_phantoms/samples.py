"""Write the sample sets of the repository: `python -m sdmad_phantoms.samples data_samples`.

The same command gives the same bytes with the same versions of NumPy, SciPy and Pillow.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from PIL import Image

from sdmad_lite.data import ImageTable
from sdmad_lite.errors import DataError
from sdmad_lite.files import new_folder

from . import MODALITIES, modality_named, sample_phantoms

IMAGES, SEED = 600, 7

README = """# {title} phantoms

{images} drawn images, {size} x {size} pixels, of {patients} simulated patients. No person was imaged: this is for
teaching the method, it is no medical data, and nothing learnt from it is for clinical use.

- `images/`: {format}.
- `labels.csv`: a row per image. A 0/1 column for each category ({categories}; an image may have several, a row of
  zeros is normal); `patient_id` (two images each), `age` (years), `sex`, `site` (three machines that render
  differently), `split` (train or test, by patient), `signs` (ids of the signs that can be seen, separated by spaces).
- `masks/*.png`: 16-bit, where the signs are. Bit k (value 2^k) is set where the k-th sign of the row's `signs` changed
  the image; `sdmad_phantoms.samples.load_masks` reads them. Images without signs have none.

| category | images | in train | in test |
|---|---|---|---|
{counts}

Made by `python -m sdmad_phantoms.samples data_samples`, which writes the same bytes again with the package
versions in `constraints.txt`. What the phantoms show and how they fail: docs/embedded_clip.md. Licence: Apache-2.0, as
the project.
"""


def write_samples(folder: str | Path, images: int = IMAGES, seed: int = SEED, modality: str = "chest") -> Path:
    """Draw a set of one modality and write it, whole or not at all.

    Grey images are PNG; colour photographs are JPEG, as cameras write them and a third of the size.

    Args:
        folder: new, empty or an earlier set.
        images: how many; patients alternate between train and test.
        seed: of everything.
        modality: chest, brain or fundus.

    Raises:
        DataError: an unknown modality, or no images.
        OutputError: the folder holds something else.
    """
    bank = modality_named(modality).bank
    if images < 1:
        raise DataError(f"images: {images} were asked for; at least one is needed")
    categories, suffix = bank.categories, ".jpg" if bank.color else ".png"
    with new_folder(folder, "labels.csv") as out:
        (out / "images").mkdir()
        (out / "masks").mkdir()
        counts = np.zeros((2, len(categories)), int)
        with (out / "labels.csv").open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(["image", *categories, "patient_id", "age", "sex", "site", "split", "signs"])
            for i, phantom in enumerate(sample_phantoms(images, seed, modality=modality)):
                name, patient = f"{i:04d}", phantom.patient
                Image.fromarray(phantom.image).save(out / "images" / (name + suffix), optimize=True, quality=90)
                if phantom.masks:
                    bits = sum(mask.astype(np.uint16) << k for k, mask in enumerate(phantom.masks.values()))
                    Image.fromarray(bits).save(out / "masks" / f"{name}.png", optimize=True)
                test = int(patient.patient_id[1:]) % 2
                shown = [int(c in phantom.categories) for c in categories]
                counts[test] += shown
                about = [patient.patient_id, patient.age, patient.sex, patient.site, ("train", "test")[test]]
                writer.writerow([f"images/{name}{suffix}", *shown, *about, " ".join(phantom.signs)])
        text = README.format(
            title=modality.capitalize(),
            images=images,
            size=phantom.image.shape[0],
            patients=(images + 1) // 2,
            format="JPEG, 8-bit RGB" if bank.color else "PNG, 8-bit grey",
            categories=", ".join(categories),
            counts="\n".join(f"| {c} | {a + b} | {a} | {b} |" for c, (a, b) in zip(categories, counts.T, strict=True)),
        )
        (out / "README.md").write_text(text, encoding="utf-8")
    return Path(folder)


def load_masks(table: ImageTable, row: int) -> dict[str, np.ndarray]:
    """Sign id -> (H, W) bool region, for one row of a sample set read by `load_folder`.

    Raises:
        DataError: the table has no `signs` column or the mask file is missing.
    """
    if "signs" not in table.meta:
        raise DataError("the table has no 'signs' column; only sample sets have masks")
    signs = table.meta["signs"][row].split()
    if not signs:
        return {}
    path = Path(table.images[row])
    path = path.parent.parent / "masks" / f"{path.stem}.png"
    if not path.is_file():
        raise DataError(f"{path}: no such mask file")
    bits = np.asarray(Image.open(path))
    return {sign: (bits >> k & 1).astype(bool) for k, sign in enumerate(signs)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", nargs="?", default="data_samples", type=Path)
    arguments = parser.parse_args()
    for name in MODALITIES:
        print(f"wrote {write_samples(arguments.folder / name, modality=name)}")
