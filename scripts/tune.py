"""Compare settings on validation phantoms: other images and draws than those of any reported result.

    python scripts/tune.py --shots 16 --draws 2 '{"lr": 0.01}' '{"lr": 0.02, "lam": 0.8}'

Each argument overrides fields of AdapterConfig or AlignmentConfig. Prints macro mAP and AUROC of stage 1 alone
and with stage 2. For teaching and research; not for clinical use.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import fields

import numpy as np
from benchmark import phantom_table

from sdmad_lite.adapters import AdapterConfig
from sdmad_lite.alignment import AlignmentConfig
from sdmad_lite.backbone import load_clip
from sdmad_lite.data import draw_support
from sdmad_lite.detector import SDMAD
from sdmad_lite.phantoms import CHEST
from sdmad_lite.protocols import evaluate
from sdmad_lite.selection import equal_weights, margins

TRAIN_SEED, VALIDATION_SEED, FIRST_DRAW = 2000, 2001, 100


def pick(config: type, overrides: dict):
    """A config from those overrides that are its fields."""
    names = {field.name for field in fields(config)}
    return config(**{name: value for name, value in overrides.items() if name in names})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", default=["{}"])
    parser.add_argument("--shots", type=int, default=16)
    parser.add_argument("--draws", type=int, default=2)
    args = parser.parse_args()
    train, validation = phantom_table(400, TRAIN_SEED), phantom_table(420, VALIDATION_SEED)
    bank, backbone = CHEST.bank.restricted(list(CHEST.kept_out)), load_clip()
    for text in args.overrides:
        overrides, scores = json.loads(text), {"stage 1 alone": [], "stage 1 + 2": []}
        for draw in range(args.draws):
            support = train.rows(draw_support(train, args.shots, FIRST_DRAW + draw))
            settings = {"adapters": pick(AdapterConfig, overrides), "alignment": pick(AlignmentConfig, overrides)}
            detector = SDMAD(bank, backbone, seed=draw, **settings).fit_table(support)
            z = detector.cosines(validation.images)
            for name, weights in zip(scores, (equal_weights(detector.membership), detector.weights_), strict=True):
                macro = evaluate(margins(z, weights), validation.labels, bank.categories)["multilabel"]["macro"]
                scores[name].append((macro["ap"], macro["auroc"]))
        for name, values in scores.items():
            ap, auroc = np.mean(values, axis=0)
            print(
                f"{text}  {name}: mAP {ap:.3f}, AUROC {auroc:.3f}, mAP of each draw {[round(v[0], 3) for v in values]}"
            )


if __name__ == "__main__":
    main()
