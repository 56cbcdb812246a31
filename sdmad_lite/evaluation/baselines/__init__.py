"""What a course will ask to compare with: same backbone, same support set, same metrics.

    predictor = BASELINES["linear probe"](Support(images, labels, u, v, bank, backbone, seed=0))
    predictor(Query(new_images, u_new))  # scores (T, C), higher means more likely

`base.py` has this shape; the methods stand in `features.py`, `images.py` and `meta.py`.
"""

from __future__ import annotations

from .base import Method, Predictor, Query, Support
from .features import (
    ClipAdapter,
    LinearProbe,
    Prototypes,
    TextProbe,
    TipAdapter,
    ZeroShotNames,
    ZeroShotSigns,
    prototypes,
    zero_shot,
)
from .images import Pixels, SmallCNN, VisualAdapter
from .meta import FirstOrderMAML, MetaTable, PrototypicalEpisodes, phantom_table

__all__ = [
    "BASELINES",
    "ON_FEATURES",
    "MetaTable",
    "Method",
    "Predictor",
    "Query",
    "Support",
    "phantom_table",
    "prototypes",
    "zero_shot",
]

ON_FEATURES: dict[str, Method] = {
    "zero-shot names": ZeroShotNames(),
    "zero-shot signs": ZeroShotSigns(),
    "prototypes": Prototypes(),
    "linear probe": LinearProbe(),
    "text-initialised probe": TextProbe(),
    "Tip-Adapter-F": TipAdapter(),
    "CLIP-Adapter": ClipAdapter(),
}
"""Those that need the frozen embeddings alone and run in seconds."""

BASELINES: dict[str, Method] = ON_FEATURES | {
    "pixels": Pixels(),
    "visual adapter": VisualAdapter(),
    "small CNN": SmallCNN(),
    "prototypical episodes": PrototypicalEpisodes(),
    "first-order MAML": FirstOrderMAML(),
}
"""All, by the name that tables show; `dataclasses.replace` gives one with other hyper-parameters."""
