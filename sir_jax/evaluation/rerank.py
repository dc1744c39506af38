"""Coarse to fine: the best by embedding, ranked again by the fusion encoder's match score.

A query's list is its k best items by the coarse scores of `ranking`; of equal ones, wrong items
first. An item's fine score is the log-odds that it matches (ALBEF, arXiv 2107.07651, ranks by the
logit of 'they match' alone), the summed score fine plus coarse (BLIP, arXiv 2201.12086).

A clip of several windows (see `embed`) matches as well as its windows do on average: the pair's
fine score is the mean of theirs.

Ranks follow `ranking`: the best right item's, from 1, wrong items of equal score before it. A query
whose list has no right item keeps its coarse rank: what is not in the list stays behind it in
coarse order. So R@j after re-ranking is never above the coarse R@k, for any j up to k.
"""

import dataclasses
import time
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from sir_jax.errors import UserError
from sir_jax.evaluation.ranking import (
    RECALL_AT,
    Metrics,
    aligned,
    metrics_of_ranks,
    retrieval_ranks,
)
from sir_jax.inference.embed import embed_split
from sir_jax.inference.matching import BUDGET, score_pairs
from sir_jax.inference.token_store import TokenStore

# The kinds of ranking with the prefix of their numbers and their title in the table.
SCORINGS = (("", "coarse"), ("reranked_", "re-ranked"), ("summed_", "summed"))


