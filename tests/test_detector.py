"""The detector: what a user calls, what it promises about its numbers, and what it refuses."""

import gzip
import json
import shutil

import numpy as np
import pytest
import torch
from conftest import CATEGORIES, stripes, write_clip
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy.special import expit, logit
from sklearn.exceptions import NotFittedError
from sklearn.metrics import f1_score, roc_auc_score
from tiny_models import Models

from sdmad_lite.alignment import AdapterConfig, AlignmentConfig
from sdmad_lite.clip.backbone import EMBEDDED, load_clip
from sdmad_lite.data import draw_support
from sdmad_lite.detector import SDMAD
from sdmad_lite.errors import BackboneError, BankError, DataError, DetectorError, OutputError, SDMADError
from sdmad_lite.explain import patch_shares
from sdmad_lite.selection import TRAINING_FREE, EvidenceConfig, SelectionConfig
from sdmad_lite.signs.bank import parse_bank
from sdmad_lite.storage import Model

SHORT = AlignmentConfig(steps=6, augmentations=2)
RANK = SelectionConfig(rule="rank")  # drops signs whatever the data, so that zero weights are met


@pytest.fixture(scope="module")
def support(phantom_table):
    return phantom_table.rows(draw_support(phantom_table, 3, seed=0))


@pytest.fixture(scope="module")
def fitted(tiny_clip_name, bank, support):
    """For reading only."""
    backbone = load_clip(tiny_clip_name, device="cpu")
    return SDMAD(bank, backbone=backbone, alignment=SHORT, selection=RANK).fit_table(support)


@pytest.fixture(scope="module")
def images(phantom_table):
    return phantom_table.images[:8]


# Predictions


def test_images_may_be_one_or_many_in_any_form(fitted, images, tmp_path):
    together, path = fitted.predict_proba(images), tmp_path / "image.png"
    Image.fromarray(images[0]).save(path)
    for one in (path, str(path), images[0], Image.open(path), np.stack([images[0]] * 3, 2)):
        np.testing.assert_allclose(fitted.predict_proba(one), together[:1], atol=1e-6)
        assert fitted.predict(one).shape == (1, 3) and [e.category for e in fitted.explain(one)] == list(CATEGORIES)
    for many in (tuple(images), np.stack(images), iter(images)):
        np.testing.assert_allclose(fitted.predict_proba(many), together, atol=1e-6)
    np.testing.assert_allclose(fitted.predict_proba(images[::-1]), together[::-1], atol=1e-6)  # in any company
    assert [len(explained) for explained in fitted.explain(images[:2])] == [3, 3]
    for wrong in (None, 3, {"a.png": 1}, [], np.zeros((32, 32, 1), np.uint8)):
        with pytest.raises(DataError, match="images: "):
            fitted.predict_proba(wrong)


def test_what_is_detected_is_what_predict_says(fitted, images):
    assert [[e.detected for e in explained] for explained in fitted.explain(images)] == fitted.predict(images).tolist()


def test_a_detector_says_what_it_is(tiny_clip, bank, fitted):
    assert "not fitted: call fit(images, labels)" in repr(SDMAD(bank, backbone=tiny_clip))
    assert "Cardiomegaly 2 of 4" in repr(fitted) and "6 steps" in repr(fitted)
    assert "<table>" in fitted._repr_html_() and "not for clinical use" in fitted._repr_html_()


def test_settings_are_attributes_of_their_names(tiny_clip, bank):
    settings = {"adapters": AdapterConfig(lam=0.6), "alignment": SHORT, "selection": RANK, "random_state": 3}
    detector = SDMAD(bank, backbone=tiny_clip, **settings)
    assert {name: getattr(detector, name) for name in settings} == settings
    with pytest.raises(SDMADError, match=r"0 steps train nothing; use SDMAD\.training_free"):
        SDMAD(bank, backbone=tiny_clip, alignment=AlignmentConfig(steps=0))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_fit_works_where_gradients_are_off(tiny_clip, bank, support, images, fitted, mode):
    with mode():
        detector = SDMAD(bank, backbone=tiny_clip, alignment=SHORT, selection=RANK).fit_table(support)
    np.testing.assert_array_equal(detector.predict_proba(images), fitted.predict_proba(images))


