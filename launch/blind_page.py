"""Ask the page ten things that nobody chose, and draw what it shows.

python launch/blind_page.py --one CORPUS --pairs CORPUS [--seed 2026] [--out docs/page_blind.png]

Eight recordings say pictures of the first corpus, two say pictures of minimal pairs of the second,
in which pictures 2n and 2n + 1 differ in what belongs to what. The gallery has 60 pictures of the
first and 20 pairs of the second. All of it is drawn by the seed from the test splits.
"""

import argparse
import io
import random
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from playwright.sync_api import sync_playwright

from sir_jax.data.corpus import Split, open_corpus
from sir_jax.errors import UserError
from sir_jax.index.index import Index
from sir_jax.inference.retriever import Retriever
from sir_jax.page.screenshots import WIDE, Photographer, find_chromium, reduce_colours, served
from sir_jax.page.serve import prepare

PICTURES, PAIRS, ASKED = 60, 20, 8
ROW = 40, 532, 1240, 766  # where the page has the first row of pictures
RIGHT, WRONG = "#14864a", "#b3261e"


def draw_gallery(one: Split, pairs: Split, seed: int, folder: Path) -> list[tuple[Path, str, str]]:
    """Write pictures and the recordings that ask; return (recording, picture's name, words)."""
    rng = random.Random(seed)
    records = [one[i] for i in rng.sample(range(len(one)), PICTURES)]
    for n in rng.sample(range(len(pairs) // 2), PAIRS):
        records += [pairs[2 * n], pairs[2 * n + 1]]
    names = [f"{n:03d}.png" for n in rng.sample(range(1_000), len(records))]
    for record, name in zip(records, names, strict=True):
        (folder / name).write_bytes(bytes(record.image))
    asked = []
    of_pairs = PICTURES + rng.randrange(2), PICTURES + 2 + rng.randrange(2)
    for n in (*range(ASKED), *of_pairs):
        caption = rng.choice(list(records[n].captions))
        recording = folder.parent / f"{len(asked)}.flac"
        recording.write_bytes(bytes(caption.audio))
        asked.append((recording, names[n], caption.text))
    return asked


def ask(asked: list[tuple[Path, str, str]], index: Path, model: str) -> list[tuple]:
    """Search with each recording; return (picture of the first row, words, found first)."""
    engine, found = prepare(str(index), model), []
    with served(engine) as url, sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"])
        page = browser.new_page(viewport=WIDE)
        page.set_default_timeout(300_000)  # programs that are compiled for the first time
        page.goto(url)
        page.wait_for_selector("body[data-ready]")
        if not page.is_disabled("#rerank"):
            page.check("#rerank", force=True)
        for recording, name, words in asked:
            Photographer(page, index).search("speech", recording)
            page.wait_for_load_state("networkidle")
            first = page.locator("#pictures .card img").first.get_attribute("src")
            shot = Image.open(io.BytesIO(page.screenshot(animations="disabled")))
            found.append((shot.convert("RGB").crop(ROW), words, name in first))
        browser.close()
    return found


def sheet(found: list[tuple]) -> Image.Image:
    """Put the rows below each other in two columns, each under the words that were said."""
    width, height = (ROW[2] - ROW[0]) // 2, (ROW[3] - ROW[1]) // 2
    font, rows = ImageFont.load_default(17), -(-len(found) // 2)
    page = Image.new("RGB", (2 * width, rows * (height + 34)), "#f6f6f4")
    for n, (row, words, right) in enumerate(found):
        x, y = n // rows * width, n % rows * (height + 34)
        colour = RIGHT if right else WRONG
        ImageDraw.Draw(page).text((x + 6, y + 10), words, fill=colour, font=font)
        page.paste(row.resize((width, height), Image.Resampling.LANCZOS), (x, y + 34))
    return page


def main(argv: list[str]) -> int:
    """Draw a gallery, ask, print what was found first, and write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--one", required=True, help="corpus of pictures that are told apart")
    parser.add_argument("--pairs", required=True, help="corpus of level compositional")
    parser.add_argument("--data_dir", default="", help="where both live")
    parser.add_argument("--model", default="spoken-scenes")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--out", type=Path, default=Path("docs/page_blind.png"))
    args = parser.parse_args(argv)
    if find_chromium() is None:
        raise UserError("no chromium is installed; on Debian: apt-get install chromium")
    one, pairs = (open_corpus(x, args.data_dir).split("test") for x in (args.one, args.pairs))
    with tempfile.TemporaryDirectory() as work:
        pictures, index = Path(work) / "pictures", Path(work) / "index"
        pictures.mkdir()
        asked = draw_gallery(one, pairs, args.seed, pictures)
        Index.build(Retriever.load(args.model), pictures, out=index)
        found = ask(asked, index, args.model)
    for _, words, right in found:
        print("first " if right else "missed", words)
    print(f"{sum(right for *_, right in found)} of {len(found)} found first")
    reduce_colours(sheet(found)).save(args.out, optimize=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as problem:
        sys.exit(str(problem))
