"""The frozen CLIP: any open_clip model behind one small class, and the embedded default.

`backbone` loads a model and embeds images and texts, `hub` finds its files, `towers` knows where its layers and patches
are, `embedded_tower` is the image tower of the embedded model. open_clip takes seconds to import, so that `Backbone`,
`load_clip` and `as_device` come when they are first used.
"""

from importlib import import_module


def __getattr__(name: str):
    if name not in ("Backbone", "as_device", "load_clip"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(".backbone", __name__), name)