def test_predictions_have_a_column_per_category_and_agree_with_each_other(fitted, images):
    probabilities = fitted.predict_proba(images)
    assert probabilities.shape == (8, 3) and ((probabilities > 0) & (probabilities < 1)).all()
    np.testing.assert_allclose(logit(probabilities), fitted.decision_function(images), atol=1e-9)
    np.testing.assert_array_equal(fitted.predict(images), probabilities >= fitted.thresholds_)


@pytest.mark.parametrize("rule", ["discriminant", "rank", "all"])
def test_explanations_sum_to_the_logit(tiny_clip, bank, support, images, rule):
    detector = SDMAD(bank, backbone=tiny_clip, alignment=SHORT, selection=SelectionConfig(rule=rule)).fit_table(support)
    scores, probabilities = detector.decision_function(images), detector.predict_proba(images)
    for i, image in enumerate(images):
        explanations = detector.explain(image)
        assert [e.category for e in explanations] == list(CATEGORIES)
        for c, e in enumerate(explanations):
            assert sum(sign.contribution for sign in e.signs) + e.image + e.bias == pytest.approx(e.logit, abs=1e-6)
            assert e.logit == pytest.approx(scores[i, c], abs=1e-4)  # one image, or a batch
            assert e.probability == pytest.approx(probabilities[i, c], abs=1e-5)
            assert e.threshold == detector.thresholds_[c]


def test_unshrunk_thresholds_give_the_best_f1_on_the_support_set(tiny_clip, bank, support):
    free = SelectionConfig(threshold_prior=0)
    detector = SDMAD(bank, backbone=tiny_clip, alignment=SHORT, selection=free).fit_table(support)
    scores, decisions = detector.predict_proba(support.images), detector.predict(support.images)
    for c in range(3):
        every = [f1_score(support.labels[:, c], scores[:, c] >= cut - 1e-9) for cut in scores[:, c]]
        assert f1_score(support.labels[:, c], decisions[:, c]) == pytest.approx(max(every))


def class_means(logits, labels):
    return np.array([[g[y == value].mean() for g, y in zip(logits.T, labels.T, strict=True)] for value in (1, 0)])


@pytest.mark.parametrize("rule", ["rank", "discriminant"])
def test_choosing_signs_leaves_positives_and_negatives_where_stage_1_put_them(tiny_clip, bank, support, rule):
    means = []
    for selection in ("all", rule):
        settings = {"selection": SelectionConfig(rule=selection), "evidence": EvidenceConfig(share=0)}
        detector = SDMAD(bank, backbone=tiny_clip, alignment=SHORT, **settings)
        means.append(class_means(detector.fit_table(support).decision_function(support.images), support.labels))
    apart = means[0][0] > means[0][1]  # so little training leaves a category the wrong way round: nothing to keep
    assert apart.sum() == 2
    np.testing.assert_allclose(means[0][:, apart], means[1][:, apart], atol=1e-4)


def test_without_stage_1_positives_lie_at_1_and_negatives_at_minus_1(tiny_clip, bank, support):
    detector = SDMAD.training_free(bank, backbone=tiny_clip).fit_table(support)
    assert detector.selection == TRAINING_FREE
    means = class_means(detector.decision_function(support.images), support.labels)
    np.testing.assert_allclose(means, [[1, 1, 1], [-1, -1, -1]], atol=1e-4)


def test_an_explanation_lists_the_signs_of_the_category_and_the_normal_ones(fitted, bank, images):
    for c, e in enumerate(fitted.explain(images[0])):
        assert [sign.text for sign in e.signs] == bank.signs_of(e.category) + bank.signs_of("normal")
        own, normal = e.signs[: -len(bank.normal_signs)], e.signs[-len(bank.normal_signs) :]
        assert sum(sign.weight for sign in own) == pytest.approx(1) == -sum(sign.weight for sign in normal)
        for sign in e.signs:
            assert -1 <= sign.cosine <= 1
            assert sign.contribution == pytest.approx(
                fitted.scale_[c] * sign.weight * (sign.cosine - fitted.reference_[c, bank.texts.index(sign.text)])
            )
        assert {sign.reason.split()[0].rstrip(":;") for sign in own} == {"kept", "dropped"}
        assert all((sign.weight > 0) == sign.reason.startswith("kept") for sign in own)


