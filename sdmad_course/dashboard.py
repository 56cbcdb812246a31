"""All panels on one page, in letters that can be read at the back of a room: `make dashboard`.

`?modality=brain` after the address begins with another modality. For teaching and research; not for clinical use.
"""

from __future__ import annotations

import os
from contextlib import redirect_stdout
from io import StringIO
from urllib.parse import parse_qs

import ipywidgets

from sdmad_phantoms import MODALITIES

from .lessons import Lesson
from .panel import Panel, choice
from .score_panels import grid_panel, load_grid

STYLE = """<style>
.jupyter-widgets, .jupyter-widgets label, .jupyter-widgets select, .jupyter-widgets .widget-readout { font-size: 16px; }
.jupyter-widgets .widget-html-content { font-size: 16px; line-height: 1.3; }
.jupyter-widgets.widget-checkbox label { font-size: 15px; }
.lm-TabBar-tab.lm-TabBar-tab { flex: 0 1 200px !important; max-width: none; font-size: 17px; }
.lm-TabBar-tab.lm-TabBar-tab { min-height: 34px; line-height: 32px; }
.widget-tab-contents.widget-tab-contents { padding: 2px 8px; overflow: hidden; }
.panel { height: calc(100vh - 172px); overflow: hidden; }
.panel > * { flex: 0 0 auto; }
.panel > .panel-image { flex: 1 1 0; min-height: 0; }
.panel-image .widget-html-content { height: 100%; }
.panel-picture { width: 100%; height: 100%; object-fit: contain; object-position: left; }
.panel-question { font-size: 18px; font-weight: bold; margin: 2px; }
body.jp-Notebook, body { padding: 0 8px !important; }
</style>"""

QUESTIONS = {
    "Signs of an image": "Which bar names a sign that is not in the image? Guess first, then show the truth.",
    "Signs kept": "Half of these signs are wrong, nothing was trained. Can you beat all signs? Then show the verdict.",
    "Shots and strength": "Is the difference between two settings larger than that between two draws? (chest)",
    "Protocols": "What changes when the negatives are other anomalies instead of normal images?",
    "Embeddings": "Did stage 1 bring images of a category together, and did anything else come with them?",
    "Break it": "Which harm turns a decision first, and which parts of the logit give way?",
}


def modality_asked() -> str:
    """The modality in the address of the page, else chest."""
    asked = parse_qs(os.environ.get("QUERY_STRING", "")).get("modality", ["chest"])[0]
    return asked if asked in MODALITIES else "chest"


def panels_of(modality: str, shots: int, seed: int) -> dict[str, Panel]:
    """The panels by the names of their tabs."""
    lesson = Lesson(modality, shots, seed)
    return {
        "Signs of an image": lesson.explorer_panel(),
        "Signs kept": lesson.signs_kept_panel(),
        "Shots and strength": grid_panel(load_grid()),
        "Protocols": lesson.board_panel(),
        "Embeddings": lesson.embedding_panel(),
        "Break it": lesson.break_panel(),
    }


def dashboard(modality: str = "chest", shots: int = 16, seed: int = 0) -> ipywidgets.VBox:
    """A tab for each panel, on the kept-out categories of one modality of the samples, and a list of modalities.

    The detector is taken from `sdmad_course.OUTPUTS` or fitted there; the images are validation images.

    Raises:
        DataError: an unknown modality, or no samples.
    """
    tabs = ipywidgets.Tab()
    which = choice(list(MODALITIES), modality, "modality", "220px")
    state = ipywidgets.HTML()

    def show(change=None) -> None:
        state.value = "<i>one moment: fitting and embedding</i>" if change else ""
        with redirect_stdout(StringIO()):  # which detector was loaded is no part of the page
            panels = panels_of(modality if change is None else change["new"], shots, seed)
        asked = {name: ipywidgets.HTML(f'<p class="panel-question">{QUESTIONS[name]}</p>') for name in panels}
        tabs.children = [ipywidgets.VBox([asked[name], panel]) for name, panel in panels.items()]
        tabs.titles, state.value = list(panels), ""

    show()
    which.observe(show, "value")
    return ipywidgets.VBox([ipywidgets.HTML(STYLE), ipywidgets.HBox([which, state]), tabs])
