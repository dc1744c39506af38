"""Lists of the best items of each query by embedding, and the ranks that new scores give them.

Of items with equal scores, wrong ones come first. A query's rank is defined as in `ranking`: that
of its best right item, from 1, after wrong items of equal score. A query without a right item in
its list keeps its coarse rank, because items outside of the list stay behind it in coarse order.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Lists:
    """The k best items of each query, best first."""

    items: np.ndarray  # int64[Q, k], numbers of gallery items
    scores: np.ndarray  # float32[Q, k], their coarse scores
    right: np.ndarray  # bool[Q, k], whether they are right


# Lists are merged by integer keys, one per candidate, of which larger ones are better. The upper 32
# bits are the score, as an integer of the same order; the next bit is 1 for a wrong item; the lower
# 31 bits order items by number, the lower number first.
_LAST = (1 << 31) - 1


def _make_keys(scores: np.ndarray, right: np.ndarray, items: np.ndarray) -> np.ndarray:
    bits = scores.view(np.int32).astype(np.int64)
    ordered = np.where(bits < 0, -(1 << 31) - bits, bits)  # 0 for both zeros
    return (ordered << 32) | (~right).astype(np.int64) << 31 | (_LAST - items)


def _read_keys(keys: np.ndarray) -> Lists:
    keys = -np.sort(-keys, axis=1)
    ordered = keys >> 32
    bits = np.where(ordered < 0, -(1 << 31) - ordered, ordered).astype(np.int32)
    return Lists(
        items=_LAST - (keys & _LAST), scores=bits.view(np.float32), right=(keys >> 31 & 1) == 0
    )


def _merge(best: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Return the k largest keys in each row of both arrays, k being the width of `best`."""
    k = best.shape[1]
    return np.partition(np.concatenate([best, new], axis=1), new.shape[1], axis=1)[:, -k:]


def coarse_lists(
    z_s: np.ndarray,
    z_i: np.ndarray,
    speech_image_ids: np.ndarray,
    image_ids: np.ndarray,
    k: int,
    chunk: int = 1024,
) -> tuple[Lists, Lists]:
    """Find the k best images of each clip and clips of each image, by the scores of `ranking`.

    Args:
      z_s: float[Ns, E], embeddings of spoken captions.
      z_i: float[Ni, E], embeddings of images.
      speech_image_ids: int[Ns], the id of the image that each caption describes.
      image_ids: int[Ni].
      k: length of a list, at least 1; at most the whole gallery is used.
      chunk: scores are computed in tiles of chunk x chunk; the result does not depend on it.

    Returns:
      (lists of all clips [Ns, k], lists of all images [Ni, k], also of those without a caption).
    """
    lowest = np.iinfo(np.int64).min
    best_s = np.full((len(z_s), min(k, len(z_i))), lowest)
    best_i = np.full((len(z_i), min(k, len(z_s))), lowest)
    for a in range(0, len(z_s), chunk):
        rows = np.arange(a, min(a + chunk, len(z_s)))
        queries = z_s[rows].astype(np.float64)
        for c in range(0, len(z_i), chunk):
            columns = np.arange(c, min(c + chunk, len(z_i)))
            scores = (queries @ z_i[columns].astype(np.float64).T).astype(np.float32)
            right = speech_image_ids[rows, None] == image_ids[None, columns]
            best_s[rows] = _merge(best_s[rows], _make_keys(scores, right, columns[None, :]))
            best_i[columns] = _merge(best_i[columns], _make_keys(scores, right, rows[:, None]).T)
    return _read_keys(best_s), _read_keys(best_i)


def reranked_ranks(coarse_ranks: np.ndarray, scores: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Rank each query's best right item after its list got new scores.

    Args:
      coarse_ranks: int[Q], ranks from 1.
      scores: float[Q, k], the new scores of the items of each list.
      right: bool[Q, k], whether these items are right.

    Returns:
      int[Q], ranks from 1: the rank in the list, after wrong items of equal score; the coarse rank
      if the list has no right item.

    Raises:
      ValueError: a score is not finite.

    Example:
      >>> scores, right = np.array([[0.2, 0.9]]), np.array([[True, False]])
      >>> reranked_ranks(np.array([1]), scores, right)
      array([2])
    """
    if not np.isfinite(scores).all():
        raise ValueError("match scores hold a value that is not finite")
    best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
    ranks = 1 + (~right & (scores >= best)).sum(axis=1)
    return np.where(right.any(axis=1), ranks, coarse_ranks)


@dataclasses.dataclass(frozen=True)
class Side:
    """One direction of retrieval: the coarse ranks, and the lists of the queries."""

    ranks: np.ndarray  # int64[N], coarse rank of each item; 0 for an item without a right one
    queries: np.ndarray  # int64[Q], the items with a rank, which are the queries
    lists: Lists  # the list of each query

    @classmethod
    def of(cls, ranks: np.ndarray, lists: Lists) -> "Side":
        """Drop the lists of items that are no queries, because they have no right item."""
        rows = np.flatnonzero(ranks)
        return cls(ranks, rows, Lists(lists.items[rows], lists.scores[rows], lists.right[rows]))

    def reranked(self, scores: np.ndarray) -> np.ndarray:
        """Return the new rank of each item; 0 for an item that is no query.

        Args:
          scores: float[Q, k], the new scores of the lists.
        """
        new_ranks = np.zeros_like(self.ranks)
        old_ranks = self.ranks[self.queries]
        new_ranks[self.queries] = reranked_ranks(old_ranks, scores, self.lists.right)
        return new_ranks

    def cut(self, k: int) -> "Side":
        """Return the same direction with lists of the k best items alone."""
        items, scores, right = (x[:, :k] for x in dataclasses.astuple(self.lists))
        return dataclasses.replace(self, lists=Lists(items, scores, right))

    @property
    def cap(self) -> float:
        """Return the share of queries with a right item in their list."""
        return float(self.lists.right.any(axis=1).mean())


def distinct_pairs(
    speech_items: np.ndarray, image_rows: np.ndarray, image_items: np.ndarray, images: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Collect the pairs in the lists of both directions, each pair once.

    Args:
      speech_items: int[Ns, k], the images in the list of each clip.
      image_rows: int[Q], the images that are queries.
      image_items: int[Q, k'], the clips in the list of each of these images.
      images: number of all images.

    Returns:
      (int[n, 2], the pairs (clip, image); the number of the pair of each entry of `speech_items`;
      the number of the pair of each entry of `image_items`).
    """
    from_speech = np.arange(len(speech_items))[:, None] * images + speech_items
    from_images = image_items * images + image_rows[:, None]
    codes, numbers = np.unique(
        np.concatenate([from_speech.ravel(), from_images.ravel()]), return_inverse=True
    )
    in_speech, in_images = np.split(numbers, [from_speech.size])
    return (
        np.stack(np.divmod(codes, images), axis=1),
        in_speech.reshape(from_speech.shape),
        in_images.reshape(from_images.shape),
    )