def test_selected_signs_are_those_with_weight(fitted, bank):
    table = fitted.selected_signs()
    assert list(table) == list(CATEGORIES)
    for c, rows in enumerate(table.values()):
        assert {sign.text for sign in rows} == set(bank.signs_of(CATEGORIES[c]))
        for sign in rows:
            weight = fitted.weights_[c, bank.texts.index(sign.text)]
            assert sign.weight == pytest.approx(weight, abs=1e-6) and sign.kept == (weight > 0)
        assert [sign.weight for sign in rows] == sorted((sign.weight for sign in rows), reverse=True)


def test_sign_maps_have_a_cosine_for_each_sign_and_patch(fitted, bank, images):
    maps = fitted.sign_maps(images[0])
    assert maps.shape == (len(bank.texts), 4, 4) and np.abs(maps).max() <= 1 + 1e-6
    assert not np.allclose(maps, fitted.sign_maps(images[1]))


@pytest.mark.parametrize("patches", [1, 3, 99])
def test_a_score_that_looks_at_patches_is_explained_patch_by_patch(tiny_clip, bank, support, images, tmp_path, patches):
    alignment = AlignmentConfig(steps=4, augmentations=2, local=0.6, patches=patches)
    detector = SDMAD(bank, backbone=tiny_clip, alignment=alignment).fit_table(support)
    z, _ = detector.features(images[0])
    shares = patch_shares(detector, images[0])  # (C, S, h, w)
    parts = detector.scale_[:, None] * detector.weights_ * shares.sum((2, 3))
    for c, e in enumerate(detector.explain(images[0])):
        for sign in e.signs:
            s = bank.texts.index(sign.text)
            assert sign.cosine == pytest.approx(z[0, s], abs=1e-6)
            assert sign.contribution == pytest.approx(parts[c, s], abs=1e-5)
    # the map is that of the adapted model, whose brightest patches count
    maps = detector.sign_maps(images[0])
    with detector.installed() as clip:
        whole = clip.encode_images(images[:1]) @ detector.sign_embeddings_.T
    best = np.sort(maps.reshape(len(maps), -1), axis=1)[:, -min(patches, maps[0].size) :].mean(1)
    np.testing.assert_allclose(z[0], 0.4 * whole[0].numpy() + 0.6 * best, atol=1e-5)
    again = SDMAD.load(detector.save(tmp_path / "det"), tiny_clip)
    np.testing.assert_array_equal(again.predict_proba(images), detector.predict_proba(images))
    np.testing.assert_array_equal(again.reference_, detector.reference_)


@pytest.mark.parametrize("kind", ["openai", "siglip", "resnet"])
def test_a_frozen_model_may_look_at_patches(bank, support, tmp_path, kind):
    """Its h is its u, whether its tower makes this beside patches or alone."""
    clip = load_clip(Models(tmp_path)[kind], device="cpu")
    detector = SDMAD.training_free(bank, backbone=clip, alignment=AlignmentConfig(0, local=0.5)).fit_table(support)
    _, h = detector.features(support.images)
    np.testing.assert_allclose(h, clip.encode_images(support.images), atol=1e-5)


def test_from_a_few_images_it_learns_to_tell_categories_that_co_occur(tiny_clip, bank):
    """16 images to learn from, 80 new ones to tell; the random tower alone does not know the categories."""
    two = bank.restricted(["Cardiomegaly", "Emphysema"])
    new, truth = stripes(1, 20)
    config = {"adapters": AdapterConfig(lam=0.5), "selection": SelectionConfig(rule="all")}
    frozen = SDMAD.training_free(two, backbone=tiny_clip, selection=config["selection"]).fit(*stripes(0, 4))
    trained = SDMAD(two, backbone=tiny_clip, alignment=AlignmentConfig(steps=120, lr=1e-2), **config).fit(
        *stripes(0, 4)
    )
    before, after = (roc_auc_score(truth, d.predict_proba(new)) for d in (frozen, trained))
    assert before < 0.8 and after > 0.95
    assert (trained.predict(new) == truth).mean() > 0.9


