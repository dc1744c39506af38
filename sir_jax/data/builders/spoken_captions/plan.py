"""Deal captioned pictures to splits, and their captions to voices."""

import collections
import dataclasses
import hashlib
import itertools
from collections.abc import Iterator, Sequence

from sir_jax.data.builders.recordings import Plan, PlannedCaption, PlannedImage, Problem
from sir_jax.data.builders.spoken import ESPEAK, number_of, planned_take, planned_turns, voices_in
from sir_jax.data.builders.spoken_captions.config import CaptionsConfig
from sir_jax.data.builders.spoken_captions.gather import SPLITS, Captioned, Gathered
from sir_jax.data.builders.spoken_captions.looks import Look, alike
from sir_jax.data.builders.tux_paint_stamps.groups import joined
from sir_jax.data.media.synthesis import voices_of
from sir_jax.errors import UserError

# Of a picture in a split. More would make its record too large, and its chunk too slow.
MOST_SPOKEN = 1000
# A picture has an id in each split.
_IDS = 10_000_000


def plan_captions(config: CaptionsConfig, gathered: Gathered, looks: Sequence[Look]) -> Plan:
    """Plan a corpus: splits, voices and ids.

    Args:
      config: parameters of the corpus.
      gathered: the pictures with their captions; captions that nobody can say are taken out, and
        notes are added.
      looks: of the pictures, in their order.

    Raises:
      UserError: no engine speaks a language that was asked for, or any of the captions'.
    """
    require_spoken(config)
    cast = Cast(config)
    splits = _splits(config, gathered, looks)
    found = [*gathered.problems, *_without_voices(cast, gathered)]
    problems = [_with_split(problem, splits) for problem in found]
    numbers, images = itertools.count(), []
    again: list[PlannedImage] = []
    everywhere = _said_everywhere(config, gathered)
    for number, picture in enumerate(gathered.pictures):
        own = SPLITS if everywhere else (splits[picture.name],)
        for split in own:
            if captions := _numbered(cast.spoken(picture, split), numbers):
                image_id = number + _IDS * SPLITS.index(split)
                images.append(PlannedImage(image_id, picture.name, split, picture.name, captions))
        for place, engine in enumerate(cast.others if "test" in own else (), len(SPLITS)):
            if more := _numbered(cast.by(engine, picture), numbers):
                name = f"test_{engine}"
                image_id = number + _IDS * place
                again.append(PlannedImage(image_id, picture.name, name, picture.name, more))
    if not images:
        last = found[-1]
        raise UserError(f"no caption can be said, such as that of {last.path}: {last.detail}")
    stated = {picture.split for picture in gathered.pictures}
    if stated == {""} and not any(image.split == "train" for image in images):
        raise UserError(
            f"hold_out_pictures is {config.hold_out_pictures}, which leaves none of {len(images)} "
            "pictures for training; add pictures, or give 0"
        )
    ordered = sorted([*images, *again], key=lambda image: image.image_id)
    return Plan(tuple(ordered), tuple(problems))


def _said_everywhere(config: CaptionsConfig, gathered: Gathered) -> bool:
    """Tell whether each picture is in every split: none is held out, and no caption states one."""
    stated = {picture.split for picture in gathered.pictures}
    return not config.hold_out_pictures and stated <= {"", "train"}


def said_everywhere(plan: Plan) -> bool:
    """Tell whether pictures of training are in other splits by intention, said by other voices."""
    splits = collections.defaultdict(set)
    for image in plan.images:
        splits[image.key].add(image.split)
    return any({"train", "test"} <= found for found in splits.values())


def require_spoken(config: CaptionsConfig) -> None:
    """See that the languages that were asked for are spoken.

    Raises:
      UserError: one is not.
    """
    cast = Cast(config)
    for code in config.languages:
        cast.require(code)


def identity(plan: Plan, names: Sequence[str], looks: Sequence[Look]) -> str:
    """Return 12 hexadecimal digits of what a plan says, and of the pictures' bytes."""
    digests = {name: look.digest for name, look in zip(names, looks, strict=True)}
    found = hashlib.blake2b(digest_size=6)
    for image in plan.images:
        found.update(repr(image).encode())
        found.update(digests[image.image])
    return found.hexdigest()


def most_spoken(plan: Plan, images: int) -> int:
    """Return how many captions so many images in a row have at most."""
    counts = [len(image.captions) for image in plan.images]
    return max(sum(counts[at : at + images]) for at in range(0, len(counts), images))


