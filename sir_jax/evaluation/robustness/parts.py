"""Parts of a split: its first pictures and captions, and who speaks in them."""

import collections
import dataclasses
import re

import numpy as np

from sir_jax.data.builders.recordings import HUMAN
from sir_jax.evaluation.folds import Subset
from sir_jax.evaluation.ranking import Metrics, retrieval_metrics

# Fewer clips have an interval that says nothing.
LEAST_CLIPS = 10
MOST_SPEAKERS = 40


@dataclasses.dataclass(frozen=True)
class FirstCaptions:
    """A split with some captions of each picture, with the interface of `data.corpus.Split`."""

    split: object
    count: int

    @property
    def name(self) -> str:
        """Return the split's name."""
        return self.split.name

    @property
    def index(self) -> np.ndarray:
        """Return the index entries of the captions that are left."""
        return self.split.index[self.split.index["slot"] < self.count]

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, row: int):
        return self.split[row]


def limit(split, images: int, captions: int):
    """Return the first pictures of a split and the first captions of each; 0 for all of them."""
    if images:
        split = Subset(split, np.arange(min(images, len(split))))
    return FirstCaptions(split, captions) if captions else split


def label_captions(split) -> dict[str, np.ndarray]:
    """Return a label of each caption, '' where the corpus does not tell, by the kind of part.

    Args:
      split: a `sir_jax.data.corpus.Split`.

    Returns:
      Arrays in the order of `split.index`.
    """
    found = collections.defaultdict(list)
    order = np.argsort(split.index["row"], kind="stable")
    record, row = None, -1
    for entry in split.index[order]:
        if entry["row"] != row:
            row = int(entry["row"])
            record = split[row]
        caption = record.captions[int(entry["slot"])]
        engine, language, speaker = (
            getattr(caption, name, "") for name in ("engine", "language", "speaker")
        )
        found["kind"].append((HUMAN if engine == HUMAN else "synthesised") if engine else "")
        found["engine"].append(engine)
        found["language"].append(language)
        found["accent"].append(accent_of(speaker, language))
        found["speaker"].append(f"{engine}/{speaker}" if engine and speaker else speaker)
    labels = {}
    for kind, values in found.items():
        labels[kind] = np.empty(len(order), object)
        labels[kind][order] = values
    return labels


def accent_of(speaker: str, language: str) -> str:
    """Return the region of a voice, such as 'en-gb-scotland'; '' if neither name tells.

    eSpeak NG's voices begin with it, up to a plus sign, Piper's up to a minus sign; of others a
    language with a region tells.

    Example:
      >>> accent_of("en-gb-scotland+m3", "en"), accent_of("en_US-joe-medium", "en")
      ('en-gb-scotland', 'en-us')
    """
    if "+" in speaker:
        return speaker.partition("+")[0].lower()
    if found := re.match(r"([a-z]{2,3}_[A-Z]{2})-", speaker):
        return found[1].replace("_", "-").lower()
    return language.lower() if "-" in language else ""


def choose_parts(labels: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return which captions each part has, by its name such as 'engine=piper'.

    Kinds of which the split has one label are left out, and parts of few clips. Of speakers, those
    with the most clips are taken.
    """
    parts = {}
    for kind, values in labels.items():
        counts = collections.Counter(value for value in values if value)
        if len(counts) < 2:
            continue
        most = counts.most_common(MOST_SPEAKERS if kind == "speaker" else None)
        for label in sorted(label for label, count in most if count >= LEAST_CLIPS):
            parts[f"{kind}={label}"] = values == label
    return parts


def part_metrics(z_s, z_i, speech_image_ids, image_ids, chosen: np.ndarray) -> Metrics:
    """Rank the clips of a part among all pictures, and pictures among the clips of the part."""
    return retrieval_metrics(z_s[chosen], z_i, speech_image_ids[chosen], image_ids)
