"""Panels: every control is swept, and what is shown is compared with what scikit-learn says."""

import re
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from conftest import CATEGORIES
from PIL import Image
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from sdmad_course.image_panels import BreakCase, EmbeddingCase, break_panel, broken, embedding_explorer, embedding_panel
from sdmad_course.panel import Panel
from sdmad_course.score_panels import (
    BoardCase,
    GridCase,
    board_panel,
    grid_panel,
    load_grid,
    protocol_board,
    shots_and_strength,
)
from sdmad_course.sign_panels import ExplorerCase, explorer_panel, sign_explorer, weights_of_some
from sdmad_lite.alignment import AlignmentConfig
from sdmad_lite.clip.backbone import load_clip
from sdmad_lite.data import draw_support
from sdmad_lite.detector import SDMAD
from sdmad_lite.errors import DataError
from sdmad_lite.files import NOTICE

NAMES = ("Effusion", "Mass", "Hernia <b>")


@pytest.fixture(scope="module")
def board():
    rng = np.random.default_rng(0)
    labels = (rng.random((90, 3)) < 0.25).astype(int)
    scores = np.clip(0.3 + 0.3 * labels + 0.15 * rng.standard_normal((90, 3)), 0, 1)
    return BoardCase(scores, labels, NAMES, np.array([0.4, 0.5, 0.6]))


@pytest.fixture(scope="module")
def embedding():
    rng = np.random.default_rng(1)
    labels = (rng.random((30, 3)) < 0.3).astype(int)
    images = [rng.integers(0, 255, (16, 16), dtype=np.uint8) for _ in range(30)]
    flat = rng.standard_normal((30, 2)), rng.standard_normal((30, 2))
    texts = ("meniscus", "round opacity")
    layouts = {"PCA": flat, "UMAP": flat[::-1]}
    return EmbeddingCase(layouts, labels, NAMES, rng.standard_normal((30, 2)), texts, images, {"sex": list("FM" * 15)})


@pytest.fixture(scope="module")
def grid():
    rng = np.random.default_rng(2)
    terms = ("all three terms", "no discrepancy")
    ap = {score: rng.uniform(0.3, 0.9, (2, 3, 2, 3, 3)) for score in ("SD-MAD", "signs alone")}
    return GridCase(
        NAMES, terms, (0.5, 0.7, 1.0), (1, 4), np.array([[9, 8, 7], [6, 5, 4]]), np.array([90, 80]), ap, "a model"
    )


@pytest.fixture(scope="module")
def broken_case(tiny_clip_name, bank, phantom_table):
    tiny_clip = load_clip(tiny_clip_name, device="cpu")
    support = phantom_table.rows(draw_support(phantom_table, 3, 0))
    detector = SDMAD(bank, backbone=tiny_clip, alignment=AlignmentConfig(steps=4)).fit_table(support)
    return BreakCase(detector, phantom_table.images[:2])


def positions(control):
    """Every option of a list, and both ends and the middle of a slider."""
    if isinstance(control.value, tuple):
        return [(option,) for option in control.options] + [control.options]
    if hasattr(control, "options"):
        return list(control.options)
    if isinstance(control.value, bool):
        return [True, False]
    return np.unique(np.linspace(control.min, control.max, 3).astype(type(control.value))).tolist()


@pytest.fixture(scope="module")
def explorer(broken_case, phantom_table):
    return ExplorerCase(broken_case.detector, phantom_table.images[:20], phantom_table.labels[:20])


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (explorer_panel, "explorer"),
        (board_panel, "board"),
        (embedding_panel, "embedding"),
        (break_panel, "broken_case"),
        (grid_panel, "grid"),
    ],
)
def test_every_value_of_every_control_draws(make, name, request):
    panel = make(request.getfixturevalue(name))
    assert isinstance(panel, Panel) and NOTICE in panel.state.value
    for control in panel.controls.values():
        seen = set()
        for value in [*positions(control), control.value]:
            control.value = value
            picture = panel.picture.png
            assert picture.startswith(b"\x89PNG")
            seen.add(picture)
        assert len(seen) > 1  # a control that changes nothing is no control
    assert all(getattr(c, "continuous_update", False) is False for c in panel.controls.values())


@pytest.mark.parametrize(
    ("name", "field", "change"),
    [
        ("board", "scores", lambda x: x[:, :2]),
        ("board", "labels", lambda x: x[1:]),
        ("board", "thresholds", lambda x: x[:2]),
        ("explorer", "labels", lambda x: x[1:]),
        ("embedding", "cosines", lambda x: x[:, :1]),
        ("embedding", "layouts", lambda x: {"PCA": (x["PCA"][0][:9], x["PCA"][1])}),
        ("embedding", "attributes", lambda x: {"sex": x["sex"][1:]}),
        ("grid", "ap", lambda x: {"SD-MAD": x["SD-MAD"][:1]}),
        ("grid", "positives", lambda x: x[:1]),
    ],
)
def test_what_does_not_fit_together_is_named(name, field, change, request):
    case = request.getfixturevalue(name)
    with pytest.raises(DataError, match=f"{field}.*: shape"):
        replace(case, **{field: change(getattr(case, field))})


