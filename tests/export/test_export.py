"""An exported folder says what the detector says: in Python without torch, and in a browser."""

import base64
import functools
import http.server
import io
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.special import expit
from sklearn.metrics import roc_auc_score
from tiny_models import Models, shifted

from sdmad_export.export import export_detector, write_sums
from sdmad_export.page import RUNTIME, VERSION, add_runtime
from sdmad_export.runner import SUMS, Exported, ExportError
from sdmad_lite.alignment import AlignmentConfig
from sdmad_lite.cli import main
from sdmad_lite.clip.backbone import load_clip
from sdmad_lite.data import draw_support, load_data
from sdmad_lite.detector import SDMAD
from sdmad_lite.errors import OutputError
from sdmad_lite.signs.bank import load_bank

SAMPLES = Path(__file__).parents[2] / "data_samples" / "chest"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def chest():
    """A quickly fitted detector of the embedded CLIP, and the test images of the samples."""
    bank = load_bank("chest_phantoms")
    table = load_data(SAMPLES, bank.categories)
    train, test = table.part("train"), table.part("test")
    quick = AlignmentConfig(steps=20, augmentations=2, local=0.5)
    detector = SDMAD(bank, backbone=load_clip(device="cpu"), alignment=quick)
    return detector.fit_table(train.rows(draw_support(train, 8, 0))), test


@pytest.fixture(scope="module")
def folder(chest, tmp_path_factory):
    return export_detector(chest[0], tmp_path_factory.mktemp("out") / "export")


@pytest.fixture(scope="module")
def small(bank, phantom_table, tiny_clip_name, tmp_path_factory):
    """A detector of the tiny CLIP, and its export."""
    detector = SDMAD(
        bank, backbone=load_clip(tiny_clip_name, device="cpu"), alignment=AlignmentConfig(2, local=0)
    ).fit_table(phantom_table)
    return detector, Exported(export_detector(detector, tmp_path_factory.mktemp("small") / "export"))


# The same answers


def test_scores_decisions_and_reasons_are_those_of_the_detector(chest, folder):
    detector, test = chest
    exported, (z, h) = Exported(folder), detector.features(test.images)
    wanted, (cosines, activations) = expit(detector.logits(z, h)), exported.features(test.images)
    found = expit(exported.logits(cosines, activations))
    for y, before, after in zip(test.labels.T, wanted.T, found.T, strict=True):
        assert abs(roc_auc_score(y, before) - roc_auc_score(y, after)) <= 0.002
    assert ((wanted >= detector.thresholds_) == (found >= exported.thresholds)).mean() >= 0.995
    kept = [np.flatnonzero(w > 0) for w in detector.weights_]
    orders = [
        [np.argsort(-bars[:, c, s], 1) for c, s in enumerate(kept)]
        for bars in map(detector.contributions, (z, cosines))
    ]
    assert np.mean([(a == b).all(1) for a, b in zip(*orders, strict=True)]) >= 0.99
    maps = detector.sign_maps(test.images[0])
    assert np.abs(exported.sign_maps(test.images[0]) - maps).max() < 0.02


def test_the_folder_is_small_and_names_no_machine(folder):
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 5_000_000
    assert all(str(Path(sys.prefix)).encode() not in file.read_bytes() for file in folder.iterdir())


def test_an_explanation_is_the_score(chest, folder):
    detector, test = chest
    rows, wanted = Exported(folder).explain(test.images[0]), detector.explain(test.images[0])
    for row, one in zip(rows, wanted, strict=True):
        parts = [sign["contribution"] for sign in row["signs"]]
        assert row["logit"] == pytest.approx(sum(parts) + row["image"] + row["bias"])
        assert {s["text"]: (s["weight"], s["reason"], s["normal"]) for s in row["signs"]} == {
            s.text: (s.weight, s.reason, s.normal) for s in one.signs
        }
        bars = {s["text"]: s["contribution"] for s in row["signs"]}
        assert bars == pytest.approx({s.text: s.contribution for s in one.signs}, abs=0.05)
        assert row["bias"] == pytest.approx(one.bias, abs=1e-3)
        assert row["probability"] == pytest.approx(one.probability, abs=0.02)


