"""One site of a federation: what it computes from its images for the server. See `federation`."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
from pydantic import Field

from sdmad_lite.alignment import AdapterConfig, AlignmentConfig, Encoders, Training, build_adapters, training_step
from sdmad_lite.data import ImageTable
from sdmad_lite.deployment.moments import Moments
from sdmad_lite.detector import SDMAD
from sdmad_lite.errors import FederationError, warn
from sdmad_lite.running import RunConfig, put, state_of
from sdmad_lite.selection import margins
from sdmad_lite.settings import checked
from sdmad_lite.signs.bank import SignBank

from .sums import logistic_sums

if TYPE_CHECKING:
    from sdmad_lite.clip.backbone import Backbone

Arrays = dict[str, np.ndarray]
SENT = {
    "begin": "the number of images that take part",
    "train": "adapters, temperature and biases, Adam's moments, losses",
    "sums": "sums of cosines and activations, over each category and over all images",
    "evidence": "loss and gradient of the image evidence, summed over images",
    "scores": "sums of logits, over each category and over all images",
    "end": "nothing",
}
"""What leaves a site in each task."""


class Site:
    """One hospital: images and labels stay here; what `answer` gives is all that leaves.

    Args:
        table: the support set. backbone: a name, or a model that no other site of this process uses.
        name: by which the server tells sites apart.
        least: patients of a category, and without finding, below which nothing is computed from their images.

    `sent` counts what left: task -> (answers, bytes). At the end `detector` is that of all sites.

    Raises:
        FederationError: too few patients without finding.
    """

    def __init__(
        self,
        table: ImageTable,
        bank: SignBank | str | Path,
        backbone: Backbone | str = "embedded",
        *,
        name: str = "site",
        least: int = 5,
    ):
        self.installed = ExitStack()  # open while the adapters of a federation stand in the model
        self.name, self.least = name, checked("least", least, Annotated[int, Field(ge=2)])
        self.detector = SDMAD(bank, backbone=backbone)
        self.bank, self.backbone = self.detector.bank, self.detector.backbone
        self.table = self._enough(table.by_name(self.bank.categories))
        self.labels, self.sent = np.asarray(self.table.labels), dict.fromkeys(SENT, (0, 0))

    def _enough(self, table: ImageTable) -> ImageTable:
        """The rows that show no category of too few patients; leaving some out may make another one rare."""
        patients, shown = table.patients(), np.asarray(table.labels) == 1
        if (normal := len(set(patients[~shown.any(1)]))) < self.least:
            few = f"patients without finding: {normal}, fewer than least={self.least}"
            raise FederationError(f"{self.name}: {few}; add images of others, or stay out")
        keep, rare = np.full(len(table), True), [-1]
        while rare:
            count = [len(set(patients[keep & column])) for column in shown.T]
            rare = [c for c, found in enumerate(count) if 0 < found < self.least]
            for c in rare:
                few = f"patients with {table.categories[c]!r}: {count[c]}, fewer than least={self.least}"
                warn(f"{self.name}: {few}; all their images are left out")
            keep &= ~shown[:, rare].any(1)
        return table.rows(np.flatnonzero(keep))

    @torch.enable_grad()
    def answer(self, task: str, given: Arrays) -> Arrays:
        """What this site computes for the server from what it is given; `SENT` names the tasks."""
        answer = getattr(self, f"_{task}")(**given)
        times, size = self.sent[task]
        self.sent[task] = times + 1, size + sum(array.nbytes for array in answer.values())
        return answer

    def _begin(self, plan: np.ndarray) -> Arrays:
        wanted, own = json.loads(plan.tobytes()), identity(self.detector)
        if other := [what for what in own if wanted[what] != own[what]]:
            raise FederationError(f"has another {' and another '.join(other)} than the server; give both the same")
        adapters = build_adapters(self.backbone, AdapterConfig(**wanted["adapters"]), wanted["seed"])
        self.installed.close()  # of a federation that stopped: its adapters leave the model
        labels = torch.as_tensor(self.labels, dtype=torch.float32, device=self.backbone.device)
        self.training = Training(adapters, labels, AlignmentConfig(**wanted["alignment"]), wanted["seed"])
        self.encoders = Encoders(self.backbone, self.training, self.table.images, self.bank, RunConfig())
        self.installed.enter_context(self.encoders.installed())
        return {"images": np.array([len(self.table)])}

    def _train(self, steps: np.ndarray, **state: np.ndarray) -> Arrays:
        """Some steps of stage 1 from a state."""
        put(self.training, tensors_of(state))
        for _ in range(int(steps[0])):
            training_step(self.training, self.encoders)
        return arrays_of(self.training)

    def _sums(self, **state: np.ndarray) -> Arrays:
        """Stage 1 is over: all that stage 2 asks for."""
        put(self.training, tensors_of(state))
        aligned = self.encoders.aligned()
        self.installed.close()
        self.z = aligned.cosines.double().numpy()
        self.h = aligned.activations.double().numpy()
        sums = {"signs": Moments.of(self.z[0], self.labels, False), "versions": Moments.of(self.z, self.labels)}
        sums |= {"image": Moments.of(self.h[0], self.labels, False), "images": Moments.of(self.h, self.labels, False)}
        return packed(sums)

    def _evidence(self, weights: np.ndarray, centre: np.ndarray, spread: np.ndarray, balance: np.ndarray) -> Arrays:
        scaled = (self.h.reshape(-1, self.h.shape[-1]) - centre) / spread
        return {"sums": logistic_sums(weights, scaled, np.tile(self.labels, (len(self.h), 1)), balance)}

    def _scores(self, weights: np.ndarray, image_weights: np.ndarray, bias: np.ndarray) -> Arrays:
        logits = margins(self.z[0], weights) + margins(self.h[0], image_weights) + bias
        return packed({"logits": Moments.of(logits, self.labels, False)})

    def _end(self, **files: np.ndarray) -> Arrays:
        """The detector of all, as files."""
        with TemporaryDirectory() as folder:
            for name, content in files.items():
                Path(folder, Path(name).name).write_bytes(content.tobytes())
            self.detector = SDMAD.load(folder, self.backbone)
        return {}


def identity(detector: SDMAD) -> dict[str, str]:
    """What has to be the same at each site, under the names that a user is told."""
    clip = detector.backbone
    return {"sign bank": detector.bank.model_dump_json(), "backbone": json.dumps([clip.identity, clip.shape])}


def arrays_of(training: Training) -> Arrays:
    """The state of stage 1 as arrays."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in state_of(training).items()}


def tensors_of(state: Arrays) -> dict[str, torch.Tensor]:
    """And back."""
    return {name: torch.from_numpy(np.array(array)) for name, array in state.items()}


def packed(sums: dict[str, Moments]) -> Arrays:
    """Name -> sums, as arrays."""
    return {f"{name}.{part}": array for name, one in sums.items() for part, array in vars(one).items()}
