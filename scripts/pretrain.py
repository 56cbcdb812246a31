"""Pretrain the embedded CLIP on phantoms: `draw` a pool of images, `train` on it, `export` the weights.

    python scripts/pretrain.py draw
    python scripts/pretrain.py train
    python scripts/pretrain.py export

Three losses, all our choice (sigmoid contrastive learning after Zhai et al. 2023, arXiv 2303.15343):
  * signs: each image against every sign phrase of the batch, positive where the sign was drawn;
  * captions: each image against each caption of the batch, positive where all that it says is true;
  * patches: each patch against the sign phrases, positive where the sign changed that patch.
The categories in `KEPT_OUT` are never drawn and none of their own signs is ever named.
Each subcommand resumes after a stop; everything is seeded.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from sdmad_lite.alignment import augment
from sdmad_lite.backbone import EMBEDDED
from sdmad_lite.phantoms import KEPT_OUT, chest_bank, sample_phantoms

WORK = Path("build/pretrain")
CHECKPOINT, LOG = WORK / "checkpoint.safetensors", WORK / "log.jsonl"
CURVE = Path("docs/results/pretraining.jsonl")
CHUNK = 2048
SEED = 20261122
SEEN = [c for c in chest_bank().categories if c not in KEPT_OUT]
SIGNS = [s for s in chest_bank().signs if set(s.categories) & set(SEEN)]
NORMAL = list(chest_bank().normal_signs)
NAMES = [s.id for s in SIGNS] + [s.id for s in NORMAL]


def draw_chunk(number: int, folder: Path) -> None:
    """One file of CHUNK phantoms: images, which signs are true, where they are (16 x 16) and on which side."""
    path = folder / f"chunk_{number:04d}.npz"
    if path.exists():
        return
    images = np.zeros((CHUNK, 128, 128), np.uint8)
    true = np.zeros((CHUNK, len(NAMES)), bool)
    where = np.zeros((CHUNK, len(SIGNS), 16, 16), np.uint8)
    side = np.zeros((CHUNK, len(SIGNS)), np.int8)
    category = np.zeros((CHUNK, len(SEEN)), bool)
    for i, phantom in enumerate(sample_phantoms(CHUNK, SEED + number, SEEN, images_per_patient=1)):
        images[i] = phantom.image
        for sign, name in zip(phantom.signs, phantom.sides, strict=True):
            s = NAMES.index(sign)
            true[i, s] = True
            where[i, s] = phantom.masks[sign].reshape(16, 8, 16, 8).mean((1, 3)) * 255
            side[i, s] = -1 if name == "right" else 1
        for sign in phantom.normal_signs():
            true[i, NAMES.index(sign)] = True
        for name in phantom.categories:
            category[i, SEEN.index(name)] = True
    part = path.with_suffix(".part.npz")
    np.savez_compressed(part, images=images, true=true, where=where, side=side, category=category)
    part.rename(path)


def draw(args: argparse.Namespace) -> None:
    WORK.mkdir(parents=True, exist_ok=True)
    count = math.ceil(args.images / CHUNK)
    with get_context("spawn").Pool(args.workers) as pool:
        list(tqdm(pool.imap_unordered(partial(draw_chunk, folder=WORK), range(count)), total=count, unit="chunk"))


class Phrases:
    """What can be said of an image (a fact) and the words for it.

    Facts are: every sign and normal sign, every sign on a given side, every category, and "nothing".
    """

    def __init__(self):
        data = json.loads((Path(__file__).parent / "phrases.json").read_text())
        self.templates, self.sides = data["templates"], data["sides"]
        texts = {s.id: s.text for s in SIGNS + NORMAL}
        self.words = [[texts[name], *data["signs"][name][:-1]] for name in NAMES]
        self.unseen = [data["signs"][name][-1] for name in NAMES]
        count = len(SIGNS)
        self.side_facts = [(s, side) for s in range(count) for side in ("right", "left")]

    def truth(self, true: np.ndarray, side: np.ndarray, category: np.ndarray) -> np.ndarray:
        """(N, facts) in {0, 1}."""
        on_side = [true[:, s] & (side[:, s] == (-1 if name == "right" else 1)) for s, name in self.side_facts]
        nothing = ~category.any(1, keepdims=True)
        return np.concatenate([true, np.stack(on_side, 1), category, nothing], 1)

    def say(self, fact: int, rng: np.random.Generator) -> str:
        """A phrase for one fact."""
        if fact < len(self.words):
            return str(rng.choice(self.words[fact]))
        fact -= len(self.words)
        if fact < len(self.side_facts):
            s, side = self.side_facts[fact]
            return str(rng.choice(self.sides[side])).format(rng.choice(self.words[s]))
        fact -= len(self.side_facts)
        if fact < len(SEEN):
            return SEEN[fact].lower()
        return str(rng.choice(["normal chest radiograph", "no finding", "healthy chest", "unremarkable chest x-ray"]))

    def sentence(self, facts: list[int], rng: np.random.Generator) -> str:
        """One to three facts in one sentence."""
        said = [self.say(f, rng) for f in facts]
        joined = said[0] if len(said) == 1 else ", ".join(said[:-1]) + " and " + said[-1]
        return str(rng.choice(self.templates)).format(joined)


class Pool:
    """The drawn chunks, in memory."""

    def __init__(self, phrases: Phrases):
        chunks = [np.load(path) for path in sorted(WORK.glob("chunk_????.npz"))]
        if not chunks:
            raise SystemExit("no pool: run `python scripts/pretrain.py draw` first")
        column = {k: np.concatenate([c[k] for c in chunks]) for k in ("images", "true", "where", "side", "category")}
        self.images, self.where = column["images"], column["where"]
        self.facts = phrases.truth(column["true"], column["side"], column["category"])

    def __len__(self) -> int:
        return len(self.images)


class Student(torch.nn.Module):
    """The open_clip model with a scale and a bias for each loss."""

    def __init__(self):
        super().__init__()
        self.clip, _, _ = open_clip.create_model_and_transforms(f"local-dir:{EMBEDDED}", load_weights=False)
        self.clip.visual.output_tokens = True
        self.scale = torch.nn.Parameter(torch.full((3,), math.log(10.0)))
        self.bias = torch.nn.Parameter(torch.tensor([-3.0, -3.0, -4.0]))
        self.tokenizer = open_clip.get_tokenizer(f"local-dir:{EMBEDDED}", bpe_path=str(EMBEDDED / "bpe.txt.gz"))
        config = self.clip.visual.preprocess_cfg
        self.mean, self.std = config["mean"][0], config["std"][0]

    def images(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, 1, H, W) in [0, 1] to unit embeddings (B, D) and patches (B, P, D)."""
        pooled, tokens = self.clip.visual(((images - self.mean) / self.std).expand(-1, 3, -1, -1))
        return F.normalize(pooled, dim=-1), F.normalize(tokens @ self.clip.visual.proj, dim=-1)

    def texts(self, texts: list[str]) -> torch.Tensor:
        return F.normalize(self.clip.encode_text(self.tokenizer(texts)), dim=-1)

    def loss(self, cosine: torch.Tensor, target: torch.Tensor, kind: int, weight: float) -> torch.Tensor:
        logit = cosine * self.scale[kind].exp() + self.bias[kind]
        return F.binary_cross_entropy_with_logits(logit, target, pos_weight=torch.tensor(weight))