def test_no_steps_score_the_frozen_model(tiny_clip, bank, support, images):
    detector = SDMAD.training_free(
        bank, backbone=tiny_clip, selection=SelectionConfig(rule="all"), alignment=AlignmentConfig(0, local=0)
    )
    detector.fit_table(support)
    z = (tiny_clip.encode_images(images) @ tiny_clip.encode_texts(bank.texts).T).double().numpy()
    member = bank.membership().astype(np.float64)
    means = z @ (member / member.sum(1, keepdims=True)).T
    expected = expit(detector.scale_ * (means[:, 1:] - means[:, :1]) + detector.bias_)
    np.testing.assert_allclose(detector.predict_proba(images), expected, atol=1e-6)
    assert detector.history_ == [] and len(detector.adapters_) == 0


# Reproducible, and nobody disturbs anybody


def test_the_same_seed_gives_the_same_detector(tiny_clip, bank, support, images):
    one, two, other = (
        SDMAD(bank, backbone=tiny_clip, alignment=SHORT, random_state=seed).fit_table(support).predict_proba(images)
        for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, other)


def test_fitting_again_starts_anew(tiny_clip, bank, support, images):
    detector = SDMAD(bank, backbone=tiny_clip, alignment=SHORT, selection=RANK)
    one = detector.fit_table(support).predict_proba(images)
    detector.fit_table(support.rows(np.arange(len(support))[::-1]))
    np.testing.assert_array_equal(detector.fit_table(support).predict_proba(images), one)


def test_detectors_that_share_a_backbone_do_not_disturb_each_other(tiny_clip, bank, support, phantom_table, images):
    one = SDMAD(bank, backbone=tiny_clip, alignment=SHORT).fit_table(support)
    before, explained = one.predict_proba(images), one.explain(images[0])
    other = SDMAD(bank.restricted(["Emphysema"]), backbone=tiny_clip, alignment=SHORT, random_state=3)
    other.fit_table(phantom_table.restricted(["Emphysema"]))
    theirs = other.predict_proba(images)
    np.testing.assert_array_equal(one.predict_proba(images), before)
    assert one.explain(images[0]) == explained
    np.testing.assert_array_equal(other.predict_proba(images), theirs)


def test_a_detector_for_colour_does_not_open_the_grey_one_to_colours(tiny_clip, bank, support):
    grey = SDMAD(bank, backbone=tiny_clip, alignment=SHORT).fit_table(support)
    colour = SDMAD(parse_bank({**bank.model_dump(), "color": True}), backbone=tiny_clip, alignment=SHORT).fit_table(
        support
    )
    fundus = np.zeros((32, 32, 3), np.uint8)
    fundus[..., 0] = 200
    assert colour.predict_proba([fundus]).shape == (1, 3)
    with pytest.raises(DataError, match="colour"):
        grey.predict_proba([fundus])
    assert colour.predict_proba([fundus]).shape == (1, 3)


def test_fitting_leaves_the_backbone_bit_identical(tiny_clip, bank, support, images):
    before = tiny_clip.encode_images(images), tiny_clip.encode_texts(bank.texts)
    SDMAD(bank, backbone=tiny_clip, alignment=SHORT).fit_table(support).predict_proba(images)
    after = tiny_clip.encode_images(images), tiny_clip.encode_texts(bank.texts)
    assert torch.equal(before[0], after[0]) and torch.equal(before[1], after[1])


def test_a_fit_that_fails_leaves_the_detector_as_it_was(tiny_clip, bank, support, images, tmp_path):
    detector = SDMAD(bank, backbone=tiny_clip, alignment=SHORT).fit_table(support)
    before = detector.predict_proba(images)
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"empty\.png"):
        detector.fit([*support.images[:-1], tmp_path / "empty.png"], support.labels)
    np.testing.assert_array_equal(detector.predict_proba(images), before)


# Saved and loaded


@pytest.fixture
def saved(fitted, tmp_path):
    return fitted.save(tmp_path / "detector")


