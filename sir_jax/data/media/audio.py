"""Load sound files and arrays as 16 kHz mono float32; normalise waveforms for HuBERT."""

import dataclasses
import os
from collections.abc import Iterable, Iterator
from numbers import Real
from typing import BinaryIO, NamedTuple

import numpy as np

from sir_jax.data.media.sound import mix
from sir_jax.data.media.sound.decode import streams_of
from sir_jax.data.media.sound.parts import Stream
from sir_jax.data.media.sources import read_source
from sir_jax.errors import BadMedia, UserError

SAMPLE_RATE = mix.SAMPLE_RATE
MIN_RATE, MAX_RATE = 1_000, 768_000


@dataclasses.dataclass(frozen=True)
class AudioHeader:
    """The contents of a sound file as its header states them.

    The samples are counted if the header does not state them.
    """

    samples: int  # per channel
    channels: int
    rate: int  # in Hz


class Sound(NamedTuple):
    """A sound as 16 kHz mono.

    Attributes:
      wave: float32 [N].
      warning: why nothing can be heard in it although it has samples: "digital silence" or
        "its channels cancel each other"; else empty.
    """

    wave: np.ndarray
    warning: str = ""


def read_header(source: str | os.PathLike | bytes | BinaryIO, name: str | None = None):
    """Return the `AudioHeader` of a sound file; it is decoded only if its header lacks the length.

    Args:
      source: path, bytes or open file.
      name: name of the sound in error messages; None for its path.

    Raises:
      UserError: the file or its header is invalid. The message names the file and the remedy.
    """
    label, data = read_source(source, name, "sound")
    seconds, first = 0.0, None
    mixed = mix.Mix(label, None)
    for stream in streams_of(data, label):
        _check_rate(stream.rate, label)
        mixed.expect(stream.samples, stream.rate)
        samples = stream.samples
        if samples is None:
            samples = sum(len(block) for block in stream.blocks)
        first = first or AudioHeader(samples, stream.channels, stream.rate)
        seconds += samples / stream.rate
    return dataclasses.replace(first, samples=round(seconds * first.rate))


def load_audio(
    source: str | os.PathLike | bytes | BinaryIO | tuple[np.ndarray, int],
    name: str | None = None,
    *,
    max_seconds: float | None = None,
    max_channels: int | None = None,
) -> np.ndarray:
    """Load a sound as 16 kHz mono.

    Channels are averaged and the result is resampled by soxr HQ. This equals
    `librosa.load(source, sr=16000)` bit for bit. A file is read to the end of its stream, all parts
    of a chained or concatenated one, whatever length its header states. A truncated file is an
    error, because decoders would silently return the part that is left; only a file that was cut
    exactly between two pages of Ogg, or frames of MP3 without a header, cannot be recognised.

    Args:
      source: path, bytes or open file (wav, flac, ogg, opus, mp3; with the extra [media] also m4a,
        aac, amr, webm and others); or a pair (array, rate in Hz) with an array [N] or
        [N, channels] of float in [-1, 1], int16, int32 or uint8.
      name: name of the sound in error messages; None for its path.
      max_seconds: longest duration; None for no limit. It is checked before decoding if the header
        states the duration, and while decoding.
      max_channels: largest number of channels; None for no limit. It is checked before decoding.

    Returns:
      float32 [N], in [-1, 1) for integer sources. A sound without samples gives N = 0.

    Raises:
      UserError: the sound is invalid or beyond a limit. The message names it and the remedy.

    Example:
      >>> load_audio((np.array([0, 16384], np.int16), 16_000))
      array([0. , 0.5], dtype=float32)
    """
    return load_sound(source, name, max_seconds=max_seconds, max_channels=max_channels).wave


def load_sound(
    source: str | os.PathLike | bytes | BinaryIO | tuple[np.ndarray, int],
    name: str | None = None,
    *,
    max_seconds: float | None = None,
    max_channels: int | None = None,
) -> Sound:
    """Load a sound as `load_audio` does, and tell whether anything can be heard in it.

    Args:
      source: as in `load_audio`.
      name: as in `load_audio`.
      max_seconds: as in `load_audio`.
      max_channels: as in `load_audio`.

    Raises:
      UserError: the sound is invalid or beyond a limit. The message names it and the remedy.

    Example:
      >>> load_sound((np.zeros(4, np.int16), 16_000))
      Sound(wave=array([0., 0., 0., 0.], dtype=float32), warning='digital silence')
    """
    label, streams = _streams(source, name)
    mixed = mix.Mix(label, max_seconds)
    for _ in _fill(mixed, streams, label, max_channels):
        pass
    return Sound(*mixed.finish())


