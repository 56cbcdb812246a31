"""sdmad_lite: few-shot multi-anomaly detection in medical images by radiological signs (SD-MAD).

Names are loaded when first used, so that `import sdmad_lite` is quick. Not for clinical use.
"""

from importlib import import_module

_HOME = {
    "SDMAD": "detector",
    "SignBank": "signs",
    "load_bank": "signs",
    "check_bank": "lint",
    "generate_signs": "generate",
    "load_clip": "backbone",
    "load_data": "data",
    "load_folder": "data",
    "load_dataset": "datasets",
    "draw_support": "data",
    "evaluate": "protocols",
    "score_archive": "scoring",
    "AdapterConfig": "adapters",
    "AlignmentConfig": "alignment",
    "SelectionConfig": "selection",
    "RunConfig": "compute",
    "SDMADError": "errors",
}

__all__ = list(_HOME)
__version__ = "0.1.0"


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'sdmad_lite' has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
