"""Sites of one process that learn together: the mean by hand, what leaves a house, what stays, and what goes wrong."""

import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import stripes

from sdmad_federated import Site, average, fit_together, in_turn
from sdmad_lite import SDMAD, AlignmentConfig, load_clip
from sdmad_lite.data import ImageTable
from sdmad_lite.errors import FederationError, SDMADWarning
from sdmad_lite.signs.bank import SignBank

HOW = {"alignment": AlignmentConfig(steps=6, augmentations=2, local=0.5), "random_state": 3}
KEPT = ("weights_", "scale_", "bias_", "image_weights_", "image_bias_", "thresholds_", "sign_embeddings_")


@pytest.fixture(scope="module")
def two(bank) -> SignBank:
    return bank.restricted(list(bank.categories[:2]))


def table_of(bank, seed, repeats=5, labels=None) -> ImageTable:
    images, drawn = stripes(seed, repeats)
    return ImageTable(tuple(images), drawn if labels is None else np.asarray(labels), bank.categories, {})


@pytest.fixture
def site(two, tiny_clip_name):
    """Makes a site with a model of its own."""

    def make(name="north", seed=0, repeats=5, **more):
        table = more.pop("table", None) or table_of(two, seed, repeats)
        return Site(table, two, load_clip(tiny_clip_name, device="cpu"), name=name, **more)

    return make


def test_a_mean_by_hand():
    """Of 1 with three images and 5 with one: 2."""
    answers = {"a": {"x": np.array([1.0, 0], np.float32)}, "b": {"x": np.array([5.0, 4], np.float32)}}
    found = average(answers, {"a": 3, "b": 1})["x"]
    np.testing.assert_array_equal(found, [2, 1])
    assert found.dtype == np.float32


@pytest.mark.parametrize("local", [0, 0.5])
def test_a_site_alone_learns_what_fit_learns(site, two, tiny_clip, local):
    """To the last bit in stage 1, to rounding in what follows from sums; thresholds are estimated another way."""
    how = HOW | {"alignment": replace(HOW["alignment"], local=local)}
    one = fit_together(SDMAD(two, backbone=tiny_clip, **how), [site()], local_steps=4)
    table = table_of(two, 0)
    alone = SDMAD(two, backbone=tiny_clip, **how).fit_table(table)
    for ours, theirs in zip(one.adapters_.parameters(), alone.adapters_.parameters(), strict=True):
        assert (ours == theirs).all()
    for name in ("weights_", "scale_", "bias_"):
        np.testing.assert_allclose(getattr(one, name), getattr(alone, name), atol=1e-9)
    np.testing.assert_allclose(one.predict_proba(table.images), alone.predict_proba(table.images), atol=0.01)
    assert one.history_ == alone.history_
    assert one.reasons_ == alone.reasons_ or [set(o) for o in one.reasons_] == [set(a) for a in alone.reasons_]


def test_three_sites_share_a_detector_and_no_image(site, two, tiny_clip, tmp_path):
    """What leaves has the same shapes from 12 images as from 24: nothing is sent for each image."""
    sites, asked = [site(name, seed) for seed, name in enumerate(("a", "b"))] + [site("c", 2, 6)], {}
    ask = in_turn(sites)

    def watched(task, given):
        answers = ask(task, given)
        asked.setdefault(task, []).append(answers)
        return answers

    together = fit_together(SDMAD(two, backbone=tiny_clip, **HOW), watched, local_steps=2)
    shapes = [
        [{name: array.shape for name, array in answer.items()} for answer in answers.values()]
        for task in asked.values()
        for answers in task
    ]
    assert all(one == other for one, *others in shapes for other in others)
    assert len(asked["train"]) == 3 and set(asked) == set(sites[0].sent)
    for task, (times, size) in sites[0].sent.items():
        assert times == len(asked[task])
        assert size == sum(array.nbytes for answers in asked[task] for array in answers["a"].values())
    # every site has the detector, which is saved and loaded as any other
    images = table_of(two, 9).images
    for one in sites:
        np.testing.assert_array_equal(one.detector.predict_proba(images), together.predict_proba(images))
    back = SDMAD.load(together.save(tmp_path / "detector"), tiny_clip)
    np.testing.assert_array_equal(back.predict_proba(images), together.predict_proba(images))