def losses(student: Student, pool: Pool, phrases: Phrases, step: int, batch: int) -> dict[str, torch.Tensor]:
    """The three losses of one step; everything random follows from SEED and the step."""
    rng, generator = np.random.default_rng([SEED, step]), torch.Generator().manual_seed(SEED + step)
    epoch, place = divmod(step * batch, len(pool) - batch + 1)
    rows = np.sort(np.random.default_rng([SEED, 7, epoch]).permutation(len(pool))[place : place + batch])
    facts = torch.from_numpy(pool.facts[rows]).float()
    images = torch.from_numpy(pool.images[rows])[:, None].float() / 255
    where = torch.from_numpy(pool.where[rows]).float() / 255
    grid = student.clip.visual.grid_size
    where = (F.adaptive_avg_pool2d(where, grid) * 4).clamp(max=1).flatten(2)  # (B, signs, P)

    plain = len(NAMES)
    sides = plain + rng.permutation(len(phrases.side_facts))[:14]
    last = np.arange(plain + len(phrases.side_facts), facts.shape[1])
    named = np.concatenate([np.arange(plain), sides, last])
    spoken = [str(rng.choice(phrases.templates)).format(phrases.say(int(f), rng)) for f in named]
    captions, meant = [], []
    for row in rng.permutation(batch)[:24]:
        true = np.flatnonzero(pool.facts[rows[row]])
        told = rng.permutation(true)[: rng.integers(1, 4)]
        captions.append(phrases.sentence(told.tolist(), rng))
        meant.append(facts[:, told].prod(1))
    u, patches = student.images(augment(images, generator))
    v = student.texts(spoken + captions)
    words, sentences = v[: len(spoken)], v[len(spoken) :]
    return {
        "signs": student.loss(u @ words.T, facts[:, named], 0, 2.0),
        "captions": student.loss(u @ sentences.T, torch.stack(meant, 1), 1, 2.0),
        "patches": student.loss(patches @ words[: len(SIGNS)].T, where.transpose(1, 2), 2, 4.0),
    }


