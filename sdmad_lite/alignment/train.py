"""Stage 1: train the adapters, so that signs meet the images of their category and leave those of others.

`align` is the loop, `training_step` one step of it, `cache_activations` what is computed once before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..running import Checkpoint, Processes, RunConfig, compiled, in_batches, sent
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

MOMENTS = ("exp_avg", "exp_avg_sq")
"""Adam's names for the running means of a gradient and of its square."""


@dataclass(frozen=True)
class AlignmentConfig(Settings):
    """Settings of stage 1. [ours] Chosen on validation phantoms and draws of their own (`tools/ablations.py`)."""

    steps: Count = 100  # of the optimiser; 0 leaves the model frozen, see `SDMAD.training_free`
    lr: Positive = 2e-2  # peak learning rate of Adam
    batch_size: AtLeastOne = 32  # support images in a step
    sign_batch: AtLeastOne | None = None  # signs in a step, drawn anew in each, see `draw_signs`; all when left out
    augmentations: AtLeastOne = 8  # versions of each support image: itself, and others in exposure, position and noise
    mixup: NotNegative = 1.0  # both parameters of the beta distribution of `mixup`; 0 for no mixing
    discrepancy: NotNegative = 0.1  # weight of `discrepancy_loss`
    intra: NotNegative = 0.1  # weight of `intra_anomaly_loss`
    local: Share = 0.0  # of the patches most like a sign in its score, see `sign_scores`; 0 looks at the whole alone
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
        self.labels, self.config, self.processes = labels, config, Processes(device)
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

    def learning_rate(self) -> float:
        """It rises over a tenth of the steps and falls as a cosine."""
        warm = max(1, self.config.steps // 10)
        fall = 0.5 * (1 + np.cos(np.pi * max(0, self.step - warm) / max(1, self.config.steps - warm)))
        return self.config.lr * min((self.step + 1) / warm, fall)

    def update(self, loss: Tensor, losses: list[Tensor]) -> None:
        """One step of Adam down the loss; the single losses are kept for the history."""
        self.optimizer.zero_grad()
        loss.backward()
        self.processes.average_gradients(self.parameters)
        self.optimizer.param_groups[0]["lr"] = self.learning_rate()
        self.optimizer.step()
        self.losses.append(torch.stack([value.detach() for value in losses]))

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint holds: the losses of each step, the parameters, and Adam's two moments of each."""
        state = {"losses": torch.stack(self.losses) if self.losses else torch.zeros(0, len(LOSSES))}
        for number, parameter in enumerate(self.parameters):
            slots = self.optimizer.state.get(parameter, {})
            state[f"parameter.{number}"] = parameter
            state |= {f"{name}.{number}": slots.get(name, torch.zeros_like(parameter)) for name in MOMENTS}
        return state

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go back to where a checkpoint was written; what is drawn from then on is the same too."""
        self.replace(state)
        for _ in self.losses:
            _, rows = self.batch()
            self.blend(rows[:, None], rows[:, None])

    @torch.no_grad()
    def replace(self, state: dict[str, Tensor]) -> None:
        """Take the losses, parameters and moments of a state, and go on drawing."""
        self.losses = list(state["losses"].to(self.bias.device))
        slots = {}
        for number, parameter in enumerate(self.parameters):
            parameter.copy_(state[f"parameter.{number}"])
            moments = {name: state[f"{name}.{number}"] for name in MOMENTS}
            slots[number] = moments | {"step": torch.tensor(float(self.step))}
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": slots})


@torch.no_grad()
def cache_activations(
    backbone: Backbone, below: Callable[[Tensor], Tensor], pixels: Tensor, training: Training, seed: int, limit: float
) -> tuple[Tensor, Tensor]:
    """Activations (A, N, ...) below the first adapter, which never change, and pooled from them h (A, N, d) on the CPU.

    Args:
        below: from pixels (N, 3, H, W), of the support images, to activations; see `split_image_tower`.
        seed: of the augmentations. limit: bytes that may stay on the device; more go to main memory.
    """
    count, cache, pooled = training.config.augmentations, torch.empty(0), []
    for number, version in enumerate(iter_augmented(backbone, pixels, count, seed)):
        rows = training.processes.encode(lambda part: in_batches(below, part), version)
        if not number:
            fits = count * rows.numel() * rows.element_size() <= limit
            cache = rows.new_empty(count, *rows.shape, device=rows.device if fits else "cpu")
        cache[number] = rows
        # without image adapters the rows are the views of the frozen model, of which u counts
        pooled.append((rows[:, 0] if first_adapted(backbone) is None else pool_tokens(rows)).cpu())
    return cache, torch.stack(pooled)


def draw_signs(membership: np.ndarray, most: int | None, seed: Sequence[int]) -> Tensor:
    """Numbers of `most` signs, drawn by the seed from each row of M (C+1, S) in turn; of fewer signs all."""
    rows, count = membership.shape
    if most is None or count <= most:
        return torch.arange(count)
    order = np.random.default_rng(seed).permutation(count)
    drawn = membership[:, order]
    turn = np.where(drawn > 0, drawn.cumsum(1), count).min(0)  # 1 for the first of a row, 2 for the second
    return torch.from_numpy(order[turn.argsort(kind="stable")][: max(rows, most)])


def training_step(
    training: Training,
    activations: Tensor,
    labels: Tensor,
    embed: Callable[[Tensor], Tensor],
    embed_signs: Callable[[], Tensor],
    frozen: Tensor,
    membership: Tensor,
) -> None:
    """One step of stage 1: blend, embed, compare, update.

    Args:
        activations: (n, ...) of a batch below the first adapter. labels: Y (n, C).
        embed: activations to views (n, 1 + P, D). embed_signs: gives v (S, D); both through the adapters.
        frozen: v (S, D) before training. membership: M (C+1, S). All of the signs of this step.
    """
    config = training.config
    activations, labels = training.blend(activations, labels)
    views, v = embed(activations), embed_signs()
    z = sign_scores(views, v, config.local, config.patches)
    # how much more an image looks like a category's signs than like the normal ones, as a logit
    logits = margins(z, equal_weights(membership)) * training.log_scale.exp() + training.bias
    inter = inter_anomaly_loss(logits, labels, config.hardness)
    discrepancy = discrepancy_loss(v, membership)
    intra = intra_anomaly_loss(v, frozen, membership)
    training.update(inter + config.discrepancy * discrepancy + config.intra * intra, [inter, discrepancy, intra])


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

    Images are read once, the signs encoded once in a step (or some, see `draw_signs`). Several processes share the
    encoding, see `running`.

    Args:
        images: N support images. labels: Y (N, C) in {0, 1}. seed: of augmentations and batches.
        run: how it is computed. A checkpoint is not removed at the end.

    Raises:
        DataError: an image cannot be read.
        CheckpointError: the checkpoint is broken or that of another run. OutputError: none can be written.
    """
    *_, aligned = align_stepwise(backbone, adapters, images, labels, bank, config, seed, run)
    return aligned


@torch.inference_mode(False)
@torch.enable_grad()
def align_stepwise(
    backbone: Backbone,
    adapters: nn.ModuleDict,
    images: Sequence,
    labels: np.ndarray,
    bank: SignBank,
    config: AlignmentConfig,
    seed: int = 0,
    run: RunConfig | None = None,
) -> Iterator[Any]:
    """`align` which stops before the first step and after each, and gives its Training; at the end it gives Aligned.

    At each stop the state may be replaced. Until the end the adapters stand in the backbone.
    """
    run, device = run or RunConfig(), backbone.device
    tokens, pixels = backbone.tokenize(bank.texts), backbone.prepare(images, bank.color)
    member = bank.membership()
    membership = torch.from_numpy(member).to(device)
    target = torch.as_tensor(labels, dtype=torch.float32, device=device)
    training = Training(adapters, target, config, seed)
    processes = training.processes
    checkpoint = _resume(training, backbone, adapters, pixels, tokens, bank, seed, run)
    with torch.no_grad():
        frozen = backbone.text_features(tokens)
    length = backbone.text_length(tokens)  # found once: in every step it would wait for a GPU

    def encode(function: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        with run.autocast(device):
            return processes.encode(lambda part: in_batches(function, part, run.at_once).float(), rows)

    with installed(backbone, adapters) as blocks, compiled(blocks if run.compile else ()):
        below, embed = split_image_tower(backbone, config.local > 0)
        cache, activations = cache_activations(backbone, below, pixels, training, seed, run.cache_gib * 2**30)
        yield training
        hidden = not (run.progress and processes.main)
        steps = range(training.step + 1, config.steps + 1)
        for step in tqdm(steps, "stage 1", config.steps, leave=False, disable=hidden, initial=training.step):
            augmentation, row = (sent(number, cache.device) for number in training.batch())
            signs = sent(draw_signs(member, config.sign_batch, (seed, step)), device)
            training_step(
                training,
                sent(cache[augmentation, row], device),
                target[sent(row, device)],
                lambda batch: encode(embed, batch),
                partial(encode, partial(backbone.text_features, length=length), tokens[signs]),
                frozen[signs],
                membership[:, signs],
            )
            # the last one stays until the detector is saved
            if checkpoint and processes.main and (step == config.steps or checkpoint.due(step)):
                checkpoint.write(training.state())
            if run.after_step:
                run.after_step(step)
            yield training
        # what the trained adapters make of every augmentation and every sign
        with torch.no_grad():
            v = backbone.text_features(tokens)

            def scored(part: Tensor) -> Tensor:
                return sign_scores(embed(part.to(device)), v, config.local, config.patches)

            cosines = [processes.encode(lambda part: in_batches(scored, part), version).cpu() for version in cache]
    yield Aligned(
        scale=float(training.log_scale.detach().exp()),
        bias=training.bias.detach().cpu(),
        cosines=torch.stack(cosines),
        sign_embeddings=v.cpu(),
        activations=activations,
        history=[dict(zip(LOSSES, row, strict=True)) for row in training.state()["losses"].tolist()],
    )


def _resume(training: Training, backbone: Backbone, adapters: Any, pixels, tokens, bank, seed: int, run):
    """The checkpoint of this run, if one is wanted; the training goes back to where it was written."""
    if run.checkpoint is None:
        return None
    settings = [(name, adapter.lam, tuple(adapter.down.weight.shape)) for name, adapter in adapters.items()]
    # what has to be the same for a run to go on, under the names that a user is told
    identity = {
        "images": _digest(tuple(pixels.shape), pixels.contiguous().numpy().tobytes()),
        "labels": _digest(training.labels.tolist()),
        "sign bank": _digest(bank.texts, tokens.tolist(), bank.membership().tolist()),
        "backbone": backbone.identity,
        "adapter settings": _digest(settings),
        "alignment settings": asdict(training.config),
        "seed": seed,
        "precision": "bf16" if run.bf16(backbone.device) else "fp32",
    }
    checkpoint = Checkpoint(run.checkpoint, identity, run.checkpoint_seconds, run.checkpoint_steps)
    found = training.processes.from_main(lambda: checkpoint.read(training.state(), training.config.steps))
    if found:
        training.restore(found)
    return checkpoint


def _digest(*parts) -> str:
    return hashlib.sha256(b"".join(p if isinstance(p, bytes) else repr(p).encode() for p in parts)).hexdigest()[:16]
