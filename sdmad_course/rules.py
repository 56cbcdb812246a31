"""What is right in each exercise. Whoever does the exercises reads this last."""

from __future__ import annotations

import math
import re
from itertools import combinations

import numpy as np
from sklearn.metrics import roc_auc_score

from sdmad_lite.data import load_data
from sdmad_lite.detector import SDMAD
from sdmad_lite.signs import check_bank, parse_bank

from .exercises import close, exercise
from .shortcut import with_marks
from .sign_panels import sign_scores


@exercise("00.1", "take probability minus threshold, of normal images only, over all categories")
def _nearest_false_alarm(answer, detector, table) -> bool:
    row, category = answer
    excess = detector.predict_proba(table.images) - detector.thresholds_
    excess[table.labels.sum(1) > 0] = -np.inf
    return np.isclose(excess[row, list(table.categories).index(category)], excess.max())


@exercise("00.2", "a fitted detector with 0 steps of stage 1, whose `evidence` has a share above 0")
def _evidence_without_training(answer) -> bool:
    return (
        isinstance(answer, SDMAD)
        and not answer.alignment.steps
        and answer.evidence.share > 0
        and len(answer.scale_) > 0
    )


@exercise("01.1", "each wanted category owns one of your signs, and no smaller set does it")
def _fewest_signs(answer, bank, wanted) -> bool:
    owners = {sign.id: set(sign.categories) for sign in bank.signs}

    def enough(ids) -> bool:
        return set(wanted) <= set().union(*(owners[name] for name in ids))

    smaller = combinations(owners, len(answer) - 1) if len(answer) > 1 else []
    return len(answer) == len(set(answer)) > 0 and enough(answer) and not any(map(enough, smaller))


@exercise("01.2", "two categories, three signs each, one of them shared, two normal signs, no error or warning")
def _own_bank(answer, given) -> bool:
    bank = parse_bank(answer)
    member = bank.membership()
    own = {sign.text for sign in bank.signs} - {sign["text"] for sign in given["signs"]}
    counts = len(bank.categories) == 2 and (member[1:].sum(1) >= 3).all() and member[0].sum() >= 2
    quiet = all(finding.severity == "note" for finding in check_bank(bank))
    return bool(counts and (member[1:].sum(0) > 1).any() and len(own) >= 3 and quiet)


@exercise("02.1", "compare each image with the sign with each image without it; a tie counts half")
def _auroc(answer, cosines, shown) -> bool:
    return close(answer, roc_auc_score(shown, cosines))


@exercise(
    "02.2", "a text of two words or more whose cosines have a higher AUROC than the margin; see the lists of 3 and 7"
)
def _words_that_win(answer, encode, u, has, bar) -> bool:
    return len(answer.split()) > 1 and roc_auc_score(has, (u @ encode([answer]).T)[:, 0]) > bar


@exercise("03.1", "two matrices, and a bias for each")
def _parameters(answer) -> bool:
    return all(answer(d, r) == 2 * d * r + r + d for d, r in ((64, 16), (7, 3), (1, 5)))


@exercise("03.2", "the factors are (1 - 3/4) squared for the easy images and (1 - 1/2) squared for the other one")
def _hardest_first(answer) -> bool:
    easy, hard = -math.log(3 / 4) / 16, -math.log(1 / 2) / 4
    return close(answer, (easy + (easy + hard) / 2) / 2, 1e-4)


@exercise("04.1", "try P one by one in the formula of section 1")
def _shrunk(answer) -> bool:
    enough = [P for P in range(1, 200) if 0.5 + 0.4 * P / (P + 2) >= 0.8 - 1e-9]
    return type(answer) is int and answer == enough[0]


@exercise("04.2", "try every set; its AP is that of sign_scores(case, category, kept)['now']")
def _best_set(answer, case, category) -> bool:
    own = case.ranked(category)
    if not isinstance(answer, (list, tuple)) or not answer or not set(answer) <= set(own):
        return False
    every = [kept for size in range(1, len(own) + 1) for kept in combinations(own, size)]
    ap = {kept: sign_scores(case, category, kept)["now"].ap or 0 for kept in every}
    return ap[tuple(s for s in own if s in answer)] >= max(ap.values()) - 1e-9


@exercise("05.1", "in order: A, not A, A; take the precision at each A")
def _ap(answer) -> bool:
    return close(answer, 5 / 6, 2e-3)


@exercise("05.2", "which methods never look at the support set?")
def _no_luck(answer, series) -> bool:
    return isinstance(answer, (list, tuple, set)) and set(answer) == {m for m, x in series.items() if np.std(x) < 1e-9}


