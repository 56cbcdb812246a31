"""The command line: exit code 2, the message after `error: `, and nothing on stdout."""

import json

from .world import LABELS, Case


def command(what, arguments, message):
    """A case of a command; `arguments` makes them from the world."""

    def prepare(world):
        given = arguments(world)
        return lambda: world.command(*given)

    return Case("The command line", what, prepare, message)


def fitting(*more, **changes):
    """`sdmad fit` with something changed."""

    def arguments(world):
        given = {
            "data": world.data(),
            "signs": world.bank(),
            "out": world.path / "out",
            "backbone": world.backbone.name,
        }
        given = {**given, "device": "cpu", "steps": 1, **changes}
        return ["fit", "--quiet", *(f"--{name}={value}" for name, value in given.items()), *more]

    return arguments


def running(*more, change=None, labels=None):
    """`sdmad run` on the good data, or those that `change` spoils."""

    def arguments(world):
        data = world.data(labels) if labels else world.data()
        if change:
            change(data)
        given = {"data": data, "signs": world.bank(), "out": world.path / "out", "backbone": world.backbone.name}
        given |= {"device": "cpu", "shots": 1, "min-positives": 1, "draws": 1}
        return ["run", "--quiet", *(f"--{n}={v}" for n, v in given.items()), *(m.format(path=world.path) for m in more)]

    return arguments


def truncate_a_test_image(data):
    path = data / "4.png"
    path.write_bytes(path.read_bytes()[:200])


def onto_data(world):
    return [*fitting()(world), f"--out={world.path / 'data'}"]


def predicting(*more):
    """`sdmad predict` with the good detector; {path} is the folder of the case."""

    def arguments(world):
        world.data()
        given = [text.replace("{path}", str(world.path)) for text in more]
        return ["predict", "--quiet", "--device=cpu", f"--detector={world.fitted}", *given]

    return arguments


def evaluating(*more, labels=None):
    """`sdmad evaluate` with the good detector."""

    def arguments(world):
        data = world.data(labels) if labels else world.data()
        return ["evaluate", "--quiet", "--device=cpu", f"--detector={world.fitted}", f"--data={data}", *more]

    return arguments


def deciding(*more, file=None):
    """`sdmad decide` with a copy of the good detector, and what is beside it as decisions.json."""

    def arguments(world):
        folder = world.detector()
        if file is not None:
            (folder / "decisions.json").write_text(file, encoding="utf-8")
        world.data()
        given = [text.replace("{path}", str(world.path)) for text in more]
        return ["decide", "--quiet", "--device=cpu", f"--detector={folder}", *given]

    return arguments


def broken_support(world):
    path = world.detector()
    (path / "support.json").write_text(json.dumps({"images": 7}), encoding="utf-8")
    return ["evaluate", "--device=cpu", f"--detector={path}", f"--data={world.data()}"]


def writing(world, *more, times=1):
    """`sdmad signs generate` of a category, which has nobody to ask."""
    given = [
        "signs",
        "generate",
        *["Effusion"] * times,
        "--modality=chest",
        "--model=m",
        "--server=http://127.0.0.1:9/v1",
    ]
    return [*given, f"--out={world.path / 'new.json'}", *more]


def embedding(*more):
    """`sdmad embed` of good data."""
    return lambda world: ["embed", "--device=cpu", f"--data={world.data()}", f"--out={world.path / 'e.npz'}", *more]


ALL_NORMAL = "image,Effusion,Nodule\n3.png,0,0\n4.png,0,0\n"
NOT_READ = "it is written by 'sdmad decide --data'"

