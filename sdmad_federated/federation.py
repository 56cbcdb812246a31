"""Together without sharing images: several sites train one detector; adapters and sums travel, images stay. [ours]

    sites = [Site(table, "chest_phantoms", name=name) for name, table in tables.items()]
    detector = fit_together(SDMAD("chest_phantoms"), sites)

Stage 1 is federated averaging (McMahan et al. 2017, arXiv 1602.05629) of parameters and of Adam's moments, weighted by
images. What follows is a function of sums, the same numbers as those of the pooled images. In one process the sites
take turns; `flower` has them on machines of their own.

What a site sends is not anonymous. A sum over one patient *is* that patient, so a category of fewer than `least`
patients stays at home with all its images. Two sums that differ by one patient, adapters after few steps and many
gradients can still give features of images away: neither secure aggregation nor differential privacy is built in.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from sdmad_lite.alignment import build_adapters, installed
from sdmad_lite.alignment.train import LOSSES, Training
from sdmad_lite.deployment.moments import Moments
from sdmad_lite.detector import SDMAD
from sdmad_lite.errors import FederationError
from sdmad_lite.running import Checkpoint, put, state_of
from sdmad_lite.selection import Calibration, equal_weights, typical
from sdmad_lite.settings import AtLeastOne, checked
from sdmad_lite.storage import activation_width, write_detector

from .site import SENT, Arrays, Site, arrays_of, identity, packed, tensors_of
from .sums import fit_image_evidence, fit_signs, mean_margins, normal_f1_thresholds

__all__ = ["SENT", "Site", "average", "fit_together", "in_turn"]

Ask = Callable[[str, Arrays], dict[str, Arrays]]
"""From a task and what is given with it to the answer of each site by its name, always in the same order."""


def in_turn(sites: Sequence[Site]) -> Ask:
    """Ask sites of this process, one after the other."""
    names = [site.name for site in sites]
    if twice := [name for name in names if names.count(name) > 1]:
        raise FederationError(f"sites: {twice[0]!r} stands twice; give each site a name of its own")

    def ask(task: str, given: Arrays) -> dict[str, Arrays]:
        answers = {}
        for site in sites:
            try:
                answers[site.name] = site.answer(task, given)
            except FederationError as error:
                raise FederationError(f"{site.name}: {error}") from None
        return answers

    return ask


def fit_together(
    detector: SDMAD, sites: Sequence[Site] | Ask, *, local_steps: int = 10, checkpoint: str | Path | None = None
) -> SDMAD:
    """Fit a detector on the images of all sites, none of which is seen here.

    Args:
        detector: bank, backbone and settings. sites: those of this process, or what asks others.
        local_steps: of stage 1 at each site between two averages.
        checkpoint: folder of the state after each average, from which the same call goes on if this one is stopped.

    Raises:
        FederationError: a site went away, sent what cannot be used, or has another bank or backbone; or no site has
            enough patients of a category.
    """
    ask = sites if callable(sites) else in_turn(sites)
    plan: dict[str, Any] = identity(detector) | {"seed": detector.random_state}
    plan |= {name: asdict(getattr(detector, name)) for name in ("adapters", "alignment")}
    begun = ask("begin", {"plan": np.frombuffer(json.dumps(plan).encode(), dtype=np.uint8)})
    images = {name: int(answer["images"][0]) for name, answer in begun.items()}
    adapters = build_adapters(detector.backbone, detector.adapters, detector.random_state)
    like = torch.zeros(1, len(detector.bank.categories), device=detector.backbone.device)
    training = Training(adapters, like, detector.alignment, detector.random_state)
    kept = Checkpoint(checkpoint, plan | {"sites": images, "local steps": local_steps}) if checkpoint else None
    _stage1(training, ask, images, checked("local_steps", local_steps, AtLeastOne), kept)
    detector.adapters_, detector.checkpoint_ = adapters, checkpoint
    _stage2(detector, training, ask)
    with TemporaryDirectory() as folder:
        write_detector(detector, Path(folder))
        ask("end", {file.name: np.frombuffer(file.read_bytes(), np.uint8) for file in Path(folder).iterdir()})
    return detector


def _stage1(training: Training, ask: Ask, images: dict[str, int], local_steps: int, kept: Checkpoint | None) -> None:
    """Some steps at each site, the mean of their states, and again."""
    if kept and (found := kept.read(state_of(training), training.config.steps)):
        put(training, found)
    while (done := training.step) < training.config.steps:
        count, state = min(local_steps, training.config.steps - done), arrays_of(training)
        like = state | {"losses": np.zeros((done + count, len(LOSSES)))}
        answers = _checked(ask("train", state | {"steps": np.array([count])}), like, f"stage 1, step {done + 1}")
        put(training, tensors_of(average(answers, images)))
        if kept:
            kept.write(state_of(training))


def average(answers: dict[str, Arrays], images: dict[str, int]) -> Arrays:
    """The mean of what sites sent, each weighted by its number of images."""
    share = {name: count / sum(images.values()) for name, count in images.items()}
    first = next(iter(answers.values()))
    return {key: np.sum([share[site] * answer[key] for site, answer in answers.items()], axis=0) for key in first}


def _stage2(detector: SDMAD, training: Training, ask: Ask) -> None:
    """What follows stage 1, step by step as in `SDMAD.fit`, but from sums; the detector is fitted with it."""
    bank, share, clip = detector.bank, detector.evidence.share, detector.backbone
    with installed(clip, detector.adapters_):
        v = clip.encode_texts(bank.texts)
    s, d, c = len(bank.texts), activation_width(detector.adapters_, v.shape[1]), len(bank.categories)
    like = {
        "signs": Moments.none(s, c, False),
        "versions": Moments.none(s, c),
        "image": Moments.none(d, c, False),
        "images": Moments.none(d, c, False),
    }
    sums = _total(ask("sums", arrays_of(training)), like, "the sums after stage 1")
    if missing := [name for name, count in zip(bank.categories, sums["signs"].count, strict=False) if not count]:
        raise FederationError(f"no site has enough patients with {missing[0]!r}; leave it out of the bank, or ask more")
    # which signs to trust
    selector = fit_signs(detector.selection, sums["signs"], sums["versions"], detector.membership)
    stage1 = mean_margins(sums["signs"], equal_weights(detector.membership)) * training.log_scale.exp().item()
    stage1 += training.bias.detach().double().cpu().numpy()
    # the chosen signs are to be as sure as stage 1 was with all of them, and the image evidence as sure as they are
    chosen = mean_margins(sums["signs"], selector.weights_)
    calibration = Calibration().fit(chosen, stage1 if detector.alignment.steps else None)

    def at(**given: np.ndarray) -> np.ndarray:
        answers = _checked(ask("evidence", given), {"sums": np.empty((c, d + 2))}, "the image evidence")
        return np.sum([answer["sums"] for answer in answers.values()], axis=0)

    wanted = calibration.transform(chosen)
    image = fit_image_evidence(detector.evidence, sums["image"], sums["images"], wanted, at)
    detector.sign_embeddings_, detector.selector_ = v, selector
    detector.history_ = [dict(zip(LOSSES, row.tolist(), strict=True)) for row in training.losses]
    detector.weights_, detector.reasons_ = selector.weights_, selector.reasons_
    detector.reference_ = typical(sums["signs"].total, sums["signs"].count)
    detector.scale_, detector.bias_ = (1 - share) * calibration.scale_, (1 - share) * calibration.bias_
    detector.image_weights_, detector.image_bias_ = share * image.weights_, share * image.bias_
    # decisions: the threshold of best F1, as if logits were normal in both classes
    weights = {"weights": detector.scale_[:, None] * selector.weights_, "image_weights": detector.image_weights_}
    answers = ask("scores", weights | {"bias": detector.bias_ + detector.image_bias_})
    logits = _total(answers, {"logits": Moments.none(c, c, False)}, "the sums of logits")["logits"]
    detector.thresholds_ = normal_f1_thresholds(logits, detector.selection.threshold_prior)


def _total(answers: dict[str, Arrays], like: dict[str, Moments], what: str) -> dict[str, Moments]:
    """The sums of all sites together."""
    _checked(answers, packed(like), what)
    sums = {key: np.sum([answer[key] for answer in answers.values()], axis=0) for key in packed(like)}
    return {name: Moments(*(sums[f"{name}.{part}"] for part in vars(one))) for name, one in like.items()}


def _checked(answers: dict[str, Arrays], like: Arrays, what: str) -> dict[str, Arrays]:
    """The answers, if all have the arrays and shapes of `like` and hold nothing but numbers."""
    for site, answer in answers.items():
        for name, array in like.items():
            found = np.shape(answer[name]) if name in answer else "not there"
            if found != array.shape:
                wrong = f"{name} is {found}, expected {array.shape}; install the same version of sdmad_lite there"
            elif not np.isfinite(answer[name]).all():
                wrong = f"{name} holds a number that is not finite; look for a damaged image or machine there"
            else:
                continue
            raise FederationError(f"{site}, in {what}: {wrong}. Then start all again; a checkpoint goes on from here")
    return answers