@exercise("06.1", "truly there, detected, and the longest bar of its own signs is a sign that was not drawn")
def _right_for_a_false_reason(answer, detector, table, drawn) -> bool:
    row, category = answer
    c = list(table.categories).index(category)
    explained = detector.explain(table.images[int(row)])[c]
    longest = max((s for s in explained.signs if not s.normal), key=lambda s: s.contribution).text
    return bool(table.labels[row, c]) and explained.detected and longest not in drawn[row]


@exercise("06.2", "two sentences with the words faithful, correct and chance")
def _for_a_physician(answer) -> bool:
    words = re.findall("[a-z]+", answer.lower())
    return {"faithful", "correct", "chance"} <= set(words) and len(set(words)) >= 20


@exercise("07.1", "all three are low in one case of eight")
def _three_looks(answer) -> bool:
    return close(answer, 0.6 * 7 / 8 + 0.4 / 8)


@exercise("07.2", "average over draws first, then choose the step")
def _one_step_for_all(answer, on_test) -> bool:
    return close(answer, on_test.mean(0).max(), 1e-9)


@exercise("09.1", "a function of three arrays; shift the site's logits until its normal images have home's mean")
def _centred_by_hand(answer) -> bool:
    rng = np.random.default_rng(0)
    site, here, home = rng.normal(size=(5, 2)), rng.normal(size=(4, 2)), rng.normal(size=(3, 2))
    return np.allclose(answer(site, here, home), site - here.mean(0) + home.mean(0))


@exercise("10.1", "the old mean counts as often as it had cases, the new case once")
def _prototype_moved(answer) -> bool:
    x = np.random.default_rng(0).normal(size=(6, 3))
    return np.allclose(answer(x[:5].mean(0), 5, x[5]), x.mean(0)) and np.allclose(answer(x[0], 1, x[1]), x[:2].mean(0))


@exercise("11.1", "add counts, sums and squares of both first; the variance is the mean square less the squared mean")
def _variance_of_both(answer) -> bool:
    return close(answer, 5.6 / 40 - (14 / 40) ** 2, 1e-4)


@exercise("11.2", "what April has more than March is one row of the archive: which lies nearest to the difference?")
def _who_joined(answer, activations, difference) -> bool:
    nearest = np.linalg.norm(activations - difference, axis=1).argmin()
    return isinstance(answer, (int, np.integer)) and not isinstance(answer, bool) and answer == nearest


@exercise("12.1", "a step for each row: its largest weight by the largest whole number, and a least step for zeros")
def _packed(answer, weights) -> bool:
    given = np.concatenate([weights, 0 * weights[:1], 100 * weights[:1]])
    numbers, steps = answer(given)
    close_by = np.abs(steps * numbers - given) <= 0.5001 * steps
    full = np.abs(numbers.astype(int)).max(1)[np.abs(given).max(1) > 0] == 127
    return bool(numbers.dtype == np.int8 and (steps > 0).all() and close_by.all() and full.all())


@exercise("13.1", "subtract the mean of the negatives from that of the positives, then take the scalar product")
def _prototype(answer) -> bool:
    return close(answer, 0.98, 1e-3)


@exercise("13.2", "a text of two words or more, other than the sign, whose cosines have a higher AUROC than the sign's")
def _reworded(answer, encode, u, has, bar, sign) -> bool:
    other = len(answer.split()) > 1 and answer.lower() != sign.lower()
    return other and roc_auc_score(has, u @ encode([answer]).numpy()[0]) > bar


@exercise("14.1", "no error and no warning is left, with the same two categories, and no sign was only taken out")
def _repaired(answer, draft) -> bool:
    bank = parse_bank(answer)
    whole = list(bank.categories) == draft["categories"] and len(bank.signs) >= len(draft["signs"])
    return whole and all(finding.severity == "note" for finding in check_bank(bank))


@exercise("14.2", "write labels.csv and images into the folder, such that a patient has two images")
def _patients_named(answer) -> bool:
    table = load_data(answer)
    return table.has_patients and len(np.unique(table.patients())) < len(table)


@exercise("08.1", "with the mark and without it an image has to come out the same, and the sick still to be found")
def _mark_is_gone(answer, case) -> bool:
    rows, nobody = np.arange(40), np.zeros(len(case.test), bool)
    clean = [[np.asarray(answer(x)) for x in with_marks(case.test, m).images[:40]] for m in (nobody, ~nobody)]
    logits = [case.detector.decision_function(images)[:, case.column] for images in clean]
    found = [roc_auc_score(case.sick[rows], one) for one in (*logits, case.scores(nobody)[rows])]
    left, before = np.abs(logits[0] - logits[1]), np.abs(case.scores(nobody) - case.scores(~nobody))
    return bool(left.max() < 0.1 * before.mean() and min(found[:2]) > found[2] - 0.1)


@exercise("05.3", "the smallest n for which 0.9 to the power of n is 0.1 or less")
def _positives_for_recall(answer) -> bool:
    return isinstance(answer, (int, np.integer)) and answer == 22
