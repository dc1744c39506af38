"""What of a corpus could not be used: counted, listed, and weighed against what is published."""

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from sir_jax.data.builders.recordings import Counts, Plan, PlannedImage, Problem
from sir_jax.errors import UserError
from sir_jax.runtime.files import write_text

QUARANTINE, REPORT = "quarantine.jsonl", "report.json"


@dataclasses.dataclass(frozen=True)
class SplitReport:
    """Counts of one split; a published count is 0 where none is published."""

    images: int
    captions: int
    planned_images: int
    planned_captions: int
    published_images: int
    published_captions: int

    def shortfalls(self) -> Iterator[tuple[int, int, str]]:
        """Yield how many are missing, out of how many, and what: where any are."""
        # What is planned beyond the published number does not make up for what is lost.
        wanted = self.published_captions or self.planned_captions
        if self.captions < wanted:
            yield wanted - self.captions, wanted, "recordings"
        if self.images < self.published_images:
            yield self.published_images - self.images, self.published_images, "pictures"

    @property
    def missing(self) -> float:
        """Return the share that is missing, of recordings or of pictures, 0 to 1."""
        return max((short / wanted for short, wanted, _ in self.shortfalls()), default=0.0)


@dataclasses.dataclass(frozen=True)
class Report:
    """What became of a plan.

    Attributes:
      name: of the corpus.
      splits: split -> counts.
      reasons: reason -> split -> number of things left out ('' where the split is unknown).
      archives: archive -> size and sha256, as seen.
      rules: what was accepted, e.g. the most seconds.
    """

    name: str
    splits: Mapping[str, SplitReport]
    reasons: Mapping[str, Mapping[str, int]]
    archives: Mapping[str, Mapping[str, object]]
    rules: Mapping[str, float]

    def table(self) -> str:
        """Return the summary that people read."""
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
        return "\n".join(lines)

    def check(self, tolerance: float, where: Path) -> None:
        """Refuse a corpus of which more is missing than is tolerated.

        Args:
          tolerance: the largest share of a split that may be missing, 0 to 1.
          where: the list of what was left out, for the error.

        Raises:
          UserError: says how much is missing and how to accept it.
        """
        worst = max(self.splits, key=lambda split: self.splits[split].missing, default=None)
        if worst is None or not any(counts.images for counts in self.splits.values()):
            raise UserError(f"{self.name}: nothing in it can be used; see {where}")
        share = self.splits[worst].missing
        if share > tolerance:
            short, wanted, what = max(
                self.splits[worst].shortfalls(), key=lambda row: row[0] / row[1]
            )
            accept = math.ceil(share * 10_000) / 10_000
            raise UserError(
                f"{self.name}: {short:,} of {wanted:,} {what} of split {worst!r} are missing or "
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
    rules: Mapping[str, float],
) -> Report:
    """Count what became of a plan.

    Args:
      name: of the corpus.
      planned: before anything was decoded, with what its metadata lost.
      kept: pictures and recordings that are good.
      problems: everything that is left out.
      published: split -> counts.
      archives: as `gather` returns them.
      rules: what was accepted.
    """
    # Where no count is published, what metadata could not plan is missing as well; where its
    # split is unknown, it may be any's.
    unplanned = Counter(p.split for p in planned.problems if p.reason != "no audio")
    splits = dict.fromkeys([*published, *(image.split for image in planned.images)])
    counts = {}
    for split in splits:
        of_plan = [image for image in planned.images if image.split == split]
        of_kept = [image for image in kept if image.split == split]
        stated = published.get(split, Counts(0, 0))
        counts[split] = SplitReport(
            images=len(of_kept),
            captions=sum(len(image.captions) for image in of_kept),
            planned_images=len(of_plan),
            planned_captions=sum(len(image.captions) for image in of_plan)
            + unplanned[split]
            + (unplanned[""] if split else 0),
            published_images=stated.images,
            published_captions=stated.captions,
        )
    reasons: dict[str, Counter] = {}
    for problem in problems:
        reasons.setdefault(problem.reason, Counter())[problem.split] += 1
    ordered = {reason: dict(sorted(reasons[reason].items())) for reason in sorted(reasons)}
    return Report(name, counts, ordered, archives, rules)


def write_report(folder: Path, report: Report, problems: Sequence[Problem]) -> Path:
    """Write both files of a report; return the path of the list.

    Args:
      folder: of the corpus.
      report: its counts.
      problems: everything that is left out, one a line in the list.
    """
    lines = (json.dumps(dataclasses.asdict(problem)) + "\n" for problem in problems)
    write_text(folder / QUARANTINE, "".join(lines))
    write_text(folder / REPORT, json.dumps(dataclasses.asdict(report), indent=1) + "\n")
    return folder / QUARANTINE


def read_report(folder: Path) -> Report | None:
    """Return the report of a corpus' folder, None where it has none."""
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