def test_a_saved_detector_gives_the_same_results(saved, fitted, images):
    loaded = SDMAD.load(saved)  # finds its backbone by name
    np.testing.assert_allclose(loaded.predict_proba(images), fitted.predict_proba(images), rtol=1e-6)
    np.testing.assert_array_equal(loaded.predict(images), fitted.predict(images))
    for ours, theirs in zip(loaded.explain(images[0]), fitted.explain(images[0]), strict=True):
        assert ours.logit == pytest.approx(theirs.logit, rel=1e-6) and ours.bias == theirs.bias
        assert [(s.text, s.weight, s.reason) for s in ours.signs] == [
            (s.text, s.weight, s.reason) for s in theirs.signs
        ]
    assert loaded.selected_signs() == fitted.selected_signs()
    assert loaded.bank == fitted.bank and loaded.history_ == fitted.history_


def test_saving_what_was_loaded_gives_the_same_files(saved, tmp_path):
    again = SDMAD.load(saved).save(tmp_path / "again")
    for path in saved.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes()


def test_a_saved_folder_holds_json_and_safetensors_alone(saved):
    assert sorted(path.name for path in saved.iterdir()) == ["adapters.safetensors", "detector.json"]
    json.loads((saved / "detector.json").read_text(encoding="utf-8"))
    header = (saved / "adapters.safetensors").read_bytes()
    json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])


def test_the_training_free_detector_can_be_saved_too(tiny_clip, bank, support, images, tmp_path):
    detector = SDMAD.training_free(bank, backbone=tiny_clip).fit_table(support)
    loaded = SDMAD.load(detector.save(tmp_path / "detector"), tiny_clip)
    np.testing.assert_allclose(loaded.predict_proba(images), detector.predict_proba(images), rtol=1e-6)


def test_a_loaded_detector_that_is_fitted_again_tells_the_new_reasons(saved, tiny_clip, support, images):
    loaded = SDMAD.load(saved, tiny_clip)
    loaded.selection = SelectionConfig(rule="all")
    loaded.fit_table(support)
    assert {sign.reason.split(";")[0] for sign in loaded.explain(images[0])[0].signs[:-5]} == {"kept"}


def test_a_save_replaces_an_earlier_one_but_no_other_folder(saved, fitted, tmp_path):
    fitted.save(saved)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("mine")
    with pytest.raises(OutputError, match=r"thesis: exists and holds no detector.json"):
        fitted.save(tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["detector", "thesis"]


def change(name, value):
    def edit(folder):
        state = json.loads((folder / "detector.json").read_text())
        state[name] = value
        (folder / "detector.json").write_text(json.dumps(state))

    return edit


def weights(edit):
    """Change the weights (C, S) of detector.json."""

    def act(folder):
        found = np.array(json.loads((folder / "detector.json").read_text())["weights"])
        edit(found)
        change("weights", found.tolist())(folder)

    return act


def insert(text):
    def edit(folder):
        state = (folder / "detector.json").read_text()
        (folder / "detector.json").write_text(state.replace("{", "{" + text, 1))

    return edit


def tensor(name, edit):
    def act(folder):
        tensors = load_file(folder / "adapters.safetensors")
        save_file(tensors | {name: edit(tensors.get(name)).contiguous()}, folder / "adapters.safetensors")

    return act


def cut(name, length):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:length])


