"""What training costs: an epoch of stage 1 against two other ways, and what each of its savings is worth.

    python tools/performance/alignment.py                                        # ViT-B-32 on the CPU
    python tools/performance/alignment.py --model ViT-L-14-336 --device cuda
    python tools/performance/alignment.py --grow                                 # only: what grows with what

An epoch shows every support image once. Ours are the steps of a real call of `align`; between its epochs the other
ways take their turn in the same process, on a copy of the model, so that a busy machine slows all of them:

- per image, text again (as MVFA-AD's loop does): each image alone through the whole image tower, all signs through
  open_clip's `encode_text` for each image, fp32, one optimizer step for each image; adapters in both towers as ours
- the same, image adapters only: the signs again for each image, but without gradients
- full fine-tuning: batches as ours, all weights, `encode_text` once in a step, fp32

Of the first two only some images are timed, since each costs the same. What is done once before and after the steps
(reading images, activations below the first adapter, final embeddings) is printed apart and is part of "a whole run",
which shows the same number of images on both sides. Weights are random, which takes the same time.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from time import perf_counter
from types import SimpleNamespace

import numpy as np
import torch
from common import drain, peak_memory, ratio, record, seconds, spread, take_turns

from sdmad_lite.alignment import (
    AlignmentConfig,
    RunConfig,
    align,
    build_adapters,
    installed,
    inter_anomaly_loss,
    split_image_tower,
)
from sdmad_lite.clip.backbone import Backbone, as_device, load_clip
from sdmad_lite.running import compiled
from sdmad_lite.selection import equal_weights, margins
from sdmad_lite.signs.bank import load_bank

STEPS = AlignmentConfig().steps


class Task:
    """A support set of random images with K positives of each category and as many normal images, and S signs."""

    def __init__(self, shots: int, categories: int, signs: int, extra: int = 0, size: int = 512):
        rng = np.random.default_rng(0)
        count = shots * (categories + 1) + extra
        self.labels = np.zeros((count, categories), np.int64)
        for c in range(categories):
            self.labels[c * shots : (c + 1) * shots, c] = 1
        self.images = [rng.integers(0, 256, (size, size), np.uint8) for _ in range(count)]
        texts = load_bank("nih_chest14").texts
        self.texts = [texts[i % len(texts)] for i in range(signs)]
        self.membership = torch.zeros(categories + 1, signs)
        self.membership[torch.arange(signs) % (categories + 1), torch.arange(signs)] = 1
        # what `align` asks of a bank; a real one refuses texts that are there twice
        self.bank = SimpleNamespace(texts=self.texts, color=False, membership=self.membership.numpy)


class Other:
    """Training steps by other ways than `align`, on a model of their own, each saving switched on or off."""

    def __init__(self, backbone: Backbone, task: Task, batch: int):
        self.backbone = Backbone(deepcopy(backbone.model), backbone.tokenizer, backbone.name, backbone.pretrained)
        self.device, self.batch = backbone.device, batch
        self.pixels = backbone.prepare(task.images[:batch]).to(self.device)
        self.labels = torch.as_tensor(task.labels[:batch], dtype=torch.float32, device=self.device)
        self.cut, self.tokens = backbone.tokenize(task.texts), backbone.tokenizer(list(task.texts)).to(self.device)
        self.weights = equal_weights(task.membership).to(self.device)

    def loss(self, u: torch.Tensor, v: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return inter_anomaly_loss(10 * margins(u.float() @ v.float().T, self.weights), labels)

    def plain_text(self) -> torch.Tensor:
        return torch.nn.functional.normalize(self.backbone.model.encode_text(self.tokens), dim=-1)

    def per_image(self, images: int, text_adapters: bool = True) -> Callable[[], None]:
        """`images` images, one after the other."""
        adapters = build_adapters(self.backbone)
        trained = [p for name, p in adapters.named_parameters() if text_adapters or name.startswith("image")]
        optimizer = torch.optim.Adam(trained, lr=1e-4, foreach=False)

        def run() -> None:
            with installed(self.backbone, adapters):
                for i in range(images):
                    u = self.backbone.image_features(self.pixels[i : i + 1])
                    with torch.set_grad_enabled(text_adapters):
                        v = self.plain_text()
                    optimizer.zero_grad()
                    self.loss(u, v, self.labels[i : i + 1]).backward()
                    optimizer.step()

        return run

    def fine_tuning(self) -> Callable[[], None]:
        """One step on a batch with all weights of both towers."""
        whole = deepcopy(self.backbone.model).requires_grad_(True)
        optimizer = torch.optim.Adam(whole.parameters(), lr=1e-6)

        def run() -> None:
            u, v = whole.encode_image(self.pixels, normalize=True), whole.encode_text(self.tokens, normalize=True)
            optimizer.zero_grad()
            self.loss(u, v, self.labels).backward()
            optimizer.step()

        return run

    def batched(
        self, cut: bool = False, kept: bool = False, fused: bool = False, bf16: bool = False, compile: bool = False
    ) -> Callable[[], None]:
        """One step on a batch with adapters, the signs encoded once.

        Args:
            cut: texts end where they end. kept: activations below the first adapter are there already.
            fused, bf16, compile: as in `RunConfig` and Adam.
        """
        adapters = build_adapters(self.backbone)
        optimizer = torch.optim.Adam(adapters.parameters(), lr=1e-4, fused=fused or None)
        run = RunConfig(precision="bf16" if bf16 else "fp32")
        with installed(self.backbone, adapters), torch.no_grad():
            activations = split_image_tower(self.backbone)[0](self.pixels)

        def step() -> None:
            with installed(self.backbone, adapters) as blocks, compiled(blocks if compile else ()):
                with run.autocast(self.device):
                    embed = split_image_tower(self.backbone)[1]
                    u = embed(activations)[:, 0] if kept else self.backbone.image_features(self.pixels)
                    v = self.backbone.text_features(self.cut) if cut else self.plain_text()
                optimizer.zero_grad()
                self.loss(u, v, self.labels).backward()
                optimizer.step()

        return step


def epochs(backbone: Backbone, task: Task, rounds: int, images: int, views: int) -> dict:
    """Epochs of a real run of `align` in turns with the other ways."""
    config = AlignmentConfig(augmentations=views)
    count, batch = len(task.images), min(config.batch_size, len(task.images))
    in_epoch = count // batch
    config = replace(config, steps=in_epoch * (rounds + 1))
    shown = in_epoch * batch
    other = Other(backbone, task, batch)
    ways = {  # name -> one measured call, and how often it fits into an epoch
        "per image, text again": (other.per_image(images), shown / images),
        "per image, text again, image adapters only": (other.per_image(images, False), shown / images),
        "full fine-tuning": (other.fine_tuning(), in_epoch),
    }
    times: dict[str, list[float]] = {name: [] for name in ("ours", *ways)}
    started = clock = first = perf_counter()

    def watch(step: int) -> None:
        nonlocal clock, first
        if step == 1:
            drain()
            first = perf_counter()
        if step % in_epoch:
            return
        drain()
        took = perf_counter() - clock
        if step > in_epoch:  # the first epoch warms up
            times["ours"].append(took)
        for name, (call, times_in_epoch) in ways.items():
            took = seconds(call) * times_in_epoch
            if step > in_epoch:
                times[name].append(took)
        clock = perf_counter()

    adapters = build_adapters(backbone)
    align(backbone, adapters, task.images, task.labels, task.bank, config, run=RunConfig(after_step=watch))
    drain()
    step = float(np.median(times["ours"])) / in_epoch
    once = first - started - step + perf_counter() - clock  # before the first step, and after the last
    epochs_of_a_run = STEPS / in_epoch
    figures = {
        "support": f"{count} images, {len(task.texts)} signs, {task.labels.shape[1]} categories, {views} views",
        "an epoch": f"{shown} images in {in_epoch} steps",
        "ours, seconds an epoch": spread(times["ours"]),
        "ours, seconds once": once,
        f"ours, seconds a whole run of {STEPS} steps": once + STEPS * step,
    }
    for name in ways:
        figures[f"{name}, seconds an epoch"] = spread(times[name])
        figures[f"{name}, times ours"] = ratio(times, name, "ours")
        whole = [
            t * epochs_of_a_run / (once + m * epochs_of_a_run) for t, m in zip(times[name], times["ours"], strict=True)
        ]
        figures[f"{name}, times ours, a whole run of {STEPS} steps"] = spread(whole)
    return figures


def savings(backbone: Backbone, task: Task, rounds: int, images: int, compile: bool) -> dict:
    """Seconds of a step of 32 images, one saving after the other, each as a factor over the row before."""
    batch = min(AlignmentConfig().batch_size, len(task.images))
    other = Other(backbone, task, batch)
    rows = {
        "per image, text again": other.per_image(images),
        "one batch, signs once in a step": other.batched(),
        "and texts cut at their end": other.batched(cut=True),
        "and activations below the first adapter kept": other.batched(cut=True, kept=True),
        "and fused Adam": other.batched(cut=True, kept=True, fused=True),
        "and bf16 autocast": other.batched(cut=True, kept=True, fused=True, bf16=True),
    }
    if compile:
        rows["and compiled layers"] = other.batched(cut=True, kept=True, fused=True, bf16=True, compile=True)
    times = take_turns(rows, rounds)
    times["per image, text again"] = [t * batch / images for t in times["per image, text again"]]
    figures: dict = {}
    for before, name in zip([None, *rows], rows, strict=False):
        figures[name] = {"seconds": spread(times[name])}
        if before:
            figures[name]["times the row before"] = ratio(times, before, name)
    reading = take_turns({"read": lambda: backbone.prepare(task.images[:batch])}, rounds)
    figures["images read and resized once, saves in each step"] = {"seconds": spread(reading["read"])}
    return figures


ALL_SIGNS = "signs, all of them in each step"
GROWN = {
    "as it is": {},
    "images": {"extra": 9 * 32},
    "signs": {"signs": 500},
    ALL_SIGNS: {"signs": 500},
    "categories": {"categories": 30},
    "K": {"shots": 80},
}


def growth(backbone: Backbone, rounds: int, views: int) -> dict:
    """Seconds once and a step, and peak memory, where one of the sizes is ten times as large."""
    base = {"shots": 8, "categories": 3, "signs": 50}  # 32 images: a whole batch
    steps, once, step, counts, peaks = 4, {}, {}, {}, {}
    for _ in range(rounds):
        for name, change in GROWN.items():
            task = Task(**{**base, **change})
            counts[name] = len(task.images)
            ticks = []

            def watch(number: int, ticks=ticks) -> None:
                drain()
                ticks.append(perf_counter())

            config, adapters = AlignmentConfig(steps=steps, augmentations=views), build_adapters(backbone)
            if name == ALL_SIGNS:
                config = replace(config, sign_batch=None)
            with peak_memory(backbone.device) as peak:
                whole = seconds(
                    lambda t=task, a=adapters, c=config, w=watch: align(
                        backbone, a, t.images, t.labels, t.bank, c, run=RunConfig(after_step=w)
                    )
                )
            peaks.setdefault(name, []).extend(peak)
            each = float(np.median(np.diff(ticks)))
            step.setdefault(name, []).append(each)
            once.setdefault(name, []).append(whole - steps * each)
    figures = {"as it is": f"{counts['as it is']} images, 50 signs, 3 categories, K = 8, {views} views"}
    for name in GROWN:
        total = {n: [o + STEPS * s for o, s in zip(once[n], step[n], strict=True)] for n in (name, "as it is")}
        figures[name if name == "as it is" else f"ten times the {name}"] = {
            "support images": counts[name],
            "seconds once": spread(once[name]),
            "seconds a step": spread(step[name]),
            "a step, times as it is": ratio(step, name, "as it is"),
            f"a run of {STEPS} steps, times as it is": ratio(total, name, "as it is"),
            "peak of memory, MiB": spread(peaks[name]),
            "peak of memory, times as it is": ratio(peaks, name, "as it is"),
        }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="ViT-B-32", help="'embedded' or an open_clip name (default ViT-B-32)")
    parser.add_argument("--device", help="cpu, cuda, ... (default: an accelerator if there is one)")
    parser.add_argument("--shots", type=int, default=16, help="K (default 16)")
    parser.add_argument("--categories", type=int, default=5)
    parser.add_argument("--signs", type=int, default=50)
    parser.add_argument("--views", type=int, help="versions of each image (default: 8 on an accelerator, 1 on a CPU)")
    parser.add_argument("--rounds", type=int, default=5, help="measured epochs (default 5)")
    parser.add_argument(
        "--images", type=int, help="images timed one by one (default: 16 on an accelerator, 1 on a CPU)"
    )
    parser.add_argument("--threads", type=int, help="of a CPU (default: torch's)")
    parser.add_argument("--compile", action="store_true", help="measure compiled layers too; always on an accelerator")
    parser.add_argument("--grow", action="store_true", help="only what grows with what, on the embedded model")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = as_device(args.device)
    cpu = device.type == "cpu"
    views, images = args.views or (1 if cpu else 8), args.images or (1 if cpu else 16)
    if args.grow:
        record("alignment_growth", device, growth(load_clip(device=device), args.rounds, args.views or 2))
        return
    backbone = load_clip(args.model, None if args.model == "embedded" else "random", device)
    task = Task(args.shots, args.categories, args.signs)
    figures = {
        "model": args.model,
        "epochs": epochs(backbone, task, args.rounds, images, views),
        "savings": savings(backbone, task, args.rounds, images, args.compile or not cpu),
    }
    record(f"alignment {args.model}", device, figures)


if __name__ == "__main__":
    main()
