"""A federation over Flower on loopback: a server and three sites, each a process; one of them killed."""

import json
import multiprocessing
import os
import socket
import sys
import time

import numpy as np
import pytest
from conftest import CATEGORIES, stripes
from PIL import Image
from safetensors import safe_open

from sdmad_federated import Site, fit_together
from sdmad_lite import SDMAD, load_clip
from sdmad_lite.data import load_folder

pytest.importorskip("flwr", reason="make test-flower: in an environment of its own")
pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")  # of fork beside threads, of typer
TWO = ",".join(CATEGORIES[:2])


@pytest.fixture(scope="module")
def houses(tmp_path_factory):
    """Three folders of images with labels."""
    root = tmp_path_factory.mktemp("houses")
    for seed, name in enumerate(("east", "north", "west")):
        (root / name).mkdir()
        images, labels = stripes(seed, 5)
        lines = [f"image,{TWO}", *(f"{i}.png,{a},{b}" for i, (a, b) in enumerate(labels))]
        (root / name / "labels.csv").write_text("\n".join(lines))
        for i, image in enumerate(images):
            Image.fromarray(image).save(root / name / f"{i}.png")
    return root


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def start(tiny_clip_name, port, tmp_path):
    """Starts `sdmad federate WHAT` in a process of its own, which is forked: it need not import torch again."""
    running = []

    def run(name, words):
        from sdmad_lite.cli import main  # Flower's typer warns at its import

        with open(tmp_path / f"{name}.out", "w") as sys.stdout, open(tmp_path / f"{name}.err", "w") as sys.stderr:
            code = main(words)
        os._exit(code)

    def start(what, name, *options):
        words = ["federate", what, "--signs", "chest_phantoms", "--categories", TWO, "--backbone", tiny_clip_name]
        words += ["--device", "cpu", "--address", f"127.0.0.1:{port}", "--patience", "30", "--json", *options]
        words += ["--out", str(tmp_path / "detectors" / name)]
        running.append(multiprocessing.get_context("fork").Process(target=run, args=(name, words)))
        running[-1].start()
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.join()


@pytest.fixture
def ended(tmp_path):
    """Gives the exit code of a process, and what it wrote to stdout and to stderr."""

    def ended(process, name):
        process.join(60)
        return process.exitcode, *((tmp_path / f"{name}.{end}").read_text() for end in ("out", "err"))

    return ended


def test_a_server_and_three_sites(start, ended, houses, bank, tiny_clip_name, tmp_path):
    """The same detector as of sites in one process, to the bit; each is told what left it."""
    running = {"all": start("serve", "all", "--sites", "3", "--steps", "6", "--local-steps", "2")}
    for name in ("west", "east", "north"):
        running[name] = start("join", name, "--data", str(houses / name), "--name", name)
    for name, process in running.items():
        code, out, err = ended(process, name)
        assert code == 0, err
        assert "flwr" not in err and "Flower" not in err
    told = json.loads(out)
    assert told["images"] == 20
    assert {row["answers"] for row in told["sent"] if row["what"].startswith("adapters")} == {3}
    two = bank.restricted(list(CATEGORIES[:2]))
    tables = {house.name: load_folder(house, two.categories) for house in sorted(houses.iterdir())}
    here = [Site(table, two, load_clip(tiny_clip_name, device="cpu"), name=name) for name, table in tables.items()]
    detector = SDMAD.load(tmp_path / "detectors" / "all", device="cpu")
    plain = fit_together(
        SDMAD(two, backbone=load_clip(tiny_clip_name, device="cpu"), alignment=detector.alignment), here, local_steps=2
    )
    images = stripes(9, 2)[0]
    np.testing.assert_array_equal(detector.predict_proba(images), plain.predict_proba(images))
    for name in tables:
        np.testing.assert_array_equal(
            SDMAD.load(tmp_path / "detectors" / name, device="cpu").predict_proba(images), plain.predict_proba(images)
        )


def test_a_site_killed_in_the_middle_of_a_round(start, ended, houses, tmp_path):
    """All are told and nothing is written by half; the same commands again go on from the checkpoint."""
    state = tmp_path / "state"
    long = ("--sites", "3", "--steps", "300", "--local-steps", "20", "--checkpoint", str(state))
    server, sites = start("serve", "all", *long), {}
    for name in ("west", "east", "north"):
        sites[name] = start("join", name, "--data", str(houses / name), "--name", name)
    while not list(state.glob("stage1.safetensors")):
        assert server.is_alive()
        time.sleep(0.01)
    sites.pop("east").kill()
    code, _, err = ended(server, "all")
    assert (
        code == 2 and "error: east: went away in 'train', or did not answer within --patience 30 s; start server" in err
    )
    for name, process in sites.items():
        code, _, err = ended(process, name)
        assert code == 2 and "error: the server stopped: east: went away" in err
    assert [path for path in (tmp_path / "detectors").iterdir() if not path.name.startswith(".")] == []
    with safe_open(state / "stage1.safetensors", "np") as kept:
        assert 20 <= len(kept.get_tensor("losses")) < 300
