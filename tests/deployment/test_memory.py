"""What cases teach by closed forms, worked out by hand; and a memory that keeps them, whatever happens to it."""

import signal
import sqlite3
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import stripes
from PIL import Image
from sklearn.metrics import roc_auc_score

from sdmad_lite.alignment import AlignmentConfig
from sdmad_lite.clip.backbone import load_clip
from sdmad_lite.deployment.case_file import CaseFile
from sdmad_lite.deployment.learning import FITTED, drift, learnt, with_finding
from sdmad_lite.deployment.memory import Memory
from sdmad_lite.deployment.moments import Moments
from sdmad_lite.detector import SDMAD
from sdmad_lite.errors import CaseError
from sdmad_lite.signs.bank import parse_bank

NUMBERS = [name for name in FITTED if name != "reasons_"]
BANK = {
    "name": "stripes",
    "modality": "pattern",
    "categories": ["across", "down"],
    "signs": [{"text": "lines across", "categories": ["across"]}, {"text": "lines down", "categories": ["down"]}],
    "normal_signs": [{"text": "even grey"}],
    "provenance": {"author": "A. Writer", "kind": "person", "date": "2025-01-31", "reviewed": False},
}


@pytest.fixture(scope="module", params=[0.0, 0.5], ids=["whole", "patches"])
def detector(tiny_clip_name, request):
    one_step = AlignmentConfig(steps=1, augmentations=1, local=request.param)
    clip = load_clip(tiny_clip_name, device="cpu")
    return SDMAD(parse_bank(BANK), backbone=clip, alignment=one_step).fit(*stripes(0, 2))


@pytest.fixture
def memory(detector, tmp_path):
    return Memory(tmp_path / "cases.db", detector)


def names(labels):
    return [[c for c, y in zip(BANK["categories"], row, strict=True) if y] for row in labels]


def bits(detector):
    return {name: getattr(detector, name).tobytes() for name in NUMBERS}


# Closed forms


def looking(share=0.0):
    """A detector of one category with a sign of its own and a normal sign."""
    return SimpleNamespace(
        membership=np.array([[0, 1], [1, 0]]),
        evidence=SimpleNamespace(share=share),
        selection=SimpleNamespace(shrink=0.0, pull=0.0),
        weights_=np.array([[1.0, -1.0]]),
        scale_=np.ones(1),
        bias_=np.zeros(1),
        image_weights_=np.zeros((1, 1)),
        image_bias_=np.zeros(1),
        thresholds_=np.array([0.5]),
        reasons_=[{0: "", 1: ""}],
        reference_=np.zeros((1, 2)),
    )


X = np.array([[0.9, 0, 0], [0.3, 0, 0], [0.3, 0, 0], [-0.3, 0, 0]])
Y = np.array([[1], [1], [0], [0]])


@pytest.mark.parametrize(("prior", "logit"), [(0, 4.0), (2, 0.5 * 0.9 + 0.5 * 4.0), (1e9, 0.9)])
def test_the_logit_of_what_was_learnt_by_signs(prior, logit):
    """Means 0.6 and 0, variance 0.09 in both: the slope is 0.6 / 0.09, the middle 0.3, so 0.9 has the logit 4."""
    new = learnt(looking(), Moments.of(X, Y), prior)
    z = np.array([0.9, 0.0])
    assert new.scale_[0] * new.weights_[0] @ z + new.bias_[0] == pytest.approx(logit, rel=1e-6)
    assert new.weights_[0, 0] == pytest.approx(1) and new.image_weights_[0, 0] == 0


def test_image_evidence_allows_for_chance():
    """Class means 2 and 0 in two images each, variance 1 within: the direction is w = 1, and chance adds 1/2 to either.

    Standardised by the spread of all, root of 2: half sphere, half the identity, so that M = 1 (but for 1e-3).
    """
    x = np.array([[0, 0, 3.0], [0, 0, 1], [0, 0, 1], [0, 0, -1]])
    new = learnt(looking(share=1.0), Moments.of(x, Y), 0)
    # along w the means 2 w and 0 move to 2 w - t/2 and t/2, with w = 1 and t = 1: gap 1, within 1, slope 1, middle 1
    assert new.image_weights_[0, 0] == pytest.approx(1, rel=0.01)
    assert new.image_bias_[0] == pytest.approx(-1, rel=0.01)


def test_without_cases_or_with_one_class_nothing_changes():
    for x, y in ((X[:0], Y[:0]), (X[:2], Y[:2])):
        new = learnt(looking(), Moments.of(x, y), 0)
        assert all(np.array_equal(getattr(new, name), getattr(looking(), name)) for name in NUMBERS)


def test_drift_by_hand():
    """Ranks 1/2, 3/4 and 5/6 among those before: bets of -2, -1, 1, 2 on what is above the middle."""
    h = np.array([[0.0], [2], [3], [4], [5]])
    assert drift(h, ruler=2) == pytest.approx([0, 0, 1, 2, 41 / 12])
    assert drift(h[:0]).shape == (0,)


