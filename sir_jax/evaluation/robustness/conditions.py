"""The conditions of the robustness grid: what is done to a clip or a picture before it is encoded.

Every draw depends on the seed, the condition's name and the item's id alone, so that a condition is
the same whatever else is run.
"""

import dataclasses
import functools
import io
import zlib
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageFilter

from sir_jax.data.media.audio import SAMPLE_RATE
from sir_jax.data.media.augment import (
    CODECS,
    add_noise,
    add_reverb,
    change_gain,
    change_speed,
    clip_peaks,
    fit_length,
    insert_silence,
    make_response,
    narrow_band,
    pink_noise,
    white_noise,
)
from sir_jax.errors import UserError

SOUND, PICTURE = "speech", "image"
CLEAN = "clean"
# Talkers of babble: other recordings of the split.
TALKERS = 4

# Draws another recording of the split, one that describes another picture; float32 [N].
Other = Callable[[np.random.Generator], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Condition:
    """One point of the grid.

    Attributes:
      family: what kind of disturbance, such as 'white noise'.
      level: its strength, as it is written, such as '10 dB'.
      side: SOUND or PICTURE.
      apply: of SOUND (wave, rng, other) -> wave; of PICTURE (picture, rng, size) -> picture, with
        the side of the model's input.
    """

    family: str
    level: str
    side: str
    apply: Callable

    @property
    def name(self) -> str:
        """Return family and level."""
        return f"{self.family} {self.level}".strip()

    def stream(self, seed: int, item: int) -> np.random.Generator:
        """Return the random stream of a clip or a picture."""
        return np.random.default_rng((seed, zlib.crc32(self.name.encode()), item))


def _noise(make: Callable, snr: float, wave, rng, other):
    return add_noise(wave, make(len(wave), rng), snr)


def _babble(snr: float, wave, rng, other):
    crowd = np.zeros(len(wave))
    for _ in range(TALKERS):
        talker = other(rng).astype(np.float64)
        power = np.sqrt(np.square(talker).mean()) if talker.size else 0.0
        if power:
            crowd += fit_length(talker, len(wave), rng) / power
    return add_noise(wave, crowd, snr)


def _reverb(t60: float, wave, rng, other):
    # The direct path is no stronger than all the rest.
    return add_reverb(wave, make_response(t60, 0.0, rng), 0)


def _silence(before: float, after: float, wave, rng, other):
    wave = insert_silence(wave, len(wave), round(after * SAMPLE_RATE), 0.0, rng)
    return insert_silence(wave, 0, round(before * SAMPLE_RATE), 0.0, rng)


def _plain(change: Callable, *values, **more) -> Callable:
    """Return a change that draws nothing."""
    return lambda item, rng, context: change(item, *values, **more)


def _jpeg(picture: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def _blur(share: float, picture, rng, size):
    return picture.filter(ImageFilter.GaussianBlur(share * min(picture.size)))


def _downscale(share: float, picture, rng, size):
    factor = share * size / min(picture.size)
    small = tuple(max(1, round(side * factor)) for side in picture.size)
    return picture.resize(small, Image.Resampling.BICUBIC)


def _crop(share: float, picture, rng, size):
    w, h = (max(1, round(side * share**0.5)) for side in picture.size)
    left, top = (
        int(rng.integers(whole - part + 1))
        for whole, part in zip(picture.size, (w, h), strict=True)
    )
    return picture.crop((left, top, left + w, top + h))


def _grey(picture: Image.Image) -> Image.Image:
    return picture.convert("L").convert("RGB")


def _rotate(degrees: float, picture, rng, size):
    # Corners that no pixel fills get the picture's mean colour.
    mean = tuple(round(x) for x in np.asarray(picture).reshape(-1, 3).mean(0))
    turned = degrees if rng.random() < 0.5 else -degrees
    return picture.rotate(turned, Image.Resampling.BICUBIC, fillcolor=mean)


def _family(side: str, family: str, unit: str, levels: Sequence, make: Callable) -> list[Condition]:
    return [Condition(family, f"{level:g} {unit}".strip(), side, make(level)) for level in levels]


def all_conditions() -> tuple[Condition, ...]:
    """Return the whole grid, without the clean condition, in the order of the table."""
    part, sound = functools.partial, functools.partial(_family, SOUND)
    picture = functools.partial(_family, PICTURE)
    db = (20, 10, 5, 0, -5)
    silences = ((2, 0), (0, 1), (2, 1))
    return (
        *sound("white noise", "dB", db, lambda x: part(_noise, white_noise, x)),
        *sound("pink noise", "dB", db, lambda x: part(_noise, pink_noise, x)),
        *sound("babble", "dB", db, lambda x: part(_babble, x)),
        *sound("reverberation", "s", (0.2, 0.5, 1.0), lambda x: part(_reverb, x)),
        Condition("telephone", "8 kHz", SOUND, _plain(narrow_band, False)),
        Condition("telephone", "mu-law", SOUND, _plain(narrow_band, True)),
        *sound("MP3", "kbit/s", (32, 16, 8), lambda x: _plain(CODECS["mp3"], x)),
        *sound("Opus", "kbit/s", (24, 12, 6), lambda x: _plain(CODECS["opus"], x)),
        *sound("clipping", "dB", (6, 12, 20), lambda x: _plain(clip_peaks, x)),
        *sound("gain", "dB", (-40, -20, 10), lambda x: _plain(change_gain, x)),
        *(
            Condition("silence", f"{a} s before, {b} s after", SOUND, part(_silence, a, b))
            for a, b in silences
        ),
        *sound("speed", "x", (0.8, 0.9, 1.1, 1.25), lambda x: _plain(change_speed, x)),
        *picture("JPEG quality", "", (50, 20, 10, 5), lambda x: _plain(_jpeg, x)),
        *picture("blur", "% of side", (0.5, 1, 2), lambda x: part(_blur, x / 100)),
        *picture("downscaled", "of input", (0.5, 0.25), lambda x: part(_downscale, x)),
        *picture("crop", "of area", (0.8, 0.6, 0.4), lambda x: part(_crop, x)),
        Condition("grey", "", PICTURE, _plain(_grey)),
        *picture("rotation", "degrees", (5, 10, 20), lambda x: part(_rotate, x)),
    )


def choose(families: Sequence[str]) -> tuple[Condition, ...]:
    """Return the conditions of some families, or of all where none is named.

    'clean' is the family of nothing changed, which every grid has.

    Raises:
      UserError: there is no such family.
    """
    grid = all_conditions()
    known = (CLEAN, *dict.fromkeys(condition.family for condition in grid))
    for family in families:
        if family not in known:
            raise UserError(f"--conditions: no {family!r}; choose among {', '.join(known)}")
    return tuple(c for c in grid if not families or c.family in families)
