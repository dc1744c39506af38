"""One browser and one server for the tests of a file.

Not for all files: while Playwright is open, its loop counts as running in this thread, and no test
of another folder could run one of its own.
"""

import os

import pytest
import soundfile
from browser_pages import Watched
from playwright.sync_api import sync_playwright

from sir_jax.page import server as servers
from sir_jax.page.screenshots import find_chromium

CHROMIUM = find_chromium()


@pytest.fixture(autouse=True, scope="module")
def chromium():
    """Return the browser's path. launch/test.sh installs it; in CI a missing one is a failure."""
    if CHROMIUM is None and "CI" not in os.environ:
        pytest.skip("no chromium is installed")
    return CHROMIUM


@pytest.fixture(scope="module")
def spoken(tmp_path_factory, make_tone):
    """Return a recording of three seconds whose middle second is loud."""
    wave = make_tone(48_000)
    wave[:16_000] *= 0.05
    wave[32_000:] *= 0.05
    path = tmp_path_factory.mktemp("spoken") / "spoken.wav"
    soundfile.write(path, wave, 16_000, subtype="PCM_16")
    return path


@pytest.fixture(scope="module")
def url(page_engine, serve_page):
    with serve_page(page_engine, seconds=4) as url:
        yield url


@pytest.fixture(scope="module")
def browser(chromium, spoken):
    with sync_playwright() as tool:
        browser = tool.chromium.launch(
            executable_path=chromium,
            args=[
                "--no-sandbox",
                "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream",
                f"--use-file-for-fake-audio-capture={spoken}",
            ],
        )
        yield browser
        browser.close()


@pytest.fixture
def watched(browser, url):
    watched = Watched(browser, url)
    yield watched
    watched.page.wait_for_load_state("networkidle")
    assert watched.messages == []
    assert all(address.startswith((url, "blob:")) for address in watched.requests)
    watched.page.close()


@pytest.fixture
def speaks(monkeypatch, speaks):
    """Let the page offer two languages and say one text; return what was to be said."""
    languages = {"en": "English", "fr": "French (France)"}
    monkeypatch.setattr(servers, "spoken_languages", lambda: languages)
    return speaks
