"""Backbones, detectors, their folders, and support sets to fit on."""

import json
import pickle

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from sdmad_lite.alignment import AdapterConfig, AlignmentConfig
from sdmad_lite.clip.backbone import load_clip
from sdmad_lite.detector import SDMAD
from sdmad_lite.selection import EvidenceConfig, SelectionConfig, SignSelector

from .world import Case

BACKBONE, FOLDER, FIT, SETTING = "A backbone", "A detector's folder", "A support set", "A setting"


def clip(what, message, name="embedded", pretrained=None, device="cpu", prepared=lambda world: None):
    """A case of `load_clip`; {path} in a name is the folder of the case."""

    def prepare(world):
        prepared(world)
        full, weights = (text and text.replace("{path}", str(world.path)) for text in (name, pretrained))
        return lambda: load_clip(full, weights, device)

    return Case(BACKBONE, what, prepare, message)


def used(what, act, message):
    """A case of a good backbone that is given something wrong."""
    return Case(BACKBONE, what, lambda world: lambda: act(world.backbone), message)


class Code:
    """What a pickle would run."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('code from a checkpoint was run')",))


def folder(what, change, message):
    """A case of a saved detector's folder; `change` spoils it or returns another one."""

    def prepare(world):
        path = world.detector()
        path = change(path) or path
        return lambda: SDMAD.load(path, world.backbone)

    return Case(FOLDER, what, prepare, message)


def state(**changes):
    """Change entries of detector.json, or remove those that become None."""

    def change(path):
        file = path / "detector.json"
        content = json.loads(file.read_text(encoding="utf-8"))
        for name, update in changes.items():
            content[name] = update(content[name])
        file.write_text(json.dumps({k: v for k, v in content.items() if v is not None}), encoding="utf-8")

    return change


def weights(update):
    """Change the tensors of a detector."""

    def change(path):
        file = path / "adapters.safetensors"
        tensors = load_file(file)
        update(tensors)
        save_file(tensors, file)

    return change


def overwritten(name, content):
    return lambda path: (path / name).write_bytes(content) and None


def truncated(path):
    file = path / "adapters.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


STATE, WEIGHTS = "detector.json", "adapters.safetensors"
CHANGES = [
    (STATE, "detector.json that is no JSON", overwritten(STATE, b"{"), "JSONDecodeError: {reason}"),
    (
        STATE,
        "detector.json that is a list",
        overwritten(STATE, b"[]"),
        "TypeError: list indices must be integers or slices, not str",
    ),
    (STATE, "detector.json nested without end", overwritten(STATE, b"[" * 100_000), "RecursionError: {reason}"),
    (STATE, "an entry missing", state(bank=lambda bank: None), "bank: Field required"),
    (
        STATE,
        "an unknown setting",
        state(selection=lambda found: {**found, "luck": 1}),
        "selection.luck: Unexpected keyword argument",
    ),
    (
        STATE,
        "a setting out of range",
        state(adapters=lambda found: {**found, "lam": 7}),
        "adapters.lam: Input should be less than or equal to 1",
    ),
    (
        STATE,
        "numbers that do not fit the bank",
        state(weights=lambda found: found[:1]),
        "weights has shape (1, 6), its sign bank asks for (2, 6)",
    ),
    (
        STATE,
        "numbers that are texts",
        state(scale=lambda found: ["one", *found[1:]]),
        "scale.0: Input should be a valid number",
    ),
    (
        STATE,
        "numbers that are not finite",
        state(bias=lambda found: [float("nan"), *found[1:]]),
        "bias.0: Input should be a finite number",
    ),
    (
        STATE,
        "a scale that turns the ranking round",
        state(scale=lambda found: [-1.0, *found[1:]]),
        "scale.0: Input should be greater than or equal to 0",
    ),
    (
        STATE,
        "a threshold above 1",
        state(thresholds=lambda found: [0.5, 1.5]),
        "thresholds.1: Input should be less than or equal to 1",
    ),
    (WEIGHTS, "a pickle in place of weights", overwritten(WEIGHTS, pickle.dumps(Code())), "SafetensorError: {reason}"),
    (WEIGHTS, "truncated weights", truncated, "SafetensorError: {reason}"),
    (
        WEIGHTS,
        "an adapter of another shape",
        weights(lambda t: t.update(probe=torch.zeros(2, 3, dtype=torch.double))),
        "probe is torch.float64 (2, 3), expected torch.float64 (2, 96)",
    ),
    (
        WEIGHTS,
        "numbers of half the precision",
        weights(lambda t: t.update(probe=t["probe"].float())),
        "probe is torch.float32 (2, 96), expected torch.float64 (2, 96)",
    ),
    (
        WEIGHTS,
        "fewer sign embeddings than signs",
        weights(lambda t: t.update(text_features=t["text_features"][:2])),
        "text_features is torch.float32 (2, 16), expected torch.float32 (6, 16)",
    ),
    (
        WEIGHTS,
        "a tensor missing",
        weights(lambda t: t.pop("probe")),
        "probe is missing, expected torch.float64 (2, 96)",
    ),
]


