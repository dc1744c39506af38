"""The report of a preparation: counts against published ones, and a list of what is left out."""

import dataclasses
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from sir_jax.data.builders.recordings import Counts, Plan, PlannedImage, Problem
from sir_jax.data.preparation.leaks import LEAKS, Copies, counted
from sir_jax.errors import UserError
from sir_jax.runtime.files import whole_file, write_text

QUARANTINE, REPORT = "quarantine.jsonl", "report.json"
# No recording is lost by these.
_NOT_MISSING = ("no audio", "no caption", "repeated")


@dataclasses.dataclass(frozen=True)
class SplitReport:
    """Counts of one split; a published count of 0 means that none is published."""

    images: int
    captions: int
    planned_images: int
    planned_captions: int
    published_images: int
    published_captions: int

    def shortfalls(self) -> Iterator[tuple[int, int, str]]:
        """Yield (missing, expected, 'recordings' or 'pictures') for each that falls short."""
        # Not the larger one: plans beyond the published number do not make up for losses.
        expected = self.published_captions or self.planned_captions
        if self.captions < expected:
            yield expected - self.captions, expected, "recordings"
        if self.images < self.published_images:
            yield self.published_images - self.images, self.published_images, "pictures"

    @property
    def missing(self) -> float:
        """Return the share that is missing of recordings or images, whichever is larger."""
        return max((short / expected for short, expected, _ in self.shortfalls()), default=0.0)


@dataclasses.dataclass(frozen=True)
class Report:
    """The result of a preparation.

    Attributes:
      name: name of the corpus.
      splits: counts by split.
      reasons: number of problems by reason and split; '' is an unknown split.
      archives: size and sha256 of the extracted archives by name.
      rules: the limits: 'max_seconds' and 'tolerance'; of a user's list also 'allow_leaks'; and
        'same_pictures' where pictures are in several splits by intention: True, or what the names
        of these splits begin with.
      leaks: number of 'pictures' and 'recordings' that are in more than one split.
      repeats: number of those that their own split has already; they are kept.
    """

    name: str
    splits: Mapping[str, SplitReport]
    reasons: Mapping[str, Mapping[str, int]]
    archives: Mapping[str, Mapping[str, object]]
    rules: Mapping[str, float | str]
    leaks: Mapping[str, int] = dataclasses.field(default_factory=dict)
    repeats: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def table(self) -> str:
        """Return the report as a table of text."""
        head = ("split", "images", "published", "captions", "published", "missing")
        rows = [head]
        for split, counts in self.splits.items():
            rows.append(
                (
                    split,
                    f"{counts.images:,}",
                    f"{counts.published_images:,}" if counts.published_images else "-",
                    f"{counts.captions:,}",
                    f"{counts.published_captions:,}" if counts.published_captions else "-",
                    f"{100 * counts.missing:.2f} %",
                )
            )
        lines = _columns(rows)
        if self.reasons:
            splits = list(dict.fromkeys(split for row in self.reasons.values() for split in row))
            rows = [("left out", *(split or "(no split)" for split in splits))]
            for reason, row in self.reasons.items():
                rows.append((reason, *(f"{row.get(split, 0):,}" for split in splits)))
            lines += ["", *_columns(rows)]
        if any(self.leaks.values()):
            lines += ["", f"in more than one split: {counted(self.leaks)}, listed in {LEAKS}"]
        if any(self.repeats.values()):
            lines += ["", f"twice in one split: {counted(self.repeats)}, kept"]
        return "\n".join(lines)

    def check(self, tolerance: float, where: Path) -> None:
        """Check that no more is missing than is tolerated.

        Args:
          tolerance: the largest share of a split that may be missing, from 0 to 1.
          where: path of the list of problems, for the error message.

        Raises:
          UserError: more is missing. The message says how much, and how to accept it.
        """
        worst = max(self.splits, key=lambda split: self.splits[split].missing, default=None)
        if worst is None or not any(counts.images for counts in self.splits.values()):
            raise UserError(f"{self.name}: nothing in it can be used; see {where}")
        share = self.splits[worst].missing
        if share > tolerance:
            short, expected, items = max(
                self.splits[worst].shortfalls(), key=lambda row: row[0] / row[1]
            )
            accept = math.ceil(share * 10_000) / 10_000
            raise UserError(
                f"{self.name}: {short:,} of {expected:,} {items} of split {worst!r} are missing or "
                f"cannot be used ({100 * share:.2f} %, tolerated {100 * tolerance:g} %); see "
                f"{where}, mend what you can and run the same command again, or accept it with "
                f"a tolerance of {accept:g}"
            )


