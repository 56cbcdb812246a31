"""Image evidence: pool_tokens activations by hand, one pass for both, and the logit as a mean of signs and image."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from sdmad_lite.alignment import (
    AdapterConfig,
    AlignmentConfig,
    build_adapters,
    installed,
    pool_tokens,
    record_activations,
    split_image_tower,
)
from sdmad_lite.data import draw_support
from sdmad_lite.detector import SDMAD
from sdmad_lite.errors import SDMADError
from sdmad_lite.selection import EvidenceConfig, logistic

SHORT = AlignmentConfig(steps=4)


@pytest.fixture(scope="module")
def support(phantom_table):
    return phantom_table.rows(draw_support(phantom_table, 3, 0))


def fit(clip, bank, support, share, **settings):
    evidence = EvidenceConfig(share=share)
    return SDMAD(bank, backbone=clip, alignment=SHORT, evidence=evidence, **settings).fit_table(support)


def test_pooled_by_hand():
    """Tokens of width 2 are normalised to (1, -1) or (-1, 1), whatever their size: three are of the first kind."""
    tokens = torch.tensor([[[5.0, 1.0], [100.0, 0.0], [3.0, 2.0], [0.0, 4.0]]])
    expected = [[0.5, -0.5, 1, 1, 0.75**0.5, 0.75**0.5]]
    np.testing.assert_allclose(pool_tokens(tokens).numpy(), expected, atol=1e-3)


@pytest.mark.parametrize("share", [0.5, 1.0, 0.0])
def test_what_is_overheard_is_what_enters_the_first_adapter(tiny_clip, phantom_table, share):
    images = phantom_table.images[:5]
    adapters = build_adapters(tiny_clip, AdapterConfig(vision_share=share))
    with torch.no_grad(), installed(tiny_clip, adapters):
        below, _ = split_image_tower(tiny_clip)
        entered = below(tiny_clip.prepare(images))
        with record_activations(tiny_clip) as heard:
            u = tiny_clip.encode_images(images, batch_size=2)
        plain = tiny_clip.encode_images(images, batch_size=2)
    assert [len(part) for part in heard] == ([2, 2, 1] if share else [])  # without adapters h is u
    assert torch.equal(u, plain)
    if share:
        torch.testing.assert_close(torch.cat(heard), pool_tokens(entered), atol=1e-5, rtol=1e-4)


def test_logistic_weights_are_those_of_plain_features():
    rng = np.random.default_rng(0)
    x, labels = rng.normal(3, 5, (40, 6)), rng.integers(0, 2, (40, 2))
    weights, bias = logistic(x, labels, 0.3)
    standard = (x - x.mean(0)) / (x.std(0) + 1e-6)
    for c in range(2):
        model = LogisticRegression(C=0.3, class_weight="balanced", max_iter=2000).fit(standard, labels[:, c])
        np.testing.assert_allclose(x @ weights[c] + bias[c], model.decision_function(standard), atol=1e-9)


def test_the_logit_is_the_mean_of_what_signs_and_image_say(tiny_clip, bank, support, phantom_table):
    signs, image, both = (fit(tiny_clip, bank, support, share) for share in (0, 1, 0.25))
    images = phantom_table.images[:6]
    a, b, mean = (d.decision_function(images) for d in (signs, image, both))
    np.testing.assert_allclose(mean, 0.75 * a + 0.25 * b, atol=1e-6)
    assert not np.allclose(a, b, atol=0.1)


def test_image_and_signs_are_equally_sure_on_the_support_set(tiny_clip, bank, support):
    signs, image = (fit(tiny_clip, bank, support, share).decision_function(support.images) for share in (0, 1))
    checked = 0
    for c, y in enumerate(support.labels.T):
        means = [[g[y == value, c].mean() for value in (1, 0)] for g in (signs, image)]
        if means[0][0] > means[0][1]:  # where stage 1 is the wrong way round there is nothing to be as sure as
            np.testing.assert_allclose(*means, atol=1e-4)
            checked += 1
    assert checked


def test_an_explanation_shows_the_image_evidence_as_a_part(tiny_clip, bank, support, phantom_table):
    detector, image = fit(tiny_clip, bank, support, 0.5), phantom_table.images[0]
    _, h = detector.features([image])
    for e, part in zip(detector.explain(image), detector.image_logits(h)[0], strict=True):
        assert e.image == pytest.approx(part) and e.image != 0
    assert all(e.image == 0 for e in fit(tiny_clip, bank, support, 0).explain(image))


def test_training_free_speaks_by_signs_alone(tiny_clip, bank, support):
    detector = SDMAD.training_free(bank, backbone=tiny_clip).fit_table(support)
    assert detector.evidence.share == 0 and not detector.image_weights_.any()


def test_scores_from_cosines_ask_for_the_evidence(tiny_clip, bank, support):
    detector = fit(tiny_clip, bank, support, 0.5)
    z, h = detector.features(support.images)
    np.testing.assert_allclose(detector.logits(z, h), detector.decision_function(support.images))
    with pytest.raises(SDMADError, match="give the activations of `features` too"):
        detector.logits(z)
    signs = fit(tiny_clip, bank, support, 0)
    np.testing.assert_allclose(signs.logits(z), signs.logits(z, h))
