"""The windows of an index's long recordings: vectors, spans, and which is heard best."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sir_jax.errors import UserError
from sir_jax.index import vectors as files

_PIECE = 1 << 16  # windows that are scored at once
# In standard deviations (by the median of the distances from the median) above the median of a
# recording's stretches: what stands out of them. Of fewer stretches than `_FEW` it cannot be told.
STANDS_OUT = 4.0
_FEW = 20
# Likewise: a shorter stretch inside the best one that has nearly its score says more exactly where.
_NEARLY = 0.5


class Moment(NamedTuple):
    """A stretch of a recording.

    Attributes:
      start: in seconds.
      end: in seconds.
      score: inner product of its vector and the query's.
      clear: whether it stands out of the recording, see `Moments.of`.
    """

    start: float
    end: float
    score: float
    clear: bool = True


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
    """The windows of long recordings. Immutable.

    Attributes:
      ids: of the recordings.
      counts: windows of each.
      silent: windows of each that were left out, because nothing is heard in them.
      vectors: float32[W, E] of all windows, in the order of the recordings and of time.
      spans: float32[W, 2], where each begins and ends, in seconds.
    """

    ids: Sequence[str]
    counts: Sequence[int]
    silent: Sequence[int]
    vectors: np.ndarray
    spans: np.ndarray

    @property
    def starts(self) -> np.ndarray:
        """Return the first window of each recording, and behind it the number of all."""
        return np.concatenate([[0], np.cumsum(self.counts)]).astype(int)

    def taken(self, ids: Iterable[str]) -> "Moments | None":
        """Return those of some recordings, in the given order; None for none."""
        row, starts = {name: n for n, name in enumerate(self.ids)}, self.starts
        rows = [row[name] for name in ids if name in row]
        if not rows:
            return None
        if rows == list(range(len(self.ids))):
            return self
        windows = np.concatenate([np.arange(starts[n], starts[n + 1]) for n in rows])
        return Moments(
            [self.ids[n] for n in rows],
            [self.counts[n] for n in rows],
            [self.silent[n] for n in rows],
            self.vectors[windows],
            self.spans[windows],
        )

    def means(self) -> np.ndarray:
        """Return the mean of each recording's windows, scaled to unit length; float32[n, E]."""
        starts = self.starts
        sums = np.add.reduceat(np.asarray(self.vectors, np.float64), starts[:-1], axis=0)
        length = np.linalg.norm(sums, axis=1, keepdims=True)
        # Windows that cancel each other have no mean: then the first of them stands for all.
        first = self.vectors[starts[:-1]]
        return np.where(length > 1e-6, sums / np.maximum(length, 1e-12), first).astype(np.float32)

    def best(self, z: np.ndarray) -> np.ndarray:
        """Return the best score of each recording.

        Args:
          z: float32[n, E].

        Returns:
          float32[n, recordings], rounded from float64.
        """
        out, starts, first = np.empty((len(z), len(self.ids)), np.float32), self.starts, 0
        while first < len(self.ids):
            last = max(first + 1, int(np.searchsorted(starts, starts[first] + _PIECE, "right")) - 1)
            part = self.vectors[starts[first] : starts[last]].astype(np.float64)
            scores = z.astype(np.float64) @ part.T
            cuts = starts[first:last] - starts[first]
            out[:, first:last] = np.maximum.reduceat(scores, cuts, axis=1)
            first = last
        return out

    def of(self, name: str, z: np.ndarray, most: int, typical: float | None = None) -> list[Moment]:
        """Return the best moments of a recording; of those that overlap, the better one.

        Where a stretch inside one is nearly as good, it says where that one is. A moment is clear
        if its score stands out of the scores of the recording's stretches, and is that of a true
        pair: of thousands of stretches, some stand out in any talk. Those that are not clear are
        left out, but for the best one.

        Args:
          name: of the recording.
          z: float32[E].
          most: moments.
          typical: see `inference.score.Score`; None where it is not known.
        """
        if name not in self.ids:
            return []
        row, starts = list(self.ids).index(name), self.starts
        own = slice(starts[row], starts[row + 1])
        spans = np.asarray(self.spans[own], np.float64)
        scores = (self.vectors[own].astype(np.float64) @ z.astype(np.float64)).astype(np.float32)
        middle, spread = _middle_and_spread(scores)
        floor = middle + STANDS_OUT * spread if len(scores) >= _FEW else -np.inf
        floor = floor if typical is None else max(floor, typical)
        found: list[Moment] = []
        taken: list[np.ndarray] = []
        for n in np.argsort(-scores, kind="stable"):
            if len(found) == most or (found and scores[n] < floor):
                break
            if all(spans[n, 1] <= start or spans[n, 0] >= end for start, end in taken):
                taken.append(spans[n])
                within = (spans[:, 0] >= spans[n, 0]) & (spans[:, 1] <= spans[n, 1])
                near = np.flatnonzero(within & (scores >= scores[n] - _NEARLY * spread))
                start, end = spans[near[np.argmin(spans[near, 1] - spans[near, 0])]]
                clear = bool(scores[n] >= floor)
                found.append(Moment(float(start), float(end), float(scores[n]), clear))
        return found


