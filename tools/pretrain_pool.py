"""The images that pretraining reads: phantoms with their signs, and composed findings, drawn once."""

from __future__ import annotations

import json
import time
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from pretrain_words import LONGEST, PAIRS, Language, Phrases, tokens_of
from torch import Tensor
from tqdm import tqdm

import sdmad_phantoms.findings as findings
from sdmad_phantoms import MODALITIES, sample_phantoms
from sdmad_phantoms.findings import Finding, for_measuring, sample_finding
from sdmad_phantoms.modality import LEAST_PIXELS

SEED = 20261127
CHUNK = 1024
MOST = 3  # findings of one image
WAYS = 400  # variants of a phrase


def cells(mask: np.ndarray) -> np.ndarray:
    """(128, 128) bool to the share of each of 16 x 16 cells, uint8."""
    return (mask.reshape(16, 8, 16, 8).mean((1, 3)) * 255).astype(np.uint8)


def phantom_chunk(name: str, number: int, count: int) -> dict[str, np.ndarray]:
    """Phantoms of the pretraining categories: images, which signs are true and where they are."""
    kind = MODALITIES[name]
    signs = [sign.id for sign in kind.seen_signs]
    names = [*signs, *(sign.id for sign in kind.bank.normal_signs)]
    images, true = [], np.zeros((count, len(names)), bool)
    where = np.zeros((count, len(signs), 16, 16), np.uint8)
    category = np.zeros((count, len(kind.seen)), bool)
    seed = [*MODALITIES].index(name) * 1_000_000 + SEED + number
    for i, phantom in enumerate(sample_phantoms(count, seed, kind.seen, images_per_patient=1, modality=name)):
        images.append(phantom.image)
        true[i, [names.index(sign) for sign in (*phantom.signs, *phantom.normal_signs())]] = True
        for sign, mask in phantom.masks.items():
            where[i, signs.index(sign)] = cells(mask)
        category[i, [kind.seen.index(c) for c in phantom.categories]] = True
    return {"images": np.stack(images), "true": true, "where": where, "category": category}


def findings_chunk(name: str, number: int, count: int, second: bool = False) -> dict[str, np.ndarray]:
    """Composed findings on healthy patients: where each is, its attributes as codes, and sentences true and altered.

    second: only compositions of the second hold-out, which pretraining never draws.
    """
    rng = np.random.default_rng([SEED, number, [*MODALITIES].index(name), second])
    kind, language, rows = MODALITIES[name], Language(MODALITIES[name]), []
    wanted = partial(for_measuring, name) if second else None
    while len(rows) < count:
        patient, some = kind.sample_patient(rng, "P"), {}
        for _ in range(rng.choice([0, 1, 2, 3], p=[0.08, 0.42, 0.35, 0.15])):
            f = sample_finding(name, rng, kind.sides, wanted)
            some[f.place if f.shape == "structure" else (f.shape, f.place)] = f
        with SeenTerrain() as terrain:
            image, masks = findings.draw_findings(name, patient, [*some.values()], rng)
        rows.append(described(language, [*some.values()], masks, terrain[0], rng) | {"images": image})
    texts = tokens_of([text for row in rows for text in row.pop("texts")]).reshape(count, 2 * PAIRS, LONGEST)
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]} | {"tokens": texts}


class SeenTerrain:
    """The terrains that are made while findings are drawn."""

    NAMES = ("chest_terrain", "brain_terrain", "fundus_terrain")

    def __enter__(self) -> list[findings.Terrain]:
        self.made, self.makers = [], {name: getattr(findings, name) for name in self.NAMES}

        def watched(make):
            def made(*args):
                self.made.append(make(*args))
                return self.made[-1]

            return made

        for name, make in self.makers.items():
            setattr(findings, name, watched(make))
        return self.made

    def __exit__(self, *_) -> None:
        for name, make in self.makers.items():
            setattr(findings, name, make)


def described(language: Language, some: list[Finding], masks: list[np.ndarray], terrain, rng) -> dict:
    """What is true of one image, as numbers, and the sentences that are read of it."""
    kind, places = language.kind, language.codes["place"]
    where = np.zeros((MOST, 16, 16), np.uint8)
    attributes, bits, own = np.zeros((MOST, 9), np.uint8), np.zeros(MOST, np.int64), []
    for f, mask in zip(some, masks, strict=True):
        if mask.mean() < LEAST_PIXELS:
            continue
        said, structure = f.says(), f.shape == "structure"
        # The side is where it is seen; a place holds it when three quarters of it lie there.
        second = float((terrain.across[mask] < 0).mean())
        said["side"] = kind.sides[0] if second > 0.85 else kind.sides[1] if second < 0.15 else ""
        if not said["side"] or (structure and (f.place, f.tone) not in findings.SIDED):
            said.pop("side")
        names = [f"structure {f.place}"] if structure else [
            p for p, place in terrain.places.items() if p == f.place or (place.inside[mask] > 0.4).mean() > 0.75
        ]  # fmt: skip
        i = len(own)
        where[i], attributes[i] = cells(mask), language.coded(said)
        bits[i] = sum(1 << places[p] for p in names)
        own.append(said if structure else {**said, "place": str(rng.choice(names))})
    texts, codes = language.pairs(own, rng)
    return {"where": where, "attributes": attributes, "places": bits, "texts": texts,
            "said": np.array(codes, np.uint8)}  # fmt: skip


