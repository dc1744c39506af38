"""Load sound files and arrays as 16 kHz mono float32; normalise waveforms for HuBERT."""

import contextlib
import dataclasses
import io
import math
import os
import struct
from collections.abc import Iterator
from numbers import Real
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from sir_jax.data.media.sources import read_source
from sir_jax.errors import BadMedia, UserError

SAMPLE_RATE = 16_000

# The most values (samples x channels) of one file: 1 GiB as float32, 4.6 hours of 16 kHz mono.
MAX_VALUES = 1 << 28
MIN_RATE, MAX_RATE = 1_000, 768_000

# libsndfile reads more formats. The others are refused before its parsers see a byte.
FORMATS = ("WAV", "WAVEX", "RF64", "FLAC", "OGG", "MP3")
# PCM, float, A-law, mu-law. Files with ADPCM must not even be opened: the decoders of libsndfile
# 1.2.2 overflow on crafted files (CVE-2026-37555).
_WAV_CODECS = (1, 3, 6, 7)
_WAV_EXTENSIBLE = 0xFFFE
# Sizes from here up mean an unknown size: a program that writes to a pipe cannot know it. ffmpeg
# writes 0xFFFFFFFF, sox 0x7FFFF000.
_STREAMED_SIZE = 0x7FFF_0000
# libsndfile's number of frames for a header that does not state one.
_UNKNOWN_FRAMES = (1 << 63) - 1


@dataclasses.dataclass(frozen=True)
class AudioHeader:
    """The contents of a sound file as its header states them."""

    samples: int  # per channel
    channels: int
    rate: int  # in Hz


def read_header(source: str | os.PathLike | bytes | BinaryIO, name: str | None = None):
    """Return the `AudioHeader` of a sound file without decoding it.

    Args:
      source: path, bytes or open file.
      name: name of the sound in error messages; None for its path.

    Raises:
      UserError: the file or its header is invalid. The message names the file and the remedy.
    """
    label, data = read_source(source, name, "sound")
    with _opened(data, label) as sound:
        return AudioHeader(sound.frames, sound.channels, sound.samplerate)


def load_audio(
    source: str | os.PathLike | bytes | BinaryIO | tuple[np.ndarray, int],
    name: str | None = None,
    *,
    max_seconds: float | None = None,
    max_channels: int | None = None,
) -> np.ndarray:
    """Load a sound as 16 kHz mono.

    Channels are averaged and the result is resampled by soxr HQ. This equals
    `librosa.load(source, sr=16000)` bit for bit. A truncated file is an error, because libsndfile
    would silently return the part that is left. Only an Ogg file that was cut exactly between two
    pages cannot be recognised as truncated.

    Args:
      source: path, bytes or open file (wav, flac, ogg, mp3); or a pair (array, rate in Hz) with an
        array [N] or [N, channels] of float in [-1, 1], int16, int32 or uint8.
      name: name of the sound in error messages; None for its path.
      max_seconds: longest duration; None for no limit. It is checked before decoding.
      max_channels: largest number of channels; None for no limit. It is checked before decoding.

    Returns:
      float32 [N], in [-1, 1) for integer sources. A sound without samples gives N = 0.

    Raises:
      UserError: the sound is invalid or beyond a limit. The message names it and the remedy.

    Example:
      >>> load_audio((np.array([0, 16384], np.int16), 16_000))
      array([0. , 0.5], dtype=float32)
    """
    if isinstance(source, tuple):
        label = name or "sound array"
        samples, rate = _check_array(source, label)
        header = AudioHeader(*samples.shape, rate)
        _check_limits(header, label, max_seconds, max_channels)
    else:
        label, data = read_source(source, name, "sound")
        samples, rate = _decode(data, label, max_seconds, max_channels)
    if not np.isfinite(samples).all():
        raise BadMedia(f"{label}: holds infinite or undefined samples; export it again")
    if samples.shape[1] == 1:
        mono = np.ascontiguousarray(samples[:, 0])
    else:
        mono = np.mean(samples.T, axis=0)
    return _resample(mono, rate)


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


