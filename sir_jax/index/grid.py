"""Draw search results: one row per spoken query, its best images to the right of it."""

import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from sir_jax.data.media.fonts import Face, Fonts
from sir_jax.runtime.files import whole_file

CELL = 160  # side of a picture, pixels
GAP = 14
LABEL = 20  # height of the line below a picture
TEXT_WIDTH = 260
BACKGROUND, INK, FAINT, FRAME, RIGHT = "white", "#1c1c1c", "#6b6b6b", "#d0d0d0", "#1a9c3c"


@dataclasses.dataclass(frozen=True)
class Cell:
    """One image of a search result."""

    image: Image.Image  # RGB
    score: float
    right: bool = False  # whether it is the right image, which gets a green frame


@dataclasses.dataclass(frozen=True)
class Row:
    """One query with its hits, best first."""

    name: str
    text: str  # transcript of the query, or ''
    hits: Sequence[Cell]


def wrap(text: str, font: Face, width: int, lines: int) -> list[str]:
    """Break text into lines; a word wider than a line is cut, a long text ends in an ellipsis.

    Args:
      text: any text; white space only separates words.
      font: the font that the text is drawn with.
      width: pixels available for a line.
      lines: most lines to return.

    Returns:
      At most `lines` lines, each at most `width` pixels wide.
    """
    out: list[str] = [""]
    for word in text.split():
        joined = f"{out[-1]} {word}".strip()
        if font.getlength(joined) <= width:
            out[-1] = joined
            continue
        if out[-1]:
            out.append("")
        for letter in word:
            if out[-1] and font.getlength(out[-1] + letter) > width:
                out.append("")
            out[-1] += letter
    if len(out) > lines:
        last = out[lines - 1]
        while last and font.getlength(last + "...") > width:
            last = last[:-1]
        out = [*out[: lines - 1], last + "..."]
    return out


def thumbnail(image: Image.Image) -> Image.Image:
    """Return an RGB copy whose longer side is `CELL` pixels."""
    scale = CELL / max(image.size)
    size = tuple(max(1, round(side * scale)) for side in image.size)
    return image.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def draw_grid(rows: Sequence[Row], fonts: Fonts | None = None) -> Image.Image:
    """Draw the grid.

    Args:
      rows: at least one row; the row with most hits determines the width.
      fonts: the fonts; None for the built-in one and the system's. Its `note` then names letters
        that could not be drawn.

    Returns:
      An RGB picture with rank and score below each image.
    """
    fonts = fonts or Fonts()
    columns = max(len(row.hits) for row in rows)
    width = GAP + TEXT_WIDTH + columns * (CELL + GAP) + GAP
    height = GAP + len(rows) * (CELL + LABEL + GAP)
    canvas = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for number, row in enumerate(rows):
        top = GAP + number * (CELL + LABEL + GAP)
        if number:
            draw.line((GAP, top - GAP // 2, width - GAP, top - GAP // 2), fill=FRAME)
        _draw_query(draw, row, top, fonts)
        for rank, hit in enumerate(row.hits, 1):
            left = GAP + TEXT_WIDTH + (rank - 1) * (CELL + GAP) + GAP
            _draw_hit(canvas, draw, hit, rank, left, top, fonts)
    return canvas


def _draw_query(draw: ImageDraw.ImageDraw, row: Row, top: int, fonts: Fonts) -> None:
    large, small = fonts.at(17), fonts.at(13)
    text, name = fonts.writable(row.text), fonts.writable(row.name)
    y = top + 6
    for line in wrap(text, large, TEXT_WIDTH, 5) if text else []:
        large.draw(draw, (GAP, y), line, INK)
        y += 23
    name_font, color = (small, FAINT) if text else (large, INK)
    for line in wrap(name, name_font, TEXT_WIDTH, 2):
        name_font.draw(draw, (GAP, y + 4), line, color)
        y += 20


def _draw_hit(canvas, draw, hit: Cell, rank: int, left: int, top: int, fonts: Fonts) -> None:
    picture = thumbnail(hit.image)
    x = left + (CELL - picture.width) // 2
    y = top + (CELL - picture.height) // 2
    canvas.paste(picture, (x, y))
    thick = 4 if hit.right else 1
    box = (x - thick, y - thick, x + picture.width + thick - 1, y + picture.height + thick - 1)
    draw.rectangle(box, outline=RIGHT if hit.right else FRAME, width=thick)
    label, ink = f"{rank}   {hit.score:.3f}", RIGHT if hit.right else INK
    fonts.at(14).draw(draw, (left + CELL // 2, top + CELL + 5), label, ink, "mt")


def save_picture(picture: Image.Image, path: str | os.PathLike) -> Path:
    """Write a picture; an interrupt leaves the old file or the new one.

    Args:
      picture: the picture.
      path: the file, whose suffix determines the format; missing folders are created.

    Returns:
      `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    file_format = Image.registered_extensions()[path.suffix.lower()]
    with whole_file(path, own=True) as part:
        picture.save(part, file_format)
    return path


def writable_suffixes() -> Iterable[str]:
    """Return the file suffixes that `save_picture` can write, in lower case."""
    Image.init()
    return sorted(
        suffix for suffix, name in Image.registered_extensions().items() if name in Image.SAVE
    )
