"""sdmad_lite: few-shot multi-anomaly detection in medical images by radiological signs (SD-MAD).

The rooms, in the order of the method: `signs` (what to look for), `data`, `clip` (the frozen model), `alignment`
(stage 1), `running` (how it is run), `selection` (stage 2), `detector` (both behind fit and predict), `evaluation` (the
protocols), `deployment` (after the fit), `show` (pictures, report). Names are loaded when used: the import is quick.
For teaching and research; not for clinical use.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what an editor sees; `_HOME` says the same to Python
    from sdmad_datasets import load_dataset
    from sdmad_llm import generate_signs

    from .alignment import AdapterConfig, AlignmentConfig, RunConfig
    from .clip.backbone import load_clip
    from .data import draw_support, load_data, load_folder
    from .deployment.scoring import score_archive
    from .detector import SDMAD
    from .errors import SDMADError
    from .evaluation.protocols import evaluate
    from .selection import SelectionConfig
    from .show import plots
    from .signs.bank import SignBank, load_bank
    from .signs.lint import check_bank

__version__ = "0.2.0"
__all__ = ["SDMAD", "AdapterConfig", "AlignmentConfig", "RunConfig", "SDMADError", "SelectionConfig", "SignBank"]
__all__ += ["check_bank", "draw_support", "evaluate", "generate_signs", "load_bank", "load_clip", "load_data"]
__all__ += ["load_dataset", "load_folder", "plots", "score_archive"]

_HOME = {
    "SDMAD": "sdmad_lite.detector",
    "SDMADError": "sdmad_lite.errors",
    "SelectionConfig": "sdmad_lite.selection",
    "check_bank": "sdmad_lite.signs.lint",
    "evaluate": "sdmad_lite.evaluation.protocols",
    "generate_signs": "sdmad_llm",
    "load_clip": "sdmad_lite.clip.backbone",
    "load_dataset": "sdmad_datasets",
    "score_archive": "sdmad_lite.deployment.scoring",
}
_HOME |= dict.fromkeys(["AdapterConfig", "AlignmentConfig", "RunConfig"], "sdmad_lite.alignment")
_HOME |= dict.fromkeys(["draw_support", "load_data", "load_folder"], "sdmad_lite.data")
_HOME |= dict.fromkeys(["SignBank", "load_bank"], "sdmad_lite.signs.bank")


def __getattr__(name: str):
    if name == "plots":
        return import_module("sdmad_lite.show.plots")
    if name not in _HOME:
        raise AttributeError(f"module 'sdmad_lite' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
