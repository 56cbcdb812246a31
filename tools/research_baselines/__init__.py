"""Baselines of the results page that need more than the module brings: images, phantoms to meta-learn on, hours.

They have the shape of `sdmad_lite.evaluation.baselines`. `images.py` looks at the images again, `meta.py` learns on
other categories how to learn, `recent.py` are those of recent years.
"""

from __future__ import annotations

from sdmad_lite.evaluation.baselines import ON_FEATURES, Method

from .images import Pixels, SmallCNN, VisualAdapter
from .meta import FirstOrderMAML, MetaTable, PrototypicalEpisodes, phantom_table
from .recent import BlendedProbe, Concepts, GaussianDiscriminant, KernelRidge, TwoStages

__all__ = ["BASELINES", "MetaTable", "phantom_table"]

BASELINES: dict[str, Method] = ON_FEATURES | {
    "pixels": Pixels(),
    "visual adapter": VisualAdapter(),
    "small CNN": SmallCNN(),
    "prototypical episodes": PrototypicalEpisodes(),
    "first-order MAML": FirstOrderMAML(),
    "Gaussian discriminant": GaussianDiscriminant(),
    "kernel ridge": KernelRidge(),
    "blended probe": BlendedProbe(),
    "concepts": Concepts(),
    "two stages": TwoStages(),
}
"""All of them, by the name that tables show."""