def _decode(
    data: bytes, label: str, max_seconds: float | None, max_channels: int | None
) -> tuple[np.ndarray, int]:
    """Decode a whole file; return float32 [N, channels] and its rate in Hz."""
    with _opened(data, label) as sound:
        frames, rate = sound.frames, sound.samplerate
        header = AudioHeader(frames, sound.channels, rate)
        _check_limits(header, label, max_seconds, max_channels)
        samples = sound.read(frames, dtype="float32", always_2d=True)
    if len(samples) != frames:
        raise _truncated(label, f"{frames} samples", str(len(samples)))
    return samples, rate


class _OneWay(soundfile.SoundFile):
    """A sound that is read once from its start.

    soundfile seeks after each read if the file is seekable, and FLAC decodes a block for that.
    """

    def seekable(self) -> bool:
        return False


@contextlib.contextmanager
def _opened(data: bytes, label: str) -> Iterator[soundfile.SoundFile]:
    """Open a sound after checking its first bytes and its header.

    Raises:
      BadMedia: the sound is invalid.
    """
    _check_container(data, label)
    try:
        with _OneWay(io.BytesIO(data)) as sound:
            _check_header(sound, label)
            yield sound
    except soundfile.SoundFileError as error:
        reason = getattr(error, "error_string", str(error)).rstrip(". ")
        raise BadMedia(
            f"{label}: damaged or truncated ({reason}); copy or record it again"
        ) from None


def _check_container(data: bytes, label: str) -> None:
    """Check the container format by its first bytes, and that the file is not truncated."""
    magic = data[:4]
    if magic in (b"RIFF", b"RIFX", b"RF64") and data[8:12] == b"WAVE":
        _check_wav(data, label)
    elif magic == b"OggS":
        _check_ogg(data, label)
    elif not (magic == b"fLaC" or magic[:3] == b"ID3" or _is_mp3_sync(magic)):
        raise BadMedia(
            f"{label}: not a wav, flac, ogg or mp3 file; "
            "convert it, e.g. with: ffmpeg -i FILE out.wav"
        )


def _is_mp3_sync(magic: bytes) -> bool:
    return len(magic) > 1 and magic[0] == 0xFF and magic[1] & 0xE0 == 0xE0


def _check_wav(data: bytes, label: str) -> None:
    """Check the codec of a wav file, and that it holds as many bytes as its header states."""
    order = ">" if data[:4] == b"RIFX" else "<"
    codec, long_size, offset = None, None, 12
    while offset + 8 <= len(data):
        chunk, size = struct.unpack_from(f"{order}4sI", data, offset)
        body, left = offset + 8, len(data) - offset - 8
        if chunk == b"data":
            if codec not in _WAV_CODECS:
                raise BadMedia(
                    f"{label}: wav codec {codec} is not PCM, float, A-law or mu-law; "
                    "convert it, e.g. with: ffmpeg -i FILE out.wav"
                )
            announced = size if long_size is None else long_size
            streamed = long_size is None and size >= _STREAMED_SIZE
            if announced > left and not streamed:
                raise _truncated(label, f"{announced} bytes of sound", str(left))
            return
        if size > left:
            break
        if chunk == b"ds64" and size >= 16:
            long_size = struct.unpack_from(f"{order}8xQ", data, body)[0]
        if chunk == b"fmt " and size >= 16:
            codec = struct.unpack_from(f"{order}H", data, body)[0]
            if codec == _WAV_EXTENSIBLE and size >= 26:
                codec = struct.unpack_from(f"{order}24xH", data, body)[0]
        offset = body + size + size % 2
    raise _truncated(label, "a data chunk", "none")


