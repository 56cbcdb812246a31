"""Stage 1: train the adapters, so that signs meet the images of their category and leave those of others.

`align` is the loop and `training_step` one step of it. `Encoders` leads support images and signs through both towers,
`Training` holds what changes on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..errors import SDMADError
from ..running import Processes, RunConfig, compiled, in_batches, resumed, sent, state_of
from ..selection.sign_selector import equal_weights, margins, sign_scores
from ..settings import AtLeastOne, Count, NotNegative, Positive, Settings, Share
from .activations import first_adapted, pool_tokens, split_image_tower
from .adapters import installed
from .augment import iter_augmented, mixup
from .losses import discrepancy_loss, inter_anomaly_loss, intra_anomaly_loss

if TYPE_CHECKING:
    from ..clip.backbone import Backbone
    from ..signs.bank import SignBank

LOSSES = ("inter-anomaly", "discrepancy", "intra-anomaly")
"""Names of the losses, in the order of the method."""


@dataclass(frozen=True)
class AlignmentConfig(Settings):
    """Settings of stage 1. [ours] Chosen on validation phantoms and draws of their own (`tools/ablations.py`)."""

    steps: Count = 100  # of the optimiser; 0 leaves the model frozen, see `SDMAD.training_free`
    lr: Positive = 2e-2  # peak learning rate of Adam
    batch_size: AtLeastOne = 32  # support images in a step
    sign_batch: AtLeastOne | None = 128  # signs in a step, drawn anew in each from a larger bank; None: always all
    augmentations: AtLeastOne = 8  # versions of each support image: itself, and others in exposure, position and noise
    mixup: NotNegative = 1.0  # both parameters of the beta distribution of `mixup`; 0 for no mixing
    discrepancy: NotNegative = 0.1  # weight of `discrepancy_loss`
    intra: NotNegative = 0.1  # weight of `intra_anomaly_loss`
    local: Share = 0.5  # of the patches most like a sign in its score, see `sign_scores`; 0 looks at the whole alone
    patches: AtLeastOne = 4  # of an image that count there
    hardness: NotNegative = 0.0  # focusing exponent of `inter_anomaly_loss`; above 0 the hardest pairs weigh most


@dataclass
class Aligned:
    """What stage 1 leaves behind, in A augmentations of the N support images, the first unchanged.

    scale: temperature 1/tau. bias: (C,). cosines: z (A, N, S). sign_embeddings: v (S, D). activations: h (A, N, d),
    pooled below the first adapter, for the image evidence. history: the losses of each step.
    """

    scale: float
    bias: Tensor
    cosines: Tensor
    sign_embeddings: Tensor
    activations: Tensor
    history: list[dict[str, float]]


class Training:
    """All that changes while stage 1 runs.

    What is random (augmentations, batches, blends) follows from the seed and is made again when a run goes on.
    """

    def __init__(self, adapters: nn.ModuleDict, labels: Tensor, config: AlignmentConfig, seed: int):
        device = labels.device
        self.adapters, self.labels, self.config, self.seed = adapters, labels, config, seed
        self.processes = Processes(device)
        self.log_scale = torch.tensor(np.log(10.0), dtype=torch.float32, device=device, requires_grad=True)
        self.bias = torch.zeros(labels.shape[1], device=device, requires_grad=True)
        self.parameters = [*adapters.parameters(), self.log_scale, self.bias]
        self.optimizer = torch.optim.Adam(self.parameters, lr=config.lr, fused=device.type == "cuda" or None)
        self.rng = np.random.default_rng(seed)
        self.order: list[int] = []
        self.losses: list[Tensor] = []  # of each step; read late, for reading waits for the device

    @property
    def step(self) -> int:
        """Steps that are done."""
        return len(self.losses)

    def batch(self) -> tuple[Tensor, Tensor]:
        """Augmentation and row of each image of the next batch; every row comes once before any comes again."""
        count = len(self.labels)
        size = min(self.config.batch_size, count)
        if len(self.order) < size:
            self.order = self.rng.permutation(count).tolist()
        rows, self.order = self.order[:size], self.order[size:]
        return torch.from_numpy(self.rng.integers(0, self.config.augmentations, size)), torch.tensor(rows)

    def blend(self, activations: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Few images become many: each is blended with another one, and its labels in the same shares."""
        if not self.config.mixup:
            return activations, labels
        return mixup(activations, labels, self.config.mixup, self.rng)

    def update(self, loss: Tensor, losses: list[Tensor]) -> None:
        """One step of Adam down the loss; the single losses are kept for the history."""
        self.optimizer.zero_grad()
        loss.backward()
        self.processes.average_gradients(self.parameters)
        # the learning rate rises over a tenth of the steps and falls as a cosine
        warm, steps = max(1, self.config.steps // 10), self.config.steps
        fall = 0.5 * (1 + np.cos(np.pi * max(0, self.step - warm) / max(1, steps - warm)))
        self.optimizer.param_groups[0]["lr"] = self.config.lr * min((self.step + 1) / warm, fall)
        self.optimizer.step()
        self.losses.append(torch.stack([value.detach() for value in losses]))


class Encoders:
    """The support images and the signs on their way through both towers, of which several processes share the work.

    frozen: v (S, D) before training. membership: M (C + 1, S). Inside `installed` also cache (A, N, ...), the
    activations below the first adapter, which never change, and pooled from them h (A, N, d) on the CPU.
    """

    def __init__(self, backbone: Backbone, training: Training, images: Sequence, bank: SignBank, run: RunConfig):
        self.backbone, self.training, self.run = backbone, training, run
        self.pixels, self.tokens = backbone.prepare(images, bank.color), backbone.tokenize(bank.texts)
        self.owners = bank.membership()  # the same as membership, where signs are drawn
        self.membership = torch.from_numpy(self.owners).to(backbone.device)
        with torch.no_grad():
            self.frozen = backbone.text_features(self.tokens)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Inside the block the adapters stand in the model, and what lies below them has been computed."""
        with installed(self.backbone, self.training.adapters) as blocks, compiled(blocks if self.run.compile else ()):
            below, self.above = split_image_tower(self.backbone, self.training.config.local > 0)
            self._fill_cache(below)
            yield

    @torch.no_grad()
    def _fill_cache(self, below: Callable[[Tensor], Tensor]) -> None:
        """What `below` makes of each augmentation stays on the device if it fits, else in main memory."""
        count, pooled = self.training.config.augmentations, []
        for number, version in enumerate(iter_augmented(self.backbone, self.pixels, count, self.training.seed)):
            rows = self.training.processes.encode(lambda part: in_batches(below, part), version)
            if not number:
                fits = count * rows.numel() * rows.element_size() <= self.run.cache_gib * 2**30
                self.cache = rows.new_empty(count, *rows.shape, device=rows.device if fits else "cpu")
            self.cache[number] = rows
            # without image adapters the rows are the views of the frozen model, of which u counts
            pooled.append((rows[:, 0] if first_adapted(self.backbone) is None else pool_tokens(rows)).cpu())
        self.pooled = torch.stack(pooled)

    def batch(self) -> tuple[Tensor, Tensor]:
        """The next batch: activations (n, ...) below the first adapter, and labels Y (n, C)."""
        device, (augmentation, row) = self.backbone.device, self.training.batch()
        rows = self.cache[sent(augmentation, self.cache.device), sent(row, self.cache.device)]
        return sent(rows, device), self.training.labels[sent(row, device)]

    def embed(self, activations: Tensor) -> Tensor:
        """Activations (n, ...) to views (n, 1 + P, D), see `Backbone.views`, with gradients to the adapters."""
        return self._encode(self.above, activations)

    def draw_signs(self) -> Tensor:
        """Numbers of the signs of this step."""
        most, seed = self.training.config.sign_batch, (self.training.seed, self.training.step + 1)
        return sent(draw_signs(self.owners, most, seed), self.frozen.device)

    def embed_signs(self, signs: Tensor) -> Tensor:
        """v (S, D) of these signs, with gradients to the adapters."""
        return self._encode(self.backbone.text_features, self.tokens[signs])

    def _encode(self, function: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        with self.run.autocast(self.backbone.device):
            return self.training.processes.encode(
                lambda part: in_batches(function, part, self.run.at_once).float(), rows
            )

    @torch.no_grad()
    def aligned(self) -> Aligned:
        """What the trained adapters make of every augmentation and every sign."""
        training, config, v = self.training, self.training.config, self.backbone.text_features(self.tokens)

        def scored(part: Tensor) -> Tensor:
            return sign_scores(self.above(part.to(v.device)), v, config.local, config.patches)

        cosines = [training.processes.encode(lambda part: in_batches(scored, part), rows).cpu() for rows in self.cache]
        scale, bias = float(training.log_scale.exp()), training.bias.detach().cpu()
        history = [dict(zip(LOSSES, losses.tolist(), strict=True)) for losses in training.losses]
        return Aligned(scale, bias, torch.stack(cosines), v.cpu(), self.pooled, history)


def draw_signs(membership: np.ndarray, most: int | None, seed: Sequence[int]) -> Tensor:
    """Numbers of `most` signs, drawn by the seed from each row of M (C + 1, S) in turn; of fewer signs all."""
    rows, count = membership.shape
    if most is None or count <= most:
        return torch.arange(count)
    order = np.random.default_rng(seed).permutation(count)
    drawn = membership[:, order]
    turn = np.where(drawn > 0, drawn.cumsum(1), count).min(0)  # 1 for the first of a row, 2 for the second
    return torch.from_numpy(order[turn.argsort(kind="stable")][: max(rows, most)])


def training_step(training: Training, encoders: Encoders) -> None:
    """One step of stage 1: draw, blend, embed, compare, update."""
    config, signs = training.config, encoders.draw_signs()
    membership = encoders.membership[:, signs]
    activations, labels = training.blend(*encoders.batch())
    views, v = encoders.embed(activations), encoders.embed_signs(signs)
    z = sign_scores(views, v, config.local, config.patches)
    # how much more an image looks like a category's signs than like the normal ones, as a logit
    logits = margins(z, equal_weights(membership)) * training.log_scale.exp() + training.bias
    inter = inter_anomaly_loss(logits, labels, config.hardness)
    discrepancy = discrepancy_loss(v, membership)
    intra = intra_anomaly_loss(v, encoders.frozen[signs], membership)
    training.update(inter + config.discrepancy * discrepancy + config.intra * intra, [inter, discrepancy, intra])


@torch.inference_mode(False)
@torch.enable_grad()
def align(
    backbone: Backbone,
    adapters: nn.ModuleDict,
    images: Sequence,
    labels: np.ndarray,
    bank: SignBank,
    config: AlignmentConfig,
    seed: int = 0,
    run: RunConfig | None = None,
) -> Aligned:
    """Train the adapters, the temperature and a bias per category on the support set.

    Args:
        images: N support images, read once. labels: Y (N, C) in {0, 1}. seed: of augmentations and batches.
        run: how it is computed. A checkpoint is not removed at the end.

    Raises:
        DataError: an image cannot be read.
        CheckpointError: the checkpoint is broken or that of another run. OutputError: none can be written.
    """
    run, target = run or RunConfig(), torch.as_tensor(labels, dtype=torch.float32, device=backbone.device)
    training = Training(adapters, target, config, seed)
    encoders = Encoders(backbone, training, images, bank, run)
    checkpoint = resumed(training, encoders, bank)
    with encoders.installed():
        left, hidden = range(training.step + 1, config.steps + 1), not (run.progress and training.processes.main)
        for step in tqdm(left, "stage 1", config.steps, leave=False, disable=hidden, initial=training.step):
            training_step(training, encoders)
            # the last one stays until the detector is saved
            if checkpoint and (step == config.steps or checkpoint.due(step)):
                checkpoint.write(state_of(training))
            if run.after_step:
                run.after_step(step)
        aligned = encoders.aligned()
    if not all(torch.as_tensor(part).isfinite().all() for part in (aligned.cosines, aligned.scale, aligned.bias)):
        anew = f", or delete {checkpoint.file} to begin anew" if checkpoint else ""
        raise SDMADError(f"stage 1 ended in numbers that are not finite; lower lr of AlignmentConfig{anew}")
    return aligned