# The sign explorer


def explore(case, **values):
    own = case.detector.bank.signs_of(CATEGORIES[1])
    whole = {"category": CATEGORIES[1], "image": 3, "signs": own, "threshold": 0.5, "heat": own[0], "truth": True}
    return sign_explorer(case, **whole | values)


def test_with_all_signs_on_the_explorer_is_the_detector(explorer):
    e = explorer.detector.explain(explorer.images[3])[1]
    figure, text = explore(explorer)
    assert f"probability <b>{e.probability:.3f}</b>" in text
    bars = [bar.get_width() for bar in figure.axes[2].patches]
    assert sum(bars) == pytest.approx(e.logit, abs=1e-5)
    own = [s.contribution for s in e.signs if not s.normal]
    np.testing.assert_allclose(bars[: len(own)], own, atol=1e-6)
    p = explorer.detector.predict_proba(explorer.images)[:, 1]
    y = explorer.labels[:, 1]
    ap, f1 = average_precision_score(y, p), f1_score(y, p >= 0.5, zero_division=0)
    assert f"AP <b>{ap:.3f}</b> (all signs on: {ap:.3f}), F1 <b>{f1:.3f}</b>" in text


def test_signs_that_are_off_add_nothing_and_the_others_weigh_one(explorer):
    own = explorer.detector.bank.signs_of(CATEGORIES[1])
    figure, text = explore(explorer, signs=own[1:])
    assert f"{len(own) - 1} of {len(own)} signs on" in text
    assert figure.axes[2].patches[0].get_width() == 0
    row = explorer.detector.weights_[1]
    weights = weights_of_some(row, [explorer.detector.bank.texts.index(text) for text in own[1:]])
    assert weights[weights > 0].sum() == pytest.approx(1)
    np.testing.assert_array_equal(weights[row < 0], row[row < 0])  # the normal signs stay
    seen = figure.axes[1].images[1].get_array()
    heat = explorer.detector.sign_maps(explorer.images[3])[explorer.detector.bank.texts.index(own[0])]
    np.testing.assert_array_equal(seen.data, heat)
    assert seen[~seen.mask].min() >= np.quantile(heat, 0.9)  # the tenth that agrees most, and no more


def test_the_explorer_keeps_the_truth_to_itself_until_asked(explorer, phantom_table):
    own = explorer.detector.bank.signs_of(CATEGORIES[1])
    case = replace(explorer, drawn=[{own[0]}] * len(explorer.images))

    def rows(truth):
        figure, _ = explore(case, truth=truth)
        names = [" ".join(label.get_text().split()) for label in figure.axes[2].get_yticklabels()]
        return names, figure.axes[0].get_title()

    names, title = rows(truth=False)
    assert names[:2] == own[:2] and "truth hidden" in title
    names, title = rows(truth=True)
    assert names[:2] == [f"{own[0]} ✓ drawn", f"{own[1]} ✗ not drawn"] and "hidden" not in title


def test_the_last_sign_cannot_be_switched_off(explorer):
    panel = explorer_panel(explorer)
    panel.controls["signs"].value = ()
    panel.controls["signs"].value = panel.controls["signs"].options[:1]
    panel.controls["signs"].boxes[0].value = False
    assert len(panel.controls["signs"].value) == 1 and "1 of " in panel.state.value
    panel.controls["category"].value = CATEGORIES[2]
    assert list(panel.controls["signs"].options) == explorer.detector.bank.signs_of(CATEGORIES[2])
    assert f"<b>{CATEGORIES[2]}</b>" in panel.state.value


def moved(draw, *usual):
    """A panel's function of its usual values with one of them changed: place, value."""
    return lambda case, at, value: draw(case, *usual[:at], value, *usual[at + 1 :])


USUAL = {
    "explorer": lambda case, name, value: explore(case, **{name: value}),
    "board": moved(protocol_board, "Mass", "detection", 0.5),
    "embedding": moved(embedding_explorer, "category: Mass", 0, "PCA"),
    "grid": moved(shots_and_strength, 4, 0.7, "no discrepancy", "SD-MAD", "Mass"),
}


