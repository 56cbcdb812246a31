"""Write the sample set of the repository: `python -m sdmad_lite.phantoms.samples data_samples/chest`.

The same command gives the same bytes with the same versions of NumPy, SciPy and Pillow.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from PIL import Image

from ..data import ImageTable
from ..errors import DataError
from ..files import new_folder
from . import chest_bank, sample_phantoms

IMAGES, SEED = 600, 7

README = """# Chest phantoms

{images} drawn images, {size} x {size} pixels, of {patients} simulated patients. No person was imaged: this is for
teaching the method, it is no medical data, and nothing learnt from it is for clinical use.

- `images/*.png`: 8-bit grey.
- `labels.csv`: a row per image. Nine 0/1 columns, one per category (an image may have several; a row of zeros is
  normal); `patient_id` (two images each), `age` (years), `sex`, `site` (three machines that expose differently),
  `split` (train or test, by patient), `signs` (ids of the signs drawn, separated by spaces).
- `masks/*.png`: 16-bit, where the signs are. Bit k (value 2^k) is set where the k-th sign of the row's `signs` changed
  the image; `sdmad_lite.phantoms.samples.load_masks` reads them. Normal images have none.

Made by `python -m sdmad_lite.phantoms.samples data_samples/chest`, which writes the same bytes again with the
package versions in `constraints.txt`. Licence: Apache-2.0, as the project.
"""


def write_samples(folder: str | Path, images: int = IMAGES, seed: int = SEED) -> Path:
    """Draw a set and write it, whole or not at all.

    Args:
        folder: new, empty or an earlier set.
        images: how many; patients alternate between train and test.
        seed: of everything.
    """
    categories = chest_bank().categories
    with new_folder(folder, "labels.csv") as out:
        (out / "images").mkdir()
        (out / "masks").mkdir()
        with (out / "labels.csv").open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(["image", *categories, "patient_id", "age", "sex", "site", "split", "signs"])
            for i, phantom in enumerate(sample_phantoms(images, seed)):
                name, patient = f"{i:04d}.png", phantom.patient
                Image.fromarray(phantom.image).save(out / "images" / name, optimize=True)
                if phantom.masks:
                    bits = sum(mask.astype(np.uint16) << k for k, mask in enumerate(phantom.masks.values()))
                    Image.fromarray(bits).save(out / "masks" / name, optimize=True)
                split = "train" if int(patient.patient_id[1:]) % 2 == 0 else "test"
                shown = [int(c in phantom.categories) for c in categories]
                about = [patient.patient_id, patient.age, patient.sex, patient.site, split, " ".join(phantom.signs)]
                writer.writerow([f"images/{name}", *shown, *about])
        text = README.format(images=images, size=phantom.image.shape[0], patients=(images + 1) // 2)
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
    path = path.parent.parent / "masks" / path.name
    if not path.is_file():
        raise DataError(f"{path}: no such mask file")
    bits = np.asarray(Image.open(path))
    return {sign: (bits >> k & 1).astype(bool) for k, sign in enumerate(signs)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", nargs="?", default="data_samples/chest")
    arguments = parser.parse_args()
    print(f"wrote {write_samples(arguments.folder)}")
