"""The dashboard in a real browser: Voilà serves it, Chromium moves the sliders, and pictures and texts change."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no browser: install Chromium (on Debian: apt install chromium)")


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A running Voilà."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (tmp_path_factory.mktemp("voila") / "log").open("w+")
    command = [sys.executable, "-m", "voila", "tools/dashboard.ipynb", "--config=tools/voila.json", "--no-browser"]
    command.append(f"--port={port}")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    try:
        for _ in range(300):
            assert server.poll() is None, Path(log.name).read_text()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/voila/static/", timeout=1).close()
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
        log.close()


TABS = ("Signs of an image", "Signs kept", "Shots and strength", "Protocols", "Embeddings", "Break it")
UNNAMED = """() => [...document.querySelectorAll('.noUi-handle, select, input, button')]
    .filter(control => control.offsetParent)
    .filter(control => !(control.getAttribute('aria-label') || control.closest('label') || control.textContent.trim()))
    .map(control => control.outerHTML)"""


@pytest.fixture(scope="module", params=[(1280, 720), (1600, 1000)], ids=["1280x720", "1600x1000"])
def page(address, request):
    sync_api = pytest.importorskip("playwright.sync_api")
    width, height = request.param
    with sync_api.sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": height})
        page.asked = []
        page.on("requestfinished", lambda sent: page.asked.append(sent.url))
        page.goto(address, timeout=240_000)
        page.locator("text=signs on, probability").first.wait_for(timeout=240_000)
        yield page
        browser.close()


@pytest.mark.parametrize("tab", TABS)
def test_a_slider_moves_and_nothing_is_cut(page, tab):
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
    page.wait_for_timeout(600)  # names are given twice a second
    assert page.evaluate(UNNAMED) == []
    folder = os.environ.get("SDMAD_SCREENSHOTS")
    if folder:
        width = page.viewport_size["width"]
        page.screenshot(path=f"{folder}/{tab.replace(' ', '_').lower()}_{width}.png")


def test_nothing_is_asked_of_another_host(page, address):
    assert [url for url in page.asked if not url.startswith((address, "data:", "blob:"))] == []
