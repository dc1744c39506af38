"""Make raw files for benchmarks: JPEG like photographs, sound like speech, of realistic sizes."""

import dataclasses
import io
import math
from pathlib import Path

import numpy as np
import soundfile
import soxr
from PIL import Image

from sir_jax.data.media.audio import SAMPLE_RATE
from sir_jax.data.media.augment import add_noise, babble_noise
from sir_jax.errors import UserError

# Lengths in seconds. The 25,031 test clips of SpokenCOCO have a mean of 4.33 s and are 1.19 to
# 24.9 s long; without the limits, so many draws would be about 0.8 to 20 s long.
MEAN_SECONDS, SIGMA = 4.4, 0.4
SHORTEST, LONGEST = 1.19, 24.9
# Typical sizes of pictures in Flickr8k and COCO.
PICTURE_SIZES = ((500, 375), (640, 480))
JPEG_QUALITY = 90
# name -> (file format, rate in Hz)
KINDS = {"flac44": ("FLAC", 44_100), "flac16": ("FLAC", 16_000), "wav16": ("WAV", 16_000)}
# Signal-to-noise ratio of a quiet room. Synthesised speech has no noise, which makes FLAC smaller.
_FLOOR_DB = 45.0

_SENTENCES = (
    "A small brown dog runs across the wet grass with a red ball in its mouth.",
    "Two people in yellow jackets are climbing the side of a snowy mountain.",
    "An old wooden boat lies on the beach in front of a row of white houses.",
    "A girl rides her bicycle along the river while her brother waits under a tree.",
    "Several skiers wait in line for the lift on a bright winter morning.",
)
_VOICES = (("en-us+f2", 165, 55), ("en-gb-x-rp+m3", 150, 45), ("en-us+m1", 180, 50))


@dataclasses.dataclass(frozen=True)
class Pair:
    """One picture and one clip on disk; `samples` is the clip's length at 16 kHz."""

    image: Path
    audio: Path
    samples: int


def clip_lengths(count: int, rng: np.random.Generator, sigma: float = SIGMA) -> np.ndarray:
    """Draw lengths like those of spoken captions.

    Args:
      count: n.
      rng: the random generator.
      sigma: standard deviation of the logarithm; the mean before clipping is `MEAN_SECONDS`.

    Returns:
      int64 [n], samples at 16 kHz.
    """
    seconds = np.exp(rng.normal(math.log(MEAN_SECONDS) - sigma**2 / 2, sigma, count))
    return (seconds.clip(SHORTEST, LONGEST) * SAMPLE_RATE).astype(np.int64)


def make_pairs(folder: Path, kind: str, count: int) -> list[Pair]:
    """Write pairs to a new folder.

    Args:
      folder: the folder, which must not exist.
      kind: format and rate of the clips, one of `KINDS`.
      count: number of pairs; the sizes of the pictures alternate.
    """
    folder.mkdir(parents=True)
    rng, (form, rate) = np.random.default_rng(0), KINDS[kind]
    speech, pairs = make_speech(), []
    for number, length in enumerate(clip_lengths(count, rng)):
        image, audio = folder / f"{number}.jpg", folder / f"{number}.{form.lower()}"
        image.write_bytes(encode_picture(make_picture(PICTURE_SIZES[number % 2], rng)))
        sound = np.resize(np.roll(speech, -int(rng.integers(len(speech)))), length)
        if rate != SAMPLE_RATE:
            sound = soxr.resample(sound, SAMPLE_RATE, rate, quality="HQ")
        sound = add_noise(sound, rng.standard_normal(len(sound)), _FLOOR_DB)
        soundfile.write(audio, sound.clip(-1, 1), rate, format=form, subtype="PCM_16")
        pairs.append(Pair(image, audio, math.ceil(len(sound) * (SAMPLE_RATE / rate))))
    return pairs


def make_speech() -> np.ndarray:
    """Return about twenty seconds of speech at 16 kHz, float32; babble without a synthesiser.

    Raises:
      RuntimeError: the synthesiser fails.
    """
    from sir_jax.data.media.synthesis import espeak, require_espeak

    try:
        require_espeak()
    except UserError:  # not installed
        murmur = babble_noise(20 * SAMPLE_RATE, np.random.default_rng(0))
        return (0.1 * murmur / murmur.std()).astype(np.float32)
    spoken = [
        espeak().speak(text, *_VOICES[number % len(_VOICES)])
        for number, text in enumerate(_SENTENCES)
    ]
    return np.concatenate(spoken).astype(np.float32) / 32_768


def make_picture(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Draw a picture with the spectrum of photographs: amplitude falls with frequency.

    Args:
      size: width and height in pixels.
      rng: the random generator.

    Returns:
      uint8 [h, w, 3].
    """
    width, height = size
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1

    def cloud(exponent: float) -> np.ndarray:
        noise = np.fft.rfft2(rng.standard_normal((height, width)))
        field = np.fft.irfft2(noise / frequency**exponent, (height, width))
        return field / field.std()

    # In photographs brightness has more detail than colour.
    light = cloud(1.3)
    channels = [128 + 45 * light + 20 * cloud(1.8) for _ in range(3)]
    return np.stack(channels, axis=-1).clip(0, 255).astype(np.uint8)


def encode_picture(pixels: np.ndarray) -> bytes:
    """Return uint8 [h, w, 3] as JPEG bytes."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=JPEG_QUALITY)
    return stream.getvalue()
