"""The dashboard in a real browser: Voilà serves it, Chromium moves the sliders, and pictures and texts change."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no browser: install Chromium (on Debian: apt install chromium)")


@contextmanager
def served(folder: Path, *command: str, path: str):
    """A server that was started and answers; yields its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = {
        name: str(folder) for name in ("JUPYTER_CONFIG_DIR", "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR")
    }
    paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    with (folder / "log").open("w+") as log:
        command = (sys.executable, "-m", *command, "--no-browser", f"--port={port}")
        server = subprocess.Popen(command, cwd=ROOT, env=os.environ | places | {"PATH": paths}, stdout=log, stderr=log)
        try:
            for _ in range(300):
                assert server.poll() is None, Path(log.name).read_text()
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=1).close()
                except urllib.error.HTTPError:
                    break  # it answers, which is all that was asked
                except OSError:
                    time.sleep(0.2)
                else:
                    break
            yield f"http://127.0.0.1:{port}/"
        finally:
            server.terminate()
            server.wait(20)


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Of a running Voilà."""
    folder, config = tmp_path_factory.mktemp("voila"), "--config=tools/voila.json"
    with served(folder, "voila", "tools/dashboard.ipynb", config, path="voila/static/") as found:
        yield found


TABS = ("Signs of an image", "Signs kept", "Shots and strength", "Protocols", "Embeddings", "Break it")
UNNAMED = """where => [...document.querySelector(where).querySelectorAll(
    '.noUi-handle, select, input, button, [contenteditable=true]')]
    .filter(control => control.offsetParent)
    .filter(control => !control.getAttribute('aria-label') && !control.labels?.length)
    .filter(control => !(control.matches('button') && control.textContent.trim()))
    .map(control => control.outerHTML)"""


@pytest.fixture(scope="module")
def page(browser, address):
    page = browser.new_page(viewport={"width": 1280, "height": 720})
    page.asked = []
    page.on("requestfinished", lambda sent: page.asked.append(sent.url))
    page.goto(address, timeout=240_000)
    page.locator("text=signs on, probability").first.wait_for(timeout=240_000)
    yield page
    page.close()


@pytest.mark.parametrize("size", [(1280, 720), (1600, 1000)], ids=["1280x720", "1600x1000"])
@pytest.mark.parametrize("tab", TABS)
def test_a_slider_moves_and_nothing_is_cut(page, tab, size):
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.locator(".lm-TabBar-tab", has_text=tab).first.click()
    picture = page.locator("img.panel-picture:visible").first
    picture.wait_for(timeout=30_000)
    before = picture.get_attribute("src")
    handle = page.locator(".noUi-handle:visible").last
    handle.focus()
    handle.press(
        "ArrowLeft" if handle.get_attribute("aria-valuenow") == handle.get_attribute("aria-valuemax") else "ArrowRight"
    )
    page.wait_for_function(
        "before => [...document.querySelectorAll('img.panel-picture')].every(image => image.src !== before)",
        arg=before,
        timeout=30_000,
    )
    assert page.locator("text=not for clinical use").count() >= 1
    # picture and state line lie in the window; the picture has words, each control a name
    state = page.locator(".panel:visible > .widget-html:last-child").first
    for place in (page.locator("img.panel-picture:visible").first, state):
        box = place.bounding_box()
        assert box["y"] + box["height"] <= page.viewport_size["height"]
        assert box["x"] + box["width"] <= page.viewport_size["width"]
    assert len(page.locator("img.panel-picture:visible").first.get_attribute("alt")) > 40
    assert page.evaluate(UNNAMED, "body") == []
    folder = os.environ.get("SDMAD_SCREENSHOTS")
    if folder:
        width = page.viewport_size["width"]
        page.screenshot(path=f"{folder}/{tab.replace(' ', '_').lower()}_{width}.png")


def test_nothing_is_asked_of_another_host(page, address):
    assert [url for url in page.asked if not url.startswith((address, "data:", "blob:"))] == []


IN_A_ROOM = """from sdmad_course.panel import Checks, Panel, choice, marks, slider, switch
from sdmad_lite.show.plots import new_figure

controls = {"shots": marks([1, 4, 16], 4), "threshold": slider(0.0, 1.0, 0.5), "category": choice(["a", "b"])}
controls |= {"truth": switch("show the truth"), "signs": Checks({"x": "first sign", "y": "second sign"})}
Panel(lambda **values: (new_figure(2, 2), str(values)), controls)"""


def test_in_jupyterlab_each_control_has_a_name_and_says_its_value(browser, tmp_path):
    cells = [nbformat.v4.new_code_cell(IN_A_ROOM)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), tmp_path / "room.ipynb")
    options = (f"--notebook-dir={tmp_path}", "--IdentityProvider.token=", "--allow-root")
    with served(tmp_path, "jupyterlab", *options, path="api") as address:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(f"{address}doc/tree/room.ipynb", timeout=240_000)
        page.locator(".jp-Notebook-cell").first.click(timeout=240_000)
        page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for(timeout=240_000)
        page.keyboard.press("Shift+Enter")
        shots = page.get_by_role("slider", name="shots")
        shots.wait_for(timeout=240_000)
        assert shots.get_attribute("aria-valuetext") == "4"  # the option, not its place among them
        shots.press("ArrowRight")
        page.wait_for_function("() => document.querySelector('[aria-label=shots]').ariaValueText === '16'")
        assert page.evaluate(UNNAMED, ".panel") == []
        page.close()
