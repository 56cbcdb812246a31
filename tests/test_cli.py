"""The command line: one run leaves a whole report; a mistake leaves a message, exit 2, and nothing else."""

import csv
import json
import re
import shutil

import pytest
from conftest import CATEGORIES
from PIL import Image

from sdmad_lite.__main__ import main
from sdmad_lite.clip.backbone import load_clip
from sdmad_lite.detector import SDMAD
from sdmad_lite.evaluation.protocols import PROTOCOLS
from sdmad_phantoms import sample_phantoms


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """60 phantoms of 30 patients, half of them in test; a fourth category has no positive in test."""
    folder = tmp_path_factory.mktemp("cli") / "sixty"
    (folder / "images").mkdir(parents=True)
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["image", *CATEGORIES, "Fibrosis", "patient_id", "sex", "split"])
        for i, p in enumerate(sample_phantoms(60, seed=21, categories=CATEGORIES, size=48)):
            Image.fromarray(p.image).save(folder / "images" / f"{i}.png")
            split = "train" if i // 2 % 2 else "test"
            rare = int(split == "train" and i % 3 == 0)
            shown = [int(c in p.categories) for c in CATEGORIES]
            writer.writerow([f"images/{i}.png", *shown, rare, p.patient.patient_id, p.patient.sex, split])
    return folder


@pytest.fixture
def arguments(data, bank, tiny_clip_name, tmp_path):
    """A run that works; a test changes one argument."""
    chosen = {
        "data": data,
        "signs": "chest_phantoms",
        "out": tmp_path / "report",
        "shots": 2,
        "draws": 2,
        "min-positives": 3,
        "backbone": tiny_clip_name,
        "device": "cpu",
    }

    def build(**changes):
        return ["run", *(f"--{k}={v}" for k, v in {**chosen, **changes}.items() if v is not None)]

    return build


@pytest.fixture(scope="session")
def report(data, tiny_clip_name, tmp_path_factory):
    """One run, for reading only."""
    out = tmp_path_factory.mktemp("report") / "new" / "report"
    given = {"data": data, "signs": "chest_phantoms", "out": out, "shots": 2, "draws": 2, "min-positives": 3}
    given |= {"backbone": tiny_clip_name, "device": "cpu", "seed": 3}
    assert main(["run", *(f"--{k}={v}" for k, v in given.items())]) == 0
    return out


def test_a_run_leaves_all_of_the_report_and_nothing_beside_it(report):
    assert sorted(p.name for p in report.iterdir()) == ["detector", "metrics.json", "report.html", "signs.json"]
    assert [p.name for p in report.parent.iterdir()] == ["report"]


def rows(protocol):
    """Category, any and macro -> figures."""
    extra = {"any": protocol["any_anomaly"]} if protocol["any_anomaly"] else {}
    return protocol["per_category"] | extra | {"macro": protocol["macro"]}


def test_metrics_have_three_protocols_with_every_category_and_macro(report):
    metrics = json.loads((report / "metrics.json").read_text())
    for protocol in PROTOCOLS:
        mean, low, high = (rows(metrics[end][protocol]) for end in ("mean", "low", "high"))
        assert [*mean][:3] == [*CATEGORIES]
        for name, row in mean.items():
            assert 0 <= row["auroc"] <= 1 and 0 <= row["ap"] <= 1 and row["positives"] >= 3
            assert low[name]["auroc"] <= row["auroc"] <= high[name]["auroc"]
    macro = metrics["mean"]["multilabel"]["macro"]
    assert macro["categories"] == 3 and 0 <= macro["exact_match"] <= 1
    assert "not for clinical use" in metrics["notice"]


def test_metrics_count_the_test_images_and_name_what_was_left_out(report, data):
    metrics = json.loads((report / "metrics.json").read_text())
    with (data / "labels.csv").open() as stream:
        test = [row for row in csv.DictReader(stream) if row["split"] == "test"]
    for category in CATEGORIES:
        expected = sum(row[category] == "1" for row in test)
        score = metrics["mean"]["multilabel"]["per_category"][category]
        assert (score["positives"], score["negatives"]) == (expected, len(test) - expected)
    assert metrics["data"]["test"] == len(test) == 30
    assert list(metrics["left_out"]) == ["Fibrosis"] and "0 in test" in metrics["left_out"]["Fibrosis"]
    assert metrics["data"]["train"] + metrics["data"]["test"] + metrics["data"]["unused"] == 60
    assert metrics["data"]["seeds"] == [3, 4]
    assert set(metrics["subgroups"]) == {"sex=F", "sex=M"}
    first = [
        part["mean"]["multilabel"]["per_category"][CATEGORIES[0]] for part in (metrics, *metrics["subgroups"].values())
    ]
    assert first[0]["positives"] == sum(score["positives"] for score in first[1:])