def count_moments(moments: Moments | None) -> dict[str, int]:
    """Return how many recordings are long, their windows, and those that were left out."""
    if moments is None:
        return dict(long=0, moments=0, silent=0)
    windows, silent = int(sum(moments.counts)), int(sum(moments.silent))
    return dict(long=len(moments.ids), moments=windows, silent=silent)


def joined(parts: Iterable[Moments | None]) -> Moments | None:
    """Return the windows of several lists of recordings, one after the other; None for none."""
    there = [part for part in parts if part is not None]
    if len(there) < 2:
        return there[0] if there else None
    return Moments(
        *([value for part in there for value in getattr(part, name)] for name in _LISTS),
        *(np.concatenate([getattr(part, name) for part in there]) for name in _MATRICES),
    )


_LISTS, _MATRICES = ("ids", "counts", "silent"), ("vectors", "spans")


def write_moments(stem: Path, moments: Moments | None) -> dict[str, Any] | None:
    """Write windows to two files; return what `read_moments` needs to know of them.

    Args:
      stem: the files' path without their ends.
      moments: None for no files.
    """
    if moments is None:
        return None
    entry: dict[str, Any] = {name: [*getattr(moments, name)] for name in _LISTS}
    for name in _MATRICES:
        matrix = getattr(moments, name)
        path = stem.with_name(f"{stem.name}-{name}{files.SUFFIX}")
        checksum = files.write_matrix(path, [matrix], *matrix.shape)
        entry[name] = {"file": path.name, "checksum": checksum}
    return entry


def files_of(entry: dict[str, Any] | None) -> Iterator[str]:
    """Yield the names of the files of what `write_moments` returned."""
    for name in _MATRICES if entry else ():
        yield entry[name]["file"]


def read_moments(folder: Path, entry: dict[str, Any] | None, width: int) -> Moments | None:
    """Map windows into memory.

    Args:
      folder: of the files.
      entry: what `write_moments` returned; None for an index that has none, as older ones.
      width: of a vector.

    Raises:
      UserError: a file is missing or damaged.
      KeyError, TypeError, ValueError: the entry is.
    """
    if entry is None:
        return None
    lists = [entry[name] for name in _LISTS]
    if not len(lists[0]) == len(lists[1]) == len(lists[2]) or min(lists[1], default=0) < 1:
        raise ValueError("moments have ids and counts that do not fit")
    matrices = []
    for name, columns in zip(_MATRICES, (width, 2), strict=True):
        file = entry[name]["file"]
        if Path(file).name != file:
            raise ValueError(f"{file!r} is no file name beside it")
        matrix = files.read_matrix(folder / file, sum(lists[1]), columns)
        if files.checksum_of(matrix) != entry[name]["checksum"]:
            raise UserError(
                f"{folder / file} is damaged (its checksum differs); build the index again"
            )
        matrices.append(matrix)
    return Moments(*lists, *matrices)


def _middle_and_spread(scores: np.ndarray) -> tuple[float, float]:
    """Return median and standard deviation of most scores, whatever the few best ones are."""
    middle = float(np.median(scores))
    # The median distance of a normal distribution is 0.6745 standard deviations.
    return middle, float(np.median(np.abs(scores - middle))) / 0.6745
