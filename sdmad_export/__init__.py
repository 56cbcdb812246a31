"""Companion of the module: a detector in a folder of five megabytes that scores and explains without torch.

`export` writes the folder: the image tower as ONNX, numbers and texts as JSON. Into it go a copy of `runner`, a program
of its own that imports nothing of the house, and page.html for a browser; `page` puts what that computes with beside
it. `cli` is the command `sdmad export`.
"""

from .export import export_detector
from .runner import Exported, ExportError

__all__ = ["ExportError", "Exported", "export_detector"]
