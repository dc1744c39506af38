"""Coarse to fine: the best by embedding, ranked again by the fusion encoder's match score.

A query's list is its k best items by the coarse scores of `ranking`; of equal ones, wrong items
first. An item's fine score is the log-odds that it matches. The list is ordered in three ways:

- fused, by `losses.fused_score`: the order that `Index.search` and the page show;
- re-ranked, by the fine score alone (ALBEF, arXiv 2107.07651);
- summed, by fine plus coarse score (BLIP, arXiv 2201.12086).

A clip of several windows (see `embed`) matches as well as its windows do on average: the pair's
fine score is the mean of theirs.

Ranks follow `ranking`: the best right item's, from 1, wrong items of equal score before it. A query
whose list has no right item keeps its coarse rank: what is not in the list stays behind it in
coarse order. So R@j after re-ranking is never above the coarse R@k, for any j up to k.
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
    Metrics,
    align_columns,
    metrics_of_ranks,
    retrieval_ranks,
)
from sir_jax.inference.embed import embed_split
from sir_jax.inference.matching import BUDGET, score_pairs
from sir_jax.inference.token_store import TokenStore
from sir_jax.losses.fused_score import fused_score

# The kinds of ranking with the prefix of their numbers and their title in the table.
SCORINGS = (
    ("", "coarse"),
    ("reranked_", "re-ranked"),
    ("summed_", "summed"),
    ("fused_", "fused, as search"),
)


@dataclasses.dataclass(frozen=True)
class Reranked:
    """Hold the rankings of one split with what caps them and what they cost."""

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
    seconds: float  # of these passes, reading of tokens and compilation included

    @property
    def passes_per_s(self) -> float:
        """Return fusion passes in a second, compilation included."""
        return self.passes / self.seconds

    def flat(self) -> dict[str, float]:
        """Return every number under one name; the coarse ones are named as `Metrics.flat` does."""
        rankings = (self.coarse, self.reranked, self.summed, self.fused)
        flat = {
            f"{prefix}{name}": value
            for (prefix, _), metrics in zip(SCORINGS, rankings, strict=True)
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
    """Lay out `Reranked.flat()`: the rankings of a direction below each other.

    Args:
      flat: the dictionary of `Reranked.flat`, possibly read back from JSON; an old one lacks a
        ranking, which is left out.

    Returns:
      Lines joined by newlines; recalls, chances and caps in percent.
    """
    fewest, most = int(flat["captions_per_image_min"]), int(flat["captions_per_image_max"])
    captions = str(fewest) if fewest == most else f"{fewest}-{most}"
    scorings = [(prefix, kind) for prefix, kind in SCORINGS if f"{prefix}mean_r" in flat]

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
        for prefix, kind in scorings:
            cap = f"{100 * flat[f'rerank_cap_{side}']:.1f}" if prefix else ""
            rank = flat[f"{prefix}{side}_median_rank"]
            rank = f"{rank:g} ({flat[f'{side}_chance_median_rank']:g})"
            rows.append([title, kind, gallery, captions, *recalls(prefix, side), cap, rank])
    both = f"{int(flat['s2i_gallery'])} / {int(flat['i2s_gallery'])}"
    for prefix, kind in scorings:
        rows.append(["mean of both", kind, both, captions, *recalls(prefix, "mean"), "", ""])
    means = ", ".join(f"{kind} {100 * flat[f'{prefix}mean_r']:.1f} %" for prefix, kind in scorings)
    return "\n".join(
        [
            *align_columns(rows, left=2),
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


@dataclasses.dataclass(frozen=True)
class Side:
    """Hold one direction: the coarse rank of every query, and the lists of those that have one."""

    ranks: np.ndarray  # int64[Q], 0 for a query without a right item
    asked: np.ndarray  # int64[A], the other queries
    lists: Lists  # of these

    @classmethod
    def of(cls, ranks: np.ndarray, lists: Lists) -> "Side":
        """Leave out the lists of queries without a right item."""
        asked = np.flatnonzero(ranks)
        return cls(ranks, asked, Lists(lists.items[asked], lists.scores[asked], lists.right[asked]))

    def ranked_again(self, scores: np.ndarray) -> np.ndarray:
        """Return `reranked_ranks` for the queries that have a list, and 0 for the others.

        Args:
          scores: float[A, k], the new scores of the lists.
        """
        again = np.zeros_like(self.ranks)
        again[self.asked] = reranked_ranks(self.ranks[self.asked], scores, self.lists.right)
        return again

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


def _rankings(
    sides: Sequence[Side],
    places: Sequence[np.ndarray],
    fine: np.ndarray,
    temperature: float,
    ids: tuple[np.ndarray, np.ndarray],
) -> dict[str, Metrics]:
    """Rank both directions by every score of a pair.

    Args:
      sides: of clips, of images.
      places: int[A, k] each, the pair of each entry of a side's lists.
      fine: float64[n], of the pairs.
      temperature: of the model.
      ids: see `metrics_of_ranks`.

    Returns:
      The fields of `Reranked` besides `coarse`.
    """
    scores: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
        "reranked": lambda coarse, match: match,
        "summed": lambda coarse, match: coarse + match,
        "fused": lambda coarse, match: fused_score(coarse, temperature, match),
    }
    return {
        name: metrics_of_ranks(
            *(
                side.ranked_again(score(side.lists.scores.astype(np.float64), fine[place]))
                for side, place in zip(sides, places, strict=True)
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
        ranks = retrieval_ranks(*vectors)
        side_s, side_i = map(Side.of, ranks, coarse_lists(*vectors, k))
        pairs, *places = distinct_pairs(
            side_s.lists.items, side_i.asked, side_i.lists.items, len(z.image)
        )
        start = time.monotonic()
        fine, passes = score_pairs(
            model, params, speech, images, pairs, pair_batch or batch_size, budget
        )
        seconds = time.monotonic() - start

    return Reranked(
        coarse=metrics_of_ranks(*ranks, *vectors[2:]),
        **_rankings((side_s, side_i), places, fine, float(params["temperature"]), vectors[2:]),
        k_s2i=side_s.lists.items.shape[1],
        k_i2s=side_i.lists.items.shape[1],
        cap_s2i=side_s.cap,
        cap_i2s=side_i.cap,
        pairs=len(pairs),
        passes=passes,
        seconds=seconds,
    )
