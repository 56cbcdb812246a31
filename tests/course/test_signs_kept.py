"""The panel of signs kept: each value is moved by program, and what is shown compared with what is computed by hand."""

import json
import re
import time

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from sdmad_course import sign_panels
from sdmad_course.sign_panels import SignCase, sign_scores, signs_kept, signs_kept_panel
from sdmad_lite.errors import DataError
from sdmad_lite.selection import SelectionConfig, SignSelector
from sdmad_lite.show.plots import to_png
from sdmad_lite.signs.bank import parse_bank

SIGNS = {
    "Effusion": ["meniscus", "blunted angle", "hidden dome", "bright < base", "wet"],
    "Mass": ["round opacity", "hilar bulge", "wet"],
    "Hernia": ["gas behind the heart"],
}
TEXTS = list(dict.fromkeys(text for texts in SIGNS.values() for text in texts))
BANK = parse_bank(
    {
        "name": "tiny",
        "modality": "chest radiograph",
        "categories": list(SIGNS),
        "signs": [{"text": text, "categories": [c for c in SIGNS if text in SIGNS[c]]} for text in TEXTS],
        "normal_signs": [{"text": "clear lungs"}, {"text": "sharp angles"}],
        "provenance": {"author": "a person", "kind": "person", "date": "2026-11-22", "reviewed": False},
    }
)


def make_case(seed: int = 0, images: int = 80) -> SignCase:
    """Cosines in which some signs speak and some do not; stage 2 is fitted on a second sample."""
    rng = np.random.default_rng(seed)
    member = BANK.membership()
    strength = rng.uniform(-0.02, 0.3, len(BANK.texts))

    def sample(n):
        labels = (rng.random((n, len(SIGNS))) < 0.3).astype(int)
        z = 0.4 + 0.12 * rng.standard_normal((n, len(BANK.texts)))
        return z + np.minimum(labels @ member[1:], 1) * strength, labels

    support = SignSelector(SelectionConfig(rule="rank")).fit(*sample(40), member)
    return SignCase(*sample(images), BANK, support.auroc_, support.weights_)


@pytest.fixture(scope="module")
def case():
    return make_case()


@pytest.fixture
def panel(case):
    panel = signs_kept_panel(case)
    panel.controls["verdict"].value = True
    return panel


def by_hand(case, category, texts):
    """Margin (N,) of a category with only these signs: a mean over columns minus the mean of the normal ones."""
    columns = [BANK.texts.index(text) for text in texts]
    normal = [BANK.texts.index(text) for text in ("clear lungs", "sharp angles")]
    return case.labels[:, BANK.categories.index(category)], case.cosines[:, columns].mean(1) - case.cosines[
        :, normal
    ].mean(1)


def shown_signs(panel):
    """The texts of the checkboxes that are on."""
    return [check.description.split(" (support AUROC")[0] for check in boxes(panel) if check.value]


def boxes(panel):
    return panel.controls["signs"].boxes


def picture(panel):
    return panel.picture.png


def check_state(panel, case):
    """What the text says is what scikit-learn says of the same signs."""
    category, texts = panel.controls["category"].value, shown_signs(panel)
    y, margin = by_hand(case, category, texts)
    state = panel.state.value
    assert f"<b>{category}</b>: {len(texts)} of {len(SIGNS[category])} signs on, {y.sum()} positives of 80" in state
    ap, auroc = average_precision_score(y, margin), roc_auc_score(y, margin)
    assert f"AP now <b>{ap:.3f}</b>, AUROC now <b>{auroc:.3f}</b>" in state
    y, margin = by_hand(case, category, SIGNS[category])
    assert f"AP with all signs {average_precision_score(y, margin):.3f}" in state
    c = BANK.categories.index(category)
    chosen = case.cosines @ case.weights[c]
    assert f"signs of stage 2 {average_precision_score(y, chosen):.3f}" in state
    assert panel.controls["number"].value == len(texts)
    assert picture(panel).startswith(b"\x89PNG")


# The sweep


def test_sweep_of_all_categories_and_slider_values(panel, case):
    check_state(panel, case)
    for category in reversed(BANK.categories):
        before = picture(panel)
        panel.controls["category"].value = category
        assert picture(panel) != before
        assert shown_signs(panel) == [BANK.texts[s] for s in case.ranked(category)]  # all on, best first
        check_state(panel, case)
        for number in [*range(1, len(SIGNS[category]) + 1), 1]:
            before, changed = picture(panel), panel.controls["number"].value != number
            panel.controls["number"].value = number
            assert shown_signs(panel) == [BANK.texts[s] for s in case.ranked(category)[:number]]
            assert (picture(panel) != before) == changed
            check_state(panel, case)


@pytest.mark.parametrize("category", ["Effusion", "Mass"])
def test_each_sign_goes_off_and_on(panel, case, category):
    panel.controls["category"].value = category
    full = picture(panel)
    for i in range(len(boxes(panel))):
        boxes(panel)[i].value = False
        assert picture(panel) != full
        assert len(shown_signs(panel)) == len(boxes(panel)) - 1
        check_state(panel, case)
        boxes(panel)[i].value = True
        assert picture(panel) == full  # the same state is the same picture, byte for byte
        check_state(panel, case)