@pytest.mark.filterwarnings("ignore:not square")  # that it is cut is said
@pytest.mark.parametrize("shape", ["squash", "pad", "crop"])
@pytest.mark.parametrize("size", [(48, 48), (61, 32), (20, 78), (100, 31)])
def test_pixels_and_maps_of_any_shape(small, shape, size):
    detector, exported = small
    clip = detector.backbone.shaped(shape)
    exported.about["pixels"]["shape"] = shape
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, size[::-1], dtype=np.uint8))
    assert np.array_equal(exported.prepare(image), clip.prepare([image])[0].numpy())
    detector.backbone, before = clip, detector.backbone
    wanted, found = detector.sign_maps(image), exported.sign_maps(image)
    detector.backbone = before
    np.testing.assert_allclose(found, wanted, atol=0.05)  # nan in the same places


def test_what_is_given_in_many_forms_is_one_image(small, tmp_path):
    exported, pixels = small[1], np.random.default_rng(0).integers(0, 255, (40, 40), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    clear = Image.fromarray(pixels).convert("LA")
    forms = [tmp_path / "a.png", str(tmp_path / "a.png"), pixels, Image.fromarray(pixels), clear, pixels[None]]
    assert len({exported.predict_proba(form).tobytes() for form in forms}) == 1
    assert exported.predict([pixels, pixels]).shape == (2, 3)
    with pytest.raises(ExportError, match="the list is empty"):
        exported.predict([])


@pytest.mark.parametrize("local", [0, 0.5])
@pytest.mark.parametrize(("kind", "maps"), [("siglip", True), ("coca", False), ("resnet", False)])
def test_other_towers(kind, maps, local, bank, tmp_path):
    """Of a tower without patches there are scores by the whole, and no heat maps."""
    backbone = load_clip(Models(tmp_path)[kind], device="cpu")
    detector = SDMAD(bank, backbone=backbone, alignment=AlignmentConfig(1, augmentations=1, local=local))
    images = [np.full((32, 32), 40 * i, np.uint8) for i in range(6)]
    detector.fit(images, dict(zip(bank.categories, np.eye(6, dtype=int)[:3], strict=True)))
    for name, adapter in shifted(backbone).items():
        detector.adapters_[name] = adapter
    exported = Exported(export_detector(detector, tmp_path / "export"))
    assert np.abs(exported.features(images)[0] - detector.features(images)[0]).max() < 0.03
    if maps:
        assert exported.sign_maps(images[0]).shape == detector.sign_maps(images[0]).shape
    else:
        with pytest.raises(ExportError, match="no patch embeddings"):
            exported.sign_maps(images[0])


# Where there is no torch

ALONE = """
import sys
sys.modules["torch"] = sys.modules["sdmad_lite"] = sys.modules["scipy"] = None  # importing one raises
import score
detector = score.Exported()
print(*(f"{p:.6f}" for p in detector.predict_proba([sys.argv[1]])[0]), detector.sign_maps(sys.argv[1]).shape)
sys.exit(score.main(sys.argv[1:]))
"""


def test_a_folder_that_was_moved_runs_without_torch(chest, folder, tmp_path):
    image, moved = chest[1].images[0], shutil.copytree(folder, tmp_path / "moved")
    said = subprocess.run([sys.executable, "-c", ALONE, image], cwd=moved, capture_output=True, text=True, check=True)
    first, *lines = said.stdout.splitlines()
    wanted = Exported(folder).predict_proba(image)[0]
    assert np.allclose([float(word) for word in first.split(" (")[0].split()], wanted, atol=1e-5)
    assert len(lines) == len(wanted) + 2 and lines[-1].endswith("not for clinical use.")
    (moved / "tower.onnx").write_bytes(b"other")
    said = subprocess.run([sys.executable, moved / "score.py", image], capture_output=True, text=True)
    assert said.returncode == 2 and "tower.onnx: was changed since the export" in said.stderr


# The command


def test_the_command_and_a_folder_that_is_too_large(small, tmp_path, monkeypatch, capsys):
    detector, out = small[0].save(tmp_path / "detector"), tmp_path / "export"
    monkeypatch.setattr("sdmad_export.export.LIMIT", 1000)
    assert main(["export", "--detector", str(detector), "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert "tower.onnx" in said.out and "a smaller backbone makes a smaller export" in said.err
    assert Exported(out).categories == list(small[0].bank.categories)


def test_npm_that_cannot_fetch_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OutputError, match="there is no npm; install Node"):
        add_runtime(tmp_path / "web", "npm")
    (tmp_path / "npm").write_text("#!/bin/sh\necho E404 >&2; exit 1")
    (tmp_path / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin")
    with pytest.raises(OutputError, match=r"cannot fetch onnxruntime-web@\S+ \(E404\)"):
        add_runtime(tmp_path / "web", "npm")


# The page

DROP = """([name, base64]) => {
  const bytes = Uint8Array.from(atob(base64), letter => letter.charCodeAt(0)), data = new DataTransfer()
  data.items.add(new File([bytes], name, { type: "image/png" }))
  document.getElementById("drop").dispatchEvent(new DragEvent("drop", { bubbles: true, dataTransfer: data }))
}"""
"""Drops a file on the page."""


@pytest.fixture(scope="module")
def page(folder, tmp_path_factory):
    """The page of the folder, in Chromium."""
    if not CHROMIUM:
        pytest.skip("no browser: install Chromium (on Debian: apt install chromium)")
    sync_api = pytest.importorskip("playwright.sync_api")
    served = shutil.copytree(folder, tmp_path_factory.mktemp("page") / "export")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("npm_config_offline", "true")
        try:
            add_runtime(served / RUNTIME, "npm")
        except OutputError as error:
            pytest.skip(f"npm has not kept {RUNTIME}; npm cache add {RUNTIME}@{VERSION} fetches it: {error}")
    (served / SUMS).unlink()
    write_sums(served)
    handler = functools.partial(Quiet, directory=served)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/"
    with sync_api.sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.asked, page.folder, page.address = [], served, address
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(address)
        page.locator("text=ready").wait_for(timeout=120_000)
        yield page
        browser.close()
    server.shutdown()
    server.server_close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


def drop(page, name, content):
    """Drop a file on the page, and wait for what it says of it."""
    page.evaluate("window.scored = null")
    page.evaluate(DROP, [name, base64.b64encode(content).decode()])
    page.wait_for_function("window.scored || document.querySelector('#state.error')", timeout=60_000)
    page.locator("#state", has_text=re.compile("scored in|;")).wait_for()


def test_the_page_says_what_python_says(page, folder, chest):
    image, exported = Path(chest[1].images[3]), Exported(folder)
    drop(page, image.name, image.read_bytes())
    found, wanted = page.evaluate("window.scored"), exported.explain(image)
    for row, one in zip(found["rows"], wanted, strict=True):
        assert row["probability"] == pytest.approx(one["probability"], abs=1e-4)
        assert row["detected"] == one["detected"]
        kept = {s["text"]: s["contribution"] for s in one["signs"] if s["weight"] > 0}
        assert [s["text"] for s in row["signs"]] == list(kept)
        assert {s["text"]: s["contribution"] for s in row["signs"]} == pytest.approx(kept, abs=1e-3)
        assert row["normal"] == pytest.approx(sum(s["contribution"] for s in one["signs"] if s["normal"]), abs=1e-3)
    np.testing.assert_allclose(found["maps"], exported.sign_maps(image), atol=1e-3)
    assert page.locator("#categories button").count() == len(wanted)
    assert page.locator("#notice", has_text="not for clinical use").count() == 1
    assert {url[: len(page.address)] for url in page.asked} - {"data:,"} == {page.address}
    if where := os.environ.get("SDMAD_SCREENSHOTS"):
        page.screenshot(path=f"{where}/export.png")


def test_a_picture_that_is_not_square_and_files_that_are_none(page, folder):
    stream, pixels = io.BytesIO(), np.random.default_rng(0).integers(0, 255, (70, 211), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    drop(page, "wide.png", stream.getvalue())
    found = [row["probability"] for row in page.evaluate("window.scored")["rows"]]
    assert found == pytest.approx(Exported(folder).predict_proba(pixels)[0].tolist(), abs=1e-4)
    drop(page, "text.png", b"text")
    assert "cannot be read as an image; save it as PNG" in page.inner_text("#state")
    stream = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), (255, 0, 0), np.uint8)).save(stream, "PNG")
    drop(page, "red.png", stream.getvalue())
    assert "is a colour image" in page.inner_text("#state")


def test_the_page_refuses_a_changed_file(page):
    (page.folder / "export.json").write_text("{}")
    page.goto(page.address)
    page.locator(".error", has_text="export.json was changed since the export").wait_for(timeout=60_000)
