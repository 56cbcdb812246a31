"""Exported folders, what they are made of, and the images that their runner reads."""

import hashlib
import io

import numpy as np
from PIL import Image

from sdmad_export.export import export_detector
from sdmad_export.page import RUNTIME_FILES
from sdmad_export.runner import Exported, read_image
from sdmad_lite.clip.backbone import load_clip
from sdmad_lite.detector import SDMAD

from .world import Case

GROUP = "An exported folder"
FILES = {"tower.onnx": b"a graph", "export.json": b"{}", "score.py": b"pass"}


def opened(what, change, message):
    """A case of a folder with checksums that is opened after `change`."""

    def prepare(world):
        for name, content in FILES.items():
            world.write(f"export/{name}", content)
        sums = (f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in FILES.items())
        world.write("export/SHA256SUMS", "".join(sums))
        change(world.path / "export")
        return lambda: Exported(world.path / "export")

    return Case(GROUP, what, prepare, message)


def shown(what, content, message, color=False):
    """A case of a file that an exported detector is to read."""

    def prepare(world):
        path = world.write("image.png", content)
        return lambda: read_image(path, color)

    return Case(GROUP, what, prepare, message)


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def exporting(what, message, change=lambda world: None, out="export", **more):
    """A case of an export; what `change` gives is called with the pixels that the image tower gets."""

    def prepare(world):
        backbone, hook = load_clip(world.backbone.name, device="cpu"), change(world)
        if hook:
            backbone.model.visual.register_forward_pre_hook(lambda tower, pixels: hook(*pixels))
        detector = SDMAD.load(world.fitted, backbone)
        given = {name: world.path / value for name, value in more.items()}
        return lambda: export_detector(detector, world.path / out, **given)

    return Case(GROUP, what, prepare, message)


AGAIN = "copy the folder again, or export again"
CASES = [
    opened(
        "a folder that is none",
        lambda folder: (folder / "SHA256SUMS").unlink(),
        "{path}/export: holds no SHA256SUMS; name a folder that 'sdmad export' wrote",
    ),
    *(
        opened(
            f"{name} changed",
            lambda folder, name=name: (folder / name).write_bytes(b"other"),
            f"{{path}}/export/{name}: was changed since the export; {AGAIN}",
        )
        for name in FILES
    ),
    opened(
        "a file missing",
        lambda folder: (folder / "tower.onnx").unlink(),
        f"{{path}}/export/tower.onnx: is missing; {AGAIN}",
    ),
    shown("no image", b"text", "{path}/image.png: cannot be read as an image ({reason}); save it as PNG"),
    shown(
        "an image of 16 bits",
        png(np.full((8, 8), 999, np.uint16)),
        "{path}/image.png: has more than 8 bits; save it with 8 bits from 0 to 255",
    ),
    shown(
        "a colour image for a grey detector",
        png(np.full((8, 8, 3), (255, 0, 0), np.uint8)),
        "{path}/image.png: is a colour image, but this detector reads grey ones; convert it",
    ),
    exporting(
        "an export onto other files",
        "{path}/precious: exists and holds no export.json of an earlier run; choose a new or empty folder",
        lambda world: world.write("precious/thesis.txt", "years of work") and None,
        out="precious",
    ),
    exporting(
        "a tower that branches on what it sees",
        "{clip}: cannot be written as ONNX ({reason}); choose a plain ViT",
        lambda world: lambda pixels: pixels if pixels.sum() > 0 else -pixels,
    ),
    exporting(
        "a folder that is not onnxruntime-web",
        "{path}/web/dist/ort.wasm.bundle.min.mjs: is not there or not of onnxruntime-web 1.30.0; give runtime='npm', "
        "or the folder of an installed onnxruntime-web@1.30.0",
        lambda world: [world.write(f"web/dist/{name}", b"other") for name in RUNTIME_FILES] and None,
        runtime="web",
    ),
]
