"""Captions that a synthesiser speaks: planned by their voice, made when their chunk is."""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from sir_jax.data.builders.recordings import PlannedCaption
from sir_jax.data.media.synthesis import Voice, engine, speaks, voices_of
from sir_jax.errors import BadMedia

ESPEAK = "espeak"
PIPER = "piper"
# What is added to the rate (words a minute) and the pitch of a voice, drawn evenly.
_RATES, _PITCHES = range(-30, 31), range(-12, 13)
# Piper's voices have no other pitch.
_OWN_PITCH = 50


def number_of(*words: object) -> int:
    """Return 64 bits that depend on words alone."""
    text = "\n".join(map(str, words))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def planned_speech(
    caption_id: int,
    name: str,
    text: str,
    language: str,
    split: str,
    take: int,
    voices: Sequence[Voice] = (),
) -> PlannedCaption:
    """Plan that a voice says a text.

    Args:
      caption_id: unique in the corpus.
      name: of what is named; with the language and the take it decides the voice.
      text: what is said.
      language: BCP 47.
      split: whose voices speak; no voice speaks in two splits.
      take: number of the utterance. Takes of one text have different voices, up to their number.
      voices: those to choose among; none for all voices of eSpeak NG.

    Raises:
      UserError: eSpeak NG does not speak the language.
    """
    voices = voices or voices_of(ESPEAK, language, split)
    voice = voices[(number_of(language, name) + take) % len(voices)]
    drawn = number_of(language, name, split, take)
    rate = voice.rate + _RATES[drawn % len(_RATES)]
    pitch = voice.pitch + _PITCHES[(drawn >> 32) % len(_PITCHES)]
    if voice.engine == PIPER:
        pitch = _OWN_PITCH
    spoken = f"{voice.engine}:{voice.name}:{rate}:{pitch}:{language}/{name}"
    return PlannedCaption(caption_id, spoken, spoken, text, voice.name, language, voice.engine)


def planned_turns(
    engines: Sequence[str], name: str, text: str, language: str, split: str, takes: int
) -> Iterator[PlannedCaption]:
    """Plan that the voices of several engines say a text; caption ids are still missing.

    eSpeak NG speaks, then one of the other engines' voices, by turns; at most as many takes as
    there are voices. See `planned_speech` for the arguments.
    """
    turns = [voices_in(ESPEAK, language, split)]
    others = [
        voice for other in engines if other != ESPEAK for voice in voices_in(other, language, split)
    ]
    turns += [tuple(others)] if others else []
    start = number_of(language, name, "turn")
    for take in range(min(takes, sum(map(len, turns)))):
        voices = turns[(start + take) % len(turns)]
        yield planned_take(name, text, language, split, take, take // len(turns), voices)


def planned_take(
    name: str,
    text: str,
    language: str,
    split: str,
    take: int,
    lap: int,
    voices: Sequence[Voice],
) -> PlannedCaption:
    """Plan one of several takes; its key tells it from one with the same voice, rate and pitch.

    Args:
      name, text, language, split, voices: see `planned_speech`.
      take: number of the utterance among all of the caption.
      lap: its number among those of `voices`.
    """
    planned = planned_speech(-1, name, text, language, split, lap, voices)
    key = f"{planned.audio}.{take}"
    return dataclasses.replace(planned, key=key, audio=key)


def voices_in(engine_name: str, language: str, split: str) -> tuple[Voice, ...]:
    """Return the voices of an engine that speak a language in a split; none where it does not."""
    there = speaks(engine_name, language, split)
    return voices_of(engine_name, language, split) if there else ()


def speak(caption: PlannedCaption) -> np.ndarray:
    """Return a caption of `planned_speech` as float32 [N] at 16 kHz.

    Raises:
      BadMedia: the synthesiser says nothing.
      UserError: it is not installed, or does not speak the language.
    """
    name, voice, rate, pitch, _ = caption.audio.split(":", 4)
    try:
        wave = engine(name).speak(caption.text, voice, int(rate), int(pitch), caption.language)
    except RuntimeError as error:
        raise BadMedia(f"{caption.audio}: {error}", "no samples") from None
    return wave.astype(np.float32) / 32768