class SoundStream:
    """A sound as 16 kHz mono in pieces, for recordings of hours: only a piece is held decoded.

    The pieces together are what `load_sound` returns, but for the last sample of each part of a
    chained file, by rounding.

    Attributes:
      warning: as in `Sound`; '' before the last piece.
    """

    def __init__(self, source, name: str | None = None, max_channels: int | None = None):
        """Hold a source.

        Args:
          source: as in `load_audio`.
          name: as in `load_audio`.
          max_channels: as in `load_audio`.
        """
        self._source, self._name, self._max_channels = source, name, max_channels
        self.warning = ""

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield float32 [n] each.

        Raises:
          UserError: the sound is invalid. The message names it and the remedy.
        """
        label, streams = _streams(self._source, self._name)
        mixed = mix.Mix(label, None, whole=False)
        for _ in _fill(mixed, streams, label, self._max_channels):
            if len(piece := mixed.take()):
                yield piece
        rest, self.warning = mixed.finish()
        if len(rest):
            yield rest


def load_span(
    source: str | os.PathLike | bytes | BinaryIO | tuple[np.ndarray, int],
    name: str | None,
    start: float,
    end: float,
) -> np.ndarray:
    """Load a part of a sound of any length as 16 kHz mono.

    Args:
      source: as in `load_audio`.
      name: as in `load_audio`.
      start: in seconds.
      end: in seconds; a sound that ends before is no error.

    Returns:
      float32 [N].

    Raises:
      UserError: the sound is invalid up to there. The message names it and the remedy.
    """
    first, last, at, kept = round(start * SAMPLE_RATE), round(end * SAMPLE_RATE), 0, []
    for block in SoundStream(source, name):
        kept.append(block[max(0, first - at) : max(0, last - at)])
        at += len(block)
        if at >= last:
            break
    return np.concatenate([np.zeros(0, np.float32), *kept])


def _streams(source, name: str | None) -> tuple[str, Iterable[Stream]]:
    """Return the name of a sound in messages, and its streams."""
    if isinstance(source, tuple):
        label = name or "sound array"
        array, rate = _check_array(source, label)
        return label, [Stream(*array.shape, rate, iter([array]))]
    label, data = read_source(source, name, "sound")
    return label, streams_of(data, label)


def _fill(
    mixed: mix.Mix, streams: Iterable[Stream], label: str, max_channels: int | None
) -> Iterator[None]:
    """Decode streams into a `Mix`; yield after each block."""
    for stream in streams:
        _check_rate(stream.rate, label)
        mixed.expect(stream.samples, stream.rate)
        if max_channels is not None and stream.channels > max_channels:
            raise BadMedia(
                f"{label}: {stream.channels} channels are over the limit of {max_channels}; "
                "mix it down first",
                "too large",
            )
        for block in stream.blocks:
            mixed.add(block)
            yield


def longest_window(data_cfg) -> int:
    """Return the largest number of samples that the speech encoder reads at once.

    Of a longer clip training uses a random part of that length; search splits it into windows.

    Args:
      data_cfg: `config.data`, of which `buckets` is read.
    """
    return max(int(samples) for samples in data_cfg.buckets)


def normalize_waveform(wave: np.ndarray) -> np.ndarray:
    """Normalise a waveform to zero mean and unit variance.

    HuBERT was trained with `Wav2Vec2FeatureExtractor` of `transformers`, whose formula this is:
    (x - mean) / sqrt(var + 1e-7).

    Args:
      wave: valid samples without padding, [N].

    Returns:
      float32 [N]; zeros for a constant waveform.

    Example:
      >>> normalize_waveform(np.array([1.0, 3.0])).round(3)
      array([-1.,  1.], dtype=float32)
    """
    wave = np.asarray(wave, np.float32)
    if not wave.size:
        return wave
    out = wave - wave.mean()
    # The mean of squares is the variance: `np.var` would subtract the mean once more.
    out /= np.sqrt(np.square(out).mean() + 1e-7)
    return out


# The form of `spoken_part`: raise it when the same clip is cut elsewhere.
TRIMMING = 1
_FRAME = 320  # samples, 20 ms
# dB: below the loudest frame nothing is heard; below what is loud among the heard, nobody speaks.
_HEARD, _SPOKEN = 35.0, 15.0


def heard_part(wave: np.ndarray) -> tuple[int, int]:
    """Return where what is faint at the ends of a clip stops: the first sample kept, and the end.

    A frame of 20 ms is faint 35 dB below the loudest one; 60 ms of it are left at either end.

    Args:
      wave: float32 [N] at 16 kHz.

    Example:
      >>> heard_part(np.concatenate([np.zeros(16_000), np.ones(3_200), np.zeros(8_000)]))
      (15040, 20160)
    """
    energy = _energies(wave)
    return _ends(energy, energy.max(initial=0.0) * 10 ** (-_HEARD / 10), 3, len(wave))


def spoken_part(wave: np.ndarray) -> tuple[int, int]:
    """Return where breath and the noise of a room stop: the first sample kept, and the end.

    Frames of 20 ms count as loud as the median of them and their two neighbours, so that a click
    is no speech. Loud are the upper tenth of those within 35 dB of the loudest; 15 dB below it
    nobody speaks. One frame of that is left at either end: synthesised clips, from which models
    learn, begin and end with the word itself.

    Args:
      wave: float32 [N] at 16 kHz.

    Example:
      >>> spoken_part(np.concatenate([np.zeros(16_000), np.ones(3_200), np.zeros(8_000)]))
      (15680, 19520)
    """
    padded = np.pad(_energies(wave), 1)
    energy = np.median([padded[:-2], padded[1:-1], padded[2:]], axis=0)
    if not energy.any():
        return 0, len(wave)
    loud = np.percentile(energy[energy > energy.max() * 10 ** (-_HEARD / 10)], 90, method="linear")
    return _ends(energy, loud * 10 ** (-_SPOKEN / 10), 1, len(wave))


def _energies(wave: np.ndarray) -> np.ndarray:
    frames = np.asarray(wave, np.float32)[: len(wave) - len(wave) % _FRAME].reshape(-1, _FRAME)
    return np.square(frames).mean(axis=1)


def _ends(energy: np.ndarray, quiet: float, margin: int, samples: int) -> tuple[int, int]:
    """Return the first sample and the end of what is louder than `quiet`, with some frames more."""
    loud = np.flatnonzero(energy > quiet)
    if not len(loud):
        return 0, samples
    stop = loud[-1] + 1 + margin
    return int(max(loud[0] - margin, 0)) * _FRAME, int(min(stop * _FRAME, samples))


def trimmed_part(wave: np.ndarray, trim: str) -> tuple[int, int]:
    """Return the first sample and the end of what the encoder reads, by `data.trim_silence`."""
    if trim == "none":
        return 0, len(wave)
    return spoken_part(wave) if trim == "speech" else heard_part(wave)


def as_encoded(window: np.ndarray, data_cfg) -> np.ndarray:
    """Return a window as the speech encoder reads it: without quiet ends, normalised, by choice.

    Args:
      window: float32 [N] at 16 kHz.
      data_cfg: `config.data`, of which `trim_silence` and `normalize_wave` are read.
    """
    first, stop = trimmed_part(window, data_cfg.trim_silence)
    window = window[first:stop]
    return normalize_waveform(window) if data_cfg.normalize_wave else window


def _check_rate(rate: int, label: str) -> None:
    if not MIN_RATE <= rate <= MAX_RATE:
        raise BadMedia(f"{label}: {rate} Hz is outside {MIN_RATE} to {MAX_RATE} Hz", "wrong rate")


def _check_array(source: tuple[np.ndarray, int], label: str) -> tuple[np.ndarray, int]:
    """Check an (array, rate) pair; return float32 [N, channels] and the rate in Hz."""
    rate = source[1] if len(source) == 2 else None
    if hasattr(rate, "item"):  # a number in an array or a tensor
        rate = rate.item() if np.ndim(rate) == 0 else None
    if not isinstance(rate, Real) or np.ndim(source[0]) == 0:
        raise UserError(f"{label}: give a pair (array, rate in Hz)")
    array = np.asarray(source[0])
    if array.ndim > 2 or (array.ndim == 2 and not 1 <= array.shape[1] <= 64):
        raise UserError(
            f"{label}: shape {array.shape} is not [samples] or [samples, channels]; transpose it"
        )
    if rate != int(rate):
        raise UserError(f"{label}: {rate} Hz is not a whole number of Hz")
    _check_rate(int(rate), label)
    # The type of 2 or 4 bytes counts, not their order.
    dtype = array.dtype.newbyteorder("=")
    if dtype in (np.int16, np.int32):
        samples = array.astype(np.float32) / np.float32(-np.iinfo(dtype).min)
    elif dtype == np.uint8:
        samples = (array.astype(np.float32) - 128) / 128
    elif np.issubdtype(dtype, np.floating) or dtype.name == "bfloat16":
        with np.errstate(over="ignore"):  # what overflows is refused as infinite
            samples = array.astype(np.float32)
    else:
        raise UserError(f"{label}: samples of {dtype}; give float, int16, int32 or uint8")
    return samples.reshape(len(samples), -1) if samples.size else samples.reshape(0, 1), int(rate)