def test_drift_is_told_where_cases_change_and_hardly_elsewhere():
    rng = np.random.default_rng(0)
    still = rng.normal(size=(40, 300, 8))
    assert np.mean([drift(h).max() >= 1e4 for h in still]) <= 0.05
    still[:, 150:] *= 2
    first = [int(np.argmax(drift(h) >= 1e4)) for h in still[:5]]
    assert min(first) > 150 and max(first) < 200


def test_a_finding_may_share_a_sign(detector):
    vectors = np.eye(16, dtype=np.float32)[:2]
    new = with_finding(detector, "both", ["lines down", "a grid"], vectors)
    assert new.bank.texts == ["lines across", "lines down", "a grid", "even grey"]
    assert new.membership.tolist() == [[0, 0, 0, 1], [1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0]]
    assert new.weights_[2].tolist() == [0, 0.5, 0.5, -1] and torch.equal(new.sign_embeddings_[2], torch.eye(16)[1])
    z, h = detector.features(stripes(1, 1)[0])
    wide = np.column_stack([z[:, :2], np.zeros(len(z)), z[:, 2]])
    assert new.logits(wide, h)[:, :2] == pytest.approx(detector.logits(z, h))


# A memory


def test_it_learns_and_saves_as_a_detector(memory, detector, tmp_path):
    images, labels = stripes(3, 6)
    memory.add(images[:12], names(labels[:12]), who="A")
    memory.add(images[12:], {"down": labels[12:, 1], "across": labels[12:, 0]}, who="A")
    assert [entry.about for entry in memory.file.log] == names(labels)
    u = detector.views(images)[0][:, 0]
    assert memory.prototypes() == pytest.approx(np.stack([u[labels[:, c] == 1].mean(0) for c in (0, 1)]), abs=1e-3)
    new = memory.detector()
    assert bits(new) != bits(detector) and bits(Memory(memory.file.path, detector).base) == bits(detector)
    unseen, truth = stripes(9, 8)
    assert ((new.predict_proba(unseen) > 0.5) == truth).mean() > 0.8
    found = SDMAD.load(new.save(tmp_path / "new"), detector.backbone)
    assert np.array_equal(found.predict_proba(unseen), new.predict_proba(unseen))


def test_it_learns_from_what_the_detector_sees(memory, detector):
    """Patches too, where its signs look at them: what is kept gives z and h of `features`, but for the unit."""
    images, labels = stripes(3, 20)
    memory.add(images, names(labels), who="A")
    direct = learnt(detector, Moments.of(np.hstack(detector.features(images)), labels), memory.prior)
    unseen = stripes(9, 8)[0]
    assert memory.detector().predict_proba(unseen) == pytest.approx(direct.predict_proba(unseen), abs=0.01)
    assert len(memory) == len(images) and detector.views(images)[0].shape[1] == (17 if detector.alignment.local else 1)


def test_sums_are_the_same_in_any_order_and_by_any_number(memory, detector, tmp_path):
    images, labels = stripes(3, 20)
    memory.add(images, names(labels), who="A")
    other, order = Memory(tmp_path / "other.db", detector), np.random.default_rng(0).permutation(len(images))
    for rows in np.split(order, [1, 2, 9, 40]):
        other.add([images[i] for i in rows], [names(labels)[i] for i in rows], who="B")
    assert bits(other.detector()) == bits(memory.detector()) == bits(Memory(other.file.path, detector).detector())


def test_the_file_holds_no_image(memory):
    images, labels = stripes(3, 1)
    memory.add(images, names(labels), who="A")
    content = memory.file.path.read_bytes()
    assert all(image.tobytes()[:64] not in content for image in images)


def test_rollback_gives_the_bits_of_that_day_and_back(memory, detector):
    images, labels = stripes(4, 5)
    days = {0: bits(memory.detector())}
    for start in range(0, 20, 4):
        memory.add(images[start : start + 4], names(labels[start : start + 4]), who="A")
        days[start + 4] = bits(memory.detector())
    for day in (8, 0, 20, 4):
        memory.rollback(day, who="B")
        assert bits(memory.detector()) == days[day] == bits(Memory(memory.file.path, detector).detector())
    again = memory.add(images[4:8], names(labels[4:8]), who="B")  # they stand no longer, and the sums are the same
    assert again == [25, 26, 27, 28] and bits(memory.detector()) == days[8]
    assert [entry.kind for entry in memory.file.log].count("rollback") == 4


SIGNS = ["a bright block", "lines down"]


def block(image):
    image = image.copy()
    image[8:24, 8:24] = 250
    return image


