"""Which heat map finds what was drawn? `python tools/heat_maps.py` writes docs/results/heat_maps.md (ten minutes).

Three kinds of map for a sign, each from the frozen model and with the adapters of a detector (16 shots, all nine
categories), on training images that the detector was not fitted on, so that the choice saw no test image:
- similarity: cosine of each patch with the sign;
- gradient x activation: of the tokens that enter the last layer, how the sign's cosine would change with each;
- gradient-weighted attention: attention weights times their gradient, positive part, mean over heads: of the last
  layer, or multiplied through all layers (Chefer et al. 2021, arXiv 2103.15679).
A map scores a hit where its brightest patch touches what was drawn. A modality is one file in build/heat_maps, so that
a stopped run goes on, and --only measures in parts. For teaching and research; not for clinical use.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import product
from pathlib import Path

import numpy as np
import torch
from shared import resumed
from torch import Tensor
from tqdm import tqdm

from sdmad_course import load_or_fit, samples, support_and_validation
from sdmad_course.episodes import table_hash
from sdmad_lite.alignment import AdapterConfig, AlignmentConfig, installed
from sdmad_lite.clip.backbone import Backbone, load_clip
from sdmad_lite.clip.towers import needed_blocks
from sdmad_lite.evaluation.sign_truth import touched
from sdmad_lite.files import NOTICE
from sdmad_lite.selection import SelectionConfig
from sdmad_phantoms import MODALITIES
from sdmad_phantoms.samples import load_masks

CELLS, PAGE, CHANCE = Path("build/heat_maps"), Path("docs/results/heat_maps.md"), "by chance"
KINDS = ("similarity", "gradient x activation", "attention, last layer", "attention, all layers")


@contextmanager
def kept(backbone: Backbone) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Inside, a forward pass leaves the attention (N, heads, 1 + P, 1 + P) of each layer and the last layer's input."""
    blocks, attention, tokens, handles = needed_blocks(backbone.model, "image"), [], [], []

    def keep(into: list[Tensor], value: Tensor) -> Tensor:
        value = value if value.requires_grad else value.requires_grad_()
        into.append(value)
        return value

    fused = [block.attn.fused_attn for block in blocks]
    for block in blocks:
        block.attn.fused_attn = False  # only then are the weights there to be seen
        handles.append(block.attn.attn_drop.register_forward_hook(lambda m, a, out: keep(attention, out)))
    handles.append(blocks[-1].register_forward_pre_hook(lambda m, a: (keep(tokens, a[0]), *a[1:])))
    try:
        yield attention, tokens
    finally:
        for handle in handles:
            handle.remove()
        for block, before in zip(blocks, fused, strict=True):
            block.attn.fused_attn = before


def maps(backbone: Backbone, pixels: Tensor, v: Tensor) -> dict[str, Tensor]:
    """Kind -> (N, S, P) maps of images (N, 3, H, W) for sign embeddings v (S, D)."""
    with torch.no_grad():
        out = {KINDS[0]: (backbone.patch_features(pixels).flatten(1, 2) @ v.T).transpose(1, 2)}
    found: dict[str, list[Tensor]] = {kind: [] for kind in KINDS[1:]}
    with kept(backbone) as (attention, tokens):
        z = backbone.image_features(pixels) @ v.T
        for s in range(len(v)):
            slopes = torch.autograd.grad(z[:, s].sum(), [*tokens, *attention], retain_graph=True)
            found[KINDS[1]].append((slopes[0] * tokens[0]).sum(-1)[:, 1:].detach())
            flow = [(slope * a).relu().mean(1).detach() for slope, a in zip(slopes[1:], attention, strict=True)]
            read = flow[-1][:, 0] + flow[-1][:, 1:].mean(1)  # an image is its class token and the mean of its patches
            found[KINDS[2]].append(read[:, 1:])
            whole = torch.eye(read.shape[1]).expand(len(read), -1, -1)
            for layer in flow:
                whole = whole + layer @ whole
            through = whole[:, 0] + (whole - torch.eye(read.shape[1]))[:, 1:].mean(1)
            found[KINDS[3]].append(through[:, 1:])
    return out | {kind: torch.stack(rows, 1) for kind, rows in found.items()}


def measured(name: str, images: int) -> dict[str, dict[str, list[float]]]:
    """One modality: map and model, or "by chance" -> "seen" or "new" sign -> hits; from its file if asked before."""
    kind, clip = MODALITIES[name], load_clip(device="cpu")
    bank, train, _ = samples(name)
    support, rest = support_and_validation(train, 16, 0)
    drawn = [row for row in range(len(rest)) if rest.meta["signs"][row]][:images]

    def measure() -> dict:
        detector = load_or_fit(support, bank, clip, f"all_{name}", 0)
        seen, texts = {sign.text for sign in kind.seen_signs}, {sign.id: sign.text for sign in bank.signs}
        found: dict[str, dict[str, list[float]]] = {}
        for start, model in product(range(0, len(drawn), 20), ("frozen", "adapted")):
            rows = drawn[start : start + 20]
            pixels = clip.prepare([rest.images[row] for row in rows], bank.color)
            frozen = model == "frozen"
            v = clip.encode_texts(bank.texts) if frozen else detector.sign_embeddings_
            with nullcontext() if frozen else installed(clip, detector.adapters_):
                values = maps(clip, pixels, v)
            for i, row in enumerate(rows):
                for sign, mask in load_masks(rest, row).items():
                    if not (cells := touched(mask, (8, 8))).any():
                        continue
                    group, s = "seen" if texts[sign] in seen else "new", bank.texts.index(texts[sign])
                    hits = {f"{which}, {model}": cells.flat[int(m[i, s].argmax())] for which, m in values.items()}
                    hits |= {CHANCE: cells.mean()} if frozen else {}
                    for title, hit in hits.items():
                        found.setdefault(title, {"seen": [], "new": []})[group].append(float(hit))
        return {"hits": found}

    question = [clip.fingerprint, AdapterConfig(), AlignmentConfig(), SelectionConfig(), table_hash(rest), drawn]
    return resumed(CELLS / f"{name}.json", question, measure)["hits"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=60, help="of each modality (default 60)")
    parser.add_argument("--only", nargs="+", choices=MODALITIES, help="measure these modalities, and write no page")
    args = parser.parse_args()
    torch.set_num_threads(1)
    parts = [measured(name, args.images) for name in tqdm(args.only or MODALITIES, desc="modalities")]
    if args.only:
        return
    hits = {title: {g: [hit for p in parts for hit in p[title][g]] for g in ("seen", "new")} for title in parts[0]}

    def line(title: str) -> str:
        known, new = hits[title].values()
        return f"| {title} | {np.mean(known + new):.3f} | {np.mean(known):.3f} | {np.mean(new):.3f} |"

    lines = [
        "| map | all signs | signs of pretraining | signs of kept-out categories |",
        "|---|---|---|---|",
        *(line(f"{which}, {model}") for which, model in product(KINDS, ("frozen", "adapted"))),
        line(CHANCE),
    ]
    count = f"{sum(map(len, hits[CHANCE].values())):,} drawn signs in {args.images} training images of each modality"
    text = (
        "# Which heat map finds what was drawn\n\n"
        f"Written by `python tools/heat_maps.py`: {count}, none of them in the detector's support set. Share of "
        f"signs whose brightest patch touches what was drawn for them. {NOTICE}\n\n" + "\n".join(lines) + "\n"
    )
    PAGE.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
