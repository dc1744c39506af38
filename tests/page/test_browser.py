"""The page in a real browser: recording, search, re-ranking, explanation and errors."""

import concurrent.futures
import os
import re

import numpy as np
import pytest
import soundfile
from PIL import Image
from playwright.sync_api import expect, sync_playwright

from sir_jax.cli import screenshots
from sir_jax.index.index import Index
from sir_jax.inference.retriever import Retriever
from sir_jax.page import server as servers
from sir_jax.page.engine import Engine
from sir_jax.page.screenshots import find_chromium

CHROMIUM = find_chromium()
expect.set_options(timeout=300_000)
# launch/test.sh installs Chromium; in CI a missing browser is a failure.
pytestmark = pytest.mark.skipif(
    CHROMIUM is None and "CI" not in os.environ, reason="no chromium is installed"
)
PIXELS = "id => document.getElementById(id).toDataURL()"


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
def browser(spoken):
    with sync_playwright() as tool:
        browser = tool.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream",
                f"--use-file-for-fake-audio-capture={spoken}",
            ],
        )
        yield browser
        browser.close()


class Watched:
    """A page that records its requests, console messages and errors."""

    def __init__(self, browser, url, **options):
        self.page = browser.new_page(**{"viewport": {"width": 1400, "height": 900}} | options)
        self.page.set_default_timeout(300_000)
        self.messages, self.requests = [], []
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(url)
        self.page.wait_for_selector("body[data-ready]")

    def _on_console(self, message):
        # The console reports that the link out of the folder is not served, as it should not be.
        if "link.png" not in message.location["url"]:
            self.messages.append(message.text)

    def search(self, kind, path):
        self.page.set_input_files(f"#file-{kind}", path)
        self.wait_for_results()

    def wait_for_results(self):
        self.page.wait_for_selector("body:not(.busy) .rank")


@pytest.fixture
def watched(browser, url):
    watched = Watched(browser, url)
    yield watched
    watched.page.wait_for_load_state("networkidle")
    assert watched.messages == []
    assert all(address.startswith((url, "blob:")) for address in watched.requests)
    watched.page.close()


def until(page, expression):
    """Wait until an expression is true; the page's security policy forbids `wait_for_function`."""
    for _ in range(3000):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"{expression} did not come true")


def ids(page):
    return page.locator("#pictures .card").evaluate_all("all => all.map(each => each.title)")


def test_the_page_names_its_model_and_index(watched, page_engine):
    page = watched.page
    assert page.inner_text("#fact-model") == page_engine.model.name
    assert page.inner_text("#fact-pictures") == "9" and page.inner_text("#fact-recordings") == "5"
    assert page.title() == "sir_jax: search by voice"


def test_upload_search_and_rerank(watched, page_engine, spoken):
    page = watched.page
    watched.search("speech", spoken)
    hits = page_engine.index.search(spoken, 9)
    assert ids(page) == [hit.id for hit in hits]
    assert page.inner_text("#status") == "Best 9 of 9 pictures, by similarity."
    assert page.locator("#pictures .score").all_inner_texts() == [f"{h.score:.3f}" for h in hits]
    stages = page.locator("#timing li").all_inner_texts()
    assert [text.split()[0] for text in stages] == ["decode", "encode", "search"]
    sizes = page.locator("#pictures img").evaluate_all("all => all.map(each => each.naturalWidth)")
    assert 480 in sizes

    page.check("#rerank", force=True)
    expect(page.locator("#timing li")).to_have_count(4)
    match = page_engine.model.match(
        [spoken], [page_engine.pictures.path(name) for name in ids(page)[:8]]
    )
    score = {hit.id: hit.score for hit in hits}
    keys = [score[name] / 0.07 + odds for name, odds in zip(ids(page)[:8], match, strict=True)]
    assert keys == sorted(keys, reverse=True)
    assert page.locator("#pictures .second").count() == 8  # the link out of the folder has none
    page.fill("#k", "4")
    page.dispatch_event("#k", "change")
    expect(page.locator("#pictures li")).to_have_count(4)
    assert page.inner_text("#k-value") == "4"
    assert page.inner_text("#status") == "Best 4 of 9 pictures, by similarity and match together."


@pytest.fixture
def speaks(monkeypatch, speaks):
    """Let the page offer two languages and say one text; return what was to be said."""
    languages = {"en": "English", "fr": "French (France)"}
    monkeypatch.setattr(servers, "spoken_languages", lambda: languages)
    return speaks


