"""The rows of the table of fields that say what `config.data.augment` is, and sets of their values.

See `fields`. `--config.data.augment=people` takes a whole set by its name.
"""

from typing import Any

from ml_collections import ConfigDict

from sir_jax.config.rules import (
    Choice,
    Field,
    Flag,
    Real,
    Rule,
    Several,
    Span,
    Text,
    Whole,
    rows,
)
from sir_jax.errors import UserError

NOISES = ("white", "pink", "babble")  # that can be made
CODECS = ("mp3", "opus", "mu_law")

_SHARE = Real(0, 1)
_SECONDS = Span(Real(0, 60))


def _effect(name: str, what: str, *more: tuple[str, Any, Rule, str]) -> tuple[Field, ...]:
    """Return the rows of one augmentation."""
    first = ("probability", 0.0, _SHARE, f"probability that a training clip {what}")
    return rows(f"data.augment.{name}", first, *more)


def _jitter(*more: tuple[str, str]) -> tuple[Field, ...]:
    return rows("data.augment.image", *((name, 0.0, _SHARE, doc) for name, doc in more))


# In the order in which they happen, to training clips alone; evaluation never augments.
_VOICE = (
    *_effect(
        "speed",
        "is played faster or slower, pitch and tempo together",
        ("factor", (0.9, 1.1), Span(Real(0.5, 2)), "factor of the speed"),
    ),
    *_effect(
        "pitch",
        "is spoken higher or lower, in the same time",
        ("semitones", (-3.0, 3.0), Span(Real(-12, 12)), "change; 12 semitones are an octave"),
    ),
    *_effect(
        "tempo",
        "is spoken faster or slower, at the same pitch",
        ("factor", (0.85, 1.2), Span(Real(0.5, 2)), "factor of the tempo"),
    ),
    *_effect(
        "tract",
        "gets a vocal tract of another length: formants move, pitch stays",
        ("factor", (0.85, 1.15), Span(Real(0.7, 1.4)), "factor of the formants' frequencies"),
    ),
    *_effect(
        "silence",
        "gets silence, as far as its bucket has room",
        ("before", (0.0, 1.0), _SECONDS, "seconds of it before the words"),
        ("within", (0.0, 0.0), _SECONDS, "seconds of a pause at a quiet place within"),
        ("after", (0.0, 0.5), _SECONDS, "seconds of it after the words"),
        (
            "floor_db",
            (-70.0, -40.0),
            Span(Real(-120, 0)),
            "noise in it, against the clip's mean power, in dB",
        ),
        ("digital", 0.5, _SHARE, "share of these clips whose silence is digital, without noise"),
    ),
)

_PLACE = (
    *_effect(
        "reverb",
        "is put into a room",
        (
            "folder",
            "",
            Text("a folder"),
            "impulse responses; empty: made, with t60 and direct_ratio",
        ),
        ("t60", (0.2, 0.8), Span(Real(0.05, 5)), "seconds in which the room falls by 60 dB"),
        (
            "direct_ratio",
            (0.0, 12.0),
            Span(Real(-20, 60)),
            "energy of the direct path over that of the rest, in dB",
        ),
    ),
    *_effect(
        "noise",
        "gets noise",
        ("folder", "", Text("a folder"), "sounds; empty: noise is made, of one of the kinds"),
        (
            "kinds",
            NOISES,
            Several(Choice(NOISES), "kinds", len(NOISES)),
            "kinds of noise that is made",
        ),
        (
            "snr",
            (5.0, 25.0),
            Span(Real(-20, 100)),
            "energy of speech over that of noise, in the whole clip, in dB",
        ),
    ),
)

