"""An epoch dealt in groups of look-alikes, by embeddings of the epoch before. Pure, NumPy alone.

A batch at random seldom holds a caption's look-alike, and what tells look-alikes apart is learnt
from them alone. As in GRIT-VLP (arXiv 2208.04060) the captions are cut at random into search
spaces, and in each a greedy walk goes on to the nearest caption that is left.

All processes of a job deal by themselves and must deal the same, whatever their machines. So
embeddings are whole numbers, small enough that their products are exact in float32 in any order.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from sir_jax.data.plan import count_repeats, fill_buckets, shuffle_batches

# Of the random streams of one seed; `plan` and `pipeline` have the others.
_STREAM = 4

# A vector's largest number and length: products below 2**24 are exact in float32.
LARGEST, LONGEST = 127, 4_000

# The score of a neighbour whose embedding is not known: after all others.
_UNKNOWN = np.float32(-1e30)


@dataclasses.dataclass(frozen=True)
class GroupSpec:
    """How batches are grouped.

    Attributes:
      size: captions in a group.
      after: steps that come at random first.
      by: 'image', 'caption' or 'both', of `config.fields.GROUPINGS`.
      space: captions in a search space, at most.
      microbatches: `train.grad_accum`; a group lies in one of these.
    """

    size: int
    after: int = 0
    by: str = "image"
    space: int = 4_096
    microbatches: int = 1

    @classmethod
    def from_config(cls, cfg: Any) -> "GroupSpec | None":
        """Read a whole config; None where batches are at random."""
        data = cfg.data
        if not data.groups:
            return None
        numbers = data.groups, data.grouped_after, data.group_by, data.search_space
        return cls(*numbers, cfg.train.grad_accum)


class Vectors(NamedTuple):
    """Embeddings in whole numbers, each up to a positive factor; all 0 where none is known yet."""

    speech: np.ndarray  # int8 [captions, E]
    image: np.ndarray  # int8 [images, E]


def deal_epoch(
    samples: np.ndarray,
    index: np.ndarray,
    buckets: tuple[int, ...],
    batch_size: int,
    seed: int,
    epoch: int,
    spec: GroupSpec,
    vectors: Vectors,
) -> tuple[np.ndarray, np.ndarray]:
    """Deal an epoch in groups of look-alikes: `plan.plan_epoch` with neighbours beside each other.

    The same captions take part, in the same buckets, as in the epoch at random. A group has one
    caption of an image, as far as its search space lasts. Which groups make a batch, and the order
    of the batches, is random. A group lies in one microbatch, and in one device's part of it where
    the group's size divides that.

    Args:
      samples: length of each caption, int [n].
      index: `Split.index`; its fields `row` and `image_id` are read.
      buckets: lengths in samples, ascending.
      batch_size: captions in a global batch.
      seed: seed of the run.
      epoch: number of the epoch, from 0.
      spec: how to group.
      vectors: embeddings of all captions and images.

    Returns:
      As `plan.plan_epoch` does.
    """
    ids = index["image_id"]
    rng, filled = fill_buckets(samples, ids, buckets, batch_size, seed, epoch)
    # One of its own, so that an epoch at random and one in groups draw the same from the first.
    draw = np.random.default_rng((seed, _STREAM, epoch))
    batches = []
    for captions in filled:
        groups = group_captions(captions, ids[captions], index["row"][captions], spec, vectors)
        # As at random, the first captions of all images come first, then the second ones.
        repeats = count_repeats(ids[captions])
        late = dict(zip(captions.tolist(), repeats.tolist(), strict=True))
        last = [max(late[caption] for caption in group) for group in groups.tolist()]
        order = np.lexsort((draw.permutation(len(groups)), np.array(last, np.int64)))
        # Row r of a batch goes to the microbatch r % count; see `objective.microbatches`.
        parts = groups[order].reshape(-1, spec.microbatches, batch_size // spec.microbatches)
        batches.append(parts.swapaxes(1, 2).reshape(-1, batch_size))
    return shuffle_batches(batches, rng)


def group_captions(
    captions: np.ndarray,
    ids: np.ndarray,
    rows: np.ndarray,
    spec: GroupSpec,
    vectors: Vectors,
) -> np.ndarray:
    """Divide captions into groups of neighbours.

    Args:
      captions: rows of `vectors.speech`, in random order, a multiple of `spec.size`.
      ids: image id of each.
      rows: row of `vectors.image` of each.
      spec: how to group.
      vectors: embeddings.

    Returns:
      The captions, [groups, spec.size].
    """
    count = len(captions) // spec.size
    spaces = -(-len(captions) // max(spec.space // spec.size * spec.size, 1))
    out = [np.empty((0, spec.size), captions.dtype)]
    for part in np.array_split(np.arange(count), max(spaces, 1)):
        if len(part):
            here = slice(part[0] * spec.size, (part[-1] + 1) * spec.size)
            keys = vectors.image[rows[here]]
            queries = keys
            if spec.by != "image":
                queries = vectors.speech[captions[here]]
            if spec.by == "both":
                queries = _mean(keys, queries)
            out.append(captions[here][walk(queries, keys, ids[here], spec.size)])
    return np.concatenate(out)


def walk(queries: np.ndarray, keys: np.ndarray, ids: np.ndarray, size: int) -> np.ndarray:
    """Walk greedily through a search space, from each item to the nearest one that is left.

    A group begins with the first item that is left, first of those that are known. It goes on from
    the last one taken, by the cosine of its query with the keys, to items of other images. Where
    only images that the group has are left, it takes the first of these.

    Args:
      queries: int8 [S, E].
      keys: int8 [S, E].
      ids: image id of each item, [S].
      size: items in a group; divides S.

    Returns:
      Positions of the items, int64 [S / size, size].

    Example:
      >>> x = np.array([[9, 0], [0, 9], [8, 1], [1, 8]], np.int8)
      >>> walk(x, x, np.arange(4), 2)
      array([[0, 2],
             [1, 3]])
    """
    scores = _cosines(queries, keys)
    known = keys.any(axis=1)
    first = np.argsort(~known, kind="stable")
    _, image, copies = np.unique(ids, return_inverse=True, return_counts=True)
    by_image = np.split(np.argsort(image, kind="stable"), np.cumsum(copies)[:-1])
    left, barred = np.ones(len(ids), bool), np.zeros(len(ids), np.float32)
    groups, row, begin = np.empty((len(ids) // size, size), np.int64), np.empty_like(barred), 0
    for group in groups:
        while not left[first[begin]]:
            begin += 1
        item = first[begin]
        for slot in range(size):
            if slot:
                np.add(scores[item], barred, out=row)
                item = row.argmax()
                if not np.isfinite(row[item]):
                    item = first[begin + np.argmax(left[first[begin:]])]
            group[slot], left[item] = item, False
            barred[by_image[image[item]]] = -np.inf
        for item in group:
            same = by_image[image[item]]
            if len(same) > 1:
                barred[same[left[same]]] = 0.0
    return groups


def _cosines(queries: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Return cosines times the length of the query, float32 [S, S]; the same on any machine."""
    keys = keys.astype(np.float32)
    squares = np.einsum("se,se->s", keys, keys)
    known = squares > 0
    scores = queries.astype(np.float32) @ keys.T
    scores *= np.float32(1) / np.sqrt(np.where(known, squares, np.float32(1)))
    scores[:, ~known] = _UNKNOWN
    return scores


def _mean(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the mean direction of vectors of whole numbers, int8 [S, E]."""
    return pack_rows(sum(_unit(x) for x in (a, b)))


def _unit(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float32)
    squares = np.einsum("se,se->s", x, x)
    return x / np.sqrt(np.where(squares > 0, squares, np.float32(1)))[:, None]


def pack_rows(x: Any, xp: Any = np) -> Any:
    """Return vectors as whole numbers, each times a factor of its own, int8 [..., E].

    Args:
      x: float32 [..., E], of unit length or so; zeros stay zeros.
      xp: `numpy`, or `jax.numpy` for arrays on devices.

    Example:
      >>> pack_rows(np.array([[0.5, -1.0]]))
      array([[  64, -127]], dtype=int8)
    """
    largest = xp.abs(x).max(axis=-1, keepdims=True)
    length = xp.sqrt(xp.square(x).sum(axis=-1, keepdims=True))
    tiny = 1e-20
    factor = xp.minimum(LARGEST / xp.maximum(largest, tiny), LONGEST / xp.maximum(length, tiny))
    return xp.rint(x * factor).astype(xp.int8)
