"""The grid's table: one tidy CSV, a row for each condition, part of the split and metric."""

import csv
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from sir_jax.errors import UserError
from sir_jax.evaluation.intervals import (
    mean_recall_interval,
    paired_mean_difference,
)
from sir_jax.evaluation.ranking import RECALL_AT, SIDES, Metrics, align_columns
from sir_jax.runtime.files import whole_file, write_json

TABLE, MARK, CLEAN_VECTORS = "robustness.csv", "robustness.json", "clean.npz"
COLUMNS = (
    "side",  # what was changed: speech or image; empty where nothing was
    "family",
    "level",
    "part",  # of the split, such as engine=piper; empty for all of it
    "metric",  # s2i_r1, .., mean_r10
    "value",
    "low",  # of the 95 % interval
    "high",
    "difference",  # to the clean condition, paired; empty where that is the row itself
    "difference_low",
    "difference_high",
    "p_value",
    "queries",
    "gallery",
)
# Of what the numbers depend on beside model and corpus: raised when a condition changes.
VERSION = 1


def metric_rows(
    labels: Mapping[str, str], metrics: Metrics, clean: Metrics | None, resamples: int
) -> list[dict[str, str]]:
    """Return the rows of one condition.

    Args:
      labels: the first four columns.
      metrics: of the condition.
      clean: of the clean condition, on the same queries; None for no difference.
      resamples: of each interval.
    """
    rows = []
    for k in RECALL_AT:
        for name in (*(side for side, *_ in SIDES), "mean"):
            used = [side for side, *_ in SIDES] if name == "mean" else [name]
            hits = [getattr(metrics, side).hits(k) for side in used]
            row = dict.fromkeys(COLUMNS, "") | dict(labels) | {"metric": f"{name}_r{k}"}
            row |= _numbers("", mean_recall_interval(hits, resamples))
            if clean is not None:
                was = [getattr(clean, side).hits(k)[0] for side in used]
                sides = [(now, old, picture) for (now, picture), old in zip(hits, was, strict=True)]
                found = paired_mean_difference(sides, resamples)
                row |= _numbers("difference", found) | {"p_value": f"{found.p_value:.6g}"}
            if name != "mean":
                side = getattr(metrics, name)
                row |= {"queries": str(side.queries), "gallery": str(side.gallery)}
            rows.append(row)
    return rows


def _numbers(name: str, found) -> dict[str, str]:
    names = (name or "value", *(f"{name}_{end}".strip("_") for end in ("low", "high")))
    values = (found.value, found.low, found.high)
    return {key: f"{value:.6g}" for key, value in zip(names, values, strict=True)}


def read_table(path: Path) -> list[dict[str, str]]:
    """Read a table; empty where there is no file.

    Raises:
      UserError: it has other columns.
    """
    if not path.exists():
        return []
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise UserError(f"{path} has other columns than {','.join(COLUMNS)}; move it away")
        return list(reader)


def write_table(path: Path, rows: Iterable[Mapping[str, str]]) -> None:
    """Write a table whole or not at all."""
    with whole_file(path) as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def corpus_mark(split) -> str:
    """Return a hash of which clips and pictures a split has."""
    digest = hashlib.sha256(np.ascontiguousarray(split.index).tobytes())
    digest.update(str(len(split)).encode())
    return digest.hexdigest()[:16]


def claim(folder: Path, mark: Mapping[str, str | int]) -> None:
    """See that a folder is free or holds a grid of the same model, corpus and seed.

    Raises:
      UserError: it holds another's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / MARK
    if not path.exists():
        write_json(path, dict(mark))
        return
    old = json.loads(path.read_text())
    differs = [name for name in mark if old.get(name) != mark[name]]
    if differs:
        name = differs[0]
        raise UserError(
            f"{folder} holds a grid with {name} {old.get(name)!r}, not {mark[name]!r}; "
            "give another --out"
        )


def format_table(rows: Iterable[Mapping[str, str]]) -> str:
    """Lay out R@1 and R@10 in percent, with intervals and differences to clean, for people."""
    found = {(r["family"], r["level"], r["part"], r["metric"]): r for r in rows}
    shown = (("s2i_r1", "s->i R@1"), ("s2i_r10", "R@10"), ("i2s_r1", "i->s R@1"))
    head = [title for _, title in shown]
    lines = [["condition", "part", head[0], "95 %", "less clean", "95 %", *head[1:]]]
    for family, level, part in dict.fromkeys(key[:3] for key in found):
        cells = [found[family, level, part, metric] for metric, _ in shown]
        first, texts = cells[0], [f"{100 * float(cell['value']):.1f}" for cell in cells]
        gap = ["", ""]
        if first["difference"]:
            gap = [f"{100 * float(first['difference']):+.1f}", _span(first, "difference_")]
        name = f"{family} {level}".strip()
        lines.append([name, part, texts[0], _span(first, ""), *gap, *texts[1:]])
    return "\n".join(align_columns(lines, left=2))


def _span(row: Mapping[str, str], prefix: str) -> str:
    low, high = (100 * float(row[f"{prefix}{end}"]) for end in ("low", "high"))
    return f"{low:.1f} to {high:.1f}"


def conditions_done(rows: Iterable[Mapping[str, str]]) -> set[tuple[str, str]]:
    """Return family and level of every condition in a table."""
    return {(row["family"], row["level"]) for row in rows}
