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
    command = [sys.executable, "-m", "voila", "tools/dashboard.ipynb", "--no-browser", f"--port={port}"]
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


@pytest.fixture(scope="module")
def page(address):
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.goto(address, timeout=240_000)
        page.locator("text=signs on, probability").first.wait_for(timeout=240_000)
        yield page
        browser.close()


@pytest.mark.parametrize(
    "tab", ["Signs of an image", "Signs kept", "Shots and strength", "Protocols", "Embeddings", "Break it"]
)
def test_a_slider_moves_and_the_picture_changes(page, tab):
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
    folder = os.environ.get("SDMAD_SCREENSHOTS")
    if folder:
        page.screenshot(
            path=f"{folder}/{tab.replace(' ', '_').lower()}.png", clip={"x": 0, "y": 0, "width": 1600, "height": 840}
        )
