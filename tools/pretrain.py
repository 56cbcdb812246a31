"""Pretrain the embedded CLIP on phantoms: `draw` a pool of images, `train` on it, `export` the weights.

    python tools/pretrain.py draw --workers 2
    torchrun --nproc_per_node 2 tools/pretrain.py train     # or plain python; a GPU is used where there is one
    python tools/pretrain.py export

Four losses, all our choice (sigmoid contrastive learning after Zhai et al. 2023, arXiv 2303.15343):
  * signs: each image against a phrase for every fact of its modality, positive where the fact is true;
  * captions: each image against each caption of the batch, positive where all that it says is true;
  * patches: each patch against the sign phrases, positive where the sign changed that patch;
  * thumbnail: the image in 16 x 16 pixels, drawn from its embedding, so that what no phrase names stays in it.
The categories in `Modality.kept_out` are never drawn and none of their own signs is ever named, nor are
the `HELD_OUT` phrasings of every other sign. Each subcommand resumes after a stop; everything is seeded.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
import zlib
from contextlib import nullcontext
from functools import partial
from itertools import chain
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from sdmad_lite.alignment import augment
from sdmad_lite.clip import embedded_tower as stem  # noqa: F401  registers the image tower
from sdmad_lite.clip.backbone import EMBEDDED
from sdmad_phantoms import MODALITIES, Modality, sample_phantoms

WORK = Path("build/pretrain")
CHECKPOINT, LOG = WORK / "checkpoint.safetensors", WORK / "log.jsonl"
CURVE = Path("docs/results/pretraining.jsonl")
CHUNK = 2048
SEED = 20261122
WEIGHTS = {"signs": 1.0, "captions": 0.5, "patches": 1.0, "thumbnail": 0.5}
HELD_OUT = 4
"""Of the phrasings under "signs", those that pretraining never reads: `backbone_eval.py` measures new words by them."""


def draw_chunk(task: tuple[str, int]) -> None:
    """One file of CHUNK phantoms: images, which signs are true and where they are (16 x 16)."""
    name, number = task
    kind, path = MODALITIES[name], WORK / name / f"chunk_{number:04d}.npz"
    if path.exists():
        return
    signs = [sign.id for sign in kind.seen_signs]
    names = [*signs, *(sign.id for sign in kind.bank.normal_signs)]
    images, true = [], np.zeros((CHUNK, len(names)), bool)
    where = np.zeros((CHUNK, len(signs), 16, 16), np.uint8)
    category = np.zeros((CHUNK, len(kind.seen)), bool)
    seed = [*MODALITIES].index(name) * 1_000_000 + SEED + number
    for i, phantom in enumerate(sample_phantoms(CHUNK, seed, kind.seen, images_per_patient=1, modality=name)):
        images.append(phantom.image)
        true[i, [names.index(sign) for sign in (*phantom.signs, *phantom.normal_signs())]] = True
        for sign, mask in phantom.masks.items():
            where[i, signs.index(sign)] = mask.reshape(16, 8, 16, 8).mean((1, 3)) * 255
        category[i, [kind.seen.index(c) for c in phantom.categories]] = True
    part = path.with_suffix(".part.npz")
    np.savez_compressed(part, images=np.stack(images), true=true, where=where, category=category)
    part.rename(path)


def draw(args: argparse.Namespace) -> None:
    count = math.ceil(args.images / CHUNK)
    for name in MODALITIES:
        (WORK / name).mkdir(parents=True, exist_ok=True)
    tasks = [(name, number) for number in range(count) for name in MODALITIES]
    with get_context("spawn").Pool(args.workers) as pool:
        list(tqdm(pool.imap_unordered(draw_chunk, tasks), total=len(tasks), unit="chunk"))


class Phrases:
    """What can be said of an image of one modality (facts) and the words for it.

    Facts are: every sign and normal sign, every sign on a given side, every category, and "nothing".
    """

    def __init__(self, kind: Modality):
        data = json.loads((Path(__file__).parent / "phrases" / f"{kind.name}.json").read_text())
        self.kind, self.templates = kind, data["templates"]
        self.signs, known = kind.seen_signs, [*kind.seen_signs, *kind.bank.normal_signs]
        self.words, self.unseen = [], []
        for sign in known:
            phrasings = data["signs"][sign.id]
            order = np.random.default_rng(zlib.crc32(sign.id.encode())).permutation(len(phrasings))
            self.unseen.append([phrasings[i] for i in order[:HELD_OUT]])
            self.words.append([sign.text, *(phrasings[i] for i in order[HELD_OUT:]), *data["more"][sign.id]])
        self.sides = [
            (s, template) for s in range(len(self.signs)) for template in (data["sides"][k] for k in kind.sides)
        ]
        self.rest = [*(data["categories"][c] for c in kind.seen), data["nothing"]]

    def truth(self, true: np.ndarray, where: np.ndarray, category: np.ndarray) -> np.ndarray:
        """(N, facts) in {0, 1}. A sign is on a side where that half of the image holds most of its region."""
        total = where.sum((2, 3), dtype=np.float32) + 1e-6
        upright = self.kind.sides == ("upper", "lower")
        first = (where[:, :, :8] if upright else where[:, :, :, :8]).sum((2, 3), dtype=np.float32) / total
        on_side = np.stack([first > 0.8, (first < 0.2) & (total > 1)], 2).reshape(len(true), -1)
        nothing = ~category.any(1, keepdims=True)
        return np.concatenate([true, on_side, category, nothing], 1)

    def say(self, fact: int, rng: np.random.Generator) -> str:
        """A phrase for one fact."""
        if fact < len(self.words):
            return str(rng.choice(self.words[fact]))
        fact -= len(self.words)
        if fact < len(self.sides):
            sign, templates = self.sides[fact]
            return str(rng.choice(templates)).format(rng.choice(self.words[sign]))
        return str(rng.choice(self.rest[fact - len(self.sides)]))

    def sentence(self, facts: list[int], rng: np.random.Generator) -> str:
        """One to three facts in one sentence."""
        said = [self.say(f, rng) for f in facts]
        joined = said[0] if len(said) == 1 else ", ".join(said[:-1]) + " and " + said[-1]
        return str(rng.choice(self.templates)).format(joined)


class Pool:
    """The drawn chunks of one modality, in memory."""

    def __init__(self, kind: Modality):
        paths = sorted((WORK / kind.name).glob("chunk_????.npz"))
        if not paths:
            raise SystemExit("no pool: run `python tools/pretrain.py draw` first")
        parts = [np.load(path) for path in paths]
        columns = {k: np.concatenate([part[k] for part in parts]) for k in ("images", "true", "where", "category")}
        self.phrases = Phrases(kind)
        self.images, self.where = columns["images"], columns["where"]
        self.facts = self.phrases.truth(columns["true"], self.where, columns["category"])
        first = len(self.phrases.words)
        sided = np.arange(first, first + len(self.phrases.sides))
        self.sided = sided[self.facts[:, sided].any(0)]  # signs of both sides at once are never on one
        self.always = np.setdiff1d(np.arange(self.facts.shape[1]), sided)

    def rows(self, start: int, count: int) -> np.ndarray:
        """`count` rows of the endless seeded shuffle of the pool, from place `start` on."""
        epoch, place = divmod(start, len(self.images) - count + 1)
        return np.random.default_rng([SEED, epoch]).permutation(len(self.images))[place : place + count]


class Student(torch.nn.Module):
    """The open_clip model with a scale and a bias for each loss."""

    def __init__(self):
        super().__init__()
        self.clip, _, _ = open_clip.create_model_and_transforms(f"local-dir:{EMBEDDED}", load_weights=False)
        self.clip.logit_scale.requires_grad_(False)  # `scale` stands for it, one for each loss
        self.scale = torch.nn.Parameter(torch.full((3,), math.log(10.0)))
        self.bias = torch.nn.Parameter(torch.tensor([-3.0, -3.0, -4.0]))
        self.thumbnail = torch.nn.Linear(self.clip.visual.head.proj.out_features, 16 * 16)
        config = self.clip.visual.preprocess_cfg
        self.mean, self.std = config["mean"][0], config["std"][0]

    def forward(self, images: torch.Tensor, words: torch.Tensor, captions: torch.Tensor) -> list[torch.Tensor]:
        """Logits of images (B, 3, H, W) in [0, 1] against words (B, W) and captions (B, C), of patches (B, P, W).

        The last output is the error of the thumbnail, drawn from the embedding alone.
        """
        visual, images = self.clip.visual, (images - self.mean) / self.std
        tokens = visual.trunk.forward_features(images)
        u = F.normalize(visual.head(visual.trunk.forward_head(tokens)), dim=-1)
        patches = F.normalize(visual.head(tokens[:, visual.trunk.num_prefix_tokens :]), dim=-1)
        w, c = self.texts(words), self.texts(captions)
        cosines = (u @ w.T, u @ c.T, patches @ w.T)
        logits = [z * s.exp() + b for z, s, b in zip(cosines, self.scale, self.bias, strict=True)]
        small = F.adaptive_avg_pool2d(images.mean(1, keepdim=True), 16).flatten(1)
        return [*logits, F.mse_loss(self.thumbnail(u * u.shape[1] ** 0.5).float(), small)]

    def texts(self, tokens: torch.Tensor) -> torch.Tensor:
        """open_clip's `encode_text`, normalised, over no more places than the longest text fills."""
        clip, used = self.clip, int(tokens.argmax(1).max()) + 1  # the end token has the highest number
        tokens = tokens[:, :used]
        x = clip.token_embedding(tokens) + clip.positional_embedding[:used]
        x = clip.ln_final(clip.transformer(x, attn_mask=clip.attn_mask[:used, :used]))
        return F.normalize(x[torch.arange(len(x)), tokens.argmax(1)] @ clip.text_projection, dim=-1)


