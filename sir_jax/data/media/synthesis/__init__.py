"""Speech synthesis: engines behind one interface, their voices, and eSpeak NG's phonemes.

`engine(name).speak(text, voice, rate, pitch, language)` speaks, and `voices_of(engine, language,
split)` says by which voices. Nothing is loaded before it is asked for.
"""

from sir_jax.data.media.synthesis.engines import (
    ENGINES,
    Engine,
    engine,
    missing_engines,
    require_engine,
)
from sir_jax.data.media.synthesis.espeak_ng import Espeak, espeak, phonemes_of, require_espeak
from sir_jax.data.media.synthesis.finish import SAMPLE_RATE, encode_flac, finish
from sir_jax.data.media.synthesis.said import Said, say, spoken_languages
from sir_jax.data.media.synthesis.voice import Voice
from sir_jax.data.media.synthesis.voices import speaks, voices_of

__all__ = [
    "ENGINES",
    "Engine",
    "Espeak",
    "SAMPLE_RATE",
    "Said",
    "Voice",
    "encode_flac",
    "engine",
    "espeak",
    "finish",
    "missing_engines",
    "phonemes_of",
    "require_engine",
    "require_espeak",
    "say",
    "speaks",
    "spoken_languages",
    "voices_of",
]
