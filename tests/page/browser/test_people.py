"""The page for people: level and silence, progress and cancelling, several pictures, a keyboard."""

import re
import threading

import numpy as np
import pytest
import soundfile
from browser_pages import Watched, ids, until
from playwright.sync_api import expect

MUTED = """() => navigator.mediaDevices.getUserMedia = async () =>
  new AudioContext().createMediaStreamDestination().stream"""


def searches(watched) -> int:
    return sum(address.endswith("/api/search") for address in watched.requests)


@pytest.fixture
def still(tmp_path):
    """Return a recording in which nothing is heard."""
    path = tmp_path / "still.wav"
    noise = np.random.default_rng(0).normal(0, 1e-4, 16_000)
    soundfile.write(path, noise, 16_000, subtype="FLOAT")
    return path


def test_that_nothing_was_heard_is_told_in_words(watched, still, spoken):
    page = watched.page
    page.set_input_files("#file-speech", still)
    expect(page.locator("#status")).to_have_text(
        "Nothing was heard in still.wav: nowhere is it louder than -60 dB, "
        "and below that no word is understood. Is it the right file?"
    )
    assert page.get_attribute("#status", "class") == "status warning"
    assert page.locator("#pictures li").count() == 0
    watched.search("speech", spoken)
    assert page.get_attribute("#status", "class") == "status" and len(ids(page)) == 9

    page.evaluate(MUTED)
    page.click("#record")
    expect(page.locator("#advice")).to_contain_text("Nothing is heard yet")
    assert page.get_attribute("#level", "aria-valuenow") == "0"
    page.click("#record")
    expect(page.locator("#status")).to_contain_text(
        "Nothing was heard in recording.wav: nowhere is it louder than -60 dB"
    )
    expect(page.locator("#status")).to_contain_text("Is the microphone muted")
    assert page.inner_text("#advice") == "" and not page.locator("#pictures li").count()


def test_the_meter_follows_the_voice_and_escape_drops_the_recording(watched):
    page = watched.page
    page.click("#record")
    # The fake microphone's loud second: a peak of 0.4 is at -8 dB, 0.87 of the meter.
    expect(page.locator("#level")).to_have_attribute("aria-valuenow", re.compile("^8[5-9]$"))
    width = "document.querySelector('#level i').style.width"
    assert page.evaluate(width).endswith("%") and page.inner_text("#advice") == ""
    assert re.match(r"-\d+ decibels$", page.get_attribute("#level", "aria-valuetext"))
    page.keyboard.press("Escape")
    expect(page.locator("#status")).to_have_text("The recording was dropped.")
    assert page.inner_text("#record-label") == "Record" and page.is_hidden("#level")
    assert searches(watched) == 0


@pytest.fixture
def held(page_engine, monkeypatch):
    """Let searches wait, while they encode, for the event that this returns."""
    search, go = page_engine.search, threading.Event()

    def waiting(kind, query, k, rerank, tell):
        tell("encode")
        assert go.wait(300)
        return search(kind, query, k, rerank, tell)

    monkeypatch.setattr(page_engine, "search", waiting)
    yield go
    go.set()


def test_progress_is_told_and_a_search_can_be_cancelled(watched, held, spoken):
    page, status = watched.page, watched.page.locator("#status")
    assert page.get_attribute("#status", "aria-live") == "polite" and page.is_hidden("#work")
    page.set_input_files("#file-speech", spoken)
    expect(status).to_have_text("Making sense of it …")
    expect(page.locator("#bar")).to_be_visible()
    assert page.get_attribute("#results", "aria-busy") == "true"
    page.focus("#cancel")
    page.keyboard.press("Enter")
    expect(status).to_have_text("Cancelled: nothing is searched any more.")
    assert page.is_hidden("#work") and page.get_attribute("#results", "aria-busy") == "false"
    assert page.evaluate("document.activeElement.id") == "tab-speech"

    page.set_input_files("#file-speech", spoken)
    expect(status).to_have_text("Waiting for an earlier search …")
    page.keyboard.press("Escape")
    expect(status).to_have_text("Cancelled: nothing is searched any more.")
    held.set()
    watched.search("speech", spoken)
    assert len(ids(page)) == 9 and page.is_hidden("#work") and searches(watched) == 3


def test_the_share_that_was_sent_is_shown(watched, held, tmp_path):
    page, wave = watched.page, np.random.default_rng(0).uniform(-1, 1, (8_000, 8))
    path = tmp_path / "loud.wav"
    soundfile.write(path, np.repeat(wave, 8, axis=0), 192_000, subtype="FLOAT")
    network = page.context.new_cdp_session(page)
    limits = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 4e6}
    network.send("Network.emulateNetworkConditions", limits)
    page.set_input_files("#file-speech", path)
    expect(page.locator("#status")).to_have_text("Sending it …")
    until(page, "document.getElementById('bar').value > 0")
    assert page.evaluate("document.getElementById('bar').value") <= 1
    network.send("Network.emulateNetworkConditions", limits | {"uploadThroughput": -1})
    expect(page.locator("#status")).to_have_text("Making sense of it …")
    assert not page.evaluate("document.getElementById('bar').hasAttribute('value')")
    held.set()
    watched.wait_for_results()


