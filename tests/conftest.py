"""What several test files share: a tiny CLIP, small sets of phantoms, and a wall around the network."""

import json
import os
import socket
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import partial

os.environ["HF_HUB_OFFLINE"] = "1"  # read when the hub's client is imported, so before everything else

import numpy as np
import pytest
import torch
from research_baselines import BASELINES
from research_baselines import phantom_table as meta_table
from safetensors.torch import save_file

from sdmad_lite.alignment import AlignmentConfig
from sdmad_lite.clip.backbone import EMBEDDED, Backbone, load_clip
from sdmad_lite.data import ImageTable
from sdmad_lite.evaluation.baselines import Method
from sdmad_lite.signs.bank import SignBank
from sdmad_phantoms import CHEST, sample_phantoms

CATEGORIES = ("Pleural effusion", "Cardiomegaly", "Emphysema")


@pytest.fixture(scope="session", autouse=True)
def offline():
    """The tests need no network; one that reaches for it fails here, not only on a train."""
    connect = socket.socket.connect

    def refuse(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a test reaches for the network: {address}")
        return connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        yield


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Sums in one order, so that equal means equal; also fastest for models this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def write_clip(folder, seed: int = 0, vision: dict | None = None, text: dict | None = None) -> str:
    """A CLIP of 0.2 million random parameters in open_clip's local form; returns its name for `load_clip`."""
    import open_clip

    words = {"tokenizer_kwargs": {"bpe_path": str(EMBEDDED / "bpe.txt.gz")}, "vocab_size": 4514, "context_length": 32}
    config = {
        "model_cfg": {
            "embed_dim": 16,
            "vision_cfg": vision or {"image_size": 32, "layers": 3, "width": 32, "head_width": 16, "patch_size": 8},
            "text_cfg": {**words, "width": 32, "heads": 2, "layers": 2, **(text or {})},
        },
        "preprocess_cfg": {"mean": [0.45] * 3, "std": [0.25] * 3},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"


@pytest.fixture(scope="session")
def tiny_clip_name(tmp_path_factory) -> str:
    """Name of the tiny CLIP, as a user would give it on the command line."""
    return write_clip(tmp_path_factory.mktemp("clip") / "tiny")


@pytest.fixture
def tiny_clip(tiny_clip_name) -> Backbone:
    """Loaded anew for each test (0.05 s), so that no test sees what another left in the model."""
    return load_clip(tiny_clip_name, device="cpu")


@pytest.fixture(scope="session")
def bank() -> SignBank:
    """Three categories of the chest phantoms."""
    return CHEST.bank.restricted(list(CATEGORIES))


@contextmanager
def few_steps():
    """Where no settings of stage 1 are given: two steps on two versions of each image, which is enough to be fitted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sdmad_lite.detector.AlignmentConfig", partial(AlignmentConfig, steps=2, augmentations=2))
        yield


def plain_table(labels, **meta) -> ImageTable:
    """Numbers for images, labels (N, C) of categories A, B, C, and columns of values."""
    labels = np.asarray(labels)
    columns = {name: tuple(str(value) for value in column) for name, column in meta.items()}
    return ImageTable(tuple(range(len(labels))), labels, tuple("ABC"[: labels.shape[1]]), columns)


def stripes(seed, repeats):
    """Grey noise; category 1 has stripes across, 2 has stripes down; of four images one has both, one none."""
    rng = np.random.default_rng(seed)
    labels = np.array([[0, 0], [1, 0], [0, 1], [1, 1]] * repeats)
    wave = 60 * np.sign(np.sin(np.arange(32) * np.pi / 4 + 0.1))
    images = [128 + rng.normal(0, 5, (32, 32)) + a * wave[:, None] + b * wave[None] for a, b in labels]
    return [np.clip(image, 0, 255).astype(np.uint8) for image in images], labels


def table_of(phantoms, categories) -> ImageTable:
    """Phantoms as the table that `load_folder` would give, with images in memory."""
    labels = np.array([[int(c in p.categories) for c in categories] for p in phantoms])
    people = [p.patient for p in phantoms]
    meta = {"patient_id": tuple(p.patient_id for p in people), "sex": tuple(p.sex for p in people)}
    return ImageTable(tuple(p.image for p in phantoms), labels, tuple(categories), meta)


@pytest.fixture(scope="session")
def phantom_table() -> ImageTable:
    """48 small phantoms of 24 patients, of the categories of `bank` or normal."""
    return table_of(list(sample_phantoms(48, seed=11, categories=CATEGORIES, size=48)), CATEGORIES)


def quick_baselines(backbone: Backbone) -> dict[str, Method]:
    """All baselines, with the least training that still exercises their code (a second for all)."""
    table = meta_table(backbone, "chest", count=60, size=32)
    least = {"steps": 3, "episodes": 2, "adapt_steps": 2, "augmentations": 2, "size": 32, "width": 4, "table": table}
    return {
        name: replace(method, **{f.name: least[f.name] for f in fields(method) if f.name in least})
        for name, method in BASELINES.items()
    }