def test_a_new_finding_from_three_images(memory, detector):
    images, labels = stripes(5, 3)
    memory.add(images, names(labels), who="A")
    memory.add_finding("block", SIGNS, list(map(block, images[:3])), who="A")
    new = memory.detector()
    assert new.bank.categories == ("across", "down", "block")
    unseen = stripes(6, 3)[0]
    scores = new.predict_proba([*map(block, unseen), *unseen])[:, 2]
    assert roc_auc_score([1] * 12 + [0] * 12, scores) > 0.9
    assert bits(Memory(memory.file.path, detector).detector()) == bits(new)
    # earlier cases have been looked at again, for the signs of the finding
    with detector.installed() as clip:
        grown = with_finding(detector, "block", SIGNS, clip.encode_texts(SIGNS).numpy())
    every, shown = [*images, *map(block, images[:3])], np.zeros((15, 3))
    shown[:12, :2], shown[12:, 2] = labels, 1
    direct = learnt(grown, Moments.of(np.hstack(grown.features(every)), shown), np.array([4, 4, 0]))
    assert new.predict_proba(unseen) == pytest.approx(direct.predict_proba(unseen), abs=0.02)
    memory.add([block(unseen[0])], [["block"]], who="A")
    memory.rollback(12, who="A")
    assert memory.detector().bank.categories == ("across", "down")


def test_self_made_labels_have_to_be_asked_for(memory):
    images, _ = stripes(7, 2)
    with pytest.raises(CaseError, match="self_made=True"):
        memory.add(images, who="A")
    memory.add(images, who="A", self_made=True)
    assert {entry.kind for entry in memory.file.log} == {"self-made"}


def test_nothing_of_a_bad_batch_is_kept(memory):
    images, labels = stripes(8, 1)
    for bad in ([*names(labels)[:3], ["sideways"]], names(labels)[:3], labels[:, :1]):
        with pytest.raises(CaseError):
            memory.add(images, bad, who="A")
    with pytest.raises(CaseError, match="image 4: is entry 1 already"):
        memory.add([*images, images[0]], [*names(labels), []], who="A")
    assert Memory(memory.file.path, memory.base).file.log == []


def test_a_case_in_another_form_is_the_same_case(memory, tmp_path):
    images, labels = stripes(8, 1)
    Image.fromarray(images[0]).save(tmp_path / "a.png")
    Image.fromarray(images[0]).convert("RGB").save(tmp_path / "b.tif")
    memory.add([tmp_path / "a.png"], names(labels)[:1], who="A")
    for copy in (tmp_path / "b.tif", images[0]):
        with pytest.raises(CaseError, match="is entry 1 already"):
            memory.add([copy], names(labels)[:1], who="A")


def test_entries_cannot_be_changed(memory):
    memory.add(*(part[:1] for part in (stripes(8, 1)[0], [[]])), who="A")
    with sqlite3.connect(memory.file.path) as db:
        for change in ("UPDATE entries SET who = 'B'", "DELETE FROM entries"):
            with pytest.raises(sqlite3.IntegrityError, match="entries are never"):
                db.execute(change)
    db.close()


WRITER = """
import sys
from sdmad_lite.deployment.case_file import CaseFile
file, name = CaseFile(sys.argv[1], "detector", 60.0), sys.argv[2]
for i in range(int(sys.argv[3])):
    with file.opened("IMMEDIATE") as db:
        file.read(db)
        number, = file.write(db, name, [("confirmed", ["down"], f"{name} {i}", bytes(range(250)) * 40)])
    print(number, flush=True)
"""


def writer(path, name, count):
    given = [sys.executable, "-c", WRITER, str(path), name, str(count)]
    return subprocess.Popen(given, stdout=subprocess.PIPE, text=True)


def test_two_writers_and_one_that_is_killed(tmp_path):
    CaseFile(path := tmp_path / "cases.db", "detector", 60.0)
    writers = {name: writer(path, name, count) for name, count in (("A", 40), ("B", 40), ("killed", 100_000))}
    said = {"killed": [writers["killed"].stdout.readline() for _ in range(25)]}
    writers["killed"].send_signal(signal.SIGKILL)
    said["killed"] += writers["killed"].communicate()[0].splitlines()
    said |= {name: writers[name].communicate()[0].split() for name in ("A", "B")}
    assert writers["A"].returncode == writers["B"].returncode == 0
    file = CaseFile(path, "detector", 1.0)  # it is sound
    with file.opened() as db:
        file.read(db)
        assert {blob for blob in file.blobs(db, file.standing)} == {bytes(range(250)) * 40}
    by = {name: [str(entry.id) for entry in file.log if entry.who == name] for name in said}
    assert [entry.id for entry in file.log] == list(range(1, len(file.log) + 1))
    assert by["A"] == said["A"] and by["B"] == said["B"] and len(by["A"]) == 40
    known = [line.strip() for line in said["killed"] if line.strip()]
    assert by["killed"][: len(known)] == known and len(by["killed"]) <= len(known) + 1