class Cast:
    """Who says captions, by engine, language and split.

    Args:
      config: parameters of the corpus.
    """

    def __init__(self, config: CaptionsConfig):
        self._takes = config.voices
        # Those that have voices that no training hears, beside eSpeak NG.
        self.others = tuple(name for name in config.engines if name != ESPEAK)
        self._why: dict[str, str] = {}

    def require(self, language: str) -> None:
        """See that a language is spoken.

        Raises:
          UserError: it is not.
        """
        if why := self.why_not(language):
            raise UserError(f"languages: {why}")

    def why_not(self, language: str) -> str:
        """Return why a language is not spoken; '' if it is."""
        if language not in self._why:
            try:
                voices_of(ESPEAK, language)
                self._why[language] = ""
            except UserError as error:
                self._why[language] = str(error)
        return self._why[language]

    def spoken(self, picture: Captioned, split: str) -> Iterator[PlannedCaption]:
        """Yield the captions of a picture as they are said in a split; ids are still missing.

        In training the engines take turns: eSpeak NG, then one of the others.
        """
        takes = self._takes if split == "train" else 1
        takes = max(1, min(takes, MOST_SPOKEN // max(1, len(picture.captions))))
        for slot, (language, words) in enumerate(picture.captions):
            name = f"{picture.name}#{slot}"
            engines = self.others if split == "train" else ()
            yield from planned_turns(engines, name, words, language, split, takes)

    def by(self, engine: str, picture: Captioned) -> Iterator[PlannedCaption]:
        """Yield the captions of a picture by an engine's held-out voices, likewise."""
        for slot, (language, words) in enumerate(picture.captions):
            if voices := voices_in(engine, language, "test"):
                name = f"{picture.name}#{slot}"
                yield planned_take(name, words, language, "test", 0, 0, voices)


def _numbered(
    captions: Iterator[PlannedCaption], numbers: Iterator[int]
) -> tuple[PlannedCaption, ...]:
    return tuple(dataclasses.replace(c, caption_id=next(numbers)) for c in captions)


def _without_voices(cast: Cast, gathered: Gathered) -> Iterator[Problem]:
    """Yield a problem for each caption in a language that is not spoken; take it out."""
    for picture in gathered.pictures:
        spoken = []
        for language, words in picture.captions:
            if why := cast.why_not(language):
                detail = f"{why.partition('; it speaks')[0]}: {words[:60]!r}"
                yield Problem(picture.name, "no voice", detail, picture.split, picture.name)
            else:
                spoken.append((language, words))
        picture.captions = spoken


def _with_split(problem: Problem, splits: dict[str, str]) -> Problem:
    """Return a problem with the split in which its caption is missing."""
    if problem.split or problem.reason == "no caption":
        return problem
    return dataclasses.replace(problem, split=splits.get(problem.key, "train"))


def _splits(config: CaptionsConfig, gathered: Gathered, looks: Sequence[Look]) -> dict[str, str]:
    """Return the split of each picture: as its captions state, else the same for all look-alikes.

    A split that no caption states is taken out of the others: the test split and half of it for
    validation.
    """
    names = [picture.name for picture in gathered.pictures]
    leader = _leaders(names, looks)
    sizes = collections.Counter(leader.values())
    own = {picture.name: picture.split for picture in gathered.pictures}
    stated = set(own.values()) - {""}
    # Look-alikes follow one that is held out by its captions; what its own say stays.
    fixed = {leader[name]: split for name, split in own.items() if split not in ("", "train")}
    splits = {name: own[name] or fixed.get(leader[name], "train") for name in names}
    shares = {
        split: share * len(names) / 100
        for split, share in (
            ("test", config.hold_out_pictures),
            ("val", config.hold_out_pictures / 2),
        )
        if split not in stated
    }
    dealt, roles = collections.Counter(), {}
    for group in sorted(sizes, key=lambda name: (number_of("picture", name), name)):
        open_ = [split for split, share in shares.items() if dealt[split] < share]
        if open_ and group not in fixed:
            roles[group] = open_[0]
            dealt[open_[0]] += sizes[group]
    parted = 0
    for group, members in _members(leader).items():
        if group in roles:
            splits |= dict.fromkeys(members, roles[group])
        parted += len({splits[name] for name in members}) > 1
    _note_likeness(gathered.notes, sizes, parted)
    return splits


def _leaders(names: Sequence[str], looks: Sequence[Look]) -> dict[str, str]:
    marks: list[list[object]] = [[look.digest] if any(look.digest) else [] for look in looks]
    for number, (a, b) in enumerate(alike(looks)):
        marks[a].append(number)
        marks[b].append(number)
    return joined(zip(names, marks, strict=True))


def _members(leader: dict[str, str]) -> dict[str, list[str]]:
    members: dict[str, list[str]] = {}
    for name, first in leader.items():
        members.setdefault(first, []).append(name)
    return members


def _note_likeness(notes: list[str], sizes: collections.Counter, parted: int) -> None:
    several = [size for size in sizes.values() if size > 1]
    if several:
        notes.append(
            f"look-alikes: {sum(several):,} pictures in {len(several):,} groups, each group in one "
            "split" + (f", but for {parted:,} that the captions part" if parted else "")
        )
