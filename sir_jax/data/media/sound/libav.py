"""Decode formats that libsndfile does not read by PyAV, the extra [media]."""

import contextlib
import importlib.util
import io
import itertools
from collections.abc import Iterator

import numpy as np

from sir_jax.data.media.sound.parts import Stream, damaged, truncated, unsupported
from sir_jax.errors import BadMedia

# Format, as `sniff` names it -> the demuxer that alone may open it.
DEMUXERS = {
    "m4a": "mov",
    "mp4": "mov",
    "aac": "aac",
    "amr": "amr",
    "webm": "matroska",
    "mka": "matroska",
    "speex": "ogg",
    "aiff": "aiff",
    "caf": "caf",
    "wma": "asf",
}
# Decoders that may be used; all others are refused.
_CODECS = {
    *("aac", "alac", "mp3", "mp3float", "opus", "libopus", "vorbis", "flac", "speex"),
    *("amrnb", "amrwb", "wmav1", "wmav2", "pcm_u8", "pcm_s8", "pcm_s16le", "pcm_s16be"),
    *("pcm_s24le", "pcm_s24be", "pcm_s32le", "pcm_s32be", "pcm_f32le", "pcm_f32be"),
}
# Demuxers whose files state their length; others only estimate it.
_COUNTED = ("mov", "matroska")
# Seconds that may lack of it: encoders count what they put before and behind the sound.
_SLACK_SECONDS = 0.15
# Values that are gathered to a block.
_BLOCK_VALUES = 1 << 20
# The loudest value of each type of samples, and the value of silence.
_SCALES = {"u1": (128.0, 128.0), "i2": (32768.0, 0.0), "i4": (2147483648.0, 0.0)}


def installed() -> bool:
    """Tell whether PyAV is installed."""
    return importlib.util.find_spec("av") is not None


def streams(data: bytes, form: str, label: str) -> Iterator[Stream]:
    """Open the first stream of sound of a file.

    Args:
      data: the whole file.
      form: one of `DEMUXERS`.
      label: its name in error messages.

    Raises:
      BadMedia: the file is damaged, truncated, without sound, or its codec is not read.
    """
    import av

    demuxer = DEMUXERS[form]
    if demuxer == "mov":
        _check_boxes(data, label)
    if demuxer == "aac":
        _check_frames(data, label)
    with contextlib.ExitStack() as stack:
        with _reporting(label):
            container = stack.enter_context(
                av.open(io.BytesIO(data), format=demuxer, metadata_errors="ignore")
            )
        if not container.streams.audio:
            raise BadMedia(f"{label}: {form} without a stream of sound", "no samples")
        stream = container.streams.audio[0]
        if stream.codec_context.name not in _CODECS:
            raise unsupported(label, f"{form} with {stream.codec_context.name}")
        frames = container.decode(stream)
        with _reporting(label):
            first = next(frames, None)
        if first is None:
            yield Stream(0, 1, stream.rate, iter(()))
            return
        seconds = container.duration / av.time_base if container.duration else None
        known = int(seconds * first.sample_rate) if seconds and demuxer in _COUNTED else None
        blocks = _blocks(itertools.chain([first], frames), known, label)
        yield Stream(known, first.layout.nb_channels, first.sample_rate, blocks)


@contextlib.contextmanager
def _reporting(label: str) -> Iterator[None]:
    """Report what FFmpeg says against a file."""
    import av

    try:
        yield
    except av.error.FFmpegError as error:
        raise damaged(label, error.strerror) from None


def _blocks(frames: Iterator, known: int | None, label: str) -> Iterator[np.ndarray]:
    """Yield float32 [n, channels]; check that about as much is there as the header states."""
    done, values, waiting, form = 0, 0, [], None
    while True:
        with _reporting(label):
            frame = next(frames, None)
        if frame is None:
            break
        rate = frame.sample_rate
        if form not in (None, (rate, frame.layout.nb_channels)):
            raise damaged(label, "its rate or its number of channels changes")
        form = rate, frame.layout.nb_channels
        waiting.append(_as_float(frame))
        done, values = done + frame.samples, values + waiting[-1].size
        if values >= _BLOCK_VALUES:
            yield np.concatenate(waiting)
            values, waiting = 0, []
    if waiting:
        yield np.concatenate(waiting)
    if known is not None and done < known - _SLACK_SECONDS * rate:
        raise truncated(label, f"{known} samples", str(done))


def _as_float(frame) -> np.ndarray:
    """Return a frame's samples as float32 [n, channels] in [-1, 1)."""
    array = frame.to_ndarray()
    array = array.T if frame.format.is_planar else array.reshape(frame.samples, -1)
    scale, silence = _SCALES.get(array.dtype.str[1:], (1.0, 0.0))
    return (array.astype(np.float32) - np.float32(silence)) / np.float32(scale)


def _check_boxes(data: bytes, label: str) -> None:
    """Check that each box of an mp4 file is complete."""
    at = 0
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if size == 1:
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        if size < 8:
            return  # 0: the last box goes on to the end of the file
        at += size
    if at > len(data):
        raise truncated(label, f"{at} bytes", str(len(data)))


def _check_frames(data: bytes, label: str) -> None:
    """Check that the last frame of an ADTS file is complete."""
    at = 0
    while at + 7 <= len(data) and data[at] == 0xFF and data[at + 1] & 0xF6 == 0xF0:
        size = int.from_bytes(data[at + 3 : at + 6], "big") >> 5 & 0x1FFF
        at += max(size, 7)
    if at > len(data):
        raise truncated(label, f"{at} bytes of frames", str(len(data)))
