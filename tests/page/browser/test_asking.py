"""Asking the page: by file, typed words, microphone and picture; what cannot be asked."""

import re

import pytest
import soundfile
from browser_pages import Watched, ids, until
from playwright.sync_api import expect

from sir_jax.page import server as servers


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
    said = page.locator("#pictures .second").all_inner_texts()
    assert len(said) == 8  # the link out of the folder has none
    known = page_engine.model.probability([score[name] for name in ids(page)[:8]], match)
    assert said == [f"match {100 * chance:.1f} %" for chance in known]
    page.fill("#k", "4")
    page.dispatch_event("#k", "change")
    expect(page.locator("#pictures li")).to_have_count(4)
    assert page.inner_text("#k-value") == "4"
    assert page.inner_text("#status") == "Best 4 of 9 pictures, by similarity and match together."


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
    # Looked at with every frame: on a busy machine, between two looks a second apart the clock
    # has been at its end.
    page.evaluate(
        """() => new Promise((done) => {
             const clock = document.querySelector("#clock");
             const look = () =>
               parseFloat(clock.textContent) >= 2 ? done() : requestAnimationFrame(look);
             look();
           })"""
    )
    expect(page.locator("#clock")).to_have_text(re.compile(r"^\d\.\d / 4 s$"))
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
