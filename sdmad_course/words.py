"""A finding that nobody labelled: other words for its signs, and what one or three images add to words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import roc_auc_score

from sdmad_lite.data import ImageTable, draw_support
from sdmad_lite.show.plots import HAS, OTHER, finish

from .panel import SMALL, Drawn, Panel, choice, panel_axes, switch

WORDINGS = {
    "fine net of reticular lines in the lower lungs": (
        "thin lines in the lower lungs",
        "short horizontal lines at the lung edges",
        "streaky opacity in the lower lungs",
    ),
    "clustered ring-shaped cysts at the lung base": (
        "small round rings at the lung base",
        "multiple small round opacities",
        "ring-shaped cavities at the lung base",
    ),
    "small lungs with both hemidiaphragms elevated": (
        "small lungs",
        "high diaphragm on both sides",
        "flattened diaphragm",
    ),
    "shaggy irregular heart border": ("blurred heart border", "silhouetted heart border", "enlarged heart"),
}
"""Signs of fibrosis, each with wordings from words that stand in signs of other findings; good ones and bad ones."""


@dataclass(frozen=True)
class WordsCase:
    """cosines: wording -> (N,). shown: sign -> (N,) whether it was drawn. wordings: sign -> its wordings, own first."""

    cosines: dict[str, np.ndarray]
    shown: dict[str, np.ndarray]
    wordings: dict[str, tuple[str, ...]]

    @classmethod
    def of(cls, u: np.ndarray, encode: Callable, shown: dict[str, np.ndarray]) -> WordsCase:
        """From unit embeddings u (N, D) and `Backbone.encode_texts`, for the signs that were drawn."""
        wordings: dict[str, tuple[str, ...]] = {sign: (sign, *WORDINGS[sign]) for sign in shown}
        texts = list(dict.fromkeys(text for row in wordings.values() for text in row))
        return cls(dict(zip(texts, (u @ encode(texts).numpy().T).T, strict=True)), shown, wordings)

    def auroc(self, sign: str, wording: str) -> float:
        """How well a wording tells images that show the sign from all others."""
        return float(roc_auc_score(self.shown[sign], self.cosines[wording]))


def wording_of_a_sign(case: WordsCase, sign: str, wording: str, truth: bool) -> Drawn:
    """Cosines of all images with a wording; with `truth`, of those that show the sign beside the others."""
    figure, (axis,) = panel_axes(11, 3.8, (1,), 0.08, 0.1)
    cosines, shown = case.cosines[wording], case.shown[sign]
    bins, says = np.linspace(cosines.min(), cosines.max(), 31), ""
    if truth:
        says = f", AUROC {case.auroc(sign, wording):.2f}"
        for has, color, label in ((False, OTHER, "sign not shown"), (True, HAS, "sign shown")):
            axis.hist(cosines[shown == has], bins, color=color, alpha=0.6, density=True, label=label)
        axis.legend(fontsize=SMALL, frameon=False, loc="upper left")
    else:
        axis.hist(cosines, bins, color=OTHER, alpha=0.6, density=True)
    finish(axis, xlabel="cosine", ylabel="density")
    axis.set(title=f"{wording}{says}")
    return figure, f"for the sign <i>{sign}</i>: <b>{wording}</b>{says or ', truth hidden'}"


def words_panel(case: WordsCase) -> Panel:
    """A sign, one of its wordings, and whether the truth is shown."""
    first = next(iter(case.wordings))
    controls = {
        "sign": choice(list(case.wordings), first, width="480px"),
        "wording": choice(list(case.wordings[first]), first, width="480px"),
        "truth": switch("show the truth"),
    }

    def other_sign(now) -> None:
        now["wording"].options = list(case.wordings[now["sign"].value])
        now["wording"].value = now["wording"].options[0]

    return Panel(lambda **now: wording_of_a_sign(case, **now), controls, {"sign": other_sign})


def prototype_scores(u: np.ndarray, support: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(N,): likeness of images u (N, D) to the mean positive of a support set less that to its mean negative."""
    return u @ (support[labels == 1].mean(0) - support[labels == 0].mean(0))


def few_images(u: np.ndarray, text: np.ndarray, table: ImageTable, shots: int, draws: int) -> dict[str, np.ndarray]:
    """AUROC on the other patients for each draw: of text scores (N,), of prototypes, and of both together.

    The table has one category. Both get one spread on the support set; images count more, the more there are.
    """
    found: dict[str, list[float]] = {"words": [], "images": [], "both": []}
    labels, patients = np.asarray(table.labels)[:, 0], table.patients()
    for seed in range(draws):
        rows = draw_support(table, shots, seed)
        image = prototype_scores(u, u[rows], labels[rows])
        spread = [scores[rows].std() + 1e-9 for scores in (text, image)]
        both = text / spread[0] + shots / (shots + 1) * image / spread[1]
        rest = ~np.isin(patients, patients[rows])
        for name, scores in zip(found, (text, image, both), strict=True):
            found[name].append(roc_auc_score(labels[rest], scores[rest]))
    return {name: np.array(values) for name, values in found.items()}
