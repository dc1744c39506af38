"""Find what is said between two pauses of a recording, while it streams by."""

import dataclasses

import numpy as np
import webrtcvad

from sir_jax.data.media.audio import SAMPLE_RATE

# The detector takes 10, 20 or 30 ms at a time; 0 to 3 says how readily it hears silence.
_FRAME = 30 * SAMPLE_RATE // 1000
_STRICT = 2
# In frames. A caption may hold a pause, and may be parted from its neighbours by a short one: what
# lies between short pauses is found, and what lies between long ones.
PAUSES = (4, 14)
_LEAST = 6  # voiced frames of a phrase: a syllable
_MARGIN = 4  # frames kept on both sides: a soft sound begins and ends many words

Stretch = tuple[int, np.ndarray]  # its first sample, and its samples


class Phrases:
    """Finds the phrases of a stream by WebRTC's voice activity detector.

    A phrase that is longer than `length` samples is left out.
    """

    def __init__(self, length: int):
        self._detector = webrtcvad.Vad(_STRICT)
        self._length = length
        self._open = [_Phrase(pause) for pause in PAUSES]
        self._ended: set[tuple[int, int]] = set()  # that more than one pause may end
        self._held, self._begin, self._frame = np.zeros(0, np.float32), 0, 0

    def hear(self, block: np.ndarray) -> list[Stretch]:
        """Take float32[n] at 16 kHz, and return the phrases that have ended in it."""
        self._held = np.concatenate([self._held, block])
        found = []
        while self._begin + len(self._held) >= (self._frame + 1) * _FRAME:
            at = self._frame * _FRAME - self._begin
            pcm = np.clip(self._held[at : at + _FRAME] * 32768, -32768, 32767).astype(np.int16)
            voiced = self._detector.is_speech(pcm.tobytes(), SAMPLE_RATE)
            for phrase in self._open:
                found += self._cut(phrase.hear(self._frame, voiced))
            self._frame += 1
        self._let_go()
        return found

    def end(self) -> list[Stretch]:
        """Return the phrases that last until the end of the stream."""
        return [stretch for phrase in self._open for stretch in self._cut(phrase.end())]

    def _cut(self, span: tuple[int, int] | None) -> list[Stretch]:
        if span is None or span in self._ended:
            return []
        self._ended.add(span)
        start, end = max(0, (span[0] - _MARGIN) * _FRAME), (span[1] + _MARGIN) * _FRAME
        if start < self._begin or end - start > self._length:
            return []
        return [(start, self._held[start - self._begin : end - self._begin].copy())]

    def _let_go(self) -> None:
        """Forget the samples that no phrase can still need."""
        begun = [phrase.first for phrase in self._open if phrase.first >= 0]
        oldest = min(begun, default=self._frame)
        first = max(oldest - _MARGIN, self._frame - self._length // _FRAME - 1) * _FRAME
        if first > self._begin:
            self._held, self._begin = self._held[first - self._begin :], first
        self._ended = {span for span in self._ended if span[1] * _FRAME > self._begin}


@dataclasses.dataclass
class _Phrase:
    """What was said since the last pause.

    Attributes:
      pause: frames of silence that end it.
      first: its first frame, -1 before one is heard.
      behind: the frame behind its last.
      voiced: how many of its frames are.
    """

    pause: int
    first: int = -1
    behind: int = 0
    voiced: int = 0

    def hear(self, frame: int, voiced: bool) -> tuple[int, int] | None:
        """Take one frame more, and return the span that has ended with it, if one has."""
        if voiced:
            self.first = frame if self.first < 0 else self.first
            self.behind, self.voiced = frame + 1, self.voiced + 1
            return None
        return self.end() if self.first >= 0 and frame - self.behind >= self.pause else None

    def end(self) -> tuple[int, int] | None:
        """Return (first frame, the one behind the last), None for too little; begin anew."""
        found = (self.first, self.behind) if self.voiced >= _LEAST else None
        self.first, self.voiced = -1, 0
        return found
