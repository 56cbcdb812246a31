"""Ship a detector in five megabytes: one folder that scores and explains without torch. [ours]

    export_detector(detector, "build/export")        # or: sdmad export --detector DIR --out build/export

tower.onnx is the image tower with its adapters, its weights in 8 bits; export.json is all the rest: sign embeddings,
weights, thresholds, the bank's texts. score.py (`runner.py` here) and index.html read both, in Python and in a browser.

[ours] Weights of linear layers are rounded to 8 bits with a scale for each output, and computed with in 32 bits. Those
of convolutions take 16: they are few, and in 8 bits they changed more reasons than all the rest. Activations in 8 bits
would be faster and no smaller, but turned more reasons round (docs/results/export.md).
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from sdmad_lite.clip.towers import embed_with_patches
from sdmad_lite.deployment.scoring import about
from sdmad_lite.errors import BackboneError, needs, warn
from sdmad_lite.files import NOTICE, new_folder

from . import runner
from .page import RUNTIME, add_runtime

if TYPE_CHECKING:
    from sdmad_lite.detector import SDMAD

RUNNER, PAGE, OUTPUTS = "score.py", "index.html", ("embedding", "activations", "patches")
LIMIT = 5_000_000  # bytes of a folder, without onnxruntime-web, above which a remark is made
LINEAR = {"MatMul", "Gemm", "Transpose"}  # what takes the weights of a linear layer in an exported graph


class Tower(nn.Module):
    """Pixels (N, 3, H, W) to all that a score and a heat map are made of: u (N, D), h (N, d) and patches (N, h, w, D).

    These are of the frozen model, as `explain.sign_maps` reads them; some towers have none.
    """

    def __init__(self, detector: SDMAD):
        super().__init__()
        self.model, self.adapters, self._detector = detector.backbone.model, detector.adapters_, [detector]
        size = self.model.visual.image_size
        self.size = (size, size) if isinstance(size, int) else tuple(size)  # (H, W)
        _, shown = embed_with_patches(self.model, self.example())
        self.outputs, self.grid = OUTPUTS[: 2 if shown is None else 3], shown is not None and shown.shape[1:3]
        self.local, self.name = shown is not None and detector.alignment.local > 0, detector.backbone.name

    def example(self) -> Tensor:
        """Pixels (2, 3, H, W) of noise."""
        noise = torch.randn(2, 3, *self.size, generator=torch.Generator().manual_seed(0))
        return noise.to(self._detector[0].backbone.device)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Of OUTPUTS those that the tower has."""
        with self._detector[0].installed() as clip:
            views, activations = self._detector[0].views_of_pixels(pixels)
        if len(self.outputs) == 2:
            return views[:, 0], activations
        # a score that looks at patches shows where by them, another one by those of the frozen model
        patches = views[:, 1:].unflatten(1, self.grid) if self.local else clip.patch_features(pixels).float()
        return views[:, 0], activations, patches


@torch.no_grad()
def export_detector(detector: SDMAD, out: str | Path, runtime: str | Path | None = None) -> Path:
    """Write a fitted detector as a folder that needs onnxruntime, numpy and Pillow alone.

    Args:
        out: the folder; an earlier export there is replaced.
        runtime: where the page's onnxruntime-web comes from: the folder of that npm package, or "npm" to have npm
            fetch it. Its two files are put beside the page, which then needs no network.

    Raises:
        BackboneError: the image tower cannot be written as ONNX. MissingExtraError: a package of the export is missing.
        OutputError: the folder cannot be written, or holds something else; there is no such onnxruntime-web.
    """
    detector.check_fitted()
    for module in ("onnx_ir", "onnxscript", "onnxruntime"):
        needs(module, "export")
    with new_folder(out, runner.ABOUT) as folder:
        tower = Tower(detector).eval()
        program = as_onnx(tower)
        smaller(program.model)
        program.save(folder / runner.TOWER)
        (folder / runner.ABOUT).write_text(json.dumps(state(detector, tower), ensure_ascii=False), encoding="utf-8")
        shutil.copy(str(runner.__file__), folder / RUNNER)
        shutil.copy(Path(__file__).with_name("page.html"), folder / PAGE)
        size = sum(file.stat().st_size for file in folder.iterdir())
        if runtime:
            add_runtime(folder / RUNTIME, runtime)
        write_sums(folder)
        check_same(tower, folder)
    if size > LIMIT:
        warn(f"{out}: has {size / 1e6:.1f} MB, more than {LIMIT / 1e6:.0f}; a smaller backbone makes a smaller export")
    return Path(out)