@dataclasses.dataclass(frozen=True)
class Reranked:
    """Hold the three rankings of one split with what caps them and what they cost."""

    coarse: Metrics
    reranked: Metrics
    summed: Metrics
    k_s2i: int  # images in a clip's list
    k_i2s: int  # clips in an image's list
    cap_s2i: float  # share of queries with a right item in their list: the coarse R@k
    cap_i2s: float
    pairs: int  # distinct pairs of a clip and an image
    passes: int  # pairs of a window and an image that the fusion encoder read
    seconds: float  # of these passes, reading of tokens and compilation included

    @property
    def passes_per_s(self) -> float:
        """Return fusion passes in a second, compilation included."""
        return self.passes / self.seconds

    def flat(self) -> dict[str, float]:
        """Return every number under one name; the coarse ones are named as `Metrics.flat` does."""
        flat = {
            f"{prefix}{name}": value
            for (prefix, _), metrics in zip(
                SCORINGS, (self.coarse, self.reranked, self.summed), strict=True
            )
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
        """Return the printed table; see `format_reranked`."""
        return format_reranked(self.flat())


def format_reranked(flat: Mapping[str, float]) -> str:
    """Lay out `Reranked.flat()`: the three rankings of a direction below each other.

    Args:
      flat: the dictionary of `Reranked.flat`, possibly read back from JSON.

    Returns:
      Lines joined by newlines; recalls, chances and caps in percent.
    """
    fewest, most = int(flat["captions_per_image_min"]), int(flat["captions_per_image_max"])
    captions = str(fewest) if fewest == most else f"{fewest}-{most}"

    def recalls(prefix: str, side: str) -> list[str]:
        pairs = ((flat[f"{prefix}{side}_r{k}"], flat[f"{side}_chance_r{k}"]) for k in RECALL_AT)
        return [f"{100 * value:.1f} ({100 * chance:.3g})" for value, chance in pairs]

    head = ["", "", "gallery", "captions/image", *(f"R@{k} %" for k in RECALL_AT)]
    rows = [[*head, "cap %", "median rank"]]
    for side, title, unit in (
        ("s2i", "speech->image", "images"),
        ("i2s", "image->speech", "clips"),
    ):
        gallery = f"{int(flat[f'{side}_gallery'])} {unit}"
        for prefix, kind in SCORINGS:
            cap = f"{100 * flat[f'rerank_cap_{side}']:.1f}" if prefix else ""
            rank = flat[f"{prefix}{side}_median_rank"]
            rank = f"{rank:g} ({flat[f'{side}_chance_median_rank']:g})"
            rows.append([title, kind, gallery, captions, *recalls(prefix, side), cap, rank])
    both = f"{int(flat['s2i_gallery'])} / {int(flat['i2s_gallery'])}"
    for prefix, kind in SCORINGS:
        rows.append(["mean of both", kind, both, captions, *recalls(prefix, "mean"), "", ""])
    means = ", ".join(f"{kind} {100 * flat[f'{prefix}mean_r']:.1f} %" for prefix, kind in SCORINGS)
    return "\n".join(
        [
            *aligned(rows, left=2),
            f"mean R: {means} ({100 * flat['mean_chance_r']:.3g}); "
            f"{int(flat['s2i_queries'])} spoken and {int(flat['i2s_queries'])} image queries; "
            "in brackets: chance",
            f"k: {int(flat['rerank_k_s2i'])} images for a clip, "
            f"{int(flat['rerank_k_i2s'])} clips for "
            f"an image; cap: coarse R@k; {int(flat['rerank_passes'])} fusion passes, "
            f"{flat['rerank_passes_per_s']:.1f} passes/s",
        ]
    )


@dataclasses.dataclass(frozen=True)
class Lists:
    """Hold the k best items of each query, best first."""

    items: np.ndarray  # int64[Q, k], columns of the gallery
    scores: np.ndarray  # float32[Q, k], coarse
    right: np.ndarray  # bool[Q, k]


# A candidate is one integer, so that lists are merged by comparing integers: the score in the upper
# 32 bits, as an integer in the same order; then 1 for a wrong item; then 31 bits of the item's
# number, the lower the better.
_LAST = (1 << 31) - 1


def _keys(scores: np.ndarray, right: np.ndarray, items: np.ndarray) -> np.ndarray:
    bits = scores.view(np.int32).astype(np.int64)
    ordered = np.where(bits < 0, -(1 << 31) - bits, bits)  # both zeros are 0
    return (ordered << 32) | (~right).astype(np.int64) << 31 | (_LAST - items)


def _lists(keys: np.ndarray) -> Lists:
    keys = -np.sort(-keys, axis=1)
    ordered = keys >> 32
    bits = np.where(ordered < 0, -(1 << 31) - ordered, ordered).astype(np.int32)
    return Lists(
        items=_LAST - (keys & _LAST), scores=bits.view(np.float32), right=(keys >> 31 & 1) == 0
    )


def _best(known: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Keep as many of the largest keys of each row as `known` has columns."""
    k = known.shape[1]
    return np.partition(np.concatenate([known, new], axis=1), new.shape[1], axis=1)[:, -k:]


def coarse_lists(
    z_s: np.ndarray,
    z_i: np.ndarray,
    speech_image_ids: np.ndarray,
    image_ids: np.ndarray,
    k: int,
    chunk: int = 1024,
) -> tuple[Lists, Lists]:
    """Find the k best of each clip and each image, by the scores of `ranking.retrieval_ranks`.

    Args:
      z_s: float[Ns, E], spoken captions.
      z_i: float[Ni, E], images.
      speech_image_ids: int[Ns], the image that each caption describes.
      image_ids: int[Ni].
      k: at least 1; more than the gallery counts as the gallery.
      chunk: rows and columns of a tile; the result does not depend on it.

    Returns:
      The lists of all clips [Ns, k], and of all images [Ni, k], those without a caption too.
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
            best_s[rows] = _best(best_s[rows], _keys(scores, right, columns[None, :]))
            best_i[columns] = _best(best_i[columns], _keys(scores, right, rows[:, None]).T)
    return _lists(best_s), _lists(best_i)


def reranked_ranks(coarse_ranks: np.ndarray, scores: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Rank each query's best right item after its list was ranked again.

    Args:
      coarse_ranks: int[Q], from 1.
      scores: float[Q, k], the new scores of each list, in any order.
      right: bool[Q, k].

    Returns:
      int[Q] from 1: among the list where it has a right item, wrong ones of equal score going
      first; else the coarse rank.

    Raises:
      ValueError: a score is not finite; NaN would be ranked first.
    """
    if not np.isfinite(scores).all():
        raise ValueError("match scores hold a value that is not finite")
    best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
    ranks = 1 + (~right & (scores >= best)).sum(axis=1)
    return np.where(right.any(axis=1), ranks, coarse_ranks)


def _ranked_again(
    ranks: np.ndarray, asked: np.ndarray, lists: Lists, scores: np.ndarray
) -> np.ndarray:
    """Return `reranked_ranks` for the queries that have a list, and 0 for the others."""
    again = np.zeros_like(ranks)
    again[asked] = reranked_ranks(ranks[asked], scores, lists.right)
    return again


def _check_rerank(model, k: int) -> None:
    if k < 1:
        raise ValueError(f"k is {k}, not at least 1")
    if "match" not in model.tasks:
        raise UserError(
            "this model has no matching head, as loss.sim.weight is 0: nothing can be re-ranked; "
            "train with --config.loss.sim.weight=1, or leave --rerank at 0"
        )


def distinct_pairs(
    speech_items: np.ndarray, image_rows: np.ndarray, image_items: np.ndarray, images: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Collect the pairs of both directions' lists, each once.

    Args:
      speech_items: int[Ns, k], images in the list of each clip.
      image_rows: int[Q], the images that are queries.
      image_items: int[Q, k'], clips in the list of each of them.
      images: how many there are.

    Returns:
      int[n, 2], (clip, image); and the place in it of each entry of `speech_items` and of
      `image_items`, in their shapes.
    """
    from_speech = np.arange(len(speech_items))[:, None] * images + speech_items
    from_images = image_items * images + image_rows[:, None]
    codes, places = np.unique(
        np.concatenate([from_speech.ravel(), from_images.ravel()]), return_inverse=True
    )
    in_speech, in_images = np.split(places, [from_speech.size])
    return (
        np.stack(np.divmod(codes, images), axis=1),
        in_speech.reshape(from_speech.shape),
        in_images.reshape(from_images.shape),
    )


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
    """Rank a split by embedding, then the k best of each query by the fusion encoder.

    Args:
      model: the joint model, with the task 'match'.
      params: its parameters.
      split: a `sir_jax.data.corpus.Split`.
      data_cfg: `config.data`.
      batch_size: rows of an encoder's batch.
      k: items of a list, at least 1; more than the gallery counts as the gallery.
      pair_batch: pairs in a fusion pass; None for `batch_size`.
      budget: see `score_pairs`.

    Returns:
      `Reranked`. Images without a caption are in the lists of clips, and have none themselves.

    Raises:
      UserError: the model cannot match.
      ValueError: k is below 1, or a score is not finite.
    """
    _check_rerank(model, k)
    params = jax.tree.map(jnp.asarray, params)
    with TokenStore() as speech, TokenStore() as images:
        z = embed_split(model, params, split, data_cfg, batch_size, speech.append, images.append)
        vectors = (z.speech, z.image, z.speech_image_ids, z.image_ids)
        rank_s, rank_i = retrieval_ranks(*vectors)
        lists_s, lists_i = coarse_lists(*vectors, k)
        asked = np.flatnonzero(rank_i)
        lists_i = Lists(lists_i.items[asked], lists_i.scores[asked], lists_i.right[asked])
        pairs, in_s, in_i = distinct_pairs(lists_s.items, asked, lists_i.items, len(z.image))
        start = time.monotonic()
        fine, passes = score_pairs(
            model, params, speech, images, pairs, pair_batch or batch_size, budget
        )
        seconds = time.monotonic() - start

    def metrics(weight: int) -> Metrics:
        """Rank the lists by fine + weight * coarse scores."""
        new_s = reranked_ranks(rank_s, fine[in_s] + weight * lists_s.scores, lists_s.right)
        new_i = _ranked_again(rank_i, asked, lists_i, fine[in_i] + weight * lists_i.scores)
        return metrics_of_ranks(new_s, new_i, *vectors[2:])

    return Reranked(
        coarse=metrics_of_ranks(rank_s, rank_i, *vectors[2:]),
        reranked=metrics(0),
        summed=metrics(1),
        k_s2i=lists_s.items.shape[1],
        k_i2s=lists_i.items.shape[1],
        cap_s2i=float(lists_s.right.any(axis=1).mean()),
        cap_i2s=float(lists_i.right.any(axis=1).mean()),
        pairs=len(pairs),
        passes=passes,
        seconds=seconds,
    )