def test_typed_words_by_keyboard_alone(browser, page_engine, serve_page, speaks, said):
    with serve_page(page_engine) as url:
        page = (watched := Watched(browser, url, locale="fr-CA")).page
        page.focus("#file-speech")
        page.keyboard.press("Tab")  # nothing can be played yet
        page.keyboard.type("un poisson ")
        page.keyboard.press("Enter")
        watched.wait_for_results()
        assert speaks == [("un poisson", "fr")]
        assert ids(page) == [hit.id for hit in page_engine.index.search(said, 9)]
        assert page.inner_text("#query-name") == (
            "“un poisson” in French (France), by 2 voices, 0.6 s"
        )
        assert page.locator("#timing li").first.inner_text().startswith("speak ")
        page.click("#play-query")
        expect(page.locator("#play-query")).to_contain_text("Stop")
        page.focus("#say")
        page.keyboard.press("Tab")
        page.keyboard.type("Eng")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        expect(page.locator("#query-name")).to_contain_text("in English, by 2 voices")
        assert speaks[1:] == [("un poisson", "en")]
        page.press("#pictures .card >> nth=0", "Enter")
        page.wait_for_selector("#why[open]")
        assert page.inner_text("#to-value") == "0.56 s"
        page.reload()
        page.wait_for_selector("body[data-ready]")
        assert page.input_value("#language") == "en" and watched.messages == []
        page.close()


def test_words_that_cannot_be_said(browser, page_engine, serve_page, speaks, spoken):
    with serve_page(page_engine) as url:
        page = (watched := Watched(browser, url)).page
        for text, message in (
            ("  ", "no words yet: type some, or speak"),
            ("a" * 100_000, "the text has 100,000 letters; type at most 500"),
            ("🙂", "there is nothing to be said"),
        ):
            page.fill("#say", text)
            page.press("#say", "Enter")
            expect(page.locator("#error-text")).to_have_text(message)
        assert speaks == [("🙂", "en")] and not page.locator(".rank").count()
        watched.search("speech", spoken)
        assert page.is_hidden("#error") and page.inner_text("#query-name") == "spoken.wav, 3.0 s"
        page.close()


def test_where_nothing_can_speak(browser, page_engine, serve_page, monkeypatch):
    monkeypatch.setattr(servers, "spoken_languages", dict)
    monkeypatch.setattr(servers, "missing_engines", lambda: {"espeak": "run: pip install it"})
    with serve_page(page_engine) as url:
        page = Watched(browser, url).page
        assert all(map(page.is_disabled, ("#say", "#language", "#say-search")))
        assert page.inner_text("#typed-note") == "Nothing here can speak: run: pip install it"
        page.close()


def test_record_by_microphone(watched, page_engine):
    page = watched.page
    page.focus("#record")
    page.keyboard.press("Enter")
    expect(page.locator("#record-label")).to_have_text("Stop and search")
    expect(page.locator("#clock")).to_have_text(re.compile(r"^[23]\.\d / 4 s$"))
    expect(page.locator("#level")).to_have_attribute("aria-valuenow", re.compile(r"^\d+$"))
    page.keyboard.press("Enter")
    watched.wait_for_results()
    with page.expect_response("**/api/search") as answer:
        page.check("#rerank", force=True)
    plain = answer.value.json()
    # The fake microphone plays a loud sound, which is in the recording.
    assert 1.5 <= plain["seconds"] <= 4 and max(plain["peaks"]) > 0.2 and not plain["quiet"]
    assert len(plain["results"]) == 9
    assert page.inner_text("#query-name") == f"recording.wav, {plain['seconds']:.1f} s"
    page.click("#play-query")
    expect(page.locator("#play-query")).to_contain_text("Stop")


def test_a_recording_ends_at_the_limit(watched):
    page = watched.page
    page.click("#record")
    watched.wait_for_results()
    assert page.inner_text("#query-name") == "recording.wav, 4.0 s"
    expect(page.locator("#record-label")).to_have_text("Record")


def test_stopping_before_the_recording_started_closes_the_microphone(watched):
    page = watched.page
    page.evaluate(
        """() => {
          const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
          navigator.mediaDevices.getUserMedia = async (...given) => {
            window.given = await ask(...given);
            await new Promise(go => (window.go = go));
            return window.given;
          };
        }"""
    )
    page.click("#record")
    page.click("#record")
    expect(page.locator("#error-text")).to_contain_text("nothing was recorded")
    until(page, "!!window.go")
    page.evaluate("window.go()")
    until(page, "window.given.getTracks().every(track => track.readyState === 'ended')")