BROKEN = {
    "no such folder": (shutil.rmtree, "detector"),
    "no state": (lambda folder: (folder / "detector.json").unlink(), r"detector\.json"),
    "no weights": (lambda folder: (folder / "adapters.safetensors").unlink(), r"adapters\.safetensors"),
    "weights cut in the header": (cut("adapters.safetensors", 20), r"adapters\.safetensors"),
    "weights cut in the numbers": (cut("adapters.safetensors", -100), r"adapters\.safetensors"),
    "weights empty": (cut("adapters.safetensors", 0), r"adapters\.safetensors"),
    "state cut": (cut("detector.json", 200), r"detector\.json"),
    "state empty": (cut("detector.json", 0), r"detector\.json"),
    "state a list": (lambda folder: (folder / "detector.json").write_text("[1, 2]"), r"detector\.json"),
    "state of another program": (lambda folder: (folder / "detector.json").write_text('{"a": 1}'), r"detector\.json"),
    "state no text": (lambda folder: (folder / "detector.json").write_bytes(b"\xff\xfe\x00"), r"detector\.json"),
    "bank broken": (change("bank", {"name": "x"}), r"detector\.json: .*bank\.categories: Field required"),
    "setting unknown": (change("adapters", {"lambda": 1}), "adapters.lambda: Unexpected keyword"),
    "setting impossible": (change("adapters", {"lam": 2.0}), r"adapters\.lam: .*less than or equal to 1"),
    "setting of another type": (change("alignment", {"steps": "6"}), r"alignment\.steps: .*valid integer"),
    "entry unknown": (change("colour", 1), "colour: Extra inputs"),
    "entry twice": (insert('"seed": 1, '), "the key 'seed' stands twice"),
    "seed of another type": (change("seed", True), "seed: .*valid integer"),
    "too few thresholds": (change("thresholds", [0.5]), r"thresholds has shape \(1,\)"),
    "a truth value": (change("scale", [True, 1, 1]), r"scale\.0: .*valid number"),
    "a number that drowns all others": (change("scale", [1e300, 1, 1]), r"scale\.0: .*less than"),
    "weights that are no shares": (weights(lambda w: w.__imul__(2)), "own signs must sum to 1"),
    "weights of a sign of another category": (weights(lambda w: w.__iadd__(1e-3)), "others be 0"),
    "a reason missing": (change("reasons", [{}, {}, {}]), "reasons: each sign"),
    "no fingerprint": (change("backbone", {"name": "x", "pretrained": None}), "other weights"),
    "other adapters": (change("adapters", {"reduction": 2}), r"adapters\.safetensors: .*is torch.float32 .*expected"),
    "another dtype": (tensor("probe", lambda t: t.half()), r"probe is torch.float16 \(3, 96\), expected torch.float64"),
    "another shape": (tensor("text_features", lambda t: t[:, :3]), r"text_features is torch.float32 \(\d+, 3\)"),
    "weights not finite": (tensor("probe_bias", lambda t: t / 0), "probe_bias holds a number that is not finite"),
    "a tensor too many": (tensor("other", lambda t: torch.zeros(1)), "other is .*, expected not there"),
}


