"""Letters in figures: by the built-in typeface, and by the system's fonts where it lacks them."""

import bisect
import dataclasses
import functools
import subprocess
import unicodedata
from collections.abc import Iterable, Sequence

from PIL import ImageDraw, ImageFont

from sir_jax.errors import UserError

# fontconfig's list, the best first: upright fonts without serifs, and all others after them.
_FONTCONFIG = ("fc-match", "--all", "sans-serif:regular:scalable=true:color=false")
_FIELDS = ("--format", "%{file}\t%{index}\t%{charset}\n")
# Categories of letters that any font can leave out: marks, formats, spaces, control characters.
_NO_LETTER = ("Mn", "Me", "Cf", "Zs", "Zl", "Zp", "Cc")
_DASHES = {0x2013: "-", 0x2014: "-"}
_SHOWN = 10  # letters that a note names


@dataclasses.dataclass(frozen=True)
class Font:
    """A font file and the letters that it has.

    Attributes:
      path: the file; '' for Pillow's built-in font.
      index: of the font in its file.
      starts: the first code point of each range of letters, ascending; None finds the letters out
        by drawing them.
      ends: the last code point of each range.
    """

    path: str = ""
    index: int = 0
    starts: Sequence[int] | None = None
    ends: Sequence[int] = ()

    def has(self, letter: str) -> bool:
        """Tell whether the font has a letter."""
        if self.starts is None:
            return _draws(self.path, letter)
        place = bisect.bisect_right(self.starts, ord(letter)) - 1
        return place >= 0 and ord(letter) <= self.ends[place]

    def at(self, size: int) -> ImageFont.FreeTypeFont | None:
        """Return the font at a size in pixels; None if the file cannot be used."""
        return _load(self.path, self.index, size)


@functools.cache
def _load(path: str, index: int, size: int) -> ImageFont.FreeTypeFont | None:
    try:
        return ImageFont.truetype(path, size, index) if path else ImageFont.load_default(size)
    except OSError:
        return None


@functools.cache
def _draws(path: str, letter: str) -> bool:
    font = _load(path, 0, 17)
    mask, unknown = font.getmask(letter), font.getmask("\uffff")
    return mask.size != unknown.size or bytes(mask) != bytes(unknown)


@functools.cache
def system_fonts() -> tuple[Font, ...]:
    """List the system's fonts, the best first; matplotlib's own where there is no fontconfig."""
    try:
        listed = subprocess.run([*_FONTCONFIG, *_FIELDS], capture_output=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return _matplotlibs_font()
    lines = listed.stdout.decode("utf-8", "surrogateescape").split("\n")
    return tuple(font for line in lines if (font := _read_line(line)) is not None)


def _read_line(line: str) -> Font | None:
    try:
        path, index, letters = line.split("\t")
        ranges = [[int(end, 16) for end in part.split("-")] for part in letters.split()]
        starts, ends = [ends[0] for ends in ranges], [ends[-1] for ends in ranges]
        # Above the lower half of the index stands the number of a variant.
        return Font(path, int(index) & 0xFFFF, starts, ends)
    except ValueError:
        return None


def _matplotlibs_font() -> tuple[Font, ...]:
    try:
        from matplotlib import font_manager, ft2font
    except ImportError:
        return ()
    path = font_manager.findfont("DejaVu Sans")  # it ships it
    letters = sorted(ft2font.FT2Font(path).get_charmap())
    return (Font(path, 0, letters, letters),)


class Fonts:
    """The fonts of a figure.

    A text is written by the first font that has all of its letters: the main one, then the
    system's. If none has, each letter is written by the first that has it.

    Args:
      path: path of a TrueType file as the main font; '' for Pillow's built-in one, which has little
        beyond ASCII.

    Attributes:
      main: the font that is asked first.
      missing: letters that no font has, of all texts that `writable` was given.

    Raises:
      UserError: the file is no TrueType font.
    """

    def __init__(self, path: str = ""):
        self.main = Font(path)
        self.missing: set[str] = set()
        if self.main.at(17) is None:
            raise UserError(f"font {path}: not a TrueType file; give another")

    def at(self, size: int) -> "Face":
        """Return the fonts at a size in pixels."""
        return Face(self, size)

    def writable(self, text: str) -> str:
        """Return text that can be written: letters that no font has may lose their accents."""
        return "".join(map(self._writable, unicodedata.normalize("NFC", text.translate(_DASHES))))

    def _writable(self, letter: str) -> str:
        if self._first(letter) is not None:
            return letter
        parts = unicodedata.normalize("NFKD", letter)
        plain = "".join(part for part in parts if not unicodedata.combining(part))
        if self._first(plain) is not None:
            return plain
        self.missing.add(letter)
        return letter

    def note(self) -> str:
        """Return a line that names the letters that no font has; '' if there are none."""
        if not self.missing:
            return ""
        letters = sorted(self.missing)
        more = f" and {len(letters) - _SHOWN} more" if len(letters) > _SHOWN else ""
        return (
            f"no font here has {' '.join(letters[:_SHOWN])}{more}; install one that does, such as "
            "Noto's (fonts-noto-core, fonts-noto-cjk)"
        )

    def runs(self, text: str) -> list[tuple[Font, str]]:
        """Cut text into pieces of one font each, most often into one."""
        if font := self._first(text):
            return [(font, text)]
        pieces: list[tuple[Font, str]] = []
        for letter in text:
            if pieces and (_no_letter(letter) or pieces[-1][0].has(letter)):
                pieces[-1] = pieces[-1][0], pieces[-1][1] + letter
            else:
                pieces.append((self._first(letter) or self.main, letter))
        return pieces

    def _first(self, text: str) -> Font | None:
        """Return the first font that has all letters of a text; None if none has."""
        letters = sorted({letter for letter in text if not _no_letter(letter)})
        return next((font for font in self._fonts() if all(map(font.has, letters))), None)

    def _fonts(self) -> Iterable[Font]:
        yield self.main
        yield from (font for font in system_fonts() if font.at(17) is not None)


class Face:
    """Fonts at one size."""

    def __init__(self, fonts: Fonts, size: int):
        """Hold the fonts and their size in pixels."""
        self._fonts, self._size = fonts, size

    def getlength(self, text: str) -> float:
        """Return the width of text in pixels."""
        return sum(font.at(self._size).getlength(part) for font, part in self._fonts.runs(text))

    def draw(
        self,
        draw: ImageDraw.ImageDraw,
        at: tuple[float, float],
        text: str,
        fill: str,
        anchor: str = "la",
    ) -> None:
        """Draw a line of text.

        Args:
          draw: the drawing.
          at: where the anchor lies, (x, y).
          text: the line.
          fill: its colour.
          anchor: as Pillow names it.
        """
        runs, main = self._fonts.runs(text), self._fonts.main.at(self._size)
        if [font.at(self._size) for font, _ in runs] in ([], [main]):
            draw.text(at, text, fill, main, anchor)
            return
        # Fonts differ in height: all stand on the line of the main one.
        x = at[0] - self.getlength(text) * {"l": 0.0, "m": 0.5, "r": 1.0}[anchor[0]]
        y = at[1] + main.getbbox("x", anchor=f"l{anchor[1]}")[3]
        for font, part in runs:
            draw.text((x, y), part, fill, font.at(self._size), "ls")
            x += font.at(self._size).getlength(part)


def _no_letter(letter: str) -> bool:
    return unicodedata.category(letter) in _NO_LETTER