def test_explain_a_stretch_and_a_patch(watched, spoken):
    page = watched.page
    watched.search("speech", spoken)
    page.locator("#pictures .card[title='pictures/2.png']").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#why[open]")
    assert page.inner_text("#why-name") == "2.png"
    assert "over the whole clip" in page.inner_text("#map-note")
    whole = page.evaluate(PIXELS, "map")
    line = page.locator("#line").bounding_box()
    page.mouse.move(line["x"] + line["width"] / 3, line["y"] + 60)
    page.mouse.down()
    page.mouse.move(line["x"] + line["width"] * 2 / 3, line["y"] + 60, steps=3)
    page.mouse.up()
    assert page.inner_text("#from-value") == "1.00 s" and page.inner_text("#to-value") == "2.00 s"
    assert "from 1.00 to 2.00 s" in page.inner_text("#map-note")
    part = page.evaluate(PIXELS, "map")
    assert part != whole

    curve = page.evaluate(PIXELS, "line")
    box = page.locator("#map").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.75)
    assert "Patch in row 2, column 1" in page.inner_text("#map-note")
    assert "chosen patch" in page.inner_text("#curve-note")
    assert page.evaluate(PIXELS, "line") != curve
    page.focus("#map")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowUp")
    assert "Patch in row 1, column 2" in page.inner_text("#map-note")
    page.keyboard.press("Escape")
    assert "depends on" in page.inner_text("#curve-note") and page.is_visible("#why")
    assert page.evaluate(PIXELS, "line") == curve

    page.focus("#to")
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#to-value") == "2.00 s"
    page.fill("#to", "500")
    assert page.inner_text("#to-value") == "1.50 s"
    page.click("#play")
    expect(page.locator("#play")).to_contain_text("Stop")
    expect(page.locator("#play")).to_contain_text("Play")
    page.click("#whole")
    assert page.evaluate(PIXELS, "map") == whole
    page.keyboard.press("Escape")
    assert not page.is_visible("#why")


def test_search_by_picture(watched, page_engine, page_root):
    page = watched.page
    page.focus("#tab-speech")
    page.keyboard.press("ArrowRight")
    picture = page_root / "pictures" / "4.png"
    watched.search("picture", picture)
    expected = [hit.id for hit in page_engine.index.search(picture, 5)]
    names = page.locator("#recordings .name")
    assert names.all_inner_texts() == expected
    until(page, "document.querySelector('#recordings audio').readyState > 0")
    seconds = page.locator("#recordings audio").evaluate_all("all => all[0].duration")
    first = soundfile.info(page_root / expected[0])
    assert seconds == pytest.approx(first.duration, abs=0.01)
    page.evaluate("document.querySelector('#recordings audio').play()")
    until(page, "document.querySelector('#recordings audio').currentTime > 0")

    page.locator("#recordings .button").first.click()
    page.wait_for_selector("#why[open]")
    # JavaScript rounds 1.125 up, Python to the even digit.
    assert float(page.inner_text("#to-value").removesuffix(" s")) == pytest.approx(
        first.duration, abs=0.006
    )
    assert page.evaluate("document.getElementById('map-picture').naturalWidth") == 600
    page.click("#why-close")
    # The other tab still shows its own list.
    page.click("#tab-speech")
    assert page.is_visible("#pictures") and not page.is_visible("#recordings")


def test_a_long_recording_plays_from_its_moment(
    browser, page_engine, page_root, serve_page, make_tone, tmp_path
):
    (tmp_path / "long").mkdir()
    wave = make_tone(99_200) * np.random.default_rng(0).uniform(0, 1, 99_200)
    soundfile.write(tmp_path / "long" / "talk.flac", wave, 16_000)
    index = Index.build(page_engine.model, tmp_path / "long")
    picture = page_root / "pictures" / "4.png"
    moments = index.moments(picture, ["talk.flac"])["talk.flac"]
    with serve_page(Engine(page_engine.model, index)) as url:
        page = (watched := Watched(browser, url)).page
        watched.search("picture", picture)
        places = page.locator(".places button")
        shown = [f"▶ 0:0{moment.start:.1f}" for moment in moments]
        assert places.all_inner_texts() == shown
        until(page, "document.querySelector('#recordings audio').readyState > 0")
        at = "document.querySelector('#recordings audio').currentTime"
        assert page.evaluate(at) == pytest.approx(moments[0].start, abs=0.1)
        places.last.focus()
        page.keyboard.press("Enter")
        until(page, f"{at} > {moments[-1].start}")
        assert page.evaluate(at) < moments[-1].end + 0.5
        page.locator("#recordings .button").click()
        page.wait_for_selector("#why[open]")
        assert page.inner_text("#to-value") == "3.00 s" and watched.messages == []
        page.close()


def test_a_picture_is_dropped(watched, page_root):
    page, picture = watched.page, page_root / "pictures" / "5.png"
    page.evaluate(
        """bytes => {
          const given = new DataTransfer();
          given.items.add(new File([new Uint8Array(bytes)], "5.png", { type: "image/png" }));
          document.body.dispatchEvent(new DragEvent("drop", {
            dataTransfer: given, bubbles: true, cancelable: true }));
        }""",
        list(picture.read_bytes()),
    )
    watched.wait_for_results()
    assert page.get_attribute("#tab-picture", "aria-selected") == "true"
    assert page.inner_text("#picture-name") == "5.png"


