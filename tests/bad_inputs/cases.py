"""A memory of cases, and another hospital."""

import sqlite3
from dataclasses import replace
from unittest.mock import patch

import numpy as np

from sdmad_lite.data import load_data, read_image
from sdmad_lite.deployment.memory import Memory
from sdmad_lite.deployment.sites import compare_sites
from sdmad_lite.detector import SDMAD

from .world import CATEGORIES, Case

GROUP, SITES = "A memory of cases", "Another hospital"
TRAIN, TEST = ("train",), ("test",)


def opened(world, folder=None, **more):
    return Memory(world.path / "cases.db", SDMAD.load(folder or world.fitted, world.backbone), **more)


def act(what, call, message):
    """A case of a memory with one entry; `call` gets it and three images."""

    def prepare(world):
        images = load_data(world.data(), CATEGORIES).images
        (memory := opened(world)).add(images[1:2], [["Effusion"]], who="A")
        return lambda: call(memory, images)

    return Case(GROUP, what, prepare, message)


def spoilt(what, spoil, message, **more):
    """A case of a file that was spoilt after its first entry."""

    def prepare(world):
        opened(world).add(load_data(world.data(), CATEGORIES).images[1:2], [["Effusion"]], who="A")
        kept = spoil(world.path / "cases.db")
        return lambda: (opened(world, **more), kept)

    return Case(GROUP, what, prepare, message)


def other_detector(world):
    world.data()
    opened(world).add([world.path / "data" / "1.png"], [["Effusion"]], who="A")
    folder = world.detector(thresholds=[0.25, 0.75])
    return lambda: opened(world, folder)


def locked(path):
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("BEGIN EXCLUSIVE")
    return db


def read_only(memory, images):
    connect = sqlite3.connect
    with patch("sqlite3.connect", lambda address, *a, **k: connect(address.replace("mode=rw", "mode=ro"), *a, **k)):
        memory.add(images[2:3], [["Nodule"]], who="A")


def execute(statement):
    def spoil(path):
        db = sqlite3.connect(path)
        db.execute(statement)
        db.commit()
        db.close()

    return spoil


def no_normal_image(world):
    table = load_data(world.data(), CATEGORIES)
    fitted = SDMAD.load(world.fitted, world.backbone)
    return lambda: compare_sites(fitted, table, table.rows([1, 2, 4, 5]), shots=1)


def no_finding_to_judge_by(world):
    table = load_data(world.data(), CATEGORIES)
    parts = TRAIN * 3 + TEST * 3, TRAIN * 3 + TEST + TRAIN * 2
    home, site = (replace(table, meta={"split": split}) for split in parts)
    site = replace(site, images=tuple(np.flip(read_image(image)) for image in site.images))
    fitted = SDMAD.load(world.fitted, world.backbone)
    return lambda: compare_sites(fitted, home, site, shots=1)


def commanded(what, words, message):
    def prepare(world):
        return lambda: world.command(*words(world))

    return Case(GROUP, what, prepare, message)


DAMAGED = "{path}/cases.db: it is damaged; put a copy in its place"
NO_MEMORY = "{path}/cases.db: it is no memory of cases; name another file, or put a copy in its place"
CASES = [
    act(
        "an entry for an unknown category",
        lambda memory, images: memory.add(images[:1], [["Oedema"]], who="A"),
        "labels: 'Oedema' is none of Effusion, Nodule; add it as a finding, with its signs",
    ),
    act(
        "the same case twice",
        lambda memory, images: memory.add(images[:2], [[], ["Effusion"]], who="A"),
        "{path}/data/1.png: is entry 1 already; leave it out, or roll back to entry 0 first",
    ),
    act(
        "no labels",
        lambda memory, images: memory.add(images[:1], who="A"),
        "labels: none are given; confirm them, or take the detector's own with self_made=True",
    ),
    act(
        "labels of other images",
        lambda memory, images: memory.add(images[2:4], [[]], who="A"),
        "labels: 1 lists of names for 2 images; give one for each",
    ),
    act(
        "labels that are no 0 or 1",
        lambda memory, images: memory.add(images[2:3], [[2, 0]], who="A"),
        "labels: give 0 or 1 for each of 1 images and 2 categories",
    ),
    act(
        "nobody who confirms",
        lambda memory, images: memory.add(images[:1], [[]], who=" "),
        "who: name the person who answers for this entry",
    ),
    act(
        "a finding that two images show",
        lambda memory, images: memory.add_finding("Mass", ["large opacity"], images[3:5], who="A"),
        "finding 'Mass': 2 images show it, beside 1 cases without it; give at least 3, and add normal cases before",
    ),
    act(
        "a finding that the bank has",
        lambda memory, images: memory.add_finding("Nodule", ["large opacity"], images[3:6], who="A"),
        "finding 'Nodule': category 'Nodule' is listed twice; {remedy}",
    ),
    act(
        "back to an entry that is not there",
        lambda memory, images: memory.rollback(7, who="A"),
        "entry 7: there are 1 to 1, and 0 for the detector as it was fitted",
    ),
    act(
        "a memory that is read-only",
        read_only,
        "{path}/cases.db: it may not be written; give the right to, or work on a copy ({why})",
    ),
    Case(
        GROUP,
        "the memory of another detector",
        other_detector,
        "{path}/cases.db: it belongs to the detector {hash}, this one is {other}; load that one, or begin another file",
    ),
    spoilt(
        "a memory that is locked",
        locked,
        "{path}/cases.db: another program is writing to it; wait for it and try again (database is locked)",
        wait=0.01,
    ),
    spoilt(
        "a memory of a newer version",
        execute("PRAGMA user_version = 7"),
        "{path}/cases.db: it is of version 7, newer than 1; update sdmad_lite",
    ),
    spoilt("a truncated memory", lambda path: path.write_bytes(path.read_bytes()[:-5000]) and None, DAMAGED + "{why}"),
    spoilt(
        "a memory that lacks its last bytes", lambda path: path.write_bytes(path.read_bytes()[:-9]) and None, DAMAGED
    ),
    spoilt("a memory cut to nothing", lambda path: path.write_bytes(b"") or None, NO_MEMORY),
    spoilt(
        "a text in place of a memory",
        lambda path: path.write_text("entry 1\n" * 900) and None,
        NO_MEMORY + " (file is not a database)",
    ),
    spoilt(
        "a folder in place of a memory",
        lambda path: path.unlink() or path.mkdir(),
        "{path}/cases.db: it cannot be opened; name a file, in a folder that may be read and written ({why})",
    ),
    Case(SITES, "a site with no normal image", no_normal_image, "site: no normal image in one half{more}"),
    Case(
        SITES,
        "a site to judge by with normal images alone",
        no_finding_to_judge_by,
        "site: no image with a finding in one half of its patients; add some, of several patients",
    ),
    commanded(
        "a memory that is not there",
        lambda world: ["memory", "log", "--memory", world.path / "cases.db", "--detector", world.fitted],
        "{path}/cases.db: no such memory; 'sdmad memory add' makes one",
    ),
    commanded(
        "a memory asked for nothing",
        lambda world: ["memory", "score", "--memory", world.path / "cases.db", "--detector", world.fitted],
        "memory score: give images, or --out for the detector; one of the two",
    ),
    commanded(
        "a finding without signs",
        lambda world: [
            *("memory", "add", "--memory", world.path / "cases.db", "--detector", world.fitted),
            *("--data", world.path, "--who", "A", "--finding", "Mass"),
        ],
        "--finding: goes with one --sign or more, and without --self-made",
    ),
]
