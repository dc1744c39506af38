"""A part of a sound file as a decoder gets it, and the messages about files that it cannot get."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from sir_jax.errors import BadMedia

CONVERT = "convert it, e.g. with: ffmpeg -i FILE out.wav"
AGAIN = "copy or record it again"


# More samples than any file holds: its length is not known before its end.
UNKNOWN = 1 << 40


class Part(NamedTuple):
    """A stream that libsndfile decodes from its start to its end.

    A file has several parts if it is chained or concatenated.

    Attributes:
      data: a whole file of `form`.
      form: 'WAV', 'FLAC', 'OGG' or 'MP3', what libsndfile must find it to be.
      samples: samples per channel that it holds by its own count; None for what libsndfile says.
      slack: samples that may lack of them, or the file is truncated.
      endless: whether libsndfile must believe the file to be much longer than it is: it estimates
        a length by the file's, and reads no further.
      patch: (place, bytes) that libsndfile must read there instead of what `data` has.
    """

    data: bytes
    form: str
    samples: int | None = None
    slack: int = 0
    endless: bool = False
    patch: tuple[int, bytes] | None = None


class Stream(NamedTuple):
    """A stream of sound that is ready to be decoded.

    Attributes:
      samples: samples per channel as its header states them; None if it does not.
      channels: the number of channels.
      rate: in Hz.
      blocks: yields float32 [n, channels] up to the end of the stream; raises `BadMedia`.
    """

    samples: int | None
    channels: int
    rate: int
    blocks: Iterator[np.ndarray]


def truncated(label: str, announced: str, held: str) -> BadMedia:
    """Return the error about a file that ends too early."""
    return BadMedia(
        f"{label}: truncated: its header announces {announced}, the file holds {held}; {AGAIN}",
        "truncated",
    )


def damaged(label: str, what: str) -> BadMedia:
    """Return the error about a file that has changed since it was written."""
    return BadMedia(f"{label}: damaged ({what}); {AGAIN}")


def unsupported(label: str, what: str, extra: bool = False) -> BadMedia:
    """Return the error about a good file that is not read here.

    Args:
      label: the file's name.
      what: its format.
      extra: whether the extra [media] reads it.
    """
    also = "; or: pip install 'sir_jax[media]'" if extra else ""
    return BadMedia(f"{label}: {what} is not supported; {CONVERT}{also}", "not supported")
