"""A contact sheet: images with the spectrograms and words of their captions."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from sir_jax.data.corpus import Caption, Corpus, ImageRecord
from sir_jax.data.media.audio import SAMPLE_RATE, load_audio
from sir_jax.data.media.fonts import Face, Fonts
from sir_jax.data.media.image import load_image
from sir_jax.data.media.spectrogram import colour, hertz_to_mel, log_mel
from sir_jax.errors import UserError

# Sizes in pixels. The columns are image, frequency scale, spectrogram, words.
MARGIN, GAP = 28, 18
PICTURE, SCALE, SOUND, WORDS = 232, 40, 640, 470
WIDTH = 2 * MARGIN + PICTURE + SCALE + SOUND + WORDS + 2 * GAP
STRIP, BETWEEN, TITLE, AXIS = 76, 12, 84, 30
# Longer clips are cut: one published clip lasts 323 s, and on its scale the others would vanish.
MAX_SECONDS = 20.0

PAPER, INK, FAINT, RULE = "#ffffff", "#1d2129", "#6b7280", "#e3e6eb"
_PITCHES = (1_000, 2_000, 4_000)  # Hz


def wrap(text: str, width: float, font: Face) -> list[str]:
    """Break text into lines of at most `width` pixels; long words are broken, too."""
    lines, line = [], ""
    for word in text.split():
        while font.getlength(word) > width:
            cut = next(n for n in range(len(word), 0, -1) if font.getlength(word[:n]) <= width)
            lines, line = [*lines, *([line] if line else []), word[:cut]], ""
            word = word[cut:]
        joined = f"{line} {word}".strip()
        if line and font.getlength(joined) > width:
            lines.append(line)
            joined = word
        line = joined
    return [*lines, line] if line else lines


@dataclasses.dataclass(frozen=True)
class _Clip:
    """One recording as it is drawn."""

    seconds: float
    levels: np.ndarray  # log-mel spectrogram, [T, bands]
    lines: tuple[str, ...]  # of the words
    notes: tuple[str, ...]  # lines with length and speaker

    @property
    def height(self) -> int:
        return max(STRIP, 22 * len(self.lines) + 20 * len(self.notes) + 2)


def _clip(caption: Caption, fonts: Fonts) -> _Clip:
    wave = load_audio(caption.audio, f"caption {caption.caption_id}")
    seconds = len(wave) / SAMPLE_RATE
    shown = wave[: round(MAX_SECONDS * SAMPLE_RATE)]
    text = fonts.writable(caption.text) or "(no text)"
    note = " · ".join(
        part
        for part in (
            f"{seconds:.2f} s",
            f"speaker {fonts.writable(caption.speaker)}" if caption.speaker else "speaker unknown",
            f"first {MAX_SECONDS:.0f} s shown" if seconds > MAX_SECONDS else "",
        )
        if part
    )
    lines, notes = wrap(text, WORDS, fonts.at(17)), wrap(note, WORDS, fonts.at(14))
    return _Clip(seconds, log_mel(shown), tuple(lines), tuple(notes))


def _axis_step(seconds: float) -> float:
    """Return the seconds between ticks: a round number that gives at most twelve ticks."""
    return next(step for step in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0) if seconds / step <= 12)


class _Sheet:
    """The drawing: rows from top to bottom, with `seconds` on SOUND pixels in all of them."""

    def __init__(self, height: int, seconds: float, fonts: Fonts):
        self.fonts = fonts
        self.image = Image.new("RGB", (WIDTH, height), PAPER)
        self.draw = ImageDraw.Draw(self.image)
        self.seconds = seconds
        self.left = MARGIN + PICTURE + GAP + SCALE
        self.y = MARGIN

    def text(self, x: float, y: float, text: str, size: int, fill: str = INK, anchor: str = "la"):
        self.fonts.at(size).draw(self.draw, (x, y), text, fill, anchor)

    def title(self, title: str, note: str) -> None:
        self.text(MARGIN, self.y, self.fonts.writable(title), 24)
        self.text(MARGIN, self.y + 34, note, 15, FAINT)
        self.y += TITLE

    def axis(self) -> None:
        """Draw the time axis of all rows."""
        step = _axis_step(self.seconds)
        for tick in range(math.floor(self.seconds / step + 1e-9) + 1):
            x = self.left + tick * step / self.seconds * SOUND
            self.text(x, self.y, f"{tick * step:g}", 13, FAINT, "ma")
        self.text(self.left + SOUND + GAP, self.y, "seconds", 13, FAINT)
        self.y += AXIS

    def row(self, row: "_Row") -> None:
        """Draw one image and its recordings."""
        bottom = self.y + row.height
        self.image.paste(row.picture, (MARGIN, self.y))
        below = self.y + row.picture.height
        self.text(MARGIN, below + 8, f"image id {row.image_id}", 15)
        count = f"{len(row.clips)} caption{'s' if len(row.clips) != 1 else ''}"
        self.text(MARGIN, below + 28, count, 14, FAINT)
        for clip in row.clips:
            self._strip(clip)
            self.y += clip.height + BETWEEN
        self.y = bottom
        rule = self.y - GAP
        self.draw.line((MARGIN, rule, WIDTH - MARGIN - 1, rule), RULE)

    def _strip(self, clip: _Clip) -> None:
        """Draw a spectrogram with its frequency scale and its words."""
        seconds = min(clip.seconds, MAX_SECONDS)
        width = max(1, round(seconds / self.seconds * SOUND))
        sound = colour(clip.levels).resize((width, STRIP), Image.Resampling.BILINEAR)
        self.image.paste(sound, (self.left, self.y))
        self.draw.line((self.left - 1, self.y, self.left - 1, self.y + STRIP - 1), FAINT)
        for hertz in _PITCHES:
            y = self.y + STRIP * (1 - hertz_to_mel(hertz) / hertz_to_mel(SAMPLE_RATE / 2))
            self.draw.line((self.left - 5, y, self.left - 1, y), FAINT)
            self.text(self.left - 8, y, f"{hertz // 1000}k", 11, FAINT, "rm")
        if clip.seconds > MAX_SECONDS:
            self.text(self.left + width + 4, self.y + STRIP / 2, "…", 17, FAINT, "lm")
        x, y = self.left + SOUND + GAP, self.y
        for line in clip.lines:
            self.text(x, y, line, 17)
            y += 22
        for line in clip.notes:
            self.text(x, y + 2, line, 14, FAINT)
            y += 20


@dataclasses.dataclass(frozen=True)
class _Row:
    """One image at the size of drawing, with its recordings."""

    image_id: int
    picture: Image.Image
    clips: tuple[_Clip, ...]

    @property
    def height(self) -> int:
        strips = sum(clip.height for clip in self.clips) + BETWEEN * (len(self.clips) - 1)
        return max(self.picture.height + 52, strips) + 2 * GAP


def _row(record: ImageRecord, fonts: Fonts) -> _Row:
    picture = load_image(record.image, f"image {record.image_id}")
    scale = min(PICTURE / picture.width, PICTURE / picture.height)
    size = tuple(max(1, round(side * scale)) for side in picture.size)
    clips = tuple(_clip(caption, fonts) for caption in record.captions)
    return _Row(record.image_id, picture.resize(size, Image.Resampling.LANCZOS), clips)


def draw_sheet(
    title: str, note: str, records: Sequence[ImageRecord], fonts: Fonts | None = None
) -> Image.Image:
    """Draw images with their recordings, all on one time scale.

    Args:
      title: first line.
      note: second line.
      records: records of a corpus, one per row.
      fonts: the fonts; None for the built-in one and the system's.

    Returns:
      An RGB image, WIDTH pixels wide and as high as the rows need.
    """
    fonts = fonts or Fonts()
    rows = [_row(record, fonts) for record in records]
    longest = max((clip.seconds for row in rows for clip in row.clips), default=1.0)
    # A whole number of steps, so that the axis ends with a tick.
    step = _axis_step(min(longest, MAX_SECONDS))
    seconds = max(step, math.ceil(min(longest, MAX_SECONDS) / step - 1e-9) * step)
    height = 2 * MARGIN + TITLE + AXIS + sum(row.height for row in rows)
    sheet = _Sheet(height - GAP, seconds, fonts)
    sheet.title(title, note)
    sheet.axis()
    for row in rows:
        sheet.row(row)
    return sheet.image


def show(
    corpus: Corpus, split: str, count: int, seed: int, fonts: Fonts | None = None
) -> Image.Image:
    """Draw images of a split, chosen at random.

    Args:
      corpus: a prepared corpus.
      split: name of the split.
      count: number of images; of a smaller split, all images.
      seed: random seed of the choice.
      fonts: the fonts; None for the built-in one and the system's.

    Raises:
      UserError: the split does not exist or is empty, or `count` is below 1.
    """
    if count < 1:
        raise UserError(f"count is {count}; ask for 1 image or more")
    images = corpus.split(split)
    if not len(images):
        raise UserError(f"split {split!r} of {corpus.name!r} holds no image; show another")
    rows = np.random.default_rng(seed).permutation(len(images))[:count]
    captions = len(images.index)
    seconds = images.index["samples"].sum(dtype="i8") / SAMPLE_RATE
    length = f"{seconds / 3600:.2f} h" if seconds >= 3600 else f"{seconds:.0f} s"
    note = (
        f"split {split}: {len(images):,} images, {captions:,} captions, {length}; "
        f"{len(rows)} images at random, seed {seed}"
    )
    return draw_sheet(corpus.name, note, [images[int(row)] for row in sorted(rows)], fonts)
