"""Sites that learn together: what one has, what it sends, and where it is."""

import numpy as np

from sdmad_federated import Site, fit_together, in_turn
from sdmad_lite.clip.backbone import load_clip
from sdmad_lite.data import ImageTable
from sdmad_lite.detector import SDMAD

from .world import CATEGORIES, Case

GROUP = "Several hospitals"
AGAIN = "Then start all again; a checkpoint goes on from here"


def sites(world, *names, **of_last):
    """Sites of random images: five patients of each category and five without finding."""
    rng = np.random.default_rng(0)
    labels = np.repeat([[0, 0], [1, 0], [0, 1]], 5, axis=0)
    found = []
    for name in names:
        images = tuple(rng.integers(0, 255, (15, 32, 32), dtype=np.uint8))
        more = of_last if name == names[-1] else {}
        clip = load_clip(world.backbone.name, device="cpu")
        found.append(Site(ImageTable(images, labels, CATEGORIES, {}), more.get("bank", world.bank()), clip, name=name))
    return found


def together(what, message, spoil=None, names=("east", "west"), categories=CATEGORIES):
    """A case of `fit_together`, in which `spoil` changes what the last site sends after stage 1."""

    def prepare(world):
        from sdmad_lite.signs.bank import load_bank

        found = sites(world, *names)
        bank = load_bank(world.bank()).restricted(list(categories))
        detector = SDMAD.training_free(bank, backbone=world.backbone, augmentations=1)

        def act():
            ask = in_turn(found)

            def asked(task, given):
                answers = ask(task, given)
                if spoil and task == "sums":
                    spoil(answers[names[-1]])
                return answers

            fit_together(detector, asked)

        return act

    return Case(GROUP, what, prepare, message)


def command(what, message, *words, labels=None):
    """A case of `sdmad federate`."""

    def prepare(world):
        given = ["federate", words[0], "--device=cpu", f"--backbone={world.backbone.name}", f"--signs={world.bank()}"]
        given += [f"--out={world.path / 'new'}", *(word.replace("{path}", str(world.path)) for word in words[1:])]
        if labels:
            given += [f"--data={world.data(labels)}", "--name=north"]
        return lambda: world.command(*given)

    return Case(GROUP, what, prepare, message)


def nan(answer):
    answer["signs.total"][0, 0] = np.nan


def shape(answer):
    answer["signs.total"] = answer["signs.total"][:, :2]


ONE = "image,Effusion,Nodule\n" + "\n".join(f"{i}.png,{i},0" for i in range(2)) + "\n"
CASES = [
    together(
        "a site sends NaN",
        "west, in the sums after stage 1: signs.total holds a number that is not finite; look for a damaged image or "
        f"machine there. {AGAIN}",
        nan,
    ),
    together(
        "a site sends another shape",
        "west, in the sums after stage 1: signs.total is (3, 2), expected (3, 6); install the same version of "
        f"sdmad_lite there. {AGAIN}",
        shape,
    ),
    together(
        "two sites of one name",
        "sites: 'east' stands twice; give each site a name of its own",
        names=("east", "east"),
    ),
    together(
        "a site with another sign bank",
        "east: has another sign bank than the server; give both the same",
        categories=CATEGORIES[:1],
    ),
    command(
        "a site with too few patients without finding",
        "north: patients without finding: 1, fewer than --least 5; add images of others, or stay out",
        "join",
        labels=ONE,
    ),
    command(
        "a site without labels of a category",
        "{path}/data: no column 'Nodule'; give its labels, or all places --categories without it",
        "join",
        labels="image,Effusion\n0.png,0\n1.png,1\n",
    ),
    command(
        "an address without a port",
        "--address here: write HOST:PORT, such as 127.0.0.1:8470",
        "serve",
        "--sites=2",
        "--address=here",
    ),
    command(
        "an open line to another machine",
        "server.example:8470: is another machine, and all could be read on the way; give --certificates",
        "serve",
        "--sites=2",
        "--address=server.example:8470",
    ),
    command(
        "certificates that are not there",
        "{path}/none/ca.pem: cannot be read (No such file or directory); docs/scale.md has the commands",
        "serve",
        "--sites=2",
        "--certificates={path}/none",
    ),
]