def write_sums(folder: Path) -> None:
    """SHA-256 of each file, in the form of `sha256sum`, by which a changed one is known."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    sums = [f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.relative_to(folder).as_posix()}\n" for f in files]
    (folder / runner.SUMS).write_text("".join(sums), encoding="utf-8")


def as_onnx(tower: Tower) -> Any:
    """The tower as a program of torch.onnx, for any number of images at once."""
    options: dict[str, Any] = {"input_names": ["pixels"], "output_names": tower.outputs, "verbose": False}
    options["dynamic_shapes"] = {"pixels": {0: torch.export.Dim("images")}}
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):  # the exporter talks of its own parts
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(tower, (tower.example(),), dynamo=True, **options)
    except Exception as error:  # the exporter has many kinds of its own
        why = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise BackboneError(f"{tower.name}: cannot be written as ONNX ({why}); choose a plain ViT") from None
    for part in (program.model, program.model.graph, *program.model.graph):
        part.metadata_props.clear()  # the source of each step, by the paths of this machine
    return program


def smaller(model: Any) -> None:
    """Weights of linear layers in int8, a scale for each output; of convolutions in float16. The graph undoes it."""
    ir, graph = needs("onnx_ir", "export"), model.graph
    for name, value in list(graph.initializers.items()):
        weights, users = value.const_value.numpy(), {node.op_type for node, _ in value.uses()}
        if weights.dtype != np.float32 or not users <= LINEAR | {"Conv"} or weights.ndim not in (2, 4):
            continue
        parts, undo, how = {"half": weights.astype(np.float16)}, "Cast", {"to": ir.DataType.FLOAT}
        if weights.ndim == 2:
            axis = int("MatMul" in users)  # of the outputs
            scale = np.maximum(np.abs(weights).max(1 - axis), 1e-12) / 127
            rounded = np.rint(weights / np.expand_dims(scale, 1 - axis)).astype(np.int8)
            parts, undo, how = {"int8": rounded, "scale": scale}, "DequantizeLinear", {"axis": axis}
        values = [ir.val(f"{name}.{end}", const_value=ir.tensor(part)) for end, part in parts.items()]
        node = ir.node(undo, values, how)
        graph.insert_before(graph[0], node)
        graph.initializers.update({one.name: one for one in values})
        value.replace_all_uses_with(node.outputs[0])
        del graph.initializers[name]


def state(detector: SDMAD, tower: Tower) -> dict[str, Any]:
    """All but the tower, as plain values that Python and a browser read."""
    clip, bank = detector.backbone, detector.bank
    pixels = clip.model.visual.preprocess_cfg | {"shape": clip.shape, "size": tower.size[::-1]}
    local, patched = detector.alignment.local, len(tower.outputs) == 3
    maps = (detector.sign_embeddings_ if local else clip.encode_texts(bank.texts)) if patched else torch.empty(0)
    numbers = ("weights", "scale", "bias", "thresholds", "image_weights", "image_bias", "reference")
    said = {"format": 1, "notice": NOTICE, "detector": about(detector)["detector"], "bank": bank.name}
    said |= {"color": bank.color, "categories": list(bank.categories), "signs": list(bank.texts)}
    return said | {
        "membership": detector.membership.astype(int).tolist(),
        "reasons": [{str(s): why for s, why in of.items()} for of in detector.reasons_],
        "pixels": {name: pixels[name] for name in ("size", "shape", "interpolation", "mean", "std")},
        "maps": patched,
        "local": local if patched else 0,
        "patches": detector.alignment.patches,
        **{name: np.asarray(getattr(detector, f"{name}_")).tolist() for name in numbers},
        "sign_embeddings": detector.sign_embeddings_.double().numpy().round(7).tolist(),
        "map_embeddings": maps.double().numpy().round(7).tolist(),
    }


def check_same(tower: Tower, folder: Path) -> None:
    """Refuse a folder whose tower says other than the detector's: not all that is exported means the same."""
    pixels = tower.example()
    found = torch.from_numpy(runner.Exported(folder).tower.run(["embedding"], {"pixels": pixels.cpu().numpy()})[0])
    alike = float((tower(pixels)[0].cpu() * found).sum(1).min())
    if not alike > 0.99:
        raise BackboneError(f"{tower.name}: says something else as ONNX (cosine {alike:.3f}); choose a plain ViT")
