"""SVG files are drawn; bombs and broken ones are refused in one line."""

import io
import sys

import pytest
from packages import BOMB, DISC, SVG
from PIL import Image

from sir_jax.data.media.svg import draw_svg, require_resvg
from sir_jax.errors import BadMedia, UserError

NESTED = "".join(f'<g id="a{i}">{f"""<use href="#a{i - 1}"/>""" * 10}</g>' for i in range(1, 9))


def drawn(text: str, side: int = 64) -> Image.Image:
    """Return the drawn picture."""
    return Image.open(io.BytesIO(draw_svg(text.encode(), "a.svg", side)))


def test_picture_is_drawn_with_its_transparency():
    picture = drawn(DISC)
    assert picture.mode == "RGBA" and picture.width == 64
    assert picture.getpixel((32, 16)) == (255, 0, 0, 255)
    assert picture.getpixel((0, 0))[3] == 0


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ('width="20" height="10"', (64, 32)),
        ('width="1in" height="2in"', (32, 64)),
        ('width="100%" height="100%" viewBox="0 0 10,40"', (16, 64)),
        ('viewBox="-5 -5 30 30"', (64, 64)),
    ],
)
def test_longer_side_is_as_asked(size, expected):
    assert drawn(f'<svg xmlns="http://www.w3.org/2000/svg" {size}/>').size == expected


def test_plain_entities_are_read():
    text = '<!DOCTYPE svg [<!ENTITY red "#ff0000">]>' + SVG.format(
        8, 8, '<rect width="8" height="8" fill="&red;"/>'
    )
    assert drawn(text, 8).getpixel((4, 4)) == (255, 0, 0, 255)


def test_other_files_are_not_read(tmp_path):
    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8), "red").save(secret)
    for target in (str(secret), f"file://{secret}"):
        image = f'<image href="{target}" width="8" height="8"/>'
        assert drawn(SVG.format(8, 8, image), 8).getextrema()[3] == (0, 0)


@pytest.mark.parametrize(
    ("text", "fault", "line"),
    [
        (BOMB, "too large", "SVG that would take too much to draw: its entity 'b' expands to"),
        (
            SVG.format(9, 9, f'<g id="a0"><path/></g>{NESTED}'),
            "too large",
            "SVG that would take too much to draw: <use> repeats its shapes more than 100,000",
        ),
        (
            SVG.format(9, 9, "<g>" * 300 + "</g>" * 300),
            "too large",
            "SVG that would take too much to draw: elements lie more than 200 deep",
        ),
        (
            '<!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + SVG.format(9, 9, "&x;"),
            "undecodable",
            "SVG with the external entity 'x' (file:///etc/passwd)",
        ),
        (SVG.format(1, 1000, ""), "too large", "SVG of 1 x 1000, more than 16 times as long"),
        (SVG.format("wide", "", ""), "undecodable", "SVG without a width and a height, or a"),
        ("<svg", "undecodable", "broken SVG (unclosed token: line 1, column 0); replace or"),
        ("<html/>", "undecodable", "no SVG picture, its root is 'html'"),
        ("", "undecodable", "broken SVG (no element found: line 1, column 0); replace or"),
    ],
)
def test_what_cannot_or_must_not_be_drawn_is_one_line(text, fault, line):
    with pytest.raises(BadMedia) as caught:
        draw_svg(text.encode(), "a.svg", 64)
    assert caught.value.fault == fault
    assert str(caught.value).startswith(f"a.svg: {line}") and "\n" not in str(caught.value)


def test_circle_of_references_ends():
    circle = '<g id="a"><use href="#b"/></g><g id="b"><use href="#a"/></g>'
    with pytest.raises(BadMedia, match="^a.svg: broken SVG .*nodes limit reached"):
        drawn(SVG.format(9, 9, circle))


def test_missing_resvg_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(UserError, match=r"run: pip install 'sir_jax\[stamps\]'$"):
        require_resvg()
