"""sdmad_lite: few-shot multi-anomaly detection in medical images by radiological signs (SD-MAD).

The rooms, in the order of the method: `signs` (what to look for), `data`, `clip` (the frozen model), `alignment`
(stage 1), `selection` (stage 2), `detector` (both behind fit and predict), `evaluation` (the protocols), `deployment`
(after the fit), `show` (pictures, the report). Names are loaded when first used, so that `import sdmad_lite` is quick.
For teaching and research; not for clinical use.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sdmad_datasets import load_dataset as load_dataset

    from .alignment import AdapterConfig as AdapterConfig
    from .alignment import AlignmentConfig as AlignmentConfig
    from .alignment import RunConfig as RunConfig
    from .clip.backbone import load_clip as load_clip
    from .data import draw_support as draw_support
    from .data import load_data as load_data
    from .data import load_folder as load_folder
    from .deployment.scoring import score_archive as score_archive
    from .detector import SDMAD as SDMAD
    from .errors import SDMADError as SDMADError
    from .evaluation.protocols import evaluate as evaluate
    from .selection import SelectionConfig as SelectionConfig
    from .show import plots as plots
    from .signs.bank import SignBank as SignBank
    from .signs.bank import load_bank as load_bank
    from .signs.generate import generate_signs as generate_signs
    from .signs.lint import check_bank as check_bank

_HOME = {
    "SDMAD": "sdmad_lite.detector",
    "SignBank": "sdmad_lite.signs.bank",
    "load_bank": "sdmad_lite.signs.bank",
    "check_bank": "sdmad_lite.signs.lint",
    "generate_signs": "sdmad_lite.signs.generate",
    "load_clip": "sdmad_lite.clip.backbone",
    "load_data": "sdmad_lite.data",
    "load_folder": "sdmad_lite.data",
    "load_dataset": "sdmad_datasets",
    "draw_support": "sdmad_lite.data",
    "evaluate": "sdmad_lite.evaluation.protocols",
    "score_archive": "sdmad_lite.deployment.scoring",
    "AdapterConfig": "sdmad_lite.alignment.adapters",
    "AlignmentConfig": "sdmad_lite.alignment.train",
    "SelectionConfig": "sdmad_lite.selection.sign_selector",
    "RunConfig": "sdmad_lite.alignment.run",
    "SDMADError": "sdmad_lite.errors",
}

__all__ = [*_HOME, "plots"]
__version__ = "0.2.0"


def __getattr__(name: str):
    if name == "plots":
        return import_module("sdmad_lite.show.plots")
    if name not in _HOME:
        raise AttributeError(f"module 'sdmad_lite' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
