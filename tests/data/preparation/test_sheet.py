"""The contact sheet, and the verb `data show` that draws it."""

import io

import numpy as np
import pytest
import soundfile
from PIL import Image, ImageFont

from sir_jax.cli import main as cli
from sir_jax.data.builders.spoken_scenes import SceneConfig
from sir_jax.data.corpus import Caption, ImageRecord, open_corpus
from sir_jax.data.preparation.scenes import make_spoken_scenes
from sir_jax.data.preparation.sheet import (
    AXIS,
    GAP,
    MARGIN,
    PICTURE,
    SCALE,
    SOUND,
    STRIP,
    TITLE,
    WIDTH,
    draw_sheet,
    wrap,
)

CONFIG = SceneConfig("one", 6, 2, 2, captions=1, voices=12, image_size=32, seed=1)
NAME = f"spoken_scenes/{CONFIG.name}"
LEFT, TOP = MARGIN + PICTURE + GAP + SCALE, MARGIN + TITLE + AXIS  # of the first spectrogram
WHITE = (255, 255, 255)


def caption(seconds, hertz=1_000, text="a word", number=0):
    wave = 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * 16_000)) / 16_000)
    out = io.BytesIO()
    soundfile.write(out, (wave * 32_767).astype(np.int16), 16_000, format="FLAC")
    return Caption(out.getvalue(), len(wave), number, text, "somebody")


def record(*captions, size=(64, 48), fill=(200, 30, 30)):
    out = io.BytesIO()
    Image.new("RGB", size, fill).save(out, "PNG")
    return ImageRecord(out.getvalue(), 7, captions)


def extent(sheet, top):
    """Return the width in pixels of the spectrogram at `top`."""
    line = np.asarray(sheet)[top + 1, LEFT : LEFT + SOUND]
    return int((line != 255).any(-1).sum())


def test_recordings_share_one_time_scale():
    # The axis ends at the tick after the longest clip: 2.0 s on 640 pixels.
    sheet = draw_sheet("t", "n", [record(caption(1.0), caption(2.0)), record(caption(0.5))])
    assert extent(sheet, TOP) == 320
    assert extent(sheet, TOP + STRIP + 12) == 640
    # A row is as high as its image (232 x 174) with two lines, or as its spectrograms.
    row = max(174 + 52, 2 * STRIP + 12) + 2 * GAP
    assert extent(sheet, TOP + row) == 160
    assert sheet.size == (WIDTH, TOP + 2 * row - GAP + MARGIN)


def test_a_very_long_clip_is_cut_and_does_not_set_the_scale():
    sheet = draw_sheet("t", "n", [record(caption(323.5), caption(2.0))])
    assert extent(sheet, TOP) == 640
    assert extent(sheet, TOP + STRIP + 12) == 64  # of 20 s


@pytest.mark.parametrize(("hertz", "mel"), [(1_000, 1000.0), (4_000, 2146.1)])
def test_a_tone_is_brightest_at_its_pitch(hertz, mel):
    sheet = draw_sheet("t", "n", [record(caption(1.0, hertz))])
    column = np.asarray(sheet, int)[TOP : TOP + STRIP, LEFT + 300].sum(-1)
    # Bands are centred at 1 / 65, 2 / 65, ... of 2840 mel; the 64 bands fill the strip evenly.
    band = mel / 2840.0 * 65 - 1
    assert abs(STRIP - 1 - column.argmax() - (band + 0.5) / 64 * STRIP) < 2


@pytest.mark.parametrize(
    ("size", "box"),
    [((64, 48), (232, 174)), ((48, 96), (116, 232)), ((1, 3000), (1, 232))],
)
def test_the_picture_keeps_its_shape(size, box):
    sheet = draw_sheet("t", "n", [record(caption(1.0), size=size)])
    area = np.asarray(sheet)[TOP : TOP + PICTURE, MARGIN : MARGIN + PICTURE]
    red = np.argwhere((area == (200, 30, 30)).all(-1))
    assert tuple(red.max(0)[::-1] + 1) == box
    assert len(red) == box[0] * box[1]


def test_long_captions_are_wrapped_and_make_room():
    short, long = (
        draw_sheet("t", "n", [record(*[caption(0.2, text=text)] * 4)])
        for text in ("a word", "many words follow " * 20)
    )
    # At 17 px, 60 words need more than four lines of 22 px each.
    assert long.height > short.height + 4 * 20
    words = np.asarray(long)[TOP:, LEFT + SOUND + GAP :]
    assert (words[:, -MARGIN:] == 255).all(), "words run into the margin"
    assert (words != 255).any()


def test_wrap_breaks_at_spaces_and_only_then_in_words():
    font = ImageFont.load_default(17)
    text = "the quick brown fox jumps over " + "x" * 90 + " and on"
    lines = wrap(text, 200, font)
    assert all(font.getlength(line) <= 200 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert lines[0].endswith("fox") or lines[0].endswith("brown")
    assert lines[-1].endswith("x and on")
    assert wrap("", 200, font) == []
    # No line has room for the next word.
    words = wrap("aa bb cc dd ee ff gg hh ii jj kk ll mm nn oo pp qq rr ss tt", 120, font)
    for line, after in zip(words, words[1:], strict=False):
        assert font.getlength(f"{line} {after.split()[0]}") > 120


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpora")
    make_spoken_scenes(CONFIG, root, workers=1)
    return root


def run(root, *options):
    return cli.main(["data", "show", *options, f"--data_dir={root}"])


def test_the_verb_draws_a_corpus_and_the_seed_chooses(root, tmp_path, capsys):
    def sheet(name, *options):
        out = tmp_path / name
        assert run(root, NAME, f"--out={out}", *options) == 0
        return out.read_bytes()

    first = sheet("a.png", "--count=2")
    opened = Image.open(io.BytesIO(first))
    assert capsys.readouterr().out == (
        f"{tmp_path}/a.png: {opened.width} x {opened.height} pixels\n"
    )
    assert opened.format == "PNG" and opened.width == WIDTH
    assert sheet("b.png", "--count=2") == first
    assert sheet("c.png", "--count=2", "--seed=5") != first
    # Of a split with fewer images, all are drawn.
    every = Image.open(io.BytesIO(sheet("d.png", "--count=99", "--split=val")))
    assert len(open_corpus(NAME, root).splits["val"]) == 2
    assert every.height == opened.height
    assert Image.open(io.BytesIO(sheet("e.jpg", "--count=1"))).format == "JPEG"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((NAME, "--split=dev"), "no split 'dev'; choose one of train, val, test"),
        ((NAME, "--count=0"), "count is 0"),
        ((NAME, "--out=sheet.txt"), "--out=sheet.txt: not a .png"),
        ((NAME, "--font=/nowhere.ttf"), "font /nowhere.ttf: not a TrueType file"),
        ((NAME, "--out=/nowhere/at/all.png"), "/nowhere/at/all.png: cannot be written"),
        (("nonsense/here",), "'nonsense/here'"),
        (("spoken_scenes/one-i7-d2-t2-c1-v12-p32-s1",), "make it with"),
    ],
)
def test_mistakes_are_one_line(root, capsys, options, message):
    assert run(root, *options) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
