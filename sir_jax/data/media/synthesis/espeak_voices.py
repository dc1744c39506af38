"""eSpeak NG's voices and the split of each, in every language.

The variants were chosen by an independent speech recogniser (pocketsphinx with its American model
and a grammar of the captions). In eight captions of level `one` per variant it understood at least
90 % of the attributes with an American accent, and at least 50 % with the accent used here.
Variants that whisper, creak, sound robotic or nearly equal another one were left out. No recogniser
of other languages was at hand: there, `language_table` leaves out what is broken, by rules.

A variant belongs to one split for good, in every language: a test voice of one corpus never speaks
in the training split of another.
"""

import csv
import dataclasses
import functools
from pathlib import Path

from sir_jax.data.media.synthesis.voice import Voice, resolve
from sir_jax.errors import UserError

# British English is plain "en": eSpeak NG 1.52 does not load variants of "en-gb".
ACCENTS = {
    "en-us": "American",
    "en": "British",
    "en-gb-scotland": "Scottish",
    "en-029": "Caribbean",
    "en-gb-x-rp": "Received Pronunciation",
    "en-us-nyc": "New York",
    "en-gb-x-gbclan": "Lancastrian",
    "en-gb-x-gbcwmd": "West Midlands",
}
# Never move a variant to another split: shipped encoders were trained on train voices.
VARIANTS = {
    "train": (
        "m1",
        "f1",
        "Alex",
        "klatt5",
        "f2",
        "john",
        "m2",
        "Reed",
        "anika",
        "quincy",
        "Denis",
        "m4",
        "f5",
        "edward",
        "Hugo",
        "iven",
        "belinda",
        "m6",
        "Nguyen",
        "sandro",
        "steph",
        "Gene2",
        "m8",
        "robert",
        "grandma",
        "ed",
        "miguel",
        "Jacky",
        "steph3",
        "klatt",
        "Diogo",
        "Mike",
        "iven3",
        "pablo",
        "mike2",
        "edward2",
        "RicishayMax",
        "iven4",
        "klatt2",
        "fast",
        "grandpa",
    ),
    "val": ("m5", "f3", "Henrique", "benjamin", "klatt3", "paul", "victor"),
    "test": (
        "m3",
        "f4",
        "Gene",
        "aunty",
        "m7",
        "linda",
        "Mario",
        "antonio",
        "klatt4",
        "max",
        "michel",
        "pedro",
        "rob",
        "adam",
    ),
}
# Accent and variant that are hard to understand together -> the accent to use instead.
_CLEARER = {
    "en-us-nyc+linda": "en-gb-x-rp",
    "en-gb-x-gbclan+Mario": "en-us",
    "en-gb-x-gbcwmd+RicishayMax": "en-us",
    "en-gb-x-gbcwmd+f4": "en-us",
    "en-gb-x-gbcwmd+rob": "en-us",
}

# The splits of successive voices of the table; the pattern repeats.
_DEAL = ("train", "test", "train", "train", "val", "train", "train", "test", "train")
LANGUAGE_TABLE = Path(__file__).with_name("espeak_languages.tsv")


def _english(count: int = 144) -> tuple[Voice, ...]:
    dealt = {split: 0 for split in VARIANTS}
    voices = []
    for index in range(count):
        split = _DEAL[index % len(_DEAL)]
        lap, position = divmod(dealt[split], len(VARIANTS[split]))
        dealt[split] += 1
        # When all variants of a split are used, they repeat with another accent, rate and pitch.
        accent = tuple(ACCENTS)[(position + 3 * lap) % len(ACCENTS)]
        variant = VARIANTS[split][position]
        accent = _CLEARER.get(f"{accent}+{variant}", accent)
        voices.append(_voice("en", f"{accent}+{variant}", split, index))
    return tuple(voices)


def _voice(language: str, name: str, split: str, index: int) -> Voice:
    rate, pitch = 165 + 11 * index % 31, 42 + 7 * index % 17
    return Voice("espeak", name, language, split, rate, pitch)


# The first so many of them are the voices of a corpus.
ENGLISH = _english()


@dataclasses.dataclass(frozen=True)
class Language:
    """A language of eSpeak NG, as `language_table` found it.

    Attributes:
      code: as captions state it and voices begin.
      name: in English.
      codes: further codes that mean it.
      without: variants that are broken in it.
      left_out: why it has no voices here; '' if it has.
    """

    code: str
    name: str
    codes: tuple[str, ...]
    without: tuple[str, ...]
    left_out: str


@functools.cache
def languages() -> dict[str, Language]:
    """Return all languages of eSpeak NG by their codes."""
    with LANGUAGE_TABLE.open(encoding="utf-8", newline="") as file:
        lines = (line for line in file if not line.startswith("#"))
        rows = list(csv.DictReader(lines, delimiter="\t"))
    return {
        row["code"]: Language(
            row["code"],
            row["name"],
            tuple(row["codes"].split()),
            tuple(row["without"].split()),
            row["left_out"],
        )
        for row in rows
    }


def resolve_language(language: str) -> str:
    """Return the key of `languages` that a code means, see `resolve`; '' if it is none."""
    codes = {code: known.code for known in languages().values() for code in known.codes}
    return resolve(language, codes | {known: known for known in languages()})


def espeak_voices(language: str) -> tuple[Voice, ...]:
    """Return eSpeak NG's voices of a language, of all splits.

    Args:
      language: its code, or one that means it. 'en' has all accents of English.

    Raises:
      UserError: eSpeak NG does not speak it, or not well enough.
    """
    code = resolve_language(language)
    if not code:
        known = ", ".join(languages())
        raise UserError(f"eSpeak NG does not speak the language {language!r}; it speaks {known}")
    if code in ACCENTS:
        return tuple(voice for voice in ENGLISH if code in ("en", voice.accent))
    entry = languages()[code]
    if entry.left_out:
        raise UserError(f"eSpeak NG has no voices of {entry.name} ({code}) here: {entry.left_out}")
    kept = [
        (split, variant)
        for split, variants in VARIANTS.items()
        for variant in variants
        if variant not in entry.without
    ]
    return tuple(
        _voice(code, f"{code}+{variant}", split, index)
        for index, (split, variant) in enumerate(kept)
    )