@pytest.mark.parametrize(("damage", "named"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_detector_is_refused_and_the_file_named(saved, tiny_clip, damage, named):
    damage(saved)
    with pytest.raises(SDMADError, match=named):
        SDMAD.load(saved, tiny_clip)


def test_another_model_is_refused(saved, tmp_path):
    other = load_clip(write_clip(tmp_path / "other", seed=1), device="cpu")  # same shapes, other weights
    with pytest.raises(BackboneError, match="detector: was fitted on other weights"):
        SDMAD.load(saved, other)


def test_a_backbone_of_a_relative_path_is_found_from_elsewhere_until_it_is_gone(bank, support, tmp_path, monkeypatch):
    write_clip(tmp_path / "project" / "clip")
    monkeypatch.chdir(tmp_path / "project")
    SDMAD.training_free(bank, backbone="local-dir:clip").fit_table(support).save("detector")
    monkeypatch.chdir("/")
    SDMAD.load(tmp_path / "project" / "detector")
    moved = (tmp_path / "project").rename(tmp_path / "moved")
    assert SDMAD.load(moved / "detector").backbone.name == f"local-dir:{moved / 'clip'}"
    config = json.loads((moved / "clip" / "open_clip_config.json").read_text())
    config["preprocess_cfg"]["mean"] = [0.5] * 3
    (moved / "clip" / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(BackboneError, match=r"detector: was fitted on other preprocessing than .*clip has here"):
        SDMAD.load(moved / "detector")
    shutil.rmtree(moved / "clip")
    with pytest.raises(BackboneError, match=r"project/clip, which is not there; put it back or beside the d"):
        SDMAD.load(moved / "detector")


def test_a_file_of_weights_that_is_gone_is_told_with_what_to_do(tmp_path):
    saved = Model(name="ViT-B-32", pretrained=str(tmp_path / "old" / "w.pt"))
    with pytest.raises(
        BackboneError, match=r"fitted on the CLIP in .*w\.pt, which is not there; put it back or beside"
    ):
        saved.load(tmp_path / "detector", "cpu")


def test_tensors_of_another_detector_are_refused(fitted, support, tmp_path):
    folder = fitted.save(tmp_path / "detector")
    other = SDMAD(fitted.bank, backbone=fitted.backbone, alignment=SHORT, selection=RANK, random_state=1)
    other.fit_table(support).save(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "adapters.safetensors", folder)
    with pytest.raises(DetectorError, match=r"adapters.safetensors: .*does not belong to detector.json"):
        SDMAD.load(folder)


def test_a_tokenizer_that_was_changed_is_told(bank, support, tmp_path):
    folder, vocabulary = tmp_path / "clip", tmp_path / "clip" / "words.gz"
    name = write_clip(folder, text={"tokenizer_kwargs": {"bpe_path": "words.gz"}, "context_length": 77})
    shutil.copy(EMBEDDED / "bpe.txt.gz", vocabulary)
    saved = SDMAD.training_free(bank, backbone=name).fit_table(support).save(tmp_path / "detector")
    first, *merges = gzip.decompress(vocabulary.read_bytes()).splitlines()
    vocabulary.write_bytes(gzip.compress(b"\n".join([first, *merges[::-1]])))
    with pytest.raises(BackboneError, match=r"detector: .*reads signs otherwise than at the fit: its tokenizer"):
        SDMAD.load(saved)


# What is refused


@pytest.mark.parametrize(
    "call",
    [
        lambda d, images, out: d.predict_proba(images),
        lambda d, images, out: d.predict(images),
        lambda d, images, out: d.decision_function(images),
        lambda d, images, out: d.explain(images[0]),
        lambda d, images, out: d.selected_signs(),
        lambda d, images, out: d.save(out),
    ],
)
def test_nothing_is_told_before_fit(tiny_clip, bank, images, tmp_path, call):
    with pytest.raises(NotFittedError, match=r"call fit\(images, labels\)"):
        call(SDMAD(bank, backbone=tiny_clip), images, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("labels", "named"),
    [
        ([1, 0, 1, 0], r"shape \(4,\)"),
        ([[1, 0, 0], [0, 1], [0, 0, 1], [0, 0, 0]], "rows differ in length"),
        ([[np.nan, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]], "only 0 and 1"),
    ],
)
def test_bad_labels_are_named(tiny_clip, bank, images, labels, named):
    with pytest.raises(DataError, match=named):
        SDMAD(bank, backbone=tiny_clip, alignment=SHORT).fit(images[:4], labels)


def test_a_setting_of_another_kind_is_named(bank):
    with pytest.raises(SDMADError, match=r"selection: expected SelectionConfig\(...\), not str"):
        SDMAD(bank, selection="best")
    with pytest.raises(BankError, match="bank: expected a SignBank, a name or a path, not NoneType"):
        SDMAD(None)
    for nowhere in (None, 3, "nowhere"):
        with pytest.raises(DetectorError, match=f"{nowhere}: no such folder"):
            SDMAD.load(nowhere)
    with pytest.raises(SDMADError, match="backbone: expected a name or what load_clip gives, not int"):
        SDMAD(bank, backbone=3)


@pytest.mark.parametrize("seed", [-1, 2**32, True, 0.5, None])
def test_a_seed_is_a_whole_number_and_of_numpy_too(tiny_clip, bank, seed):
    assert type(SDMAD(bank, backbone=tiny_clip, random_state=np.int64(3)).random_state) is int  # as JSON takes it
    with pytest.raises(SDMADError, match=f"random_state is {seed}: it must "):
        SDMAD(bank, backbone=tiny_clip, random_state=seed)


def test_a_table_in_another_order_is_matched_by_name(tiny_clip, bank, support):
    """Also its labels alone: the first lines of the README."""
    turned = support.restricted(bank.categories[::-1])
    one, other = (SDMAD.training_free(bank, backbone=tiny_clip) for _ in range(2))
    one.fit_table(support), other.fit(turned.images, turned.labels)
    np.testing.assert_array_equal(one.weights_, other.weights_)
    with pytest.raises(DataError, match="no column"):
        other.fit_table(support.restricted(bank.categories[1:]))
    with pytest.raises(DataError, match="table: expected what load_data gives, not int"):
        other.fit_table(3)
