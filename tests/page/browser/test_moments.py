"""A long recording as a waveform: what was found is marked, and it plays from any place."""

import dataclasses
import re

import numpy as np
import pytest
import soundfile
from browser_pages import Watched, until
from playwright.sync_api import expect

from sir_jax.index.index import Index
from sir_jax.page.engine import Engine

SOUND = "document.querySelector('#recordings audio')"
AT = f"{SOUND}.currentTime"


@pytest.fixture(scope="module")
def talk(tmp_path_factory, make_tone):
    """Return a folder with a recording of 12.4 seconds, whose first half is faint."""
    folder = tmp_path_factory.mktemp("long")
    wave = make_tone(198_400) * np.random.default_rng(0).uniform(0, 1, 198_400)
    wave[:99_200] *= 0.1
    soundfile.write(folder / "talk.flac", wave, 16_000)
    return folder


@pytest.fixture(scope="module")
def index(page_engine, talk):
    return Index.build(page_engine.model, talk)


@pytest.fixture
def shown(browser, page_engine, serve_page, page_root, index):
    """Return the page that shows the recording for a picture, and the moments of it."""
    picture = page_root / "pictures" / "4.png"
    with serve_page(Engine(page_engine.model, index)) as url:
        watched = Watched(browser, url)
        watched.search("picture", picture)
        watched.page.wait_for_selector(".timeline.drawn")
        yield watched.page, index.moments(picture, ["talk.flac"])["talk.flac"]
        assert watched.messages == []
        watched.page.close()


@pytest.mark.parametrize("typical,said", [(None, "at 0:"), (1.5, "perhaps at 0:")])
def test_in_short_a_moment_that_is_not_clear_is_a_guess(
    browser, page_engine, serve_page, page_root, index, monkeypatch, typical, said
):
    score = dataclasses.replace(page_engine.model.score, typical=typical)
    monkeypatch.setattr(page_engine.model, "score", score)
    with serve_page(Engine(page_engine.model, index)) as url:
        page = Watched(browser, url).page
        pictures = [page_root / "pictures" / name for name in ("4.png", "5.png")]
        page.set_input_files("#file-picture", pictures)
        expect(page.locator("#batch .best").first).to_have_text(
            re.compile(rf"best: talk.flac, {said}")
        )
        page.click("#batch summary >> nth=0")
        shown = "spoken of at" if typical is None else "nowhere clearly, perhaps at"
        expect(page.locator("#batch .places").first).to_contain_text(shown)
        page.close()


# Returns the colours of pixels of the waveform, each at a share of its width and a height.
COLOURS = """(places) => {
  const canvas = document.querySelector(".outline");
  const ratio = canvas.height / canvas.getBoundingClientRect().height;
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return places.map(([share, y]) => {
    const at = 4 * (Math.round(y * ratio) * canvas.width + Math.floor(share * canvas.width));
    return [...data.slice(at, at + 3)];
  });
}"""


def test_moments_are_marked_on_the_waveform(shown):
    page, moments = shown
    outline = page.evaluate("fetch('/api/outline/talk.flac').then((answer) => answer.json())")
    assert outline["seconds"] == pytest.approx(12.4) and len(outline["peaks"]) == 248
    assert 8 < np.mean(outline["peaks"][124:]) / np.mean(outline["peaks"][:124]) < 12
    slider = page.locator(".outline")
    assert slider.get_attribute("aria-valuemax") == "12"
    assert " of 0:12.4, a stretch that was found" in slider.get_attribute("aria-valuetext")
    gaps = [
        second
        for second in np.arange(0.5, 12, 0.5)
        if all(not m.start - 0.3 < second < m.end + 0.3 for m in moments)
    ]
    middles = [(moment.start + moment.end) / 2 for moment in moments]
    # Below the flags with their numbers there is a bar as long as the stretch.
    places = [(at, y) for y in (2, 17) for at in middles] + [(at, 17) for at in gaps]
    colours = page.evaluate(COLOURS, [(at / 12.4, y) for at, y in places])
    accent, empty = [79, 70, 229], [0, 0, 0]
    assert gaps and colours == [accent] * 2 * len(middles) + [empty] * len(gaps)


def test_a_click_plays_from_there(shown):
    page, moments = shown
    box = page.locator(".outline").bounding_box()

    def click(second):
        page.mouse.click(box["x"] + box["width"] * second / 12.4, box["y"] + 40)
        until(page, f"!{SOUND}.paused && {AT} > 0")

    gap = next(
        second
        for second in np.arange(0.3, 11, 0.1)
        if all(not m.start - 0.25 < second < m.end + 0.25 for m in moments)
    )
    click(gap)
    assert gap - 0.1 < page.evaluate(AT) < gap + 2
    page.keyboard.press("Escape")
    assert page.evaluate(f"{SOUND}.paused")
    click((moments[-1].start + moments[-1].end) / 2)
    assert moments[-1].start - 0.1 <= page.evaluate(AT) < moments[-1].start + 1.2
    page.keyboard.press("Escape")


def test_the_waveform_by_keyboard(shown):
    page, moments = shown
    slider = page.locator(".outline")
    slider.focus()
    page.keyboard.press("Home")
    assert slider.get_attribute("aria-valuenow") == "0"
    page.keyboard.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext").startswith("0:05.0 of 0:12.4")
    page.keyboard.press("Enter")
    until(page, f"!{SOUND}.paused && {AT} >= 5")
    assert page.evaluate(AT) < 7
    page.keyboard.press("Space")
    assert page.evaluate(f"{SOUND}.paused")
    page.keyboard.press("End")
    assert slider.get_attribute("aria-valuenow") == "12"
    page.keyboard.press("PageDown")
    assert slider.get_attribute("aria-valuenow") == "0"
    # The places follow it in the tab order, best first; Enter plays one.
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    until(page, f"!{SOUND}.paused && {AT} > 0")
    assert moments[0].start - 0.1 <= page.evaluate(AT) < moments[0].end + 0.1
