"""The grid shows every result at its row and rank, with pictures of any shape and any text."""

import numpy as np
import pytest
from PIL import Image, ImageColor, ImageFont

from sir_jax.index import grid


def plain(color, size=(50, 50)):
    return Image.new("RGB", size, color)


def centre(row, rank):
    left = grid.GAP + grid.TEXT_WIDTH + (rank - 1) * (grid.CELL + grid.GAP) + grid.GAP
    top = grid.GAP + row * (grid.CELL + grid.LABEL + grid.GAP)
    return left + grid.CELL // 2, top + grid.CELL // 2


def test_each_picture_is_in_its_row_and_rank():
    colors = [["red", "blue", "lime"], ["black", "yellow", "cyan"]]
    rows = [
        grid.Row("q.wav", "words", [grid.Cell(plain(color), 0.5) for color in line])
        for line in colors
    ]
    picture = grid.draw_grid(rows)
    for number, line in enumerate(colors):
        for rank, color in enumerate(line, 1):
            assert picture.getpixel(centre(number, rank)) == ImageColor.getrgb(color)


def test_only_the_right_picture_has_a_green_frame():
    hits = [grid.Cell(plain("red"), 0.9), grid.Cell(plain("red"), 0.8, right=True)]
    picture = grid.draw_grid([grid.Row("q.wav", "", hits)])
    green = ImageColor.getrgb(grid.RIGHT)
    framed = []
    for rank in (1, 2):
        x, y = centre(0, rank)
        framed.append(picture.getpixel((x, y - grid.CELL // 2 - 2)) == green)
    assert framed == [False, True]


@pytest.mark.parametrize("size", [(300, 100), (100, 300), (1, 1), (1, 900), (3000, 20)])
def test_any_shape_fits_its_cell(size):
    thumb = grid.thumbnail(plain("red", size))
    assert max(thumb.size) == grid.CELL and min(thumb.size) >= 1
    ratio = min(size) / max(size)
    assert abs(min(thumb.size) - grid.CELL * ratio) <= 1


def test_rows_with_different_numbers_of_hits():
    rows = [grid.Row("a", "", [grid.Cell(plain("red"), -1.0)] * n) for n in (1, 4, 0)]
    picture = grid.draw_grid(rows)
    assert picture.getpixel(centre(1, 4)) == (255, 0, 0)
    assert picture.getpixel(centre(0, 2)) == (255, 255, 255)


def test_text_is_wrapped_cut_and_shortened():
    font = ImageFont.load_default(17)
    text = "a small red circle " * 20 + "x" * 200
    lines = grid.wrap(text, font, 200, 4)
    assert len(lines) == 4 and lines[-1].endswith("...")
    assert all(font.getlength(line) <= 200 for line in lines)
    assert grid.wrap("two words", font, 200, 4) == ["two words"]
    assert "".join(grid.wrap("x" * 100, font, 200, 9)) == "x" * 100
    assert grid.wrap("", font, 200, 4) == [""]


def test_names_in_any_alphabet_are_drawn():
    name = "r\u00f6ter \u041a\u0440\u0443\u0433 \u5186 \U0001f534.wav"
    picture = grid.draw_grid([grid.Row(name, name, [grid.Cell(plain("red"), 0.1)])])
    words = np.asarray(picture)[:, : grid.TEXT_WIDTH]
    assert (words < 128).any()


def test_a_picture_is_written_whole(tmp_path):
    path = grid.save_picture(plain("red"), tmp_path / "new" / "out.PNG")
    with Image.open(path) as image:
        assert image.size == (50, 50)
    assert [p.name for p in path.parent.iterdir()] == ["out.PNG"]
    assert {".png", ".jpg", ".webp"} <= set(grid.writable_suffixes())