def fit(what, message, images=4, labels=((0, 0), (1, 0), (0, 1), (1, 1)), act=None):
    """A case of `SDMAD.fit`."""

    def prepare(world):
        detector = SDMAD(world.bank(), backbone=world.backbone, alignment=AlignmentConfig(steps=1, augmentations=1))
        pictures = [np.full((32, 32), i, np.uint8) for i in range(images)]
        return lambda: act(detector) if act else detector.fit(pictures, np.array(labels))

    return Case(FIT, what, prepare, message)


def setting(what, make, message):
    """A case of a setting out of its range."""
    return Case(SETTING, what, lambda world: make, message)


def long_sign(world):
    bank = world.bank(normal_signs=[{"text": "clear lungs " * 40}])
    return lambda: SDMAD(bank, backbone=world.backbone)


def onto_foreign(world):
    world.write("precious/thesis.txt", "years of work")
    detector = SDMAD.load(world.fitted, world.backbone)
    return lambda: detector.save(world.path / "precious")


CASES = [
    clip(
        "a name that is no model",
        (
            "unknown model 'ViT-B-33': use 'embedded', 'embedded-2', a name of open_clip.list_models(), 'local-dir:"
            "FOLDER' or 'hf-hub:ORGANISATION/NAME'"
        ),
        "ViT-B-33",
    ),
    clip(
        "a model without weights",
        "ViT-B-32: say which weights; give pretrained=... a file, 'random', or a tag ({tags})",
        "ViT-B-32",
    ),
    clip(
        "a tag that the model has not",
        (
            "ViT-B-32: pretrained='openia' is no file and no tag; give pretrained=... a file, 'random"
            "', or a tag ({tags})"
        ),
        "ViT-B-32",
        "openia",
    ),
    clip(
        "a file of weights that is not there",
        (
            "ViT-B-32: pretrained='{path}/weights.safetensors' is no file and no tag; give pretrained"
            "=... a file, 'random', or a tag ({tags})"
        ),
        "ViT-B-32",
        "{path}/weights.safetensors",
    ),
    clip(
        "a pickle as weights",
        (
            "ViT-B-32 (pretrained={path}/weights.pt): cannot be loaded: {reason}. Check the name, fil"
            "e and device. load_clip('embedded') needs nothing"
        ),
        "ViT-B-32",
        "{path}/weights.pt",
        prepared=lambda w: w.write("weights.pt", b"\x80\x04."),
    ),
    clip(
        "a folder that is not there",
        (
            "local-dir:{path}/clip (pretrained=None): cannot be loaded: {reason}. Check the name, fil"
            "e and device. load_clip('embedded') needs nothing"
        ),
        "local-dir:{path}/clip",
    ),
    clip(
        "other weights for a model that has its own",
        "embedded: brings its own weights; leave pretrained='openai' out",
        pretrained="openai",
    ),
    clip(
        "a device that is not there",
        "device 'abacus': {reason}; give cpu, cuda, cuda:1, a number of a GPU, or leave it out",
        device="abacus",
    ),
    used(
        "no images", lambda backbone: backbone.encode_images([]), "images: the list is empty; give at least one image"
    ),
    used(
        "an empty sign",
        lambda backbone: backbone.tokenize([" "]),
        "a sign is empty; write what is visible, or remove it",
    ),
    folder(
        "a folder that is not there",
        lambda path: path.parent / "nowhere",
        "{path}/nowhere: no such folder; name one that SDMAD.save or 'sdmad fit' wrote",
    ),
    folder(
        "no adapters.safetensors",
        lambda path: (path / "adapters.safetensors").unlink(),
        "{path}/detector: holds no adapters.safetensors; name a folder that SDMAD.save or 'sdmad fit' wrote",
    ),
    *(
        folder(what, change, f"{{path}}/detector/{file}: not what save() wrote ({why}); copy it again, or fit again")
        for file, what, change, why in CHANGES
    ),
    folder(
        "weights of another model",
        state(backbone=lambda found: {**found, "fingerprint": "0" * 16}),
        "{path}/detector: was fitted on other weights than {clip} has here; fit again",
    ),
    fit(
        "a prediction before fit",
        "SDMAD: call fit(images, labels) or SDMAD.load(folder) first",
        act=lambda detector: detector.predict_proba([]),
    ),
    fit(
        "labels of another shape",
        "labels: shape (4, 1), expected (4, 2) (images, categories of the bank)",
        labels=((0,), (1,), (0,), (1,)),
    ),
    fit("fewer labels than images", "labels: shape (4, 2), expected (5, 2) (images, categories of the bank)", images=5),
    fit("labels other than 0 and 1", "labels: only 0 and 1 are allowed", labels=((0, 0), (2, 0), (0, 1), (1, 1))),
    fit(
        "a category without a positive",
        "labels: category 'Nodule' has no positive image; add one or restrict the bank",
        labels=((0, 0), (1, 0), (1, 0), (1, 0)),
    ),
    fit(
        "no normal image",
        ("labels: no normal image (a row of zeros); add at least one, scores are measured against it"),
        labels=((1, 0), (1, 0), (0, 1), (1, 1)),
    ),
    Case(
        FIT,
        "a sign that is too long",
        long_sign,
        "sign '{sign}' has 122 tokens, but the text tower of {clip} reads 32; shorten it",
    ),
    Case(
        FOLDER,
        "a save onto other files",
        onto_foreign,
        ("{path}/precious: exists and holds no detector.json of an earlier run; choose a new or empty folder"),
    ),
    setting("lam above 1", lambda: AdapterConfig(lam=1.5), "lam is 1.5: it must be less than or equal to 1"),
    setting(
        "a bottleneck of nothing",
        lambda: AdapterConfig(reduction=0),
        "reduction is 0: it must be greater than or equal to 1",
    ),
    setting("negative steps", lambda: AlignmentConfig(steps=-1), "steps is -1: it must be greater than or equal to 0"),
    setting("half a step", lambda: AlignmentConfig(steps=1.5), "steps is 1.5: it must be a valid integer"),
    setting("a text for a number", lambda: AlignmentConfig(lr="0.1"), "lr is '0.1': it must be a valid number"),
    setting("no number", lambda: AlignmentConfig(mixup=float("nan")), "mixup is nan: it must be a finite number"),
    setting(
        "an unknown rule",
        lambda: SelectionConfig(rule="best"),
        "rule is 'best': it must be 'discriminant', 'rank' or 'all'",
    ),
    setting("nothing kept", lambda: SelectionConfig(keep=0), "keep is 0: it must be greater than 0"),
    setting("a share above 1", lambda: EvidenceConfig(share=2), "share is 2: it must be less than or equal to 1"),
    setting(
        "a selector before fit",
        lambda: SignSelector().transform(np.zeros((1, 2))),
        "SignSelector: call fit(cosines, labels, membership) first",
    ),
]