def test_several_pictures_are_queries_of_their_own(browser, url, page_engine, page_root, tmp_path):
    # Without the fixture `watched`, because the browser's console reports the refused picture.
    page = (watched := Watched(browser, url)).page
    bad = tmp_path / "words.png"
    bad.write_text("these are words")
    pictures = [page_root / "pictures" / name for name in ("4.png", "5.png")]
    page.set_input_files("#file-picture", [pictures[0], bad, pictures[1]])
    expect(page.locator("#status")).to_have_text(
        "2 of 3 pictures searched with, each by itself; 1 could not be searched with. "
        "Unfold one to see its recordings."
    )
    found = [page_engine.index.search(picture, 5) for picture in pictures]
    sections = page.locator("#batch details")
    assert sections.locator("summary .name").all_inner_texts() == ["4.png", "words.png", "5.png"]
    short = [f"best: {hits[0].id.split('/')[-1]} ({hits[0].score:.3f})" for hits in found]
    told = sections.locator(".best").all_inner_texts()
    assert [told[0], told[2]] == short and "words.png: not a" in told[1]
    assert page.inner_text("#picture-name") == "3 pictures" and searches(watched) == 3
    assert page.is_hidden("#recordings") and page.is_hidden("#error")
    # All are folded; a click, or Enter, unfolds one.
    assert page.locator("#batch li").count() == 0
    names = [sections.nth(n).locator("li .name") for n in range(3)]
    page.click("#batch summary >> nth=0")
    expect(names[0]).to_have_count(5)
    assert names[0].all_inner_texts() == [hit.id for hit in found[0]]
    page.focus("#batch details:nth-of-type(3) summary")
    page.keyboard.press("Enter")
    expect(names[2]).to_have_count(5)
    assert names[2].all_inner_texts() == [hit.id for hit in found[1]]
    sections.nth(2).locator("li .button").first.click()
    page.wait_for_selector("#why[open]")
    assert page.get_attribute("#map-picture", "alt").startswith("Picture of the pair: speech/")
    page.keyboard.press("Escape")

    page.click("#tab-speech")
    page.click("#tab-picture")
    assert sections.nth(2).get_attribute("open") is not None and sections.count() == 3
    page.set_input_files("#file-picture", pictures[0])
    watched.wait_for_results()
    expect(page.locator("#recordings .name")).to_have_count(5)
    assert page.is_hidden("#batch") and page.inner_text("#picture-name") == "4.png"
    page.close()


def test_more_pictures_than_are_searched_with_at_once(watched, page_root, held):
    page = watched.page
    page.set_input_files("#file-picture", [page_root / "pictures" / "4.png"] * 26)
    expect(page.locator("#error-text")).to_have_text(
        "26 files were given; 24 pictures are searched with at once, and the others were left out"
    )
    assert page.locator("#batch details").count() == 24
    page.keyboard.press("Escape")
    expect(page.locator("#status")).to_contain_text("Cancelled")
    assert set(page.locator("#batch .best").all_inner_texts()) == {"not searched yet"}


FOCUS = """() => {
  const at = document.activeElement;
  const shown = at.classList.contains("unseen") ? at.previousElementSibling
    : at.id === "rerank" ? at.nextElementSibling : at;
  const { outlineStyle, outlineWidth } = getComputedStyle(shown);
  return [at.id || at.title || at.className, outlineStyle === "solid" && outlineWidth === "3px"];
}"""


def test_everything_by_keyboard_alone(watched, spoken):
    page, order = watched.page, []

    def tab(last):
        while not order or order[-1] != last:
            page.keyboard.press("Tab")
            name, visible = page.evaluate(FOCUS)
            assert visible, name
            order.append(name)
            assert len(order) < 40, order

    # From the start: on a busy machine the key would come before a listener that is added with it.
    page.on("filechooser", lambda chooser: chooser.set_files(spoken))
    tab("file-speech")
    page.keyboard.press("Enter")
    watched.wait_for_results()
    found = ids(page)
    tab("rerank")
    assert order[:4] == ["skip", "tab-speech", "record", "file-speech"]
    assert order[4:] in (
        ["play-query", "say", "language", "say-search", "k", "rerank"],
        ["play-query", "k", "rerank"],  # where nothing can speak
    )
    page.keyboard.press("Space")
    expect(page.locator("#timing li")).to_have_count(4)
    page.keyboard.press("Space")
    expect(page.locator("#timing li")).to_have_count(3)
    tab(found[0])
    tops = page.locator("#pictures .card").evaluate_all("all => all.map(each => each.offsetTop)")
    below = 1 + tops.count(tops[0])
    assert 2 < below < 8
    keys = {"ArrowRight": 1, "ArrowDown": below, "ArrowUp": 1, "End": 8, "Home": 0}
    for key, number in keys.items():
        page.keyboard.press(key)
        assert page.evaluate(FOCUS) == [found[number], True], key
    page.keyboard.press("Space")
    page.wait_for_selector("#why[open]")
    page.keyboard.press("Escape")
    assert page.is_hidden("#why") and page.evaluate(FOCUS)[0] == found[0]
    page.focus(".skip")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate(FOCUS)[0] == found[0]
    page.focus("#play-query")
    page.keyboard.press("Enter")
    expect(page.locator("#play-query")).to_contain_text("Stop")
    page.keyboard.press("Escape")
    expect(page.locator("#play-query")).to_contain_text("Play")
