"""All panels on one page, in letters that can be read at the back of a room: `make dashboard`.

For teaching and research; not for clinical use.
"""

from __future__ import annotations

import ipywidgets
import numpy as np
from scipy.special import expit

from sdmad_phantoms import modality_named

from ..alignment.adapters import installed
from ..clip.backbone import load_clip
from ..data import read_image
from ..selection.sign_selector import support_auroc
from . import plots
from .course import load_or_fit, load_or_project, samples, support_and_validation
from .panels import (
    BoardCase,
    BreakCase,
    EmbeddingCase,
    ExplorerCase,
    board_panel,
    break_panel,
    embedding_panel,
    explorer_panel,
    grid_panel,
    load_grid,
)
from .widgets import SignCase, SignPanel

STYLE = """<style>
.jupyter-widgets, .jupyter-widgets label, .jupyter-widgets select, .jupyter-widgets .widget-readout { font-size: 18px; }
.jupyter-widgets .widget-html-content { font-size: 20px; line-height: 1.5; }
.lm-TabBar-tab.lm-TabBar-tab { flex: 0 1 230px !important; max-width: none; font-size: 20px; }
.lm-TabBar-tab.lm-TabBar-tab { min-height: 40px; line-height: 38px; }
.jupyter-widgets.widget-image { width: 100%; max-width: 1500px; object-fit: contain; }
</style>"""


def dashboard(modality: str = "chest", shots: int = 16, seed: int = 0) -> ipywidgets.VBox:
    """A tab for each panel, on the kept-out categories of one modality of the samples.

    The detector is taken from `course.OUTPUTS` or fitted there; the images are validation images.

    Raises:
        DataError: an unknown modality, or no samples.
    """
    kept_out = list(modality_named(modality).kept_out)
    bank, train, _ = (table.restricted(kept_out) for table in samples(modality))
    support, validation = support_and_validation(train, shots, seed)
    clip = load_clip()
    detector = load_or_fit(support, bank, clip, f"kept_out_{shots}", seed)
    explorer = ExplorerCase(detector, validation.images, validation.labels)
    (z, h), labels = explorer.features, validation.labels
    pictures = [np.asarray(read_image(image, bank.color)) for image in validation.images]
    before = clip.encode_images(validation.images, color=bank.color).numpy()
    with installed(clip, detector.adapters_):
        after = clip.encode_images(validation.images, color=bank.color).numpy()
    layouts = {"UMAP": tuple(load_or_project(u) for u in (before, after))}
    layouts["PCA"] = tuple(plots.project(u, "pca") for u in (before, after))
    attributes = {name: validation.meta[name] for name in ("site", "sex")}
    scores, worst = expit(detector.logits(z, h)), int(labels.sum(1).argmax())
    auroc = support_auroc(detector.cosines(support.images), support.labels, detector.membership)
    panels = {
        "Signs of an image": explorer_panel(explorer),
        "Signs kept": SignPanel(SignCase(z, labels, bank, auroc, detector.weights_)),
        "Shots and strength": grid_panel(load_grid()),
        "Protocols": board_panel(BoardCase(scores, labels, bank.categories, detector.thresholds_)),
        "Embeddings": embedding_panel(
            EmbeddingCase(layouts, labels, bank.categories, z, bank.texts, pictures, attributes)
        ),
        "Break it": break_panel(BreakCase(detector, validation.images[worst])),
    }
    tabs = ipywidgets.Tab(list(panels.values()), titles=list(panels))
    return ipywidgets.VBox([ipywidgets.HTML(STYLE), tabs])
