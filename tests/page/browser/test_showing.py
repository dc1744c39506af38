"""What the page shows: facts, explanations, moments, and all of it in every size and colour."""

import concurrent.futures

import numpy as np
import pytest
import soundfile
from browser_pages import PIXELS, Watched, until
from PIL import Image
from playwright.sync_api import expect

from sir_jax.cli import screenshots
from sir_jax.index.index import Index
from sir_jax.inference.retriever import Retriever
from sir_jax.page.engine import Engine


def test_the_page_names_its_model_and_index(watched, page_engine):
    page = watched.page
    assert page.inner_text("#fact-model") == page_engine.model.name
    assert page.inner_text("#fact-pictures") == "9" and page.inner_text("#fact-recordings") == "5"
    assert page.title() == "sir_jax: search by voice"


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
    shown = ("search", "explain", "reverse", "several", "dark", "narrow")
    # Words are typed where voices are installed; no recording here is long enough for moments.
    names = {path.stem for path in out.iterdir()} - {"page_typing"}
    assert names == {f"page_{each}" for each in shown}
    for path in out.iterdir():
        with Image.open(path) as image:
            assert image.width == (400 if "narrow" in path.stem else 1280) and image.height == 860
            assert len(image.getcolors()) > 20
