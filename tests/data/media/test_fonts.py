"""Letters beyond ASCII are drawn by the fonts that there are; those that no font has are named."""

import subprocess

import numpy as np
import pytest
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

from sir_jax.data.media import fonts
from sir_jax.data.media.fonts import Font, Fonts, system_fonts
from sir_jax.index import grid

# Both come with matplotlib.
SANS = font_manager.findfont("DejaVu Sans")
SIGNS = font_manager.findfont("STIXGeneral")
CYRILLIC = Font(SANS, 0, [0x20, 0x400], [0x7E, 0x4FF])
RUNES = Font(SIGNS, 0, [0x20, 0x2200], [0x7E, 0x22FF])
HAN = "\u65e5\u672c"


@pytest.fixture
def system(monkeypatch):
    def use(*found):
        monkeypatch.setattr(fonts, "system_fonts", lambda: found)

    use(CYRILLIC, RUNES)
    return use


def picture(draw) -> np.ndarray:
    canvas = Image.new("RGB", (300, 40), "white")
    draw(ImageDraw.Draw(canvas))
    return np.asarray(canvas)


def drawn(text: str, font: Fonts | None = None, x=30, anchor="la") -> np.ndarray:
    face = (font or Fonts()).at(17)
    return picture(lambda draw: face.draw(draw, (x, 8), text, "black", anchor))


def by_pillow(text: str, font, x=30, y=8, anchor="la") -> np.ndarray:
    return picture(lambda draw: draw.text((x, y), text, "black", font, anchor))


BUILT_IN = ImageFont.load_default(17)


def test_ascii_is_drawn_as_ever(system):
    text = "a red dog, 4.5 “so”"
    for anchor in ("la", "ma", "rm", "mt"):
        expected = by_pillow(text, BUILT_IN, x=150, anchor=anchor)
        np.testing.assert_array_equal(drawn(text, x=150, anchor=anchor), expected)
    assert Fonts().at(17).getlength("a red dog") == BUILT_IN.getlength("a red dog")


def test_a_text_is_drawn_by_the_font_that_has_all_of_it(system):
    text, sans = "рыжий dog", ImageFont.truetype(SANS, 17)
    font = Fonts()
    assert font.runs(text) == [(CYRILLIC, text)] and font.writable(text) == text
    baseline = 8 + BUILT_IN.getmetrics()[0]
    np.testing.assert_array_equal(drawn(text, font), by_pillow(text, sans, y=baseline, anchor="ls"))
    assert font.at(17).getlength(text) == sans.getlength(text)
    assert font.note() == ""


def test_a_text_that_no_font_has_all_of_is_drawn_in_pieces(system):
    text = "да ∀ yes"
    pieces = Fonts().runs(text)
    assert pieces == [(CYRILLIC, "да "), (RUNES, "∀ yes")]
    signs, sans = (ImageFont.truetype(path, 17) for path in (SIGNS, SANS))
    width = Fonts().at(17).getlength(text)
    assert width == sans.getlength("да ") + signs.getlength("∀ yes")
    assert not np.array_equal(drawn(text), by_pillow(text, BUILT_IN))
    # Marks and joiners stay with their letter.
    assert Fonts().runs("д\u0301∀\u200d") == [(CYRILLIC, "д\u0301"), (RUNES, "∀\u200d")]


def test_letters_that_no_font_has_are_named(system):
    font = Fonts()
    assert font.writable(f"a {HAN} dog") == f"a {HAN} dog"
    assert font.note() == (
        f"no font here has {HAN[0]} {HAN[1]}; install one that does, such as Noto's "
        "(fonts-noto-core, fonts-noto-cjk)"
    )
    font.writable("".join(map(chr, range(0x4E00, 0x4E20))))
    assert " and 24 more; " in font.note()


def test_without_system_fonts_letters_lose_their_accents(system):
    system()
    assert Fonts().writable("Zürich, a naïve café – “so”") == "Zurich, a naive cafe - “so”"
    font = Fonts()
    font.writable("рыжий")
    assert font.missing == set("рыжий")
    system(Font(SANS, 0, [0x20], [0x24F]))
    assert Fonts().writable("Zürich – “so”") == "Zürich - “so”"


def test_a_font_file_that_cannot_be_used_is_passed_over(system, tmp_path):
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    system(Font(str(tmp_path / "broken.ttf"), 0, [0], [0xFFFF]), CYRILLIC)
    assert Fonts().runs("да") == [(CYRILLIC, "да")]


def test_a_font_of_the_users_is_asked_first(system):
    font = Fonts(SANS)
    assert font.runs("да é") == [(font.main, "да é")]
    assert font.runs("да " + HAN[0])[0][0] == font.main


def test_fonts_are_listed_with_their_letters(monkeypatch):
    lines = b"/a b.ttf\t0\t20-7e e9\n/c.ttc\t65537\t4e00-9fff\nbroken\n/d.ttf\tx\t20\n"
    run = lambda *args, **_: subprocess.CompletedProcess(args, 0, lines)  # noqa: E731
    monkeypatch.setattr(subprocess, "run", run)
    first, second = system_fonts.__wrapped__()
    assert first == Font("/a b.ttf", 0, [0x20, 0xE9], [0x7E, 0xE9])
    assert second == Font("/c.ttc", 1, [0x4E00], [0x9FFF])
    assert [first.has(letter) for letter in " ~é\x7f\x1f日"] == [True, True, True, *[False] * 3]
    assert second.has("日")

    def absent(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "run", absent)
    (only,) = system_fonts.__wrapped__()
    assert only.has("д") and not only.has("日") and only.at(12) is not None


def test_a_grid_writes_words_of_any_script(system):
    font, hits = Fonts(), [grid.Cell(Image.new("RGB", (9, 9)), 0.5)]
    rows = [grid.Row("запрос.wav", f"рыжий пёс {HAN}", hits)]
    written = grid.draw_grid(rows, font)
    assert font.missing == set(HAN)
    system()
    without = Fonts()
    boxes = grid.draw_grid(rows, without)
    assert without.missing == set(HAN) | set("рыжий пёс запрос") - {" "}
    left = (0, 0, grid.TEXT_WIDTH, written.height)
    assert written.crop(left).tobytes() != boxes.crop(left).tobytes()
