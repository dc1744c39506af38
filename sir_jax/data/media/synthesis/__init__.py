"""Speech synthesis: engines behind one interface, and eSpeak NG's phonemes."""

from sir_jax.data.media.synthesis.espeak import Espeak, espeak, phonemes_of, require_espeak
from sir_jax.data.media.synthesis.finish import SAMPLE_RATE, encode_flac, finish

__all__ = [
    "Espeak",
    "SAMPLE_RATE",
    "encode_flac",
    "espeak",
    "finish",
    "phonemes_of",
    "require_espeak",
]
