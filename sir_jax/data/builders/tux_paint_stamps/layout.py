"""The layout of Tux Paint's stamps: pictures that people and synthesisers name aloud."""

import collections
import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

from sir_jax.data.builders.recordings import (
    HUMAN,
    Layout,
    Plan,
    PlannedCaption,
    PlannedImage,
    Problem,
)
from sir_jax.data.builders.spoken import (
    ESPEAK,
    number_of,
    planned_speech,
    planned_turns,
)
from sir_jax.data.builders.tux_paint_stamps.config import ALL, StampsConfig
from sir_jax.data.builders.tux_paint_stamps.groups import content, joined
from sir_jax.data.builders.tux_paint_stamps.package import Stamp, read_stamps
from sir_jax.data.builders.voices.config import is_of
from sir_jax.data.media.svg import require_resvg
from sir_jax.data.media.synthesis import require_engine, speaks, voices_of
from sir_jax.errors import UserError

SPLITS = ("train", "val", "test")
# Of the recordings of training, where nothing else is for validation.
VAL_PERCENT = 5
# A picture has an id in each split.
_IDS = 100_000


def stamps_layout(config: StampsConfig) -> Layout:
    """Return the layout of a corpus of stamps."""
    return Layout(
        name="tux_paint_stamps",
        configs={config.name: "Tux Paint's stamps, named aloud"},
        archives=(),
        plan=lambda folder, name: plan_stamps(folder, StampsConfig.from_name(name)),
        expected={},
        rate=None,
        readers="sir_jax.data.builders.tux_paint_stamps.readers",
        tolerance=0.1,
        same_pictures=not config.hold_out_pictures,
    )


def plan_stamps(folder: Path, config: StampsConfig) -> Plan:
    """Plan a corpus from the unpacked package.

    Args:
      folder: holds the package.
      config: parameters of the corpus.

    Raises:
      UserError: the package is not there or half unpacked, lacks a language, or a tool is missing.
    """
    package = read_stamps(folder)
    languages = _Languages.of(config, package.stamps)
    if any(stamp.picture.lower().endswith(".svg") for stamp in package.stamps):
        require_resvg()
    problems = [
        dataclasses.replace(problem, split="test" if language in languages.out else "train")
        for language, problem in package.problems
        if not language or language in languages.human | languages.out
    ]
    deal = _Deal(config, languages, _roles(package.stamps, folder, config.hold_out_pictures))
    numbers, images = itertools.count(), []
    for number, stamp in enumerate(package.stamps):
        captions: dict[str, list[PlannedCaption]] = {}
        for split, caption in [*deal.people(stamp), *deal.synthesised(stamp, problems)]:
            with_id = dataclasses.replace(caption, caption_id=next(numbers))
            captions.setdefault(split, []).append(with_id)
        for split in sorted(captions, key=SPLITS.index):
            image_id = number + _IDS * SPLITS.index(split)
            group = tuple(captions[split])
            images.append(PlannedImage(image_id, stamp.name, split, stamp.picture, group))
    for line in deal.remarks():
        print(line)
    return Plan(tuple(sorted(images, key=lambda image: image.image_id)), tuple(problems))


@dataclasses.dataclass(frozen=True)
class _Languages:
    """The languages of a corpus: of recordings in training, synthesised, and held out."""

    human: set[str]
    synthesised: set[str]
    out: set[str]

    @classmethod
    def of(cls, config: StampsConfig, stamps: list[Stamp]) -> "_Languages":
        """Return what a config means in a package.

        Raises:
          UserError: the package lacks a language, or the synthesiser does.
        """
        recorded = {language for stamp in stamps for language, _ in stamp.recordings}
        named = {language for stamp in stamps for language in stamp.texts}
        out = _resolve(config.hold_out, recorded, "hold_out: no recordings of people")
        human = _resolve(config.human, recorded, "languages: no recordings of people")
        if config.synthesised == (ALL,):
            synthesised = {code for code in recorded & named if speaks(ESPEAK, code)}
            for language in sorted((recorded & named) - synthesised):
                print(f"{language}: by people alone, eSpeak NG does not speak it")
        else:
            synthesised = set(config.synthesised)
        for engine in config.engines if synthesised else ():
            require_engine(engine)
        for language in sorted(synthesised - named):
            raise UserError(f"languages: no names in {language!r}; there are {_listed(named)}")
        for language in sorted(synthesised):
            voices_of(ESPEAK, language)
        return cls(human - out, synthesised, out)


