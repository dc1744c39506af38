"""A split embedded and matched once, to be ranked by any weight."""

import dataclasses
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sir_jax.evaluation.ranking import retrieval_ranks
from sir_jax.evaluation.score.lists import Side, coarse_lists, distinct_pairs
from sir_jax.evaluation.score.weight import Candidates
from sir_jax.inference.embed import embed_split
from sir_jax.inference.matching import BUDGET, score_pairs
from sir_jax.inference.score import Scale, Score
from sir_jax.inference.token_store import TokenStore
from sir_jax.losses.fused_score import joint_rows, rivals

Pair = tuple[np.ndarray, np.ndarray]  # of speech, of images


@dataclasses.dataclass(frozen=True)
class Scored:
    """A split's vectors, and the lists of its queries with what the fusion encoder says of them.

    Attributes:
      plain: float32[n, E] each, embeddings alone.
      pooled: float32[n, F] each; None where the model does not pool.
      vectors: float32[n, W] each, by which search ranks; `plain` where nothing is pooled.
      ids: the image id of each caption, and of each image.
      scale: how the vectors were made, and their temperature.
      score: whose `pooled_weight` the vectors hold.
      sides: the directions, that with spoken queries first.
      match: float64[Q, k] each, log-odds of the lists; None where nothing was matched.
      pairs: number of distinct pairs of a clip and an image.
      passes: number of pairs of a window and an image that the fusion encoder read.
      seconds: of the passes, including compilation and reading of tokens.
    """

    plain: Pair
    pooled: Pair | None
    vectors: Pair
    ids: Pair
    scale: Scale
    score: Score
    sides: tuple[Side, Side]
    match: Pair | None = None
    pairs: int = 0
    passes: int = 0
    seconds: float = 0.0

    def candidates(self) -> list[Candidates]:
        """Return the matched lists of both directions, as `fit_weight` takes them."""
        out = []
        for side, odds in zip(self.sides, self.match, strict=True):
            lists = side.lists
            ranks, scores = side.ranks[side.queries], lists.scores.astype(np.float64)
            out.append(Candidates(ranks, scores, odds, lists.right))
        return out

    def results(self, score: Score) -> "Results":
        """Return what people are shown, of both directions, by a score."""
        columns = []
        for side, odds in zip(self.sides, self.match or (None, None), strict=True):
            fused = score.fused(side.lists.scores, self.scale.temperature, odds)
            if fused.shape[1] < 2:  # a list of one has no rival
                continue
            first = np.zeros(fused.shape, bool)
            first[np.arange(len(fused)), fused.argmax(axis=1)] = True
            chances = score.probabilities(fused)
            chances = np.zeros(fused.shape) if chances is None else chances
            found = fused, rivals(fused), side.lists.right, first, chances
            columns.append([x.ravel() for x in found])
        if not columns:
            return Results(*np.zeros((2, 0)), *np.zeros((2, 0), bool), np.zeros(0))
        return Results(*(np.concatenate(column) for column in zip(*columns, strict=True)))


class Results(NamedTuple):
    """The results of all lists, [n] each."""

    scores: np.ndarray  # fused
    others: np.ndarray  # the best other score of the list
    right: np.ndarray
    first: np.ndarray  # whether it is its list's first
    chances: np.ndarray  # calibrated probabilities; 0 without a calibration


def score_split(
    model,
    params,
    split,
    data_cfg,
    batch_size: int,
    k: int,
    choose: Callable[[Pair, Pair | None, Pair], Score],
    pair_batch: int | None = None,
    budget: int = BUDGET,
) -> Scored:
    """Embed a split, list the k best items of each query, and match them where the model can.

    Args:
      model: the joint model, with the tasks 'match' or 'pool' or both.
      params: the model's parameters.
      split: a `sir_jax.data.corpus.Split`.
      data_cfg: `config.data`.
      batch_size: rows of an encoder's batch.
      k: length of a list, at least 1; at most the whole gallery is used.
      choose: returns the score whose `pooled_weight` the vectors get, given embeddings, pooled
        vectors and ids, as in `Scored`.
      pair_batch: pairs in a fusion pass; None for `batch_size`.
      budget: bytes of token features on one device at once, see `score_pairs`.

    Raises:
      ValueError: k is below 1.
    """
    if k < 1:
        raise ValueError(f"k is {k}, not at least 1")
    params, width = jax.tree.map(jnp.asarray, params), model.embed_width
    fused = "match" in model.tasks
    with TokenStore() as speech, TokenStore() as images:
        keep = (speech.append, images.append) if fused else (None, None)
        given = split, data_cfg, batch_size
        z = embed_split(model, params, *given, *keep, finish=np.asarray)
        rows, ids = (z.speech, z.image), (z.speech_image_ids, z.image_ids)
        plain = tuple(joint_rows(part, width, 1.0, 0.0) for part in rows)
        pooled = None
        if model.pooled_width:
            pooled = tuple(joint_rows(x[:, width:], model.pooled_width, 1.0, 0.0) for x in rows)
        score = choose(plain, pooled, ids)
        scale = Scale(params, width, model.pooled_width, score)
        vectors = tuple(map(scale.vectors, rows)) if scale.pooled_weight else plain
        ranks = retrieval_ranks(*vectors, *ids)
        sides = tuple(map(Side.of, ranks, coarse_lists(*vectors, *ids, k)))
        found = plain, pooled, vectors, ids, scale, score, sides
        if not fused:
            return Scored(*found)
        pairs, *numbers = distinct_pairs(
            sides[0].lists.items, sides[1].queries, sides[1].lists.items, len(z.image)
        )
        start = time.monotonic()
        odds, passes = score_pairs(
            model, params, speech, images, pairs, pair_batch or batch_size, budget
        )
        # As `Retriever.match` gives them: search must find the same numbers, to the last digit.
        odds = odds.astype(np.float32).astype(np.float64)
        match = tuple(odds[number] for number in numbers)
        return Scored(*found, match, len(pairs), passes, time.monotonic() - start)
