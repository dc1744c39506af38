"""What a corpus of recorded captions holds, before anything is decoded.

A layout reads its publisher's files and gives a `Plan`; the shared builder decodes what the plan
names, quarantines what does not decode, and writes the rest.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

# Why something is left out of a corpus, as reports spell it.
REASONS = (
    "missing audio",
    "missing image",
    "undecodable audio",
    "undecodable image",
    "truncated audio",
    "truncated image",
    "no samples",
    "too long",
    "wrong rate",
    "too large",  # more pixels or channels than the limits
    "duplicate id",
    "bad metadata",  # a line or an entry that cannot be read
    "no image",  # a good recording whose picture is out
    "no audio",  # a good picture that has no recording left
    "decoder died",  # it crashed or hung, in a process of its own
)


@dataclasses.dataclass(frozen=True)
class Problem:
    """One thing left out: its path below the publisher's folder (or file and line), and why."""

    path: str
    reason: str  # one of REASONS
    detail: str  # one line, for people
    split: str = ""
    key: str = ""  # published id of the caption or image, where it has one


@dataclasses.dataclass(frozen=True)
class PlannedCaption:
    """One recording as its publisher names it."""

    caption_id: int  # unique in the corpus, below 2^31
    key: str  # published id: the wav's name, an uttid
    audio: str  # path below the folder
    text: str
    speaker: str  # '' where unknown


@dataclasses.dataclass(frozen=True)
class PlannedImage:
    """One picture with its recordings."""

    image_id: int  # unique in the corpus, below 2^31
    key: str  # published name
    split: str
    image: str  # path below the folder
    captions: tuple[PlannedCaption, ...]


@dataclasses.dataclass(frozen=True)
class Plan:
    """A corpus as its publisher's metadata describe it, and what in them cannot be used."""

    images: tuple[PlannedImage, ...]
    problems: tuple[Problem, ...] = ()


@dataclasses.dataclass(frozen=True)
class Counts:
    """Published numbers of one split; 0 where none is published, which checks nothing."""

    images: int
    captions: int


@dataclasses.dataclass(frozen=True)
class Archive:
    """One file as its publisher ships it."""

    name: str  # e.g. 'flickr_audio.tar.gz'
    url: str
    holds: str  # a path found below the folder once it is extracted: a file, or a folder
    sha256: str = ""  # '' where the publisher states none
    also_holds: tuple[str, ...] = ()  # other spellings of `holds` that are seen in the wild
    optional: bool = False


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one corpus is published.

    Attributes:
      name: of the builder package, e.g. 'flickr8k_audio'.
      configs: config's name -> one line of help; the first is the default.
      archives: what the publisher ships.
      plan: (folder, config) -> Plan. The folder holds the extracted archives, side by side or, as
        some unpack, in a folder of their own.
      expected: config -> split -> published counts; a split without a count is not checked.
      rate: of every recording, in Hz; None where any is fine.
      refused: config -> split that people expect -> why there is none, and what to take instead.
    """

    name: str
    configs: Mapping[str, str]
    archives: tuple[Archive, ...]
    plan: Callable[[Path, str], Plan]
    expected: Mapping[str, Mapping[str, Counts]]
    rate: int | None = 16_000
    refused: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)


LAYOUTS = {
    "flickr8k_audio": "sir_jax.data.builders.flickr8k_audio.layout",
    "spoken_coco": "sir_jax.data.builders.spoken_coco.layout",
    "places_audio": "sir_jax.data.builders.places_audio.layout",
}


def load_layout(name: str) -> Layout:
    """Return the layout of a published corpus: `LAYOUT` of its package's module.

    Raises:
      UserError: no layout has this name.
    """
    import importlib

    from sir_jax.errors import UserError

    if name not in LAYOUTS:
        raise UserError(f"no published corpus {name!r}; choose one of {', '.join(LAYOUTS)}")
    return importlib.import_module(LAYOUTS[name]).LAYOUT