_CHANNEL = (
    *_effect(
        "clipping",
        "is clipped, as by an input that is turned up too far",
        ("db", (3.0, 12.0), Span(Real(0, 60)), "how far the ceiling is below the peak, in dB"),
    ),
    *_effect(
        "telephone",
        "goes through a telephone, 300 to 3400 Hz",
        ("mu_law", True, Flag(), "whether it is also coded in 8 bits at 8 kHz"),
    ),
    *_effect(
        "codec",
        "is coded and decoded with loss",
        (
            "kinds",
            CODECS,
            Several(Choice(CODECS), "kinds", len(CODECS)),
            "codecs, of which one is drawn; opus takes five times as long as mp3",
        ),
        ("kbps", (8.0, 32.0), Span(Real(8, 128)), "kilobits a second; mu_law always has 128"),
    ),
    *_effect(
        "mask",
        "loses stretches of time and bands of frequencies",
        ("stretches", 2, Whole(0, 100), "most stretches that are set to zero"),
        ("seconds", (0.02, 0.1), _SECONDS, "length of one, at most a fifth of the clip"),
        ("bands", 1, Whole(0, 100), "most bands that are taken out"),
        ("hertz", (100.0, 800.0), Span(Real(1, 8_000)), "width of one"),
    ),
    *_effect(
        "gain",
        "gets louder or softer",
        (
            "db",
            (-6.0, 6.0),
            Span(Real(-60, 60)),
            "change of loudness in dB; undone by data.normalize_wave",
        ),
    ),
)

_IMAGE = _jitter(
    ("brightness", "pixels of a training picture are multiplied by a factor in 1 -+ this"),
    ("contrast", "distances to the mean grey are multiplied by a factor in 1 -+ this"),
    ("saturation", "distances to each pixel's grey are multiplied by a factor in 1 -+ this"),
    ("grey", "probability that a training picture loses its colours"),
)

_SOUND = (*_VOICE, *_PLACE, *_CHANNEL)
AUGMENT = (*_SOUND, *_IMAGE)

# Of sound, in their order.
EFFECTS = tuple(dict.fromkeys(field.name.split(".")[2] for field in _SOUND))

# What each preset changes; all else of sound is at its default.
PRESETS: dict[str, dict[str, Any]] = {
    "none": {},
    # What makes a retriever hear people: other voices, rooms, noise, telephones, and somebody who
    # is slow to start. [I] Each is rare enough that most clips stay clear.
    "people": {
        "speed.probability": 0.3,
        "speed.factor": (0.85, 1.2),
        "pitch.probability": 0.3,
        "pitch.semitones": (-4.0, 4.0),
        "tempo.probability": 0.3,
        "tempo.factor": (0.8, 1.25),
        "tract.probability": 0.4,
        "silence.probability": 0.4,
        "silence.before": (0.0, 2.5),
        "silence.within": (0.0, 0.3),
        "silence.after": (0.0, 1.5),
        "reverb.probability": 0.3,
        "reverb.t60": (0.1, 1.0),
        "reverb.direct_ratio": (-10.0, 12.0),
        "noise.probability": 0.5,
        "noise.snr": (0.0, 30.0),
        "clipping.probability": 0.1,
        "clipping.db": (3.0, 15.0),
        "telephone.probability": 0.15,
        "codec.probability": 0.03,
        "mask.probability": 0.2,
        "gain.probability": 0.5,
        "gain.db": (-20.0, 6.0),
    },
}


def preset_values(name: str) -> dict[str, Any]:
    """Return the value of every field of `data.augment` that is of sound.

    Args:
      name: of `PRESETS`.

    Returns:
      By the dotted name below `data.augment`, e.g. 'noise.snr'.

    Raises:
      UserError: no preset has that name.
    """
    if name not in PRESETS:
        raise UserError(f"data.augment={name!r} is none of {', '.join(PRESETS)}")
    defaults = {field.name.removeprefix("data.augment."): field.default for field in _SOUND}
    return defaults | PRESETS[name]


def augment_like(c: ConfigDict, name: str) -> ConfigDict:
    """Take a preset of augmentation; colours of pictures stay as they are.

    Args:
      c: a config from `base_config`, changed.
      name: of `PRESETS`.

    Raises:
      UserError: no preset has that name.
    """
    for field, value in preset_values(name).items():
        effect, _, last = field.partition(".")
        c.data.augment[effect][last] = value
    return c
