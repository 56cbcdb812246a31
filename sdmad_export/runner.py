"""Score and explain images with an exported detector; onnxruntime, numpy and Pillow are all that this file needs.

    python score.py image.png                # in the folder that `sdmad export` wrote, where this file is score.py

    from score import Exported
    detector = Exported()                    # the folder that score.py stands in, or Exported(folder)
    detector.predict_proba(["image.png"])    # (N, C)
    detector.explain("image.png")            # for each category, what each sign adds to its logit
    detector.sign_maps("image.png")          # (S, h, w), where each sign is seen

For teaching and research; not for clinical use.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

TOWER, ABOUT, SUMS = "tower.onnx", "export.json", "SHA256SUMS"


class ExportError(ValueError):
    """The folder is not what was exported, or an image cannot be used; the message says what to do."""


class Exported:
    """A detector in a folder that `sdmad export` wrote.

    Attributes:
        about: all that export.json holds: categories, signs, M `membership`, W `weights`, `thresholds` and so on.
        categories: C names. signs: S texts. thresholds: (C,) probabilities from which on a category is detected.

    Raises:
        ExportError: a file is missing or was changed.
    """

    def __init__(self, folder: str | Path = Path(__file__).parent, threads: int = 1):
        self.folder = Path(folder)
        check_files(self.folder)
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.disable_quant_qdq", "1")  # 8 bits to 32 once, not for each image
        providers = ["CPUExecutionProvider"]
        self.tower = onnxruntime.InferenceSession(self.folder / TOWER, options, providers=providers)
        # only what is asked for is computed
        self.options = onnxruntime.RunOptions()
        self.options.only_execute_path_to_fetches = True
        self.about: dict[str, Any] = json.loads((self.folder / ABOUT).read_text(encoding="utf-8"))
        self.categories, self.signs = self.about["categories"], self.about["signs"]
        self.thresholds = np.array(self.about["thresholds"])

    def _array(self, name: str) -> np.ndarray:
        return np.array(self.about[name], dtype=np.float64)

    def prepare(self, image) -> np.ndarray:
        """An image (path, uint8 array or PIL) as the tower takes it, (3, H, W)."""
        how = self.about["pixels"]
        picture = read_image(image, self.about["color"])
        (width, height), (left, top) = placed(picture.size, how["size"], how["shape"])
        filling = Image.Resampling[how["interpolation"].upper()]
        canvas = Image.new(picture.mode, tuple(how["size"]))  # black
        canvas.paste(picture.resize((width, height), filling), (left, top))
        x = np.asarray(canvas.convert("RGB"), dtype=np.float32) / 255
        mean, std = (np.array(how[name], dtype=np.float32) for name in ("mean", "std"))
        return ((x - mean) / std).transpose(2, 0, 1)

    def outputs(self, images, *names: str) -> list[np.ndarray]:
        """Of N images what the tower says: "embedding" (N, D), "patches" (N, h, w, D), "activations" (N, d)."""
        shape: Any = getattr(images, "shape", ())  # of one image (H, W) or (H, W, 3), of many one more
        one = len(shape) == 2 or (len(shape) == 3 and shape[2] in (3, 4))
        many = [images] if one or isinstance(images, (str, Path, Image.Image)) else images
        found = [self.tower.run(names, {"pixels": self.prepare(image)[None]}, self.options) for image in many]
        if not found:
            raise ExportError("images: the list is empty; give at least one image")
        return [np.concatenate(rows).astype(np.float64) for rows in zip(*found, strict=True)]

    def features(self, images) -> tuple[np.ndarray, np.ndarray]:
        """What a score is made of: cosines z (N, S) of images and signs, and pooled activations h (N, d)."""
        v, local = self._array("sign_embeddings").T, self.about["local"]
        u, h, *patches = self.outputs(images, "embedding", "activations", *["patches"] * (local > 0))
        z = u @ v
        for found in patches:  # of which those most like a sign count
            best = np.sort((found @ v).reshape(len(u), -1, v.shape[1]), axis=1)[:, -self.about["patches"] :]
            z = (1 - local) * z + local * best.mean(1)
        return z, h

    def logits(self, cosines: np.ndarray, activations: np.ndarray) -> np.ndarray:
        """Logits (N, C) from z (N, S) and h (N, d)."""
        by_sign = self._array("scale") * (cosines @ self._array("weights").T) + self._array("bias")
        return by_sign + activations @ self._array("image_weights").T + self._array("image_bias")

    def predict_proba(self, images) -> np.ndarray:
        """Probabilities (N, C) of one image or of many; an image may show several categories."""
        return 1 / (1 + np.exp(-self.logits(*self.features(images))))

    def predict(self, images) -> np.ndarray:
        """Decisions (N, C) in {0, 1}."""
        return (self.predict_proba(images) >= self.thresholds).astype(np.int64)

    def explain(self, image) -> list[dict[str, Any]]:
        """For each category the parts of one image's logit; contributions of signs, `image` and `bias` sum to it.

        `signs` are the category's own, first the one that adds most, and then the normal ones.
        """
        (z,), (h,) = self.features([image])
        (logits,), weights, membership = (
            self.logits(z[None], h[None]),
            self._array("weights"),
            self._array("membership"),
        )
        parts = self._array("scale")[:, None] * weights * (z - self._array("reference"))
        by_image = self._array("image_weights") @ h + self._array("image_bias")
        bias, p, found = logits - by_image - parts.sum(1), 1 / (1 + np.exp(-logits)), []
        for c, category in enumerate(self.categories):
            own = np.flatnonzero(membership[c + 1] + membership[0])
            signs = [
                {"text": self.signs[s], "weight": weights[c, s], "cosine": float(z[s]), "contribution": parts[c, s]}
                | {"normal": bool(membership[0, s]), "reason": self.about["reasons"][c][str(s)]}
                for s in sorted(own.tolist(), key=lambda s: (membership[0, s], -parts[c, s]))
            ]
            row = {"category": category, "probability": float(p[c]), "threshold": float(self.thresholds[c])}
            row |= {"detected": bool(p[c] >= self.thresholds[c]), "logit": float(logits[c]), "bias": float(bias[c])}
            found.append(row | {"image": float(by_image[c]), "signs": signs})
        return found

    def sign_maps(self, image) -> np.ndarray:
        """(S, h, w) cosine of each patch with each sign, over the whole image; nan where the tower has not looked.

        Raises:
            ExportError: this tower gives no patch embeddings.
        """
        if not self.about["maps"]:
            raise ExportError(f"{self.folder}: its image tower gives no patch embeddings; there are no heat maps")
        (patches,), how = self.outputs([image], "patches"), self.about["pixels"]
        maps, size = (
            np.moveaxis(patches[0] @ self._array("map_embeddings").T, -1, 0),
            read_image(image, self.about["color"]).size,
        )
        if how["shape"] == "squash" or size[0] == size[1]:
            return maps
        # the whole image in sides of the square, in whose middle it lies
        scale = (min if how["shape"] == "pad" else max)(side / old for side, old in zip(how["size"], size, strict=True))
        w, h = (old * scale / side * n for side, old, n in zip(how["size"], size, maps.shape[:0:-1], strict=True))
        (down, across), new = np.divide(maps.shape[1:], 2), (max(1, round(w)), max(1, round(h)))
        box = across - w / 2, down - h / 2, across + w / 2, down + h / 2
        extent, smooth = Image.Transform.EXTENT, Image.Resampling.BILINEAR
        planes = (Image.fromarray(one.astype(np.float32)) for one in maps)
        return np.stack([np.array(one.transform(new, extent, box, smooth, fillcolor=np.nan)) for one in planes])


def check_files(folder: Path) -> None:
    """Refuse a folder of which a file is missing or was changed since the export, by name."""
    if not (folder / SUMS).is_file():
        raise ExportError(f"{folder}: holds no {SUMS}; name a folder that 'sdmad export' wrote")
    for line in (folder / SUMS).read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition("  ")
        found = (folder / name).is_file() and hashlib.sha256((folder / name).read_bytes()).hexdigest()
        if found != digest:
            what = "was changed since the export" if found else "is missing"
            raise ExportError(f"{folder / name}: {what}; copy the folder again, or export again")


def read_image(image, color: bool) -> Image.Image:
    """A path, a uint8 array or a PIL image, upright and on black, as 8-bit grey or as RGB."""
    name = str(image) if isinstance(image, (str, Path)) else "image"
    try:
        opened = Image.fromarray(image) if isinstance(image, np.ndarray) else image
        opened = Image.open(image) if isinstance(image, (str, Path)) else opened
        opened = ImageOps.exif_transpose(opened)
    except (OSError, TypeError, AttributeError, ValueError, Image.DecompressionBombError) as error:
        raise ExportError(f"{name}: cannot be read as an image ({error}); save it as PNG") from None
    if opened.mode[0] in "IF":
        raise ExportError(f"{name}: has more than 8 bits; save it with 8 bits from 0 to 255")
    if opened.has_transparency_data:
        opened = opened.convert("RGBA")
        opened = Image.alpha_composite(Image.new("RGBA", opened.size, "black"), opened)
    if not color and opened.mode not in ("L", "1") and np.ptp(np.asarray(opened.convert("RGB")), axis=2).mean() > 4:
        raise ExportError(f"{name}: is a colour image, but this detector reads grey ones; convert it")
    return opened.convert("RGB" if color else "L")


def placed(picture: Sequence[int], square: Sequence[int], shape: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """To which (width, height) a picture is resized, and where on the square its left upper corner lies."""
    if shape == "squash":
        return (square[0], square[1]), (0, 0)
    scales = [side / old for side, old in zip(square, picture, strict=True)]
    if shape == "pad":
        new = [round(old / max(1 / scale for scale in scales)) for old in picture]
        return (new[0], new[1]), ((square[0] - new[0]) // 2, (square[1] - new[1]) // 2)
    new = [int(side * old / min(picture)) for side, old in zip(square, picture, strict=True)]
    return (new[0], new[1]), (-round((new[0] - square[0]) / 2), -round((new[1] - square[1]) / 2))


def main(words: Sequence[str]) -> int:
    """Print the probability, the decision and the reasons of each category for each image."""
    if not words or words[0].startswith("-"):
        print(__doc__)
        return 2
    try:
        detector = Exported()
        for name in words:
            print(name)
            for row in detector.explain(name):
                own = [f"{s['text']} {s['contribution']:+.2f}" for s in row["signs"] if s["weight"] > 0][:3]
                verdict = "detected" if row["detected"] else "        "
                print(f"  {row['probability']:.3f} {verdict} {row['category']}: {'; '.join(own)}")
    except ExportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(detector.about["notice"])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