@pytest.mark.parametrize(
    ("name", "at", "value"),
    [
        *(("explorer", *change) for change in (("heat", "gout"), ("image", 20), ("category", "Gout"))),
        *(("explorer", "signs", signs) for signs in ([], ["gout"])),
        *(("board", *change) for change in ((0, "Gout"), (1, "best"))),
        *(("embedding", *change) for change in ((0, "sign: gout"), (1, 30), (1, -1), (2, "t-SNE"))),
        *(("grid", *change) for change in ((0, 3), (1, 0.65), (2, "all"), (3, "image"), (4, "Gout"))),
    ],
)
def test_what_is_not_there_is_refused_by_name(name, at, value, request):
    said = "keep at least one" if value == [] else f"'?{value[0] if isinstance(value, list) else value}'? is none of"
    with pytest.raises(DataError, match=said):
        USUAL[name](request.getfixturevalue(name), at, value)


# The protocol board


@pytest.mark.parametrize(("category", "protocol"), list(product(NAMES, ("detection", "discrimination", "multilabel"))))
def test_the_board_says_what_scikit_learn_says(board, category, protocol):
    _, text = protocol_board(board, category, protocol, 0.45)
    c = NAMES.index(category)
    has, normal = board.labels[:, c] == 1, board.labels.sum(1) == 0
    rows = {"detection": has | normal, "discrimination": ~normal, "multilabel": has | True}[protocol]
    y, p = has[rows], board.scores[rows, c]
    assert f"AUROC <b>{roc_auc_score(y, p):.3f}</b>, AP <b>{average_precision_score(y, p):.3f}</b>" in text
    assert f"F1 <b>{f1_score(y, p >= 0.45):.3f}</b>" in text
    assert f"{y.sum()} positives of {rows.sum()} images" in text
    assert f"{((p >= 0.45) & ~y).sum()} false" in text and f"{((p < 0.45) & y).sum()} missed" in text
    assert "<b>Hernia <b>" not in text


def test_the_points_on_the_curves_are_the_rates_at_the_threshold(board):
    figure, _ = protocol_board(board, "Mass", "multilabel", 0.5)
    y, detected = board.labels[:, 1] == 1, board.scores[:, 1] >= 0.5
    points = [line.get_xydata()[0] for axis in figure.axes[:2] for line in axis.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(points[0], (detected[~y].mean(), detected[y].mean()))
    np.testing.assert_allclose(points[1], (detected[y].mean(), y[detected].mean()))
    shares = [bar.get_width() for bar in figure.axes[2].patches]
    other = (board.labels[:, 0] == 1) & ~y
    np.testing.assert_allclose(
        shares[:3], (detected[y].mean(), detected[board.labels.sum(1) == 0].mean(), detected[other].mean())
    )


def test_a_board_without_positives_says_so(board):
    empty = BoardCase(board.scores, np.zeros_like(board.labels), NAMES, board.thresholds)
    _, text = protocol_board(empty, "Mass", "multilabel", 0.5)
    assert "n/a" in text and "0 positives of 90" in text


# The embedding explorer


def test_the_picked_image_is_ringed_and_named(embedding):
    figure, text = embedding_explorer(embedding, "category: Mass", 7, "PCA")
    for axis, points in zip(figure.axes[:2], embedding.layouts["PCA"], strict=True):
        ring = next(line for line in axis.lines if line.get_marker() == "o")
        np.testing.assert_allclose(ring.get_xydata()[0], points[7])
    truth = [c for c, y in zip(NAMES, embedding.labels[7], strict=True) if y]
    assert figure.axes[2].get_title() == f"image 7:\n{', '.join(truth) or 'normal'}"
    assert re.search(rf"meniscus \({embedding.cosines[7, 0]:+.2f}\)".replace("+", r"\+"), text)
    counts = [t.get_text() for t in figure.axes[0].get_legend().get_texts()]
    assert counts[2] == f"Mass ({embedding.labels[:, 1].sum()})"


def test_points_take_the_colour_of_a_sign_or_an_attribute(embedding):
    figure, _ = embedding_explorer(embedding, "sign: round opacity", 0, "UMAP")
    np.testing.assert_allclose(figure.axes[0].collections[0].get_array(), embedding.cosines[:, 1])
    figure, _ = embedding_explorer(embedding, "attribute: sex", 0, "PCA")
    assert [t.get_text() for t in figure.axes[0].get_legend().get_texts()] == ["F (15)", "M (15)"]


def test_a_map_says_how_far_neighbours_are_alike():
    line = np.column_stack([np.r_[np.arange(12), 100 + np.arange(12)], np.zeros(24)])  # two heaps on a line
    labels = np.repeat([[1, 0], [0, 1]], 12, 0)
    values = np.repeat([[0.5, 0.1], [-0.5, 0.1]], 12, 0)
    images = [np.zeros((4, 4), np.uint8)] * 24
    case = EmbeddingCase({"PCA": (line, line)}, labels, NAMES[:2], values, ("a", "b"), images, {"sex": ["F"] * 24})
    titles = [embedding_explorer(case, colour, 0, "PCA")[0].axes[0].get_title() for colour in case.colours]
    assert "1.00 of positives' neighbours have it (all: 0.50)" in titles[0]
    assert "r = 1.00" in titles[2] and "does not vary" in titles[3]
    assert "1.00 of neighbours share it (chance: 1.00)" in titles[4]


@pytest.mark.parametrize("images", [1, 2])
def test_one_or_two_images_can_be_explored(images):
    points, pictures = np.zeros((images, 2)), [np.zeros((4, 4), np.uint8)] * images
    labels, cosines = np.eye(images, 2, dtype=int), np.eye(images, 2)
    case = EmbeddingCase({"PCA": (points, points)}, labels, NAMES[:2], cosines, ("a", "b"), pictures, {})
    titles = [embedding_explorer(case, colour, 0, "PCA")[0].axes[0].get_title() for colour in case.colours]
    assert all("no other image" in title for title in titles) == (images == 1)


# Shots and strength


def test_the_grid_shows_the_means_of_its_draws(grid):
    figure, text = shots_and_strength(grid, 4, 0.7, "no discrepancy", "signs alone", "Mass")
    draws = grid.ap["signs alone"][1, 1, 1, :, 1]
    assert f"AP <b>{draws.mean():.3f}</b> (draws {draws.min():.3f} to {draws.max():.3f})" in text
    assert f"{grid.positives[1, 1]} positives of 80" in text and text.endswith("fitted with a model")
    curve = max(figure.axes[0].lines, key=lambda line: line.get_linewidth())
    np.testing.assert_allclose(curve.get_ydata(), grid.ap["signs alone"][1, 1, :, :, 1].mean(-1))
    dots = [line.get_xdata() for line in figure.axes[1].lines if line.get_marker() == "."]
    np.testing.assert_allclose(dots[1], draws)
    means = grid.ap["signs alone"][1, :, 1, :, 1].mean(-1)
    assert f"best λ here: {grid.lambdas[means.argmax()]:g}" in figure.axes[0].get_title()
    _, text = shots_and_strength(grid, 4, 0.7, "no discrepancy", "SD-MAD", "mean of all")
    assert f"AP <b>{grid.ap['SD-MAD'][1, 1, 1].mean():.3f}</b>" in text


def test_the_committed_grid_is_whole():
    case = load_grid()
    for values in case.ap.values():
        assert np.isfinite(values).all() and (values > 0).all() and (values <= 1).all()
    silent = case.ap["SD-MAD"][:, list(case.lambdas).index(1.0)]
    np.testing.assert_array_equal(silent, np.broadcast_to(silent[:1], silent.shape))  # no term matters there


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"shots": [1]}', '{"shots": 1}'])
def test_a_broken_grid_is_named(tmp_path, text):
    (tmp_path / "grid.json").write_text(text)
    with pytest.raises(DataError, match=r"grid.json: not a grid .*make grid"):
        load_grid(tmp_path / "grid.json")