def test_methods_are_compared_over_the_same_draws(report):
    metrics = json.loads((report / "metrics.json").read_text())
    first, *others = metrics["methods"].values()
    assert first["paired"] is None and first["macro"]["mean"] == metrics["mean"]["multilabel"]["macro"]
    for other in others:
        assert other["paired"]["difference"] == pytest.approx(
            first["macro"]["mean"]["ap"] - other["macro"]["mean"]["ap"]
        )
        assert other["paired"]["draws"] == 2


def test_signs_say_kept_or_dropped_and_why(report, bank):
    signs = json.loads((report / "signs.json").read_text())
    assert list(signs) == list(CATEGORIES)
    for category, rows in signs.items():
        assert {row["text"] for row in rows} == set(bank.signs_of(category))
        assert sum(row["weight"] for row in rows) == pytest.approx(1, abs=1e-4)
        for row in rows:
            assert row["reason"].startswith("kept" if row["kept"] else "dropped")
            assert row["kept"] <= row["kept_in_draws"] <= 2


def test_the_page_shows_pictures_and_numbers_and_loads_nothing_from_elsewhere(report):
    page = (report / "report.html").read_text(encoding="utf-8")
    assert page.count("<img ") >= 5 and "data:image/png;base64," in page
    assert "http://" not in page and "https://" not in page and 'src="/' not in page
    macro = next(iter(json.loads((report / "metrics.json").read_text())["methods"].values()))["macro"]
    assert f"{macro['mean']['ap']:.3f}" in page and f"{macro['low']['auroc']:.3f}" in page
    assert "not for clinical use" in page and "Fibrosis (" in page
    assert "{{" not in page and "{%" not in page and "None" not in page


def test_the_detector_of_the_report_loads_and_predicts(report, data):
    detector = SDMAD.load(report / "detector")
    assert detector.bank.categories == CATEGORIES
    assert detector.predict_proba([data / "images" / "0.png"]).shape == (1, 3)


def test_the_same_command_gives_the_same_metrics(report, arguments, tmp_path):
    assert main(arguments(seed=3)) == 0
    assert (tmp_path / "report" / "metrics.json").read_text() == (report / "metrics.json").read_text()
    assert (tmp_path / "report" / "signs.json").read_text() == (report / "signs.json").read_text()


def test_an_earlier_report_is_replaced_even_behind_a_link(arguments, tmp_path, capsys):
    """One draw, which has no interval."""
    disk, out = tmp_path / "disk", tmp_path / "report"
    disk.mkdir()
    (disk / "metrics.json").write_text("{}")
    (disk / "old.txt").write_text("old")
    out.symlink_to(disk, target_is_directory=True)
    assert main(arguments(draws=1, categories="Emphysema, Cardiomegaly")) == 0
    assert out.is_symlink() and not (disk / "old.txt").exists()
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["data"]["categories"] == ["Emphysema", "Cardiomegaly"]
    assert metrics["low"]["multilabel"]["macro"]["ap"] is None
    said = capsys.readouterr().out
    assert str(disk / "report.html") in said and "not for clinical use" in said
    assert "nan" not in said


def test_one_category_alone_makes_a_report(arguments, tmp_path):
    assert main(arguments(draws=1, categories="Emphysema")) == 0
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert (
        metrics["mean"]["discrimination"]["per_category"]["Emphysema"]["auroc"] is None
    )  # no other anomaly to tell it from
    assert metrics["mean"]["multilabel"]["macro"]["auroc"] is not None


def test_a_category_without_test_images_is_reported_as_such(arguments, tmp_path):
    assert main(arguments(draws=1, categories="Emphysema,Fibrosis")) == 0
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())
    multilabel = metrics["mean"]["multilabel"]
    assert multilabel["per_category"]["Fibrosis"]["auroc"] is None and multilabel["macro"]["categories"] == 1
    assert "n/a" in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")


# What a mistake is answered with


def copy_with(change):
    """A copy of the data with one thing wrong; makes the value of --data."""

    def make(data, tmp_path):
        folder = tmp_path / "copy"
        shutil.copytree(data, folder)
        change(folder)
        return folder

    return make


def edit(old, new):
    def change(folder):
        path = folder / "labels.csv"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return change


