"""Plans and layouts of corpora of recorded captions; nothing is decoded here.

A layout reads its publisher's metadata and returns a `Plan`. The shared builder decodes the plan's
images and recordings, quarantines those that do not decode, and writes the others.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

# The engine of captions that people speak; see `corpus.Caption.engine`.
HUMAN = "human"

# Why an image or a recording is left out of a corpus, as reports spell it.
REASONS = (
    "missing audio",
    "missing image",
    "undecodable audio",
    "undecodable image",
    "truncated audio",
    "truncated image",
    "no samples",
    "silent",  # all samples are 0
    "too long",
    "wrong rate",
    "too large",  # more pixels or channels than the limits
    "duplicate id",
    "bad metadata",  # a line or an entry that cannot be read
    "no image",  # a usable recording whose image is left out
    "no audio",  # a usable image without a usable recording
    "no caption",  # a picture that nothing describes
    "no voice",  # a caption in a language that no synthesiser speaks
    "repeated",  # a caption that its picture has already
    "too many",  # more captions of a picture than a record may hold
    "decoder died",  # its decoding crashed or hung
)


@dataclasses.dataclass(frozen=True)
class Problem:
    """An image, a recording or a line of metadata that is left out, and why."""

    path: str  # relative to the publisher's folder; of metadata with the line: 'list.txt:7'
    reason: str  # one of REASONS
    detail: str  # one line, for people
    split: str = ""
    key: str = ""  # published id of the caption or image; '' if it has none


@dataclasses.dataclass(frozen=True, slots=True)  # there may be a million of them
class PlannedCaption:
    """One recording as its publisher names it."""

    caption_id: int  # unique in the corpus, below 2^31
    key: str  # published id, such as the name of the wav file or an uttid
    audio: str  # path relative to the publisher's folder
    text: str
    speaker: str  # '' if unknown
    language: str = ""  # BCP 47, such as 'fr'; '' if unknown
    engine: str = ""  # 'human', or the synthesiser that spoke it; '' if unknown


@dataclasses.dataclass(frozen=True, slots=True)
class PlannedImage:
    """One image with its recordings."""

    image_id: int  # unique in the corpus, below 2^31
    key: str  # published name
    split: str
    image: str  # path relative to the publisher's folder; '' in a corpus of recordings alone
    captions: tuple[PlannedCaption, ...]


@dataclasses.dataclass(frozen=True)
class Plan:
    """A corpus as its publisher's metadata describe it, and the problems in these metadata."""

    images: tuple[PlannedImage, ...]
    problems: tuple[Problem, ...] = ()


@dataclasses.dataclass(frozen=True)
class Counts:
    """Published counts of one split; 0 means that none is published and none is checked."""

    images: int
    captions: int


@dataclasses.dataclass(frozen=True)
class Archive:
    """One archive as its publisher ships it."""

    name: str  # such as 'flickr_audio.tar.gz'
    url: str
    holds: str  # a file or folder that exists once the archive is extracted
    sha256: str = ""  # '' if the publisher states none
    also_holds: tuple[str, ...] = ()  # other spellings of `holds` in use
    optional: bool = False


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one corpus is published.

    Attributes:
      name: name of the builder package, such as 'flickr8k_audio'.
      configs: one line of help for each config; the first is the default.
      archives: the archives that the publisher ships.
      plan: function (folder, config) -> Plan. The folder holds the extracted archives, each one
        directly or in a sub-folder.
      expected: published counts by config and split; a split without counts is not checked.
      rate: sampling rate in Hz that every recording must have; None for any.
      refused: by config and name, splits that people expect and the corpus does not have: the
        reason, and which split to use instead.
      own: True for a user's own list, where what is in two splits is a mistake to refuse. A
        published corpus keeps what its publisher gave it.
      readers: module with `read_sound(rules, caption)` and `read_picture(rules, image)`, like those
        of `recorded`, for what is not read from a file as it is; '' for none. A name, because it
        goes to other processes and into fingerprints.
      tolerance: the largest share of a split that may be missing, unless the user says otherwise.
      same_pictures: True if a picture is in several splits by intention, because it is the voices
        that are kept apart. Then only recordings in two splits are leaks.
      said_again: the splits whose names begin so have the same pictures by intention; '' for none.
      deadline: seconds after which the making of a chunk of images is taken to hang.
    """

    name: str
    configs: Mapping[str, str]
    archives: tuple[Archive, ...]
    plan: Callable[[Path, str], Plan]
    expected: Mapping[str, Mapping[str, Counts]]
    rate: int | None = 16_000
    refused: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    own: bool = False
    readers: str = ""
    tolerance: float = 0.01
    same_pictures: bool = False
    said_again: str = ""
    # A chunk takes a second, or a minute from a slow network disk.
    deadline: float = 120.0


def without_duplicates(plan: Plan, by_split: bool = False) -> Plan:
    """Keep the first image or recording with an id, key or sound file; report the others.

    Args:
      plan: from a layout.
      by_split: True to keep what is in two splits, which is a leak, in both of them.
    """
    images, problems = [], list(plan.problems)
    ids, names = set(), set()
    captions = {"id": set(), "key": set(), "file": set()}

    def repeated(path: str, detail: str, image: PlannedImage, key: str) -> None:
        problems.append(Problem(path, "duplicate id", detail, image.split, key))

    for image in plan.images:
        # Places Audio has images in two splits, with one id in each.
        if image.image_id in ids or (image.split, image.key) in names:
            detail = f"another picture has the id {image.key!r}"
            for caption in image.captions:
                repeated(caption.audio, detail, image, caption.key)
            repeated(image.image, detail, image, image.key)
            continue
        ids.add(image.image_id)
        names.add((image.split, image.key))
        kept, split = [], image.split if by_split else ""
        for caption in image.captions:
            marks = {"file": (split, caption.audio), "id": caption.caption_id}
            marks["key"] = (split, caption.key) if by_split else caption.key
            twice = [kind for kind, mark in marks.items() if mark in captions[kind]]
            if twice:
                value = {"file": caption.audio, "id": caption.caption_id, "key": caption.key}
                detail = f"another recording has the {twice[0]} {value[twice[0]]!r}"
                repeated(caption.audio, detail, image, caption.key)
            else:
                for kind, mark in marks.items():
                    captions[kind].add(mark)
                kept.append(caption)
        if len(kept) == len(image.captions) > 0:
            images.append(image)
        elif kept:
            images.append(dataclasses.replace(image, captions=tuple(kept)))
        else:
            problems.append(no_audio(image))
    return Plan(tuple(images), tuple(problems))


def no_audio(image: PlannedImage) -> Problem:
    """Return the problem of an image that has no usable recording."""
    detail = "no usable recording is left of it"
    return Problem(image.image or image.key, "no audio", detail, image.split, image.key)


LAYOUTS = {
    "flickr8k_audio": "sir_jax.data.builders.flickr8k_audio.layout",
    "spoken_coco": "sir_jax.data.builders.spoken_coco.layout",
    "places_audio": "sir_jax.data.builders.places_audio.layout",
}


def load_layout(name: str) -> Layout:
    """Return the layout of a published corpus.

    Raises:
      UserError: no published corpus has this name.
    """
    import importlib

    from sir_jax.errors import UserError

    if name not in LAYOUTS:
        raise UserError(f"no published corpus {name!r}; choose one of {', '.join(LAYOUTS)}")
    return importlib.import_module(LAYOUTS[name]).LAYOUT
