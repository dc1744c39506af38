"""The voices: eSpeak NG variants, the accent of each, and its split.

The variants were chosen by an independent speech recogniser (pocketsphinx with its American model
and a grammar of the captions). In eight captions of level `one` per variant it understood at least
90 % of the attributes with an American accent, and at least 50 % with the accent used here.
Variants that whisper, creak, sound robotic or nearly equal another one were left out.

A variant belongs to one split for good: a test voice of one corpus never speaks in the training
split of another.
"""

import dataclasses

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
# With fewer voices some accent would be missing in training.
MIN_VOICES = 12
MAX_VOICES = 144


@dataclasses.dataclass(frozen=True)
class Voice:
    """A speaker.

    Attributes:
      name: 'accent+variant', unique; also eSpeak NG's name of the voice.
      accent: key of ACCENTS.
      split: the split that the voice speaks in.
      rate: average speed in words per minute.
      pitch: average pitch, 0 to 99; 50 is the variant's default.
    """

    name: str
    accent: str
    split: str
    rate: int
    pitch: int


def _table() -> tuple[Voice, ...]:
    dealt = {split: 0 for split in VARIANTS}
    voices = []
    for index in range(MAX_VOICES):
        split = _DEAL[index % len(_DEAL)]
        lap, position = divmod(dealt[split], len(VARIANTS[split]))
        dealt[split] += 1
        # When all variants of a split are used, they repeat with another accent, rate and pitch.
        accent = tuple(ACCENTS)[(position + 3 * lap) % len(ACCENTS)]
        accent = _CLEARER.get(f"{accent}+{VARIANTS[split][position]}", accent)
        voices.append(
            Voice(
                name=f"{accent}+{VARIANTS[split][position]}",
                accent=accent,
                split=split,
                rate=165 + 11 * index % 31,
                pitch=42 + 7 * index % 17,
            )
        )
    return tuple(voices)


VOICES = _table()


def voices_of(split: str, count: int) -> tuple[Voice, ...]:
    """Return the voices of one split among the first `count` of the table."""
    return tuple(voice for voice in VOICES[:count] if voice.split == split)
