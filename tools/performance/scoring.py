"""What adapters and image evidence cost: scoring against plain `encode_image`. `python tools/performance/scoring.py`

Both start from the same prepared pixels in the memory of the device, with the same backbone and batch. Plain is
open_clip's `encode_image` under `torch.no_grad()`. Scoring is all that `score_archive` does with a batch: the adapters
in the last half of the layers, the image evidence, cosines, logits and probabilities on the CPU. The ratio is
scoring's throughput as a share of plain's; 1.0 is the limit, at least 0.93 is asked for. Weights are random where they
are not embedded, which takes the same time.
"""

from __future__ import annotations

import argparse
from copy import deepcopy

import numpy as np
import torch
from common import ratio, record, spread, take_turns

from sdmad_lite.alignment import build_adapters
from sdmad_lite.clip.backbone import Backbone, as_device, load_clip
from sdmad_lite.deployment.scoring import scores
from sdmad_lite.detector import SDMAD
from sdmad_lite.selection import equal_weights
from sdmad_lite.storage import activation_width

ASKED = 0.93


def untrained(backbone: Backbone, bank: str = "chest_phantoms", seed: int = 0) -> SDMAD:
    """A detector whose numbers are random: it takes as long as a fitted one, and nothing has to be fitted."""
    detector = SDMAD(bank, backbone=backbone)
    detector.adapters_ = build_adapters(backbone, detector.adapters, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for adapter in detector.adapters_.values():  # a new adapter's second layer is zero
            adapter.up.weight.copy_(torch.randn(adapter.up.weight.shape, generator=generator) * 0.02)
    categories, signs = len(detector.bank.categories), len(detector.bank.texts)
    width = backbone.encode_texts(detector.bank.texts[:1]).shape[1]
    detector.sign_embeddings_ = torch.nn.functional.normalize(torch.randn(signs, width, generator=generator), dim=-1)
    detector.weights_, detector.reference_ = equal_weights(detector.membership), np.zeros((categories, signs))
    detector.image_weights_ = (
        torch.randn(categories, activation_width(detector.adapters_, width), generator=generator).double().numpy()
    )
    detector.image_bias_, detector.bias_, detector.scale_, detector.thresholds_ = (
        torch.full((4, categories), 0.5).double().numpy()
    )
    detector.history_, detector.reasons_ = [], [{} for _ in detector.bank.categories]
    return detector


def measured(backbone: Backbone, batch: int, rounds: int, bf16: bool) -> dict:
    """Throughput of plain and of scoring, for one backbone."""
    plain, detector, device = deepcopy(backbone.model), untrained(backbone), backbone.device
    size = plain.visual.image_size
    pixels = torch.randn(batch, 3, *(size if isinstance(size, tuple) else (size, size)), device=device)

    def encode_image():
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            plain.encode_image(pixels)

    with detector.installed():
        times = take_turns(
            {"plain": encode_image, "scoring": lambda: scores(detector, pixels, bf16=bf16)}, rounds, warm_up=2
        )
    return {
        "batch": batch,
        "precision": "bf16" if bf16 else "fp32",
        "plain, images a second": spread([batch / t for t in times["plain"]]),
        "scoring, share of plain's throughput": ratio(times, "plain", "scoring"),
        "asked for": ASKED,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", help="cpu, cuda, ... (default: an accelerator if there is one)")
    parser.add_argument("--models", nargs="+", help="open_clip names (default: two, chosen for the device)")
    parser.add_argument("--batch", type=int, help="images at once (default 128 on an accelerator, 16 on a CPU)")
    parser.add_argument("--rounds", type=int, default=30, help="measured calls of each (default 30)")
    args = parser.parse_args()
    device = as_device(args.device)
    gpu = device.type != "cpu"
    models = args.models or ["embedded", "ViT-B-32", *(["ViT-L-14-336"] if gpu else [])]
    figures = {}
    for name in models:
        backbone = load_clip(name, None if name == "embedded" else "random", device)
        for bf16 in (False, True) if gpu else (False,):
            figure = measured(backbone, args.batch or (128 if gpu else 16), args.rounds, bf16)
            figures[f"{name}, {figure['precision']}"] = figure
    record("scoring", device, figures)


if __name__ == "__main__":
    main()