def train(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    torch.manual_seed(SEED)
    phrases, student = Phrases(), Student()
    pool = Pool(phrases)
    decay = [p for p in student.parameters() if p.ndim > 1]
    rest = [p for p in student.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.98))
    steps = args.images // args.batch
    start, spent = load_checkpoint(student, optimizer) if CHECKPOINT.exists() else (0, 0.0)
    began = time.monotonic() - spent
    bar = tqdm(range(start, steps), initial=start, total=steps, desc="pretraining", unit="step", mininterval=10)
    for step in bar:
        warm, cool = min(1.0, (step + 1) / 200), 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = args.lr * warm * max(cool, 0.01)
        with sdpa_kernel(SDPBackend.MATH):
            parts = losses(student, pool, phrases, step, args.batch)
            total = parts["signs"] + 0.5 * parts["captions"] + parts["patches"]
            optimizer.zero_grad(set_to_none=True)
            total.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 50 == 0 or step + 1 == steps:
            row = {"step": step + 1, "images": (step + 1) * args.batch, "seconds": round(time.monotonic() - began)}
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
        state = {k.removeprefix(prefix): file.get_tensor(k).half() for k in file.keys() if k.startswith(prefix)}
        state["logit_scale"] = file.get_tensor("model.scale")[0].half()
    state = {k: v.contiguous() for k, v in state.items()}
    save_file(state, args.out, metadata={"format": "pt"})
    args.out.chmod(0o644)  # safetensors makes it private
    shutil.copy(LOG, CURVE)
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB, curve in {CURVE}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    sub = commands.add_parser("draw", help="draw the pool of phantoms")
    sub.add_argument("--images", type=int, default=65536)
    sub.add_argument("--workers", type=int, default=1)
    sub.set_defaults(run=draw)
    sub = commands.add_parser("train", help="train on the pool, or go on from the last checkpoint")
    sub.add_argument("--images", type=int, default=150_000, help="images seen in all")
    sub.add_argument("--batch", type=int, default=96)
    sub.add_argument("--lr", type=float, default=1.2e-3)
    sub.add_argument("--threads", type=int, default=1)
    sub.add_argument("--every", type=int, default=100, help="steps between checkpoints")
    sub.set_defaults(run=train)
    sub = commands.add_parser("export", help="write the weights into the package")
    sub.add_argument("--out", type=Path, default=EMBEDDED / "open_clip_model.safetensors")
    sub.set_defaults(run=export)
    arguments = parser.parse_args()
    arguments.run(arguments)
