"""Scores, comparisons, sealed test sets and support draws in files."""

import numpy as np

from sdmad_course.episodes import draw_episodes, load_episodes
from sdmad_lite.data import load_data, patient_folds
from sdmad_lite.deployment.decisions import Decisions
from sdmad_lite.deployment.subgroups import by_group
from sdmad_lite.evaluation.intervals import paired
from sdmad_lite.evaluation.protocols import evaluate
from sdmad_lite.evaluation.sealed import SealedTest

from .world import CATEGORIES, Case

SCORES, LABELS = np.linspace(0, 1, 8).reshape(4, 2), np.array([[0, 0], [1, 0], [0, 1], [1, 1]])


def scored(what, message, scores=SCORES, labels=LABELS, thresholds=None):
    """A case of `evaluate`."""
    act = lambda: evaluate(scores, labels, CATEGORIES, thresholds)  # noqa: E731
    return Case("Scores", what, lambda world: act, message)


def table(what, act, message, group="A sealed test set"):
    """A case that starts from a good table."""

    def prepare(world):
        found = load_data(world.data(), CATEGORIES)
        return lambda: act(found)

    return Case(group, what, prepare, message)


def open_twice(found):
    sealed = SealedTest(found)
    for _ in range(2):
        sealed.open({"mine": lambda images: np.zeros((6, 2))})


def of_another_table(found):
    return draw_episodes(found, [1], 1).support(found.rows([0, 1, 2]), 1, 0)


DRAWS = "Support draws in a file"


def stored(what, content, message):
    """A case of a file of draws with this content."""

    def prepare(world):
        path = world.write("draws.json", content)
        return lambda: load_episodes(path)

    return Case(DRAWS, what, prepare, message)


def paying(by, least=1, rows=range(6)):
    """`by_group` of the good table, which has no column but patient_id and split, and one that is constant."""
    rows = list(rows)

    def act(found):
        found = found.rows(rows)
        found.meta["sex"], found.meta["site"] = tuple("FMFMFM"[: len(rows)]), ("A",) * len(rows)
        return by_group(np.zeros((len(rows), 2)), found, np.zeros(2), [by], least=least)

    return act


def deciding(labels, logits=SCORES, prevalence=0.5):
    """`Decisions` of these labels, asked for probabilities."""
    return lambda world: lambda: Decisions(CATEGORIES, logits, np.array(labels)).probabilities(SCORES, prevalence)


PAYS, DECIDES = "Who pays", "Decisions"

CASES = [
    table(
        "a group column that is missing",
        paying("view"),
        "by: the data have no column 'view' to group by; they have sex, site",
        PAYS,
    ),
    table(
        "a group column that is constant",
        paying("site"),
        "by: every image has site 'A'; name a column with two groups or more",
        PAYS,
    ),
    table(
        "groups that are too small",
        paying("sex", least=10),
        "by sex: no group has least=10 patients of a kind; give more, or lower it",
        PAYS,
    ),
    Case(
        DECIDES,
        "one class alone",
        deciding([[0, 1], [0, 0], [0, 1], [0, 1]]),
        "labels: 'Effusion' needs images with it, 1, and without it, 0; add those that lack",
    ),
    Case(
        DECIDES,
        "logits that are not finite",
        deciding(LABELS, np.where(SCORES > 0.9, np.nan, SCORES)),
        "logits: expected finite ones of the labels' shape (4, 2)",
    ),
    Case(
        DECIDES,
        "a prevalence of nobody",
        deciding(LABELS, prevalence=0),
        "prevalence is 0: give a share between 0 and 1, or one for each category",
    ),
    table(
        "one patient of a category to cross-fit with",
        lambda found: patient_folds(found.part("train")),
        "1 patients with 'Effusion': folds leave each out in turn; give two or more",
        DECIDES,
    ),
    scored(
        "scores of another shape",
        "scores (3, 2), labels (4, 2) and 2 categories: give both as (N, C)",
        scores=SCORES[:3],
    ),
    scored(
        "a score that is not finite",
        "scores: row 3 is not finite; give numbers",
        scores=np.where(SCORES > 0.9, np.nan, SCORES),
    ),
    scored("labels other than 0 and 1", "labels: only 0 and 1 are allowed", labels=LABELS * 2),
    scored(
        "one threshold for two categories",
        "thresholds: shape (1,), expected one for each of 2 categories",
        thresholds=np.array([0.5]),
    ),
    Case(
        "Scores",
        "a comparison of different draws",
        lambda world: lambda: paired([0.5, 0.6], [0.5]),
        "paired: 2 and 1 draws; compare the same draws",
    ),
    table("no image", lambda found: SealedTest(found.rows([])), "the test set is empty; give at least one image"),
    table(
        "a second look", open_twice, "this test set was opened before; results chosen after a look at it would flatter"
    ),
    table(
        "scores of another shape",
        lambda found: SealedTest(found).open({"mine": lambda images: np.zeros(6)}),
        "'mine': scores of shape (6,), expected (6, 2)",
    ),
    table(
        "thresholds for nobody",
        lambda found: SealedTest(found).open({}, {"mine": np.array([0.5, 0.5])}),
        "'mine' is none of the predictors; use their names",
    ),
    table(
        "no draw",
        lambda found: draw_episodes(found, [1], 0),
        "draws is 0 for 1 numbers of shots: both must be at least 1",
        DRAWS,
    ),
    table(
        "a draw that is not there",
        lambda found: draw_episodes(found, [1], 1).rows(found, 1, 4),
        "episodes of '': no draw 4 of K = 1; there are 1 of K = 1",
        DRAWS,
    ),
    table(
        "a draw from another table",
        of_another_table,
        "episodes of '': drawn from another table; its labels or patients differ",
        DRAWS,
    ),
    stored(
        "a file that is no JSON",
        "{",
        ("{path}/draws.json: cannot be read as support draws ({reason}); give a file that save() wrote"),
    ),
    stored(
        "one K in two spellings",
        '{"name": "a", "seed": 0, "sha256": "%s", "draws": {"4": [[1]], "04": [[2]]}}' % ("0" * 64),
        "{path}/draws.json: no valid support draws (draws.04.[key]: write K as a whole number in plain digits); draw "
        "them again",
    ),
    stored(
        "a file of something else",
        "{}",
        (
            "{path}/draws.json: no valid support draws (name: Field required; seed: Field required; s"
            "ha256: Field required); draw them again"
        ),
    ),
]