class _Deal:
    """Deals captions to splits, and counts what is worth saying."""

    def __init__(self, config: StampsConfig, languages: _Languages, roles: dict[str, str]):
        self._config, self._languages, self._roles = config, languages, roles
        self._wordless, self._nameless = collections.Counter(), collections.Counter()

    def people(self, stamp: Stamp) -> Iterator[tuple[str, PlannedCaption]]:
        """Yield the recordings of a stamp with their splits; caption ids are still missing."""
        for language, path in stamp.recordings:
            split = self._split(stamp, language)
            if split:
                text = stamp.texts.get(language, "")
                self._wordless[language] += not text
                speaker = f"{language}/stamps"
                yield split, PlannedCaption(-1, path, path, text, speaker, language, HUMAN)

    def _split(self, stamp: Stamp, language: str) -> str:
        """Return the split of a recording; '' of one that the config leaves out."""
        role, out = self._roles[stamp.name], self._languages.out
        pictures = self._config.hold_out_pictures
        if language in out:
            return "test" if role == "test" or not pictures else ""
        if language not in self._languages.human or (out and role == "test"):
            return ""
        # Without held-out pictures, and without voices of the validation split.
        name = stamp.texts.get("en", stamp.name)
        if not pictures and not self._languages.synthesised:
            return "val" if number_of(language, name) % 100 < VAL_PERCENT else "train"
        return role

    def synthesised(
        self, stamp: Stamp, problems: list[Problem]
    ) -> Iterator[tuple[str, PlannedCaption]]:
        """Yield what a synthesiser says, likewise; add a problem for each empty name."""
        role = self._roles[stamp.name]
        takes = {role: self._config.voices if role == "train" else 1}
        if role == "test" and self._languages.out:
            takes = {}
        if role == "train" and not self._config.hold_out_pictures:
            takes["val"] = 1
        for language in sorted(self._languages.synthesised) if takes else ():
            text = stamp.texts.get(language)
            if text:
                for split, count in takes.items():
                    for caption in self._said(stamp.name, text, language, split, count):
                        yield split, caption
            elif text is None:
                self._nameless[language] += 1
            else:
                detail = f"its name in {language} is empty"
                problems.append(Problem(stamp.picture, "bad metadata", detail, role, stamp.name))

    def _said(
        self, name: str, text: str, language: str, split: str, count: int
    ) -> Iterator[PlannedCaption]:
        engines = self._config.engines
        if engines != (ESPEAK,):
            yield from planned_turns(engines, name, text, language, split, count)
            return
        for take in range(count):  # also more of them than there are voices
            yield planned_speech(-1, name, text, language, split, take)

    def remarks(self) -> Iterator[str]:
        """Yield a line for each language in which texts or names are missing."""
        for language, count in sorted(self._wordless.items()):
            if count:
                yield f"{language}: {count:,} recordings without a text, kept"
        for language, count in sorted(self._nameless.items()):
            yield f"{language}: {count:,} pictures have no name to synthesise"


def _roles(stamps: list[Stamp], folder: Path, percent: int) -> dict[str, str]:
    """Return the split of each stamp, the same for all that share a name, sound or picture."""
    if not percent:
        return {stamp.name: "train" for stamp in stamps}
    marks = []
    for stamp in stamps:
        files = [stamp.picture, *(path for _, path in stamp.recordings)]
        name = stamp.texts.get("en", stamp.name).lower()
        marks.append((stamp.name, [name, *(content(folder / path) for path in files)]))
    leader = joined(marks)
    sizes = collections.Counter(leader.values())
    roles, taken = {}, 0
    for group in sorted(sizes, key=lambda name: (number_of("picture", name), name)):
        share = 100 * taken / len(stamps)
        test, val = share < percent, share < 1.5 * percent
        roles[group] = "test" if test else "val" if val else "train"
        taken += sizes[group]
    return {name: roles[group] for name, group in leader.items()}


def _resolve(codes: tuple[str, ...], there: set[str], what: str) -> set[str]:
    if codes == (ALL,):
        return set(there)
    for code in codes:
        if not any(is_of(language, (code,)) for language in there):
            raise UserError(f"{what} in {code!r}; there are some in {_listed(there)}")
    return {language for language in there if is_of(language, codes)}


def _listed(languages: set[str]) -> str:
    return ", ".join(sorted(languages))