def draw_chunk(task: tuple[Path, str, str, int, int, float]) -> bool:
    """One file of the pool, unless it stands or the time is over."""
    work, what, name, number, count, until = task
    path = work / name / f"{what}_{number:04d}.npz"
    if path.exists() or time.time() > until:
        return False
    torch.set_num_threads(1)
    make = {"phantoms": phantom_chunk, "findings": findings_chunk}[what]
    part = path.with_suffix(".part.npz")
    np.savez(part, **make(name, number, count))
    part.rename(path)
    return True


def draw_pool(
    work: Path, phantoms: int, composed: int, workers: int, seconds: float | None, chunk: int = CHUNK
) -> None:
    """Draw both kinds for each modality, in turn, so that a stop leaves a pool of even shares."""
    until = time.time() + (seconds or 1e9)
    counts = {"phantoms": -(-phantoms // chunk), "findings": -(-composed // chunk)}
    order = sorted(((i + 0.5) / n, what, i) for what, n in counts.items() for i in range(n))
    for name in MODALITIES:
        (work / name).mkdir(parents=True, exist_ok=True)
    tasks = [(work, what, name, i, chunk, until) for _, what, i in order for name in MODALITIES]
    with get_context("spawn").Pool(workers) as pool:
        drawn = sum(tqdm(pool.imap_unordered(draw_chunk, tasks), total=len(tasks), unit="chunk", mininterval=10))
    print(f"{drawn} of {len(tasks)} chunks of {chunk} images drawn")


class Pool:
    """The drawn chunks of one modality, as tensors on the device."""

    def __init__(self, work: Path, name: str, device: torch.device):
        self.kind, self.device = MODALITIES[name], device
        self.phrases = Phrases(self.kind)
        first = self._columns(work, "phantoms")
        facts = self.phrases.truth(first["true"], first["where"], first["category"])
        self.images, self.where, self.facts = (self._on(x) for x in (first["images"], first["where"], facts))
        start = len(self.phrases.words)
        sided = np.arange(start, start + len(self.phrases.sides))
        self.sided = self._on(sided[facts[:, sided].any(0)])  # signs of both sides at once are never on one
        self.always = self._on(np.setdiff1d(np.arange(facts.shape[1]), sided))
        self.spoken = self._on(self.phrases.table(facts.shape[1], WAYS, SEED))
        second = self._columns(work, "findings")
        self.composed = {key: self._on(value) for key, value in second.items()}

    def _on(self, x: np.ndarray) -> Tensor:
        return torch.from_numpy(x).to(self.device)

    def _columns(self, work: Path, what: str) -> dict[str, np.ndarray]:
        paths = sorted((work / self.kind.name).glob(f"{what}_????.npz"))
        if not paths:
            raise SystemExit(f"no {what} of {self.kind.name} in {work}: run `python tools/pretrain.py draw` first")
        parts = [np.load(path) for path in paths]
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0].files}

    def phantoms(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Images (N, H, W[, 3]), where (N, S, 16, 16), truth (N, F) and tokens (F, L) of the facts of this step."""
        rows, among = self._pick(len(self.images), count, generator), self._pick(len(self.sided), 8, generator)
        named = torch.cat([self.always, self.sided[among]])
        ways = torch.randint(WAYS, (len(named),), generator=generator, device=self.device)
        return self.images[rows], self.where[rows], self.facts[rows][:, named].float(), self.spoken[named, ways]

    def findings(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Images (N, H, W[, 3]), where (N, 3, 16, 16), which finding a text fits (N, T, 3), tokens (T, L); T = 2 N.

        The texts are a pair of each image: a true one and one with an attribute changed.
        """
        rows = self._pick(len(self.composed["images"]), count, generator)
        chosen = {key: value[rows] for key, value in self.composed.items()}
        pair = torch.randint(PAIRS, (count, 1), generator=generator, device=self.device) * 2
        pair = torch.cat([pair, pair + 1], 1)
        at = torch.arange(count, device=self.device)[:, None]
        said, tokens = chosen["said"][at, pair].flatten(0, 1), chosen["tokens"][at, pair].flatten(0, 1)
        return chosen["images"], chosen["where"], fits(said, chosen["attributes"], chosen["places"]), tokens

    def _pick(self, total: int, count: int, generator: torch.Generator) -> Tensor:
        return torch.randint(total, (count,), generator=generator, device=self.device)


def fits(said: Tensor, attributes: Tensor, places: Tensor) -> Tensor:
    """(N, T, 3) bool: does all that text t says (T, 9) hold for a finding (N, 3, 9)? Places are bits (N, 3)."""
    t, a = said.long()[None, :, None], attributes.long()[:, None]
    same = (t == 0) | (t == a)
    same[..., 2] = (t[..., 2] == 0) | ((places[:, None] >> t[..., 2]) & 1).bool()
    return same.all(-1) & (a[..., 0] > 0)


def summary(work: Path) -> str:
    """How many chunks stand, as one line of JSON."""
    kinds = ("phantoms", "findings")
    return json.dumps({k: len([*work.glob(f"*/{k}_????.npz")]) for k in kinds})
