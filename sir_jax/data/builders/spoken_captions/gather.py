"""Bring captions to their pictures; list those that have no picture, no words or no language."""

import collections
import dataclasses
from collections.abc import Sequence

from sir_jax.data.builders.recordings import Problem
from sir_jax.data.builders.spoken_captions.pictures import Pictures
from sir_jax.data.builders.spoken_captions.sources.rows import Found, Row, language_code
from sir_jax.data.builders.spoken_captions.words import fault, has_emoji, said
from sir_jax.data.builders.voices.config import is_of
from sir_jax.errors import UserError

# Of a picture; each is said at least once.
MOST_CAPTIONS = 1000
SPLITS = ("train", "val", "test")
# What splits are called elsewhere.
_SPLITS = {
    **{split: split for split in SPLITS},
    **dict.fromkeys(("training", "restval", "train2014", "train2017"), "train"),
    **dict.fromkeys(("validation", "valid", "dev", "val2014", "val2017"), "val"),
    "testing": "test",
}


@dataclasses.dataclass
class Captioned:
    """A picture with its captions.

    Attributes:
      name: of its file.
      split: that its captions state; '' if none.
      captions: (language, words) of each.
    """

    name: str
    split: str = ""
    captions: list[tuple[str, str]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Gathered:
    """All captions by their pictures, in the order of the pictures' names.

    Attributes:
      pictures: those that have a caption.
      problems: what is left out.
      notes: lines that are worth knowing.
    """

    pictures: list[Captioned]
    problems: list[Problem]
    notes: list[str]


def gather(pictures: Pictures, found: Found, chosen: Sequence[str]) -> Gathered:
    """Bring the captions of a source to the pictures of a folder.

    Args:
      pictures: of the folder.
      found: what the source holds.
      chosen: languages that are asked for; none for all that the captions state.

    Raises:
      UserError: the language of captions is not known, or none is in the chosen ones.
    """
    default = _default_language(found, chosen)
    work = _Gathering(pictures, tuple(chosen), default, list(found.problems))
    for name in pictures.misnamed:
        work.problems.append(Problem(name, "bad metadata", "its name is no UTF-8; rename it"))
    for row in found.rows:
        work.add(row)
    return Gathered(work.sorted(), work.problems, [*found.notes, *work.notes()])


def _default_language(found: Found, chosen: Sequence[str]) -> str:
    """Return the language of captions that state none.

    Raises:
      UserError: nobody says it.
    """
    silent = next((row for row in found.rows if not row.language), None)
    if silent is None:
        return ""
    if len(chosen) == 1:
        return chosen[0]
    named = f"languages={','.join(chosen)} names {len(chosen)}" if chosen else "none is given"
    raise UserError(
        f"{silent.where}: states no language, and {named}; give one language, or a column "
        "'language', or a column for each"
    )


class _Gathering:
    """The pictures while the captions come."""

    def __init__(
        self, pictures: Pictures, chosen: tuple[str, ...], default: str, problems: list[Problem]
    ):
        self._folder, self._chosen, self._default = pictures, chosen, default
        self.problems = problems
        self._pictures: dict[str, Captioned] = {}
        self._had: dict[str, set[tuple[str, str]]] = {}
        self._unasked: collections.Counter = collections.Counter()
        self._emoji = 0

    def add(self, row: Row) -> None:
        """Add a caption, or a problem."""
        language = language_code(row.language) if row.language else self._default
        if self._chosen and not is_of(language, self._chosen):
            self._unasked[language] += 1
            return
        name, why = self._folder.find(row.picture)
        split = _SPLITS.get(row.split.strip().lower(), "")
        if not name:
            self._leave_out(row, "missing image", f"{row.picture}: {why}", split)
            return
        words = said(row.text)
        reason, why = fault(row.text, words)
        if not reason and row.split and not split:
            reason, why = "bad metadata", f"split {row.split!r} is none of {', '.join(SPLITS)}"
        if reason:
            self._leave_out(row, reason, why, split, name)
            return
        entry = self._pictures.setdefault(name, Captioned(name, split))
        had = self._had.setdefault(name, set())
        if split and entry.split and entry.split != split:
            why = f"{name} is in split {entry.split!r} by an earlier caption"
            self._leave_out(row, "bad metadata", why, split, name)
        elif (language, words) in had:
            why = f"{name} has this caption already: {words[:60]!r}"
            self._leave_out(row, "repeated", why, split, name)
        elif len(entry.captions) >= MOST_CAPTIONS:
            why = f"{name} has {MOST_CAPTIONS:,} captions already, and no picture may have more"
            self._leave_out(row, "too many", why, split, name)
        else:
            entry.split = entry.split or split
            entry.captions.append((language, words))
            had.add((language, words))
            self._emoji += has_emoji(row.text)

    def _leave_out(self, row: Row, reason: str, why: str, split: str, key: str = "") -> None:
        detail = " ".join(why.split())
        self.problems.append(Problem(row.where, reason, detail, split, key))

    def sorted(self) -> list[Captioned]:
        """Return the pictures; list those that have no caption.

        Raises:
          UserError: no picture has any.
        """
        if not self._pictures:
            raise UserError(self._nothing())
        named = {p.key for p in self.problems}
        for name in self._folder.pictures:
            if name not in self._pictures:
                why = "its captions are left out" if name in named else "no caption names it"
                self.problems.append(Problem(name, "no caption", why, key=name))
        return [self._pictures[name] for name in sorted(self._pictures)]

    def _nothing(self) -> str:
        if self._unasked:
            stated = ", ".join(sorted(self._unasked))
            asked = ", ".join(self._chosen)
            return f"languages: no caption is in {asked}; there are some in {stated}"
        first = next((f"{p.path}: {p.detail}" for p in self.problems), "there is no caption")
        return (
            f"no picture below {self._folder.folder} has a caption ({first}); see that images and "
            "captions belong together"
        )

    def notes(self) -> list[str]:
        """Return lines for what is passed over by intention."""
        notes = []
        for language, count in sorted(self._unasked.items()):
            notes.append(f"captions in {language}, which is not asked for: {count:,}")
        if self._emoji:
            notes.append(f"captions with emoji, which are not said: {self._emoji:,}")
        others = self._folder.others()
        if others:
            listed = ", ".join(f"{n:,} {suffix or 'no suffix'}" for suffix, n in others.items())
            notes.append(f"other files beside the pictures: {listed}")
        return notes
