"""Mix blocks of samples down to mono at 16 kHz with bounded memory, and judge what they hold."""

import math

import numpy as np
import soxr

from sir_jax.errors import BadMedia

SAMPLE_RATE = 16_000
# The most samples of one recording at 16 kHz: 1 GiB as float32.
MAX_SAMPLES = 1 << 28
# The largest sample. Full scale is 1; whole numbers of 32 bits that were not scaled still fit.
MAX_LEVEL = float(1 << 31)
# A sound that moves by less than the last of 24 bits is silence.
_SILENCE = 2.0**-24
# Channels cancel each other if so little of their range is left in their mean: 26 dB down.
_CANCELLED = 0.05
# The range of channels is taken of every so many samples.
_STRIDE = 16


class Mix:
    """A recording in the making.

    A sound of one block is resampled at once, a longer one in a stream; soxr gives the same samples
    either way. Parts of one rate that follow each other are resampled as one.
    """

    def __init__(self, label: str, max_seconds: float | None, whole: bool = True):
        """Start.

        Args:
          label: the sound's name in error messages.
          max_seconds: longest duration; None for no limit but `MAX_SAMPLES`.
          whole: whether all of it will be held; if not, `take` is called, and `MAX_SAMPLES` is no
            limit.
        """
        self._label, self._max_seconds, self._whole = label, max_seconds, whole
        self._seconds = 0.0  # of the parts of other rates before this one
        self._rate, self._count = SAMPLE_RATE, 0
        self._first: np.ndarray | None = None
        self._stream: soxr.ResampleStream | None = None
        self._out = bytearray()
        self._begun = 0  # bytes of `_out` that are of the parts before
        # The range of the mean of the channels, and the largest mean of the channels' ranges.
        self._low, self._high, self._span = math.inf, -math.inf, 0.0

    def expect(self, samples: int | None, rate: int) -> None:
        """Check the length of a part before it is decoded.

        Args:
          samples: as its header states them; None if it does not.
          rate: in Hz.

        Raises:
          BadMedia: it is too long.
        """
        if rate != self._rate:
            self._end_part()
            self._rate = rate
        seconds = self._seconds + (self._count + (samples or 0)) / rate
        self._check(seconds, f"{seconds:.2f} s is")

    def add(self, block: np.ndarray) -> None:
        """Add float32 [n, channels] of the part at hand.

        Raises:
          BadMedia: it holds samples that cannot be meant, or makes the recording too long.
        """
        if not len(block):
            return
        if block.shape[1] == 1:
            mono = np.ascontiguousarray(block[:, 0])
        else:
            with np.errstate(over="ignore", invalid="ignore"):  # refused below, by name
                mono = np.mean(block.T, axis=0)
        self._note_range(block, mono)
        self._count += len(mono)
        self._check(self._seconds + self._count / self._rate, "more than that is")
        if self._first is None and not self._count > len(mono):
            self._first = mono
            return
        if self._first is not None:
            waiting, self._first = self._first, None
            if self._rate != SAMPLE_RATE:
                self._stream = soxr.ResampleStream(
                    self._rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ"
                )
            self._append(waiting)
        self._append(mono)

    def take(self) -> np.ndarray:
        """Return what is ready, float32 [n], and forget it; `finish` returns the rest."""
        ready = np.frombuffer(bytes(self._out), np.float32)
        self._begun -= len(self._out)
        self._out.clear()
        return ready

    def finish(self) -> tuple[np.ndarray, str]:
        """Return the recording, float32 [N], and why nothing can be heard in it, or ""."""
        if not self._out and self._stream is None:
            wave = np.zeros(0, np.float32) if self._first is None else self._first
            return resample(wave, self._rate), self._judge()
        self._end_part()
        return np.frombuffer(self._out, np.float32), self._judge()

    def _append(self, mono: np.ndarray) -> None:
        if self._stream is not None:
            mono = self._stream.resample_chunk(mono)
        self._out += memoryview(mono).cast("B")

    def _end_part(self) -> None:
        """Resample what is left of the part at hand, and correct its length as `resample` does."""
        if self._first is not None:
            self._out += memoryview(resample(self._first, self._rate)).cast("B")
        elif self._stream is not None:
            rest = self._stream.resample_chunk(np.zeros(0, np.float32), last=True)
            self._out += memoryview(rest).cast("B")
            end = self._begun + 4 * _length(self._count, self._rate)
            del self._out[max(0, end) :]
            self._out += bytes(max(0, end - len(self._out)))
        self._seconds += self._count / self._rate
        self._first, self._stream, self._count = None, None, 0
        self._begun = len(self._out)

    def _check(self, seconds: float, found: str) -> None:
        if self._max_seconds is not None and seconds > self._max_seconds:
            limit, fault = f"the limit of {self._max_seconds:g} s", "too long"
        elif self._whole and seconds * SAMPLE_RATE > MAX_SAMPLES:
            limit, fault = f"the bound of {MAX_SAMPLES / SAMPLE_RATE / 3600:.2f} h", "too large"
        else:
            return
        raise BadMedia(f"{self._label}: {found} over {limit}; cut it into shorter files", fault)

    def _note_range(self, block: np.ndarray, mono: np.ndarray) -> None:
        # What is infinite or undefined in one channel is so in the mean.
        low, high = float(mono.min()), float(mono.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise BadMedia(f"{self._label}: holds infinite or undefined samples; export it again")
        if max(-low, high) > MAX_LEVEL:
            raise BadMedia(
                f"{self._label}: holds a sample of {max(-low, high):.3g}, over the bound of "
                f"{MAX_LEVEL:.3g} (full scale is 1); export it again"
            )
        self._low, self._high = min(self._low, low), max(self._high, high)
        if block.shape[1] > 1:
            # All of a block only where its mean is still: the ranges of channels take long.
            some = block if high - low < _SILENCE else block[::_STRIDE]
            self._span = max(self._span, float((some.max(0) - some.min(0)).mean()))

    def _judge(self) -> str:
        """Tell why nothing can be heard."""
        left = self._high - self._low
        if left < 0:
            return ""  # no samples
        if max(left, self._span) < _SILENCE:
            return "digital silence"
        return "its channels cancel each other" if left < _CANCELLED * self._span else ""


def resample(mono: np.ndarray, rate: int) -> np.ndarray:
    """Return float32 [N] at `rate` Hz resampled to 16 kHz by soxr HQ."""
    if rate == SAMPLE_RATE or not mono.size:
        return mono
    out = soxr.resample(mono, rate, SAMPLE_RATE, quality="HQ")
    # soxr's result may be one sample off; librosa corrects the length in the same way.
    length = _length(len(mono), rate)
    return np.pad(out[:length], (0, max(0, length - len(out))))


def _length(samples: int, rate: int) -> int:
    return math.ceil(samples * (SAMPLE_RATE / rate))
