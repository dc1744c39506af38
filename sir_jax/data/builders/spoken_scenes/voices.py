"""Who speaks in a corpus: how many of eSpeak NG's voices, and which of the other engines'."""

from collections.abc import Sequence

from sir_jax.data.media.synthesis.espeak_voices import ENGLISH
from sir_jax.data.media.synthesis.voice import Voice
from sir_jax.data.media.synthesis.voices import voices_of as engine_voices

# All of them; a corpus has the first ones.
VOICES = ENGLISH
# With fewer voices some accent would be missing in training.
MIN_VOICES = 12
MAX_VOICES = len(VOICES)


def voices_of(split: str, count: int) -> tuple[Voice, ...]:
    """Return eSpeak NG's voices of one split among the first `count` of the table."""
    return tuple(voice for voice in VOICES[:count] if voice.split == split)


def other_voices(engines: Sequence[str], split: str) -> tuple[Voice, ...]:
    """Return the English voices of a split by engines other than eSpeak NG."""
    others = [engine for engine in engines if engine != "espeak"]
    return tuple(voice for engine in others for voice in engine_voices(engine, "en", split))