# Break it


def test_an_image_that_is_not_broken_is_the_same():
    picture = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    np.testing.assert_array_equal(np.asarray(broken(picture, 0, 0, 0, 0)), np.asarray(picture))


def test_each_way_to_break_by_hand():
    flat = Image.fromarray(np.full((20, 20), 60, np.uint8))
    assert (np.asarray(broken(flat, 0, 0, 1, 0)) == 120).all()
    covered = np.asarray(broken(flat, 0, 0, 0, 0.5))
    assert (covered[5:15, 5:15] == 110).all() and (covered == 110).sum() == 100
    assert np.asarray(broken(flat, 0.1, 0, 0, 0)).std() == pytest.approx(25.5, rel=0.15)
    edge = Image.fromarray(np.repeat([[0, 255]], 20, 0).repeat(10, 1).astype(np.uint8))
    assert len(np.unique(np.asarray(broken(edge, 0, 3, 0, 0)))) > 5
    colour = Image.fromarray(np.full((8, 8, 3), 60, np.uint8))
    assert np.asarray(broken(colour, 0.1, 1, 0, 0.2)).shape == (8, 8, 3)


def test_nothing_broken_nothing_changed(broken_case):
    panel = break_panel(broken_case)
    e = broken_case.before(0)[0]
    assert (
        f"probability {e.probability:.3f}, now <b>{e.probability:.3f}</b>; decisions that turned: none"
        in panel.state.value
    )
    panel.controls["exposure"].value = -2
    spoilt = broken(broken_case.picture(0), 0, 0, -2, 0)
    assert f"now <b>{broken_case.detector.predict_proba([spoilt])[0, 0]:.3f}</b>" in panel.state.value
    changed = panel.picture.png
    panel.reset.click()
    assert panel.controls["exposure"].value == 0 and panel.picture.png != changed


def test_a_panel_says_in_words_what_its_picture_shows(board):
    panel = board_panel(board)
    assert 'alt="Effusion, detection: ' in panel.picture.value and "<b>" not in panel.picture.value