def truncate_a_test_image(folder):
    path = folder / "images" / "1.png"
    path.write_bytes(path.read_bytes()[:200])


def bad_bank(data, tmp_path):
    path = tmp_path / "bank.json"
    path.write_text('{"name": "mine"}')
    return path


BAD = {
    "missing data folder": ({"data": "no/such/folder"}, "no/such/folder: no such file or folder"),
    "unknown column": ({"data": copy_with(edit("Emphysema", "Emphisema"))}, "'Emphisema'; did you mean 'Emphysema'"),
    "bad label": ({"data": copy_with(edit(",0,", ",maybe,"))}, "line 2, column .*'maybe' is not 0 or 1"),
    "missing image": ({"data": copy_with(edit("images/7.png", "images/seven.png"))}, "line 9: no such image file"),
    "truncated image": ({"data": copy_with(truncate_a_test_image)}, r"1\.png: cannot be read as an image"),
    "patient in both splits": ({"data": copy_with(edit("P00000", "P00001"))}, "patient P00001 is in train and in test"),
    "missing bank": ({"signs": "no_such_bank"}, "no_such_bank: cannot be read.*chest_phantoms"),
    "bad bank": ({"signs": bad_bank}, r"bank\.json: .*categories: Field required"),
    "bank of other things": ({"signs": "nih_chest14"}, "unknown column 'Pleural effusion'"),
    "too many shots": (
        {"shots": 40, "categories": "Emphysema"},
        "patients with .* but 40 shots are asked for; lower the shots",
    ),
    "too many shots for all": ({"shots": 40}, "no category has enough positives; lower --shots"),
    "no shots": ({"shots": 0}, "shots is 0"),
    "no draws": ({"draws": 0}, "--draws is 0"),
    "negative seed": ({"seed": -1}, "--seed is -1"),
    "unknown category": (
        {"categories": "Emphysema,Hernia"},
        "'Hernia' is not a column of the data; it has .*Emphysema",
    ),
    "category twice": ({"categories": "Emphysema,Emphysema"}, "'Emphysema' is listed twice"),
    "nothing to score": ({"categories": "Fibrosis"}, "none or all of Fibrosis"),
    "unknown backbone": ({"backbone": "ViT-B-33"}, "unknown model 'ViT-B-33'"),
    "backbone without weights": ({"backbone": "ViT-B-32"}, "say which weights"),
    "unknown device": ({"device": "abacus"}, "abacus"),
    "out below a file": ({"out": lambda data, tmp_path: data / "labels.csv" / "report"}, "report: cannot be written"),
    "out is a file": (
        {"out": lambda data, tmp_path: data / "labels.csv"},
        "labels.csv: exists and holds no metrics.json",
    ),
    "out holds foreign files": (
        {"out": lambda data, tmp_path: data / "images"},
        "images: exists and holds no metrics.json",
    ),
}


@pytest.mark.parametrize(("changes", "named"), BAD.values(), ids=BAD.keys())
def test_a_mistake_is_named_and_leaves_nothing(data, arguments, tmp_path, capsys, changes, named):
    changes = {k: v(data, tmp_path) if callable(v) else v for k, v in changes.items()}
    before = sorted(data.rglob("*")), (data / "labels.csv").read_bytes(), sorted(p.name for p in tmp_path.iterdir())
    assert main(arguments(**changes)) == 2
    message = capsys.readouterr().err
    error = next(line for line in message.splitlines() if line.startswith("error: "))
    assert "Traceback" not in message
    assert re.search(named, error), error
    after = sorted(data.rglob("*")), (data / "labels.csv").read_bytes(), sorted(p.name for p in tmp_path.iterdir())
    assert before == after


def test_a_run_that_fails_leaves_the_earlier_report_as_it_was(report, data, arguments, tmp_path):
    out = tmp_path / "report"
    shutil.copytree(report, out)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    broken = copy_with(truncate_a_test_image)(data, tmp_path)
    assert main(arguments(data=broken)) == 2
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy", "report"]


def test_wrong_usage_says_how(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["run", "--data", "x"])
    assert stop.value.code == 2 and "--signs" in capsys.readouterr().err


def test_the_saved_detector_names_the_backbone_of_the_run(report, tiny_clip_name):
    state = json.loads((report / "detector" / "detector.json").read_text())
    assert state["backbone"]["name"] == tiny_clip_name
    assert state["backbone"]["fingerprint"] == load_clip(tiny_clip_name, device="cpu").fingerprint