def make_report(
    name: str,
    planned: Plan,
    kept: Sequence[PlannedImage],
    problems: Sequence[Problem],
    published: Mapping[str, Counts],
    archives: Mapping[str, Mapping[str, object]],
    rules: Mapping[str, float | str],
    copies: Copies,
) -> Report:
    """Count what a preparation kept and left out.

    Args:
      name: name of the corpus.
      planned: the plan, with the problems of its metadata.
      kept: the usable images and recordings.
      problems: the problems of metadata, images and recordings.
      published: published counts by split.
      archives: size and sha256 of the extracted archives, from `gather`.
      rules: see `Report`.
      copies: what the corpus has more than once.
    """
    # If no count is published, problems of metadata count as missing recordings. If their split is
    # unknown, they count in every split.
    unplanned = Counter(p.split for p in planned.problems if p.reason not in _NOT_MISSING)
    splits = dict.fromkeys([*published, *(image.split for image in planned.images)])
    of_plan, of_kept = _count(planned.images), _count(kept)
    counts = {}
    for split in splits:
        stated = published.get(split, Counts(0, 0))
        counts[split] = SplitReport(
            images=of_kept[split].images,
            captions=of_kept[split].captions,
            planned_images=of_plan[split].images,
            planned_captions=of_plan[split].captions
            + unplanned[split]
            + (unplanned[""] if split else 0),
            published_images=stated.images,
            published_captions=stated.captions,
        )
    reasons: dict[str, Counter] = {}
    for problem in problems:
        reasons.setdefault(problem.reason, Counter())[problem.split] += 1
    ordered = {reason: dict(sorted(reasons[reason].items())) for reason in sorted(reasons)}
    return Report(name, counts, ordered, archives, rules, copies.counts, copies.repeats)


def _count(images: Sequence[PlannedImage]) -> Mapping[str, Counts]:
    """Return the number of images and recordings of each split; a split that has none has 0."""
    pictures = Counter(image.split for image in images)
    captions = Counter()
    for image in images:
        captions[image.split] += len(image.captions)
    counts = {split: Counts(pictures[split], captions[split]) for split in pictures}
    return defaultdict(lambda: Counts(0, 0), counts)


def write_report(folder: Path, report: Report, problems: Sequence[Problem]) -> Path:
    """Write the report and the list of problems; return the path of the list.

    Args:
      folder: folder of the corpus.
      report: the report.
      problems: all problems; the list has one line for each.
    """
    with whole_file(folder / QUARANTINE) as part, part.open("w") as stream:
        stream.writelines(json.dumps(dataclasses.asdict(p)) + "\n" for p in problems)
    write_text(folder / REPORT, json.dumps(dataclasses.asdict(report), indent=1) + "\n")
    return folder / QUARANTINE


def read_report(folder: Path) -> Report | None:
    """Return the report in the folder of a corpus; None if there is none."""
    try:
        stored = json.loads((folder / REPORT).read_text())
    except FileNotFoundError:
        return None
    splits = {split: SplitReport(**counts) for split, counts in stored.pop("splits").items()}
    return Report(splits=splits, **stored)


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Align the first column left and the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    ]
