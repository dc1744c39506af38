"""Re-ranking: order the best items by embedding again, by the fusion encoder's match score.

A query's list is its k best items by the coarse scores of `ranking`; of items with equal scores,
wrong ones come first. The fine score of a pair is the log-odds that it matches; for a clip that is
cut into windows (`inference.embed`), the mean over its windows. A list is ordered in three ways:

- fused, by `losses.fused_score`: the order that `Index.search` and the page show;
- re-ranked, by the fine score alone (ALBEF, arXiv 2107.07651);
- summed, by fine plus coarse score (BLIP, arXiv 2201.12086).

A query's rank is defined as in `ranking`: that of its best right item, from 1, after wrong items of
equal score. A query without a right item in its list keeps its coarse rank, because items outside
of the list stay behind it in coarse order. So R@j after re-ranking is at most the coarse R@k, for
any j up to k.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from sir_jax.errors import UserError
from sir_jax.evaluation.ranking import (
    RECALL_AT,
    SIDES,
    Metrics,
    align_columns,
    captions_cell,
    intervals_of,
    metrics_of_ranks,
    queries_and_legend,
    rank_cell,
    recall_cells,
    retrieval_ranks,
)
from sir_jax.inference.embed import embed_split
from sir_jax.inference.matching import BUDGET, score_pairs
from sir_jax.inference.token_store import TokenStore
from sir_jax.losses.fused_score import fused_score

# The rankings: the prefix of their numbers, and their name in the table.
SCORINGS = (
    ("", "coarse"),
    ("reranked_", "re-ranked"),
    ("summed_", "summed"),
    ("fused_", "fused, as search"),
)


@dataclasses.dataclass(frozen=True)
class Reranked:
    """The metrics of all rankings of a split, their upper bounds and their cost."""

    coarse: Metrics
    reranked: Metrics
    summed: Metrics
    fused: Metrics
    k_s2i: int  # images in a clip's list
    k_i2s: int  # clips in an image's list
    cap_s2i: float  # share of queries with a right item in their list: the coarse R@k
    cap_i2s: float
    pairs: int  # distinct pairs of a clip and an image
    passes: int  # pairs of a window and an image that the fusion encoder read
    seconds: float  # of the passes, including compilation and reading of tokens

    @property
    def passes_per_s(self) -> float:
        """Return fusion passes per second, including compilation."""
        return self.passes / self.seconds

    def rankings(self) -> dict[str, Metrics]:
        """Return the metrics of each ranking by its prefix in `SCORINGS`."""
        names = ("coarse", "reranked", "summed", "fused")
        return {p: getattr(self, name) for (p, _), name in zip(SCORINGS, names, strict=True)}

    def flat(self) -> dict[str, float]:
        """Return all numbers in one dictionary; coarse ones have the names of `Metrics.flat`."""
        flat = {
            f"{prefix}{name}": value
            for prefix, metrics in self.rankings().items()
            for name, value in metrics.flat().items()
        }
        return flat | {
            "rerank_k_s2i": self.k_s2i,
            "rerank_k_i2s": self.k_i2s,
            "rerank_cap_s2i": self.cap_s2i,
            "rerank_cap_i2s": self.cap_i2s,
            "rerank_pairs": self.pairs,
            "rerank_passes": self.passes,
            "rerank_seconds": self.seconds,
            "rerank_passes_per_s": self.passes_per_s,
        }

    def table(self) -> str:
        """Return the metrics with their intervals as a table, see `format_reranked`."""
        return format_reranked(self.flat() | intervals_of([self]))


def format_reranked(flat: Mapping[str, float]) -> str:
    """Format the metrics of all rankings as a table, grouped by direction.

    Args:
      flat: the dictionary of `Reranked.flat`, with that of `intervals_of` or without it,
        possibly read from JSON. An old file lacks the fused ranking, which then has no rows.

    Returns:
      A text of several lines; recalls, their intervals, chances and caps in percent.
    """
    captions = captions_cell(flat)
    scorings = [(prefix, name) for prefix, name in SCORINGS if f"{prefix}mean_r" in flat]
    recalls = (f"R@{k} %" for k in RECALL_AT)
    rows = [["", "", "gallery", "captions/image", *recalls, "cap %", "median rank"]]
    for side, title, unit in SIDES:
        gallery = f"{int(flat[f'{side}_gallery'])} {unit}"
        for prefix, name in scorings:
            cap = f"{100 * flat[f'rerank_cap_{side}']:.1f}" if prefix else ""
            cells = *recall_cells(flat, side, prefix), cap, rank_cell(flat, side, prefix)
            rows.append([title, name, gallery, captions, *cells])
    both = f"{int(flat['s2i_gallery'])} / {int(flat['i2s_gallery'])}"
    for prefix, name in scorings:
        cells = recall_cells(flat, "mean", prefix)
        rows.append(["mean of both", name, both, captions, *cells, "", ""])
    means = ", ".join(f"{name} {100 * flat[f'{prefix}mean_r']:.1f} %" for prefix, name in scorings)
    return "\n".join(
        [
            *align_columns(rows, left=2),
            f"mean R: {means} ({100 * flat['mean_chance_r']:.3g}); " + queries_and_legend(flat),
            f"k: {int(flat['rerank_k_s2i'])} images for a clip, {int(flat['rerank_k_i2s'])} clips "
            f"for an image; cap: coarse R@k; {int(flat['rerank_passes'])} fusion passes, "
            f"{flat['rerank_passes_per_s']:.1f} passes/s",
        ]
    )


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

    @property
    def cap(self) -> float:
        """Return the share of queries with a right item in their list."""
        return float(self.lists.right.any(axis=1).mean())


def _check_rerank(model, k: int) -> None:
    if k < 1:
        raise ValueError(f"k is {k}, not at least 1")
    if "match" not in model.tasks:
        raise UserError(
            "this model has no matching head, as loss.sim.weight is 0: nothing can be re-ranked; "
            "train one with loss.sim.weight=1, or do not re-rank"
        )


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


def _rankings(
    sides: Sequence[Side],
    pair_numbers: Sequence[np.ndarray],
    fine: np.ndarray,
    temperature: float,
    ids: tuple[np.ndarray, np.ndarray],
) -> dict[str, Metrics]:
    """Compute the metrics of both directions for every way to order the lists.

    Args:
      sides: the directions, that with spoken queries first.
      pair_numbers: for each direction int[Q, k], the number of the pair of each entry of the lists.
      fine: float64[n], the fine scores of the pairs.
      temperature: the model's temperature.
      ids: (speech_image_ids, image_ids) as in `metrics_of_ranks`.

    Returns:
      The fields `reranked`, `summed` and `fused` of `Reranked`.
    """
    scores: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
        "reranked": lambda coarse, match: match,
        "summed": lambda coarse, match: coarse + match,
        "fused": lambda coarse, match: fused_score(coarse, temperature, match),
    }
    return {
        name: metrics_of_ranks(
            *(
                side.reranked(score(side.lists.scores.astype(np.float64), fine[numbers]))
                for side, numbers in zip(sides, pair_numbers, strict=True)
            ),
            *ids,
        )
        for name, score in scores.items()
    }


def rerank(
    model,
    params,
    split,
    data_cfg,
    batch_size: int,
    k: int,
    pair_batch: int | None = None,
    budget: int = BUDGET,
) -> Reranked:
    """Rank a split by embedding, and re-rank the k best items of each query.

    Args:
      model: the joint model, with the task 'match'.
      params: the model's parameters.
      split: a `sir_jax.data.corpus.Split`.
      data_cfg: `config.data`.
      batch_size: rows of an encoder's batch.
      k: length of a list, at least 1; at most the whole gallery is used.
      pair_batch: pairs in a fusion pass; None for `batch_size`.
      budget: bytes of token features on one device at once, see `score_pairs`.

    Returns:
      `Reranked`. Images without a caption occur in the lists of clips but are no queries.

    Raises:
      UserError: the model has no matching head.
      ValueError: k is below 1, or a score is not finite.
    """
    _check_rerank(model, k)
    params = jax.tree.map(jnp.asarray, params)
    with TokenStore() as speech, TokenStore() as images:
        z = embed_split(model, params, split, data_cfg, batch_size, speech.append, images.append)
        vectors = (z.speech, z.image, z.speech_image_ids, z.image_ids)
        ranks = retrieval_ranks(*vectors)
        side_s, side_i = map(Side.of, ranks, coarse_lists(*vectors, k))
        pairs, *pair_numbers = distinct_pairs(
            side_s.lists.items, side_i.queries, side_i.lists.items, len(z.image)
        )
        start = time.monotonic()
        fine, passes = score_pairs(
            model, params, speech, images, pairs, pair_batch or batch_size, budget
        )
        seconds = time.monotonic() - start

    temperature, ids = float(params["temperature"]), vectors[2:]
    return Reranked(
        coarse=metrics_of_ranks(*ranks, *ids),
        **_rankings((side_s, side_i), pair_numbers, fine, temperature, ids),
        k_s2i=side_s.lists.items.shape[1],
        k_i2s=side_i.lists.items.shape[1],
        cap_s2i=side_s.cap,
        cap_i2s=side_i.cap,
        pairs=len(pairs),
        passes=passes,
        seconds=seconds,
    )
