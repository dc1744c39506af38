"""Draw the page's pictures for docs/ with the system's Chromium."""

import contextlib
import io
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from sir_jax.errors import UserError
from sir_jax.page.item_files import Missing
from sir_jax.page.serve import listen, prepare, url_of

WIDE, NARROW = {"width": 1280, "height": 860}, {"width": 400, "height": 860}
WORDS = "a small blue star on the left", "en"
SEVERAL = 4  # pictures that are searched with at once


def find_chromium() -> str | None:
    """Return the path of a Chromium or Chrome of this system; None where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next(filter(None, map(shutil.which, names)), None)


@contextlib.contextmanager
def served(engine, decoders=None, **limits) -> Iterator[str]:
    """Serve an engine from a thread.

    Args:
      engine: the model and the index.
      decoders: of uploads; None for the usual ones.
      **limits: fields of `server.Limits`.

    Yields:
      The page's address.
    """
    from sir_jax.page.server import Limits, make_server

    with listen("127.0.0.1", 0) as taken:
        server = make_server(engine, Limits(**limits), decoders)
        thread = threading.Thread(target=server.run, kwargs=dict(sockets=[taken]))
        thread.start()
        try:
            yield url_of(taken)
        finally:
            server.should_exit = True
            thread.join()


def reduce_colours(image: Image.Image) -> Image.Image:
    """Return a picture in 256 colours: 96 for what is frequent, 160 for the rest."""
    frequent = image.quantize(96, Image.Quantize.MEDIANCUT).getpalette()[: 3 * 96]
    spread = image.quantize(160, Image.Quantize.MAXCOVERAGE).getpalette()[: 3 * 160]
    palette = Image.new("P", (1, 1))
    palette.putpalette([*frequent, *spread])
    return image.quantize(palette=palette, dither=Image.Dither.NONE)


class Photographer:
    """Take pictures of one browser page."""

    def __init__(self, page, out: Path):
        """Take a page that shows the demo.

        Args:
          page: of playwright.
          out: the folder of the pictures.
        """
        self.page, self.out = page, out

    def shoot(self, name: str) -> None:
        """Write `page_NAME.png`."""
        self.page.wait_for_load_state("networkidle")
        path = self.out / f"page_{name}.png"
        with Image.open(io.BytesIO(self.page.screenshot(animations="disabled"))) as shot:
            reduce_colours(shot.convert("RGB")).save(path, optimize=True)
        print(f"{path}  {path.stat().st_size / 1000:.0f} kB")

    def search(self, kind: str, *paths: str | Path) -> None:
        """Search with a file, or with several, and wait for what is found."""
        self.page.click(f"#tab-{kind}")
        self.page.set_input_files(f"#file-{kind}", paths)
        found = ".best:text(':')" if len(paths) > 1 else ".rank"
        self.page.wait_for_selector(f"body:not(.busy) {found}")
        if self.page.locator(".timeline").count():
            self.page.wait_for_selector(".timeline.drawn")

    def say(self, words: str, language: str) -> None:
        """Search with typed words."""
        self.page.click("#tab-speech")
        self.page.select_option("#language", language)
        self.page.fill("#say", words)
        self.page.press("#say", "Enter")
        self.page.wait_for_selector("#query-name:text('voices')")
        self.page.wait_for_selector("body:not(.busy) .rank")

    def show_moments(self) -> bool:
        """Scroll to the first long recording and play its second moment; tell if there is one."""
        if not self.page.locator(".timeline").count():
            return False
        self.page.locator(".places button").last.click()
        self.page.keyboard.press("Escape")
        self.page.locator("#status").evaluate("each => each.scrollIntoView()")
        return True

    def explain(self, stretch: tuple[float, float] | None) -> None:
        """Explain the best picture, for a stretch of speech in seconds or the whole clip."""
        self.page.click("#pictures .card >> nth=0")
        self.page.wait_for_selector("#why[open]")
        if stretch is None:
            return
        end = float(self.page.inner_text("#to-value").removesuffix(" s"))
        for handle, time in zip(("from", "to"), stretch, strict=True):
            step = str(round(1000 * time / end))
            self.page.fill(f"#{handle}", step)


def draw(
    url: str,
    query: str,
    pictures: Sequence[str | Path],
    out: Path,
    stretch: tuple[float, float] | None = None,
    words: tuple[str, str] = WORDS,
) -> None:
    """Write every picture.

    Args:
      url: of the page.
      query: the recording that is searched with.
      pictures: the first is that of the reverse search; all are searched with at once.
      out: the folder of the pictures.
      stretch: of the recording, in seconds, that is explained; None for all of it.
      words: that are typed, and the code of their language; left out where nothing can speak.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"])
        for draw_some, size, scheme in (
            (_draw_light, WIDE, "light"),
            (_draw_dark, WIDE, "dark"),
            (_draw_narrow, NARROW, "light"),
        ):
            page = browser.new_page(viewport=size, color_scheme=scheme)
            page.set_default_timeout(300_000)  # programs that are compiled for the first time
            page.goto(url)
            page.wait_for_selector("body[data-ready]")
            if not page.is_disabled("#rerank"):
                page.check("#rerank", force=True)
            draw_some(Photographer(page, out), query, pictures, stretch, words)
            page.close()
        browser.close()


def _draw_light(camera: Photographer, query, pictures, stretch, words) -> None:
    camera.search("speech", query)
    camera.shoot("search")
    camera.explain(stretch)
    camera.shoot("explain")
    camera.page.click("#why-close")
    camera.search("picture", pictures[0])
    camera.shoot("reverse")
    if camera.show_moments():
        camera.shoot("moments")
    camera.search("picture", *pictures)
    camera.shoot("several")
    if not camera.page.is_disabled("#say"):
        camera.say(*words)
        camera.shoot("typing")


def _draw_dark(camera: Photographer, query, pictures, stretch, words) -> None:
    camera.search("speech", query)
    camera.explain(stretch)
    camera.shoot("dark")


def _draw_narrow(camera: Photographer, query, pictures, stretch, words) -> None:
    camera.search("speech", query)
    camera.shoot("narrow")


def draw_docs(
    index: str,
    model: str,
    query: str,
    pictures: Sequence[str],
    out: Path,
    stretch: tuple[float, float] | None = None,
    words: tuple[str, str] = WORDS,
) -> None:
    """Serve an index and write every picture of its page.

    Args:
      index: a folder that `sir-jax index` wrote.
      model: what `Retriever.load` takes.
      pictures: the first is that of the reverse search; the best of the query make them four.
      query, out, stretch, words: see `draw`.

    Raises:
      UserError: there is no Chromium, or the index or the model cannot be used.
    """
    if find_chromium() is None:
        raise UserError("no chromium is installed; on Debian: apt-get install chromium")
    engine = prepare(index, model)
    for piece in engine.warmup_steps():  # so that the times shown are those of a page in use
        piece()
    best = []
    for hit in engine.index.search(query, 2 * SEVERAL):
        with contextlib.suppress(Missing):
            best.append(engine.pictures.path(hit.id))
    pictures = [*pictures, *best][:SEVERAL]
    with served(engine) as url:
        draw(url, query, pictures, out, stretch, words)