def test_the_last_sign_stays_on_and_the_text_says_so(panel, case):
    panel.controls["number"].value = 1
    before = picture(panel)
    boxes(panel)[0].value = False
    assert [check.value for check in boxes(panel)] == [True, False, False, False, False]
    assert "At least one must stay on" in panel.controls["signs"].remark.value
    assert picture(panel) == before
    check_state(panel, case)
    boxes(panel)[1].value = True
    assert panel.controls["signs"].remark.value == ""
    panel.controls["category"].value = "Hernia"  # has one sign only
    boxes(panel)[0].value = False
    assert boxes(panel)[0].value and "At least one must stay on" in panel.controls["signs"].remark.value
    check_state(panel, case)


def test_slider_after_checkboxes_takes_the_best_again(panel, case):
    boxes(panel)[0].value = False
    assert panel.controls["number"].value == 4
    panel.controls["number"].value = 3
    assert [check.value for check in boxes(panel)] == [True, True, True, False, False]
    check_state(panel, case)


# The shell


def test_an_exception_in_a_callback_is_not_swallowed(panel, monkeypatch):
    def broken(*args):
        raise RuntimeError("broken figure")

    monkeypatch.setattr(sign_panels, "signs_kept", broken)
    for widget, value in (
        (panel.controls["number"], 2),
        (boxes(panel)[0], False),
        (panel.controls["category"], "Mass"),
    ):
        with pytest.raises(RuntimeError, match="broken figure"):
            widget.value = value
    monkeypatch.undo()
    panel.controls["category"].value = "Effusion"  # and the panel goes on
    panel.controls["number"].value = 1
    assert "1 of 5 signs on" in panel.state.value


def test_panel_is_made_of_what_runs_without_a_browser(panel):
    names, queue = set(), [panel]
    while queue:
        widget = queue.pop()
        names.add(type(widget).__name__)
        queue.extend(getattr(widget, "children", ()))
    assert "Picture" in names and "HTML" in names and "Output" not in names
    assert panel.controls["number"].continuous_update is False


def test_texts_that_look_like_html_are_escaped(case):
    odd = parse_bank(json.loads(BANK.model_dump_json().replace("Effusion", "Effusion <b>")))
    panel = signs_kept_panel(SignCase(case.cosines, case.labels, odd, case.auroc, case.weights))
    assert "Effusion &lt;b&gt;" in panel.state.value


def test_a_move_is_quick(panel):
    times = []
    for number in (1, 2, 3, 4, 5):
        start = time.process_time()
        panel.controls["number"].value = number
        times.append(time.process_time() - start)
    assert min(times) < 0.3


# The logic


def test_figure_shows_the_default_state_of_the_panel(panel, case):
    assert to_png(signs_kept(case, "Effusion", case.ranked("Effusion"))[0], quick=True) == picture(panel)
    strip, bars = signs_kept(case, "Mass", case.ranked("Mass")[:2])[0].axes
    assert strip.get_title() == "Mass: 2 of 3 signs on"
    scores = sign_scores(case, "Mass", case.ranked("Mass")[:2])
    assert [bar.get_width() for bar in bars.patches] == [score.ap for score in scores.values()]
    normal = (case.labels.sum(1) == 0).sum()
    assert [t.get_text() for t in strip.get_yticklabels()][2] == f"normal ({normal})"


def test_the_verdict_is_hidden_until_asked_for(panel):
    shown = picture(panel)
    assert "of stage 2" in panel.state.value
    panel.reset.click()
    assert "stage 2" not in panel.state.value and not any("keeps" in box.description for box in boxes(panel))
    assert picture(panel) != shown


def test_the_axis_stays_where_it_is_whatever_is_switched(case):
    ends = {signs_kept(case, "Effusion", kept)[0].axes[0].get_xlim() for kept in ([0], [1, 2], [0, 1, 2, 3, 4])}
    assert len(ends) == 1


def test_ranking_follows_support_auroc_and_chosen_follows_the_weights(case):
    for c, category in enumerate(BANK.categories):
        ranked = case.ranked(category)
        assert sorted(BANK.texts[s] for s in ranked) == sorted(SIGNS[category])
        assert (np.diff(case.auroc[c, ranked]) <= 0).all()
        assert set(case.chosen(category)) == set(np.flatnonzero(case.weights[c] > 0))


def test_without_positives_the_numbers_are_not_available():
    case = make_case(seed=1)
    case.labels[:, 0] = 0
    panel = signs_kept_panel(case)
    assert "0 positives of 80" in panel.state.value
    assert re.search(r"AP now <b>n/a</b>, AUROC now <b>n/a</b>; AP with all signs n/a", panel.state.value)
    panel.controls["category"].value = "Mass"
    assert "n/a" not in panel.state.value


@pytest.mark.parametrize("kept", [[], [1, 99], [5]])
def test_pure_functions_refuse_a_choice_that_is_none(case, kept):
    with pytest.raises(DataError, match="Effusion: keep at least one of its own signs"):
        signs_kept(case, "Effusion", kept)


@pytest.mark.parametrize("field", ["cosines", "labels", "auroc", "weights"])
def test_shapes_that_do_not_match_are_named(case, field):
    arrays = {name: getattr(case, name) for name in ("cosines", "labels", "auroc", "weights")}
    arrays[field] = arrays[field][:, :-1]
    with pytest.raises(DataError, match=f"{field}: shape"):
        SignCase(bank=BANK, **arrays)
