"""Heat maps of the signs in a folder of pictures."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..data import read_image
from ..files import NOTICE, new_folder
from .plots import plot_sign_maps, to_png

if TYPE_CHECKING:
    from ..detector import SDMAD
    from ..explain import CategoryExplanation

SIGNS = 3
"""In one picture: those that speak most for the category."""


def write_maps(
    folder: str | Path, detector: SDMAD, images: Mapping[str, object], found: Mapping[str, list[CategoryExplanation]]
) -> dict[tuple[str, str], str]:
    """Draw where the signs of each detected category are seen; of the likeliest one where none is detected.

    Args:
        folder: to write; an earlier one of this function is replaced. maps.json in it says what each picture shows.
        images: name -> image. found: name -> what `SDMAD.explain` says of it.

    Returns:
        (name, category) -> path of the picture.

    Raises:
        OutputError: the folder cannot be written, or holds something else.
    """
    texts, index, drawn = detector.bank.texts, {}, {}
    with new_folder(folder, "maps.json") as temporary:
        for number, (name, image) in enumerate(images.items()):
            likeliest = max(found[name], key=lambda e: e.probability)
            shown = [e for e in found[name] if e.probability >= e.threshold] or [likeliest]
            maps, picture = detector.sign_maps(image), np.asarray(read_image(image, detector.bank.color))
            for explanation in shown:
                selected = [sign for sign in explanation.signs if sign.weight > 0]
                best = [sign.text for sign in sorted(selected, key=lambda sign: -sign.contribution)[:SIGNS]]
                file = re.sub(r"[^\w.-]+", "_", f"{number:04d} {Path(name).stem} {explanation.category}.png")
                figure = plot_sign_maps(picture, {text: maps[texts.index(text)] for text in best})
                (temporary / file).write_bytes(to_png(figure))
                index[file] = {"image": name, "category": explanation.category, "signs": best}
                drawn[name, explanation.category] = str(Path(folder) / file)
        content = json.dumps({"maps": index, "notice": NOTICE}, indent=1, ensure_ascii=False)
        (temporary / "maps.json").write_text(content, encoding="utf-8")
    return drawn