def test_what_is_rare_stays_at_home(site, two):
    """Four have B alone and one both A and B: without those with A, four of B are too few as well."""
    labels = [[0, 0]] * 6 + [[1, 1]] + [[0, 1]] * 4 + [[1, 0]] * 3 + [[0, 0]] * 6
    with pytest.warns(SDMADWarning) as said:
        found = site(table=table_of(two, 0, 5, labels))
    a, b = two.categories
    assert [str(one.message) for one in said][-2:] == [
        f"north: patients with '{a}': 4, fewer than least=5; all their images are left out",
        f"north: patients with '{b}': 4, fewer than least=5; all their images are left out",
    ]
    assert len(found.table) == 12 and not found.labels.any()


def test_a_patient_counts_once(site, two):
    table = table_of(two, 0)
    one = ImageTable(table.images, table.labels, table.categories, {"patient_id": tuple("abcd" * 5)})
    with pytest.raises(FederationError, match="north: patients without finding: 1, fewer than least=5; add"):
        site(table=one)
    with pytest.raises(ValueError, match="least is 1"):
        site(least=1)


def spoiled(sites, task, change, times=1):
    """Asks these sites, but from the answer number `times` to a task on the last one's is changed."""
    ask, count = in_turn(sites), []

    def asked(what, given):
        answers = ask(what, given)
        count.append(what)
        if count.count(task) >= times:
            change(answers[sites[-1].name])
        return answers

    return asked


def nan(answer):
    list(answer.values())[-1][...] = np.nan


def shape(answer):
    answer["parameter.0"] = answer["parameter.0"][:1]


@pytest.mark.parametrize(
    ("task", "change", "message"),
    [
        ("train", nan, "b, in stage 1, step 5: exp_avg_sq.17 holds a number that is not finite; look for a damaged"),
        ("train", shape, r"b, in stage 1, step 5: parameter.0 is \(1, 32\), expected \(8, 32\); install the same"),
        ("train", dict.clear, "b, in stage 1, step 5: losses is not there, expected"),
        ("sums", nan, "b, in the sums after stage 1: images.square holds a number that is not finite"),
        ("evidence", nan, "b, in the image evidence: sums holds a number"),
        ("scores", nan, "b, in the sums of logits: logits.square holds a number"),
    ],
)
def test_what_cannot_be_used_names_the_site_and_loses_nothing(site, two, tiny_clip, tmp_path, task, change, message):
    sites, times = [site("a"), site("b", 1)], 2 if task in ("train", "evidence") else 1
    detector = SDMAD(two, backbone=tiny_clip, **HOW)
    with pytest.raises(FederationError, match=message + ".*Then start all again; a checkpoint goes on from here"):
        fit_together(detector, spoiled(sites, task, change, times), local_steps=4, checkpoint=tmp_path)
    assert list(tmp_path.glob("*.safetensors"))
    with pytest.raises(Exception, match="call fit"):
        detector.check_fitted()
    # the same call again goes on, to the bits of one that was not stopped
    again = fit_together(detector, sites, local_steps=4, checkpoint=tmp_path)
    whole = fit_together(SDMAD(two, backbone=tiny_clip, **HOW), [site("a"), site("b", 1)], local_steps=4)
    for name in KEPT:
        np.testing.assert_array_equal(np.asarray(getattr(again, name)), np.asarray(getattr(whole, name)))


def test_sites_that_do_not_fit_are_refused(site, two, bank, tiny_clip):
    detector = SDMAD(two, backbone=tiny_clip, **HOW)
    with pytest.raises(FederationError, match="'north' stands twice"):
        fit_together(detector, [site(), site()])
    with pytest.raises(FederationError, match="north: has another sign bank than the server; give both the same"):
        fit_together(SDMAD(bank, backbone=tiny_clip, **HOW), [site()])
    nobody = [[0, 0]] * 6 + [[1, 0]] * 14
    with pytest.raises(FederationError, match=f"no site has enough patients with '{two.categories[1]}'; leave it out"):
        fit_together(detector, [site(table=table_of(two, 0, 5, nobody))])
    with pytest.raises(ValueError, match="local_steps is 0"):
        fit_together(detector, [site()], local_steps=0)


def test_a_plan_names_all_that_a_site_has_to_know(site, two, tiny_clip):
    plans = []

    def ask(task, given):
        plans.append(json.loads(given["plan"].tobytes()))
        raise FederationError("enough")

    with pytest.raises(FederationError, match="enough"):
        fit_together(SDMAD(two, backbone=tiny_clip, **HOW), ask)
    assert plans[0]["alignment"]["steps"] == 6 and plans[0]["seed"] == 3