def forget(phrase: str, rng: np.random.Generator) -> str:
    """The phrase without some of its words, so that no single word carries all of it."""
    words = phrase.split()
    kept = [word for word in words if rng.random() > 0.12]
    return " ".join(kept) if len(kept) > 1 else phrase


def pose(pictures: torch.Tensor, where: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """The same random zoom, turn and shift for images (N, ch, H, W) and sign maps (N, S, h, w); some images blurred."""

    def uniform(low: float, high: float) -> torch.Tensor:
        return (torch.rand(len(pictures), generator=generator) * (high - low) + low).to(pictures.device)

    zoom, angle = uniform(0.85, 1.1), uniform(-0.08, 0.08)
    along, across = zoom * torch.cos(angle), zoom * torch.sin(angle)
    x, y = uniform(-0.06, 0.06), uniform(-0.06, 0.06)
    matrix = torch.stack([torch.stack([along, -across, x], 1), torch.stack([across, along, y], 1)], 1)
    pictures, where = (
        F.grid_sample(
            maps, F.affine_grid(matrix, maps.shape, align_corners=False), padding_mode=edge, align_corners=False
        )
        for maps, edge in ((pictures, "border"), (where, "zeros"))
    )
    share = uniform(-0.6, 0.7).clamp_min(0)[:, None, None, None]
    return pictures.lerp(F.avg_pool2d(pictures, 3, 1, 1, count_include_pad=False), share), where


def shade(pictures: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Add a smooth random field to most images (N, ch, H, W), so that the thumbnail is not known from the anatomy."""
    count, size = len(pictures), pictures.shape[-1]
    strength = (torch.rand(count, 1, 1, 1, generator=generator) * 0.16 - 0.06).clamp_min(0)
    field = torch.randn(count, 1, 6, 6, generator=generator) * strength
    return pictures + F.interpolate(field.to(pictures.device), size=size, mode="bicubic", align_corners=False)


def losses(student, tokenizer, pools: list[Pool], step: int, batch: int, rank: int, world: int, device) -> dict:
    """The four losses of one step; everything random follows from SEED, the step and the process."""
    rng = np.random.default_rng([SEED, step, rank])
    generator = torch.Generator().manual_seed(SEED + step * world + rank)
    share = batch // len(pools)
    images, targets, said, meant, spoken, captions = [], [], [], [], [], []
    for pool in pools:
        rows = pool.rows((step * world + rank) * share, share)
        facts = torch.from_numpy(pool.facts[rows]).float()
        picture = torch.from_numpy(pool.images[rows]).to(device).float() / 255
        picture = picture[:, None] if picture.ndim == 3 else picture.permute(0, 3, 1, 2)
        picture, where = pose(picture, torch.from_numpy(pool.where[rows]).to(device).float() / 255, generator)
        images.append(augment(shade(picture, generator), generator).expand(-1, 3, -1, -1))
        named = np.concatenate([pool.always, rng.choice(pool.sided, min(8, len(pool.sided)), replace=False)])
        phrases = [forget(pool.phrases.say(int(f), rng), rng) for f in named]
        spoken.append([str(rng.choice(pool.phrases.templates)).format(phrase) for phrase in phrases])
        said.append(facts[:, named])
        told = [rng.permutation(np.flatnonzero(pool.facts[row]))[: rng.integers(1, 4)] for row in rows[: share // 3]]
        captions.append([pool.phrases.sentence(t.tolist(), rng) for t in told])
        meant.append(torch.stack([facts[:, t].prod(1) for t in told], 1))
        targets.append((F.adaptive_avg_pool2d(where, 8) * 4).clamp(max=1).flatten(2).transpose(1, 2))
    words, sentences = (tokenizer([*chain(*texts)]).to(device) for texts in (spoken, captions))
    signs, whole, patches, thumbnail = student(torch.cat(images), words, sentences)
    first = np.cumsum([0, *(len(texts) for texts in spoken)])
    local = [
        F.binary_cross_entropy_with_logits(
            patches[m * share : (m + 1) * share, :, first[m] : first[m] + target.shape[2]],
            target,
            pos_weight=torch.tensor(4.0, device=device),
        )
        for m, target in enumerate(targets)
    ]
    return {
        "signs": block_loss(signs, said),
        "captions": block_loss(whole, meant),
        "patches": torch.stack(local).mean(),
        "thumbnail": thumbnail,
    }


def block_loss(logits: torch.Tensor, truth: list[torch.Tensor]) -> torch.Tensor:
    """Binary cross-entropy; texts of another modality are false, and weigh a tenth."""
    target = torch.block_diag(*truth).to(logits.device)
    weight = torch.block_diag(*(torch.full_like(t, 0.9) for t in truth)).to(logits.device) + 0.1
    pos_weight = torch.tensor(2.0, device=logits.device)
    loss = F.binary_cross_entropy_with_logits(logits, target, weight, pos_weight=pos_weight, reduction="sum")
    return loss / weight.sum()


def train(args: argparse.Namespace) -> None:
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="bf16")
    torch.set_num_threads(args.threads)
    torch.manual_seed(SEED)
    student = Student()
    pools = [Pool(kind) for kind in MODALITIES.values()]
    tokenizer = open_clip.get_tokenizer(f"local-dir:{EMBEDDED}", bpe_path=str(EMBEDDED / "bpe.txt.gz"))
    decay = [p for p in student.parameters() if p.ndim > 1]
    rest = [p for p in student.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.98))
    start, spent = load_checkpoint(student, optimizer) if CHECKPOINT.exists() else (0, 0.0)
    model, optimizer = accelerator.prepare(student, optimizer)
    rank, world, device = accelerator.process_index, accelerator.num_processes, accelerator.device
    steps = args.images // (args.batch * world)
    began = time.monotonic() - spent
    quiet = not accelerator.is_main_process
    attention = partial(sdpa_kernel, SDPBackend.MATH) if device.type == "cpu" else nullcontext  # faster at small heads
    bar = tqdm(
        range(start, steps), "pretraining", initial=start, total=steps, unit="step", mininterval=10, disable=quiet
    )
    for step in bar:
        warm, cool = min(1.0, (step + 1) / 200), min(1.0, (steps - step) / (args.cool * steps))
        for group in optimizer.param_groups:
            group["lr"] = args.lr * warm * cool
        with attention():
            parts = losses(model, tokenizer, pools, step, args.batch, rank, world, device)
            optimizer.zero_grad(set_to_none=True)
            accelerator.backward(sum(weight * parts[name] for name, weight in WEIGHTS.items()))
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if quiet:
            continue
        if (step + 1) % 25 == 0 or step + 1 == steps:
            images, seconds = (step + 1) * args.batch * world, round(time.monotonic() - began)
            row = {"step": step + 1, "images": images, "seconds": seconds, "processes": world}
            row |= {name: round(value.item(), 5) for name, value in parts.items()}
            with LOG.open("a") as log:
                log.write(json.dumps(row) + "\n")
            bar.set_postfix({k: v for k, v in row.items() if k in parts})
        if (step + 1) % args.every == 0 or step + 1 == steps:
            save_checkpoint(student, optimizer, step + 1, time.monotonic() - began)


def save_checkpoint(student: Student, optimizer: torch.optim.Optimizer, step: int, seconds: float) -> None:
    """Weights and AdamW moments in one safetensors file, moved into place when it is whole."""
    state = {f"model.{k}": v.contiguous() for k, v in student.state_dict().items()}
    for i, moments in optimizer.state_dict()["state"].items():
        state |= {f"optimizer.{i}.{k}": v for k, v in moments.items()}
    part = CHECKPOINT.with_suffix(".part")
    save_file(state, part, metadata={"step": str(step), "seconds": str(seconds)})
    part.rename(CHECKPOINT)


def load_checkpoint(student: Student, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    """Restore a run; returns the step to go on from and the seconds already spent."""
    with safe_open(CHECKPOINT, "pt") as file:
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
    with safe_open(CHECKPOINT, "pt") as file:
        prefix = "model.clip."
        state = {k.removeprefix(prefix): file.get_tensor(k) for k in file.keys() if k.startswith(prefix)}
        state["logit_scale"] = file.get_tensor("model.scale")[0]
    state = {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in state.items()}
    save_file(state, args.out, metadata={"format": "pt"})
    args.out.chmod(0o644)  # safetensors makes it private
    shutil.copy(LOG, CURVE)
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB, curve in {CURVE}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    sub = commands.add_parser("draw", help="draw the pool of phantoms")
    sub.add_argument("--images", type=int, default=40_960, help="of each modality")
    sub.add_argument("--workers", type=int, default=1)
    sub.set_defaults(run=draw)
    sub = commands.add_parser("train", help="train on the pool, or go on from the last checkpoint")
    sub.add_argument("--images", type=int, default=300_000, help="images seen in all; may change until the rate falls")
    sub.add_argument("--cool", type=float, default=0.3, help="last part of the run, in which the learning rate falls")
    sub.add_argument("--batch", type=int, default=96, help="images per process and step, a third of each modality")
    sub.add_argument("--lr", type=float, default=1.5e-3)
    sub.add_argument("--threads", type=int, default=1)
    sub.add_argument("--every", type=int, default=100, help="steps between checkpoints")
    sub.set_defaults(run=train)
    sub = commands.add_parser("export", help="write the weights into the package")
    sub.add_argument("--out", type=Path, default=EMBEDDED / "open_clip_model.safetensors")
    sub.set_defaults(run=export)
    arguments = parser.parse_args()
    arguments.run(arguments)