def _check_ogg(data: bytes, label: str) -> None:
    """Check that the last page of an Ogg file is complete."""
    offset = 0
    while offset < len(data):
        if data[offset : offset + 4] != b"OggS"[: len(data) - offset]:
            return  # other bytes between pages are legal: the decoder finds the next page
        table = data[offset + 27 : offset + 27 + (data[offset + 26 : offset + 27] or b"\0")[0]]
        page = 27 + len(table) + sum(table)
        if offset + page > len(data):
            held = f"{len(data) - offset}"
            raise _truncated(label, f"a last Ogg page of {page} bytes", held)
        offset += page


def _check_header(sound: soundfile.SoundFile, label: str) -> None:
    """Check the format, length and rate of an open file against the bounds of this module."""
    if sound.format not in FORMATS:
        raise BadMedia(f"{label}: {sound.format} is not wav, flac, ogg or mp3; convert it")
    if sound.frames == _UNKNOWN_FRAMES:
        raise BadMedia(f"{label}: its header does not say how long it is; encode it again")
    if sound.frames * sound.channels > MAX_VALUES:
        raise BadMedia(
            f"{label}: {sound.frames} samples x {sound.channels} channels is over the bound "
            f"of {MAX_VALUES} values; cut it into shorter files",
            "too large",
        )
    _check_rate(sound.samplerate, label)


def _check_limits(
    header: AudioHeader, label: str, max_seconds: float | None, max_channels: int | None
) -> None:
    """Check a header against the caller's limits."""
    seconds = header.samples / header.rate
    if max_seconds is not None and seconds > max_seconds:
        raise BadMedia(
            f"{label}: {seconds:.2f} s is over the limit of {max_seconds:g} s; cut it into "
            "shorter files",
            "too long",
        )
    if max_channels is not None and header.channels > max_channels:
        raise BadMedia(
            f"{label}: {header.channels} channels are over the limit of {max_channels}; "
            "mix it down first",
            "too large",
        )


def _check_rate(rate: int, label: str) -> None:
    if not MIN_RATE <= rate <= MAX_RATE:
        raise BadMedia(f"{label}: {rate} Hz is outside {MIN_RATE} to {MAX_RATE} Hz", "wrong rate")


def _check_array(source: tuple[np.ndarray, int], label: str) -> tuple[np.ndarray, int]:
    """Check an (array, rate) pair; return float32 [N, channels] and the rate in Hz."""
    if len(source) != 2 or not isinstance(source[1], Real) or np.ndim(source[0]) == 0:
        raise UserError(f"{label}: give a pair (array, rate in Hz)")
    array, rate = np.asarray(source[0]), source[1]
    if array.ndim > 2 or (array.ndim == 2 and not 1 <= array.shape[1] <= 64):
        raise UserError(
            f"{label}: shape {array.shape} is not [samples] or [samples, channels]; transpose it"
        )
    if rate != int(rate):
        raise UserError(f"{label}: {rate} Hz is not a whole number of Hz")
    _check_rate(int(rate), label)
    if array.dtype in (np.int16, np.int32):
        samples = array.astype(np.float32) / np.float32(-np.iinfo(array.dtype).min)
    elif array.dtype == np.uint8:
        samples = (array.astype(np.float32) - 128) / 128
    elif np.issubdtype(array.dtype, np.floating):
        samples = array.astype(np.float32)
    else:
        raise UserError(f"{label}: samples of {array.dtype}; give float, int16, int32 or uint8")
    return samples.reshape(len(samples), -1) if samples.size else samples.reshape(0, 1), int(rate)


def _resample(mono: np.ndarray, rate: int) -> np.ndarray:
    if rate == SAMPLE_RATE or not mono.size:
        return mono
    out = soxr.resample(mono, rate, SAMPLE_RATE, quality="HQ")
    # soxr's result may be one sample off; librosa corrects the length in the same way.
    length = math.ceil(len(mono) * (SAMPLE_RATE / rate))
    return np.pad(out[:length], (0, max(0, length - len(out))))


def _truncated(label: str, announced: str, held: str) -> BadMedia:
    return BadMedia(
        f"{label}: truncated: its header announces {announced}, the file holds {held}; "
        "copy or record it again",
        "truncated",
    )