CASES = [
    command(
        "decide: before it was cross-fitted",
        deciding("{path}/data/0.png"),
        "{path}/detector/decisions.json: cannot be read (FileNotFoundError: {reason}); " + NOT_READ,
    ),
    command(
        "decide: a broken decisions.json",
        deciding("{path}/data/0.png", file="{"),
        "{path}/detector/decisions.json: cannot be read (JSONDecodeError: {reason}); " + NOT_READ,
    ),
    command(
        "decide: of another detector",
        deciding(
            file='{"categories": ["Effusion", "Nodule"], "logits": [[0, 1], [1, 0]], "labels": [[1, 0], [0, 1]], '
            '"detector": "another"}'
        ),
        "{path}/detector/decisions.json: is of another detector; " + NOT_READ,
    ),
    command(
        "decide: one patient of a category to cross-fit with",
        deciding("--data={path}/data"),
        "1 patients with 'Effusion': folds leave each out in turn; give two or more",
    ),
    command(
        "decide: data without the support set",
        deciding("--data={path}/data", "--split=test"),
        "0 of the 3 images that the detector was fitted on are among these; give the data that it was fitted on",
    ),
    command(
        "subgroups: a column that is missing",
        lambda w: ["subgroups", *evaluating("--by=sex")(w)[1:]],
        "by: the data have no column 'sex' to group by; they have none",
    ),
    command(
        "subgroups: no column at all",
        lambda w: ["subgroups", *evaluating()(w)[1:]],
        "{path}/data: no column sex, age, site or view to group by; name another with --by",
    ),
    command(
        "predict: images and data",
        predicting("{path}/data/0.png", "--data={path}/data"),
        "predict: give images or --data, not both",
    ),
    command(
        "signs: a key that is not set",
        lambda w: writing(w, "--key=NO_SUCH_KEY"),
        "--key NO_SUCH_KEY: there is no such environment variable; set it to the server's key",
    ),
    command(
        "signs: a category twice", lambda w: writing(w, times=2), "categories: 'Effusion' stands twice; remove one"
    ),
    command(
        "signs: a folder as the file",
        lambda w: writing(w, f"--out={w.path}"),
        "{path}: is a folder; name a file in it",
    ),
    command(
        "predict: labels",
        predicting("--data={path}/data", "--others=Gout"),
        "predict: labels do not count; leave --normal, --names and --others out",
    ),
    command(
        "predict: options of data that are not given",
        predicting("{path}/data/0.png", "--split=test", "--no-official-split"),
        "--no-official-split, --split: only beside --data; leave it out",
    ),
    command(
        "signs: options of data that are not given",
        lambda w: ["signs", "check", str(w.bank()), "--others=Gout"],
        "--others: only beside --data; leave it out",
    ),
    command(
        "signs: options of a model that is not used",
        lambda w: ["signs", "check", str(w.bank()), "--pretrained=openai"],
        "--pretrained: only beside --backbone or --data; leave it out",
    ),
    command(
        "run: no normal image",
        running(labels=LABELS.replace(",0,0,", ",1,0,")),
        "{path}/data: each of the 6 images shows some of Effusion, Nodule; add normal images, for scores are measured "
        "against them",
    ),
    command(
        "fit: the table of a public set",
        lambda w: [*fitting()(w), f"--data={w.write('odir/full_df.csv', 'ID').parent}"],
        "{path}/odir: has no labels.csv and no subfolder; write a labels.csv, or sort the images into a subfolder for "
        "each class; it holds full_df.csv: a public set is read with --dataset odir5k",
    ),
    command(
        "fit: a further finding misspelt",
        fitting(others="Gout"),
        "{path}/data/labels.csv: --others names 'Gout', which is not there; known are Effusion, Nodule",
    ),
    command("no command", lambda world: [], "Missing command; see 'sdmad --help'"),
    command(
        "an unknown command",
        lambda world: ["diagnose"],
        "No such command 'diagnose'. Did you mean 'signs'?; see 'sdmad --help'",
    ),
    command(
        "an unknown option",
        lambda world: ["data", "list", "--all"],
        "No such option: --all; see 'sdmad data list --help'",
    ),
    command(
        "an option left out",
        lambda world: ["fit", "--data=x", "--signs=y"],
        "Missing option '--out'; see 'sdmad fit --help'",
    ),
    command(
        "a word for a number",
        fitting(shots="many"),
        "Invalid value for '--shots': Input should be a valid integer, {reason}; see 'sdmad fit --help'",
    ),
    command(
        "fit: data that are not there", fitting(data="nowhere"), "nowhere: no such file or folder; correct the path"
    ),
    command(
        "fit: a bank that is not there",
        fitting(signs="nothing"),
        "nothing: cannot be read as a sign bank ({reason}); give a JSON file, or one of {banks}",
    ),
    command(
        "fit: no shots",
        fitting(shots=0),
        "Invalid value for '--shots': Input should be greater than or equal to 1; see 'sdmad fit --help'",
    ),
    command(
        "fit: too many shots",
        fitting(shots=40),
        (
            "'Effusion' has 1 patients to draw from, but 40 shots are asked for; lower the shots, or name the other "
            "categories with --categories"
        ),
    ),
    command(
        "fit: a negative seed",
        fitting(seed=-1),
        "Invalid value for '--seed': Input should be greater than or equal to 0; see 'sdmad fit --help'",
    ),
    command(
        "fit: a seed that is too large",
        fitting(seed=10**20),
        "Invalid value for '--seed': Input should be less than or equal to 4294967295; see 'sdmad fit --help'",
    ),
    command(
        "fit: no steps",
        fitting(steps=0),
        "--steps is 0: it must be at least 1; to train nothing, give --training-free",
    ),
    command(
        "fit: steps of what is not trained",
        fitting("--training-free"),
        "--training-free: trains nothing; leave --steps, --lam and --checkpoint out",
    ),
    command(
        "fit: a category that the data have not",
        fitting(categories="Effusion,Hernia"),
        "'Hernia' is not a category of the data, which have Effusion, Nodule",
    ),
    command("fit: lam above 1", fitting(lam=1.5), "lam is 1.5: it must be less than or equal to 1"),
    command(
        "fit: a split without images",
        fitting(split="val"),
        "the data have no val images; choose another split",
    ),
    command(
        "fit: an unknown public set", fitting(dataset="chestxray15"), "unknown data set 'chestxray15'; known are {sets}"
    ),
    command(
        "fit: an output that holds other files",
        onto_data,
        ("{path}/data: exists and holds no detector.json of an earlier run; choose a new or empty folder"),
    ),
    command(
        "run: no draws",
        running("--draws=0"),
        "Invalid value for '--draws': Input should be greater than or equal to 1; see 'sdmad run --help'",
    ),
    command(
        "run: no shots",
        running("--shots=0"),
        "Invalid value for '--shots': Input should be greater than or equal to 1; see 'sdmad run --help'",
    ),
    command(
        "run: too many shots",
        running("--shots=40", "--categories=Nodule"),
        "no category has enough positives; ask for fewer shots or for fewer positives",
    ),
    command(
        "run: too many shots for every category",
        running("--shots=40"),
        "no category has enough positives; ask for fewer shots or for fewer positives",
    ),
    command(
        "run: a category twice",
        running("--categories=Nodule,Nodule"),
        "sign bank: category 'Nodule' is listed twice; {reason}",
    ),
    command(
        "run: nothing to score",
        running("--categories=Nodule", labels=LABELS.replace("5.png,0,1", "5.png,0,0")),
        "no category has enough positives; ask for fewer shots or for fewer positives",
    ),
    command(
        "run: a truncated test image",
        running(change=truncate_a_test_image),
        "{path}/data/4.png: cannot be read as an image ({reason}); truncated, or nothing that Pillow reads: "
        "copy it again, or save it as PNG",
    ),
    command(
        "run: an output below a file",
        running("--out={path}/data/labels.csv/report"),
        "{path}/data/labels.csv/report: cannot be written ({reason}); choose another place",
    ),
    command(
        "run: an output that is a file",
        running("--out={path}/data/labels.csv"),
        "{path}/data/labels.csv: exists and holds no metrics.json of an earlier run; choose a new or empty folder",
    ),
    command(
        "predict: no image",
        predicting(),
        "predict: no image is given; name files, folders or --data",
    ),
    command(
        "predict: an image that is not there",
        predicting("{path}/none.png"),
        "{path}/none.png: no such image file; correct the path",
    ),
    command(
        "predict: a folder without images",
        lambda w: [*predicting()(w), str(w.write("sub/a.txt", "x").parent)],
        "{path}/sub: holds no image; name files, or a folder that holds some",
    ),
    command(
        "predict: a detector that is not there",
        lambda w: ["predict", "--detector=nowhere", "x.png"],
        "nowhere: no such folder; name one that SDMAD.save or 'sdmad fit' wrote",
    ),
    command(
        "predict: an ending without a form",
        predicting("{path}/data/0.png", "--out={path}/out.xlsx"),
        "--out {path}/out.xlsx: end it in .parquet, .csv, .jsonl",
    ),
    command(
        "predict: Parquet on the screen",
        predicting("{path}/data/0.png", "--format=parquet"),
        "Invalid value for '--format': Value error, 'parquet' is not one of 'table', 'csv'; see 'sdmad predict --help'",
    ),
    command(
        "predict: a table below a file",
        predicting("{path}/data/0.png", "--out={path}/data/1.png/out.csv"),
        ("{path}/data/1.png/out.csv: cannot be written ({reason}); choose another place"),
    ),
    command(
        "predict: maps among other files",
        predicting("{path}/data/0.png", "--maps={path}/data"),
        ("{path}/data: exists and holds no maps.json of an earlier run; choose a new or empty folder"),
    ),
    command(
        "predict: no batch",
        predicting("{path}/data/0.png", "--batch-size=0"),
        "Invalid value for '--batch-size': Input should be greater than or equal to 1; see 'sdmad predict --help'",
    ),
    command(
        "evaluate: images of the support set",
        evaluating("--split=train"),
        (
            "the detector was fitted on 3 of these images, {path}/data/0.png first; give"
            " other images, or leave these out with --exclude-support"
        ),
    ),
    command(
        "evaluate: only images of the support set",
        evaluating("--split=train", "--exclude-support"),
        "the detector was fitted on all of these images or patients; give others",
    ),
    command(
        "evaluate: nothing but normal images",
        evaluating(labels=ALL_NORMAL),
        ("{path}/data: the images show none or all of the categories; give some with and some without"),
    ),
    command(
        "evaluate: a split that the data have not",
        evaluating("--split=test", labels=ALL_NORMAL),
        "the table has no split column; write one to have a part 'test'",
    ),
    command(
        "evaluate: a broken support.json",
        broken_support,
        (
            "{path}/detector/support.json: not what 'sdmad fit' wrote (TypeError: 'int' object is not"
            " iterable); fit again, or delete the file"
        ),
    ),
    command(
        "evaluate: negative resamples",
        evaluating("--resamples=-1"),
        "Invalid value for '--resamples': Input should be greater than or equal to 0; see 'sdmad evaluate --help'",
    ),
    command(
        "embed: an ending without a form",
        embedding("--signs=nih_chest14", "--out=e.csv"),
        "--out e.csv: end it in .npz or .parquet, the two forms there are",
    ),
    command(
        "embed: a detector and a backbone",
        lambda w: [*embedding(f"--detector={w.fitted}", "--backbone=ViT-B-32")(w)],
        "--backbone: a detector names its own backbone; leave --backbone, --pretrained, --shape out",
    ),
    command(
        "embed: neither a detector nor signs",
        embedding(),
        "embed: give --detector, or --signs for the frozen model alone",
    ),
    command(
        "data: an unknown set",
        lambda w: ["data", "info", "chestxray15"],
        "unknown data set 'chestxray15'; known are {sets}",
    ),
    command(
        "data: a set that cannot be fetched",
        lambda w: ["data", "get", "medfm_endo", "--to", w.path / "x"],
        (
            "medfm_endo: cannot be fetched by program: go to https://doi.org/10.6084/m9.figshare.c.64"
            "76047.v1 (open); MedFM Endo is expected as{layout}"
        ),
    ),
    command(
        "data: a size that the set has not",
        lambda w: ["data", "get", "breastmnist", "--variant=99", "--to", w.path / "x"],
        "BreastMNIST: no variant '99'; it has 28, 64, 128, 224",
    ),
    command(
        "signs: a bank that is not there",
        lambda w: ["signs", "check", "nothing"],
        "nothing: cannot be read as a sign bank ({reason}); give a JSON file, or one of {banks}",
    ),
]
