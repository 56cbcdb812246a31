"""All panels on one page, in letters that can be read at the back of a room: `make dashboard`.

For teaching and research; not for clinical use.
"""

from __future__ import annotations

import ipywidgets
import numpy as np
from scipy.special import expit

from sdmad_lite.alignment import installed
from sdmad_lite.clip.backbone import load_clip
from sdmad_lite.data import read_image
from sdmad_lite.selection import support_auroc
from sdmad_lite.show.plots import project

from . import load_or_fit, load_or_project, samples, support_and_validation
from .image_panels import BreakCase, EmbeddingCase, break_panel, embedding_panel
from .score_panels import BoardCase, board_panel, grid_panel, load_grid
from .sign_panels import ExplorerCase, SignCase, explorer_panel, signs_kept_panel

STYLE = """<style>
.jupyter-widgets, .jupyter-widgets label, .jupyter-widgets select, .jupyter-widgets .widget-readout { font-size: 18px; }
.jupyter-widgets .widget-html-content { font-size: 20px; line-height: 1.5; }
.lm-TabBar-tab.lm-TabBar-tab { flex: 0 1 230px !important; max-width: none; font-size: 20px; }
.lm-TabBar-tab.lm-TabBar-tab { min-height: 40px; line-height: 38px; }
.jupyter-widgets.widget-image { width: 100%; max-width: 1500px; object-fit: contain; }
</style>"""


def dashboard(modality: str = "chest", shots: int = 16, seed: int = 0) -> ipywidgets.VBox:
    """A tab for each panel, on the kept-out categories of one modality of the samples.

    The detector is taken from `sdmad_course.OUTPUTS` or fitted there; the images are validation images.

    Raises:
        DataError: an unknown modality, or no samples.
    """
    bank, train, _ = samples(modality, kept_out=True)
    support, validation = support_and_validation(train, shots, seed)
    clip, images, labels = load_clip(), validation.images, validation.labels
    detector = load_or_fit(support, bank, clip, f"kept_out_{shots}", seed)
    explorer = ExplorerCase(detector, images, labels)
    cosines, activations = explorer.features
    scores = expit(detector.logits(cosines, activations))
    auroc = support_auroc(detector.cosines(support.images), support.labels, detector.membership)
    before = clip.encode_images(images, color=bank.color).numpy()
    with installed(clip, detector.adapters_):
        after = clip.encode_images(images, color=bank.color).numpy()
    layouts = {"UMAP": (load_or_project(before), load_or_project(after))}
    layouts["PCA"] = project(before, "pca"), project(after, "pca")
    pictures = [np.asarray(read_image(image, bank.color, strict=False)) for image in images]
    attributes = {name: validation.meta[name] for name in ("site", "sex")}
    embedding = EmbeddingCase(layouts, labels, bank.categories, cosines, bank.texts, pictures, attributes)
    panels = {
        "Signs of an image": explorer_panel(explorer),
        "Signs kept": signs_kept_panel(SignCase(cosines, labels, bank, auroc, detector.weights_)),
        "Shots and strength": grid_panel(load_grid()),
        "Protocols": board_panel(BoardCase(scores, labels, bank.categories, detector.thresholds_)),
        "Embeddings": embedding_panel(embedding),
        "Break it": break_panel(BreakCase(detector, images[int(labels.sum(1).argmax())])),
    }
    return ipywidgets.VBox([ipywidgets.HTML(STYLE), ipywidgets.Tab(list(panels.values()), titles=list(panels))])