def test_errors_are_one_line_and_go_away(browser, url, tmp_path, spoken):
    # Without the fixture `watched`, because the browser's console reports every refused request.
    page = (watched := Watched(browser, url)).page
    bad = tmp_path / "words.wav"
    bad.write_text("these are words")
    page.set_input_files("#file-speech", bad)
    expect(page.locator("#error-text")).to_contain_text("words.wav: not a wav, flac, ogg or mp3")
    assert page.get_attribute("#error", "role") == "alert"
    long = tmp_path / "long.wav"
    soundfile.write(long, [0.0] * 80_000, 16_000)
    page.set_input_files("#file-speech", long)
    expect(page.locator("#error-text")).to_contain_text("5.00 s is over the limit of 4 s")
    watched.search("speech", spoken)
    expect(page.locator("#error")).to_be_hidden()
    page.set_input_files("#file-speech", bad)
    page.click("#error-close")
    expect(page.locator("#error")).to_be_hidden()
    # A file above the server's limit is refused without sending it.
    large = tmp_path / "large.wav"
    with large.open("wb") as file:
        file.truncate(33_000_000)
    before = len(watched.requests)
    page.set_input_files("#file-speech", large)
    expect(page.locator("#error-text")).to_contain_text("33.0 MB is over the limit of 32 MB")
    assert len(watched.requests) == before
    page.close()


def test_no_microphone(browser, url):
    context = browser.new_context()
    page = context.new_page()
    page.add_init_script(
        "navigator.mediaDevices.getUserMedia = () =>"
        " Promise.reject(new DOMException('no', 'NotAllowedError'))"
    )
    page.goto(url)
    page.wait_for_selector("body[data-ready]")
    page.click("#record")
    expect(page.locator("#error-text")).to_contain_text("microphone was not allowed")
    expect(page.locator("#record-label")).to_have_text("Record")
    context.close()


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_cut_off(browser, url, spoken, width, scheme):
    watched = Watched(browser, url, viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = watched.page
    watched.search("speech", spoken)
    overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(overflow) == 0
    page.locator("#pictures .card").first.click()
    page.wait_for_selector("#why[open]")
    assert (
        page.evaluate("(e => e.scrollWidth - e.clientWidth)(document.getElementById('why'))") == 0
    )
    page.click("#why-close")
    page.click("#tab-picture")
    assert page.evaluate(overflow) == 0
    light = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(246, 246, 244)"
    assert light == (scheme == "light") and watched.messages == []
    page.close()


def test_everything_has_a_name(watched, spoken):
    """Every control has a label for screen readers."""
    page = watched.page
    watched.search("speech", spoken)
    page.locator("#pictures .card").first.click()
    page.wait_for_selector("#why[open]")
    nameless = page.evaluate(
        """() => [...document.querySelectorAll(
          "button, input, select, canvas, audio, img, output")].filter(
          each => !(each.getAttribute("aria-label") || each.labels?.length || each.innerText?.trim()
            || each.alt !== undefined && each.hasAttribute("alt"))).map(each => each.outerHTML)"""
    )
    assert nameless == []
    assert page.locator("#map").evaluate("each => each.tabIndex") == 0


def test_an_index_without_recordings(browser, workdir, folder, serve_page):
    model = Retriever.load(workdir)
    with serve_page(Engine(model, Index.build(model, folder))) as url:
        page = (watched := Watched(browser, url)).page
        assert page.is_disabled("#rerank")
        assert "no matching head" in page.inner_text("#rerank-note")
        page.click("#tab-picture")
        assert "holds no recordings" in page.inner_text("#empty-picture")
        page.set_input_files("#file-picture", folder / "b.png")
        expect(page.locator("#status")).to_contain_text("holds no recordings: nothing can be found")
        assert watched.messages == []
        page.close()


# The other tests here drive the same page; the pictures are made anew before a release.
@pytest.mark.release
def test_the_pictures_of_the_docs(page_engine, matching_workdir, spoken, tmp_path, capsys):
    index, out = tmp_path / "index", tmp_path / "docs"
    page_engine.index.save(index)
    out.mkdir()
    options = [f"--index={index}", f"--model={matching_workdir}", f"--query={spoken}"]
    # In another thread, because this thread's event loop belongs to the browser of the other tests.
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        work = pool.submit(screenshots.main, [*options, f"--out={out}", "--stretch", "1", "2"])
        assert work.result() == 0
    names = {"page_search", "page_explain", "page_reverse", "page_dark", "page_narrow"}
    assert {path.stem for path in out.iterdir()} == names
    for path in out.iterdir():
        with Image.open(path) as image:
            assert image.width == (400 if "narrow" in path.stem else 1280) and image.height == 860
            assert len(image.getcolors()) > 20
