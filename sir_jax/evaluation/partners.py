"""Minimal pairs: how often a picture, or what is said of it, beats that of its partner.

Partners differ in one attribute of two objects, and their captions are the same words in another
order. R@1 mixes how well they are told apart with how well the rest of the gallery is; this does
not.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from sir_jax.data.builders.spoken_scenes.config import SceneConfig
from sir_jax.data.builders.spoken_scenes.scenes import SWAPS, draw_scenes
from sir_jax.data.corpus import Corpus
from sir_jax.evaluation.score.lists import Side
from sir_jax.evaluation.score.scored import Scored
from sir_jax.inference.score import Score


class Partners(NamedTuple):
    """The minimal pairs of a split."""

    other: Mapping[int, int]  # image id -> image id of its partner
    kind: Mapping[int, str]  # image id -> the attribute that is swapped

    def pair(self, ids: np.ndarray) -> np.ndarray:
        """Return one number a pair, the lower image id of the two, for image ids of any shape."""
        return np.array([min(int(i), self.other[int(i)]) for i in ids])


Hits = dict[str, tuple[np.ndarray, np.ndarray]]  # side -> whether each query hits, its image id


def partners_of(corpus: Corpus, split: str) -> Partners | None:
    """Return the minimal pairs of a split; None where the corpus has none.

    Args:
      corpus: any; spoken_scenes of level `compositional` have pairs.
      split: name of the split.
    """
    builder, _, name = corpus.name.partition("/")
    if builder != "spoken_scenes":
        return None
    scenes = SceneConfig.from_name(name)
    if scenes.level != "compositional":
        return None
    ids = np.unique(corpus.split(split).index["image_id"]).tolist()
    # Splits by other engines have the scenes of 'test'.
    source = split.partition("_")[0]
    drawn = draw_scenes(scenes.level, source, scenes.images(split), scenes.seed)
    # Both members of a pair follow each other.
    other = {i: ids[row ^ 1] for row, i in enumerate(ids)}
    kind = {i: SWAPS[scene.swap] for i, scene in zip(ids, drawn, strict=True)}
    return Partners(other, kind)


def partner_hits(scored: Scored, score: Score, partners: Partners) -> dict[str, Hits]:
    """Tell for every ranking and query whether the right item beats the partner's.

    A clip asks for its picture. A picture asks for the best of its clips, and the best clip of its
    partner is the other one. Equal scores are no hit. What is not in a list that the fusion encoder
    ranks again comes after what is; where neither is, the order of the vectors counts.

    Args:
      scored: from `score_split`.
      score: the model's.
      partners: of the same split.

    Returns:
      By the prefix of a ranking in `evaluation.rerank.SCORINGS` the hits of 's2i' and 'i2s'.
    """
    own, other = _rows_of_partners(scored, partners)
    coarse, joint = (_beats(vectors, own, other) for vectors in (scored.plain, scored.vectors))
    found = {"": coarse}
    if scored.match is None:
        if scored.pooled is not None:
            found |= {"reranked_": _beats(scored.pooled, own, other), "fused_": joint}
    else:
        orders = {
            "reranked_": lambda similarity, odds: odds,
            "fused_": lambda x, odds: score.fused(x, scored.scale.temperature, odds),
        }
        for prefix, order in orders.items():
            found[prefix] = tuple(
                _list_beats(side, order(side.lists.scores, odds), *rows, fallback)
                for side, odds, rows, fallback in zip(
                    scored.sides, scored.match, _listed(scored, own, other), joint, strict=True
                )
            )
        if scored.pooled is not None:
            found["pooled_"] = joint
    ids_s, ids_i = scored.ids
    return {
        prefix: {"s2i": (hits[0], ids_s), "i2s": (hits[1], ids_i)} for prefix, hits in found.items()
    }


def partner_metrics(hits: Mapping[str, Hits], partners: Partners) -> dict[str, float]:
    """Return partner accuracy of every ranking, both ways and by what is swapped.

    Args:
      hits: of `partner_hits`.
      partners: of the same split.

    Returns:
      After the ranking's prefix: s2i_partner, i2s_partner, mean_partner, and the mean of each
      kind as mean_partner_colour.
    """
    flat = {}
    for prefix, sides in hits.items():
        rates = {side: float(hit.mean()) for side, (hit, _) in sides.items()}
        rates["mean"] = sum(rates.values()) / len(rates)
        flat |= {f"{prefix}{side}_partner": rate for side, rate in rates.items()}
        for kind in SWAPS:
            parts = [
                hit[np.array([partners.kind[int(i)] == kind for i in ids])]
                for hit, ids in sides.values()
            ]
            if all(map(len, parts)):
                mean = float(np.mean([part.mean() for part in parts]))
                flat[f"{prefix}mean_partner_{kind}"] = mean
    return flat


def _rows_of_partners(scored: Scored, partners: Partners) -> tuple[np.ndarray, np.ndarray]:
    """Return for each clip the row of its image, and of its image's partner."""
    row = {int(i): number for number, i in enumerate(scored.ids[1])}
    own = np.array([row[int(i)] for i in scored.ids[0]])
    other = np.array([row[partners.other[int(i)]] for i in scored.ids[0]])
    return own, other


def _beats(vectors, own: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compare by products of vectors: of each clip, and of each image the best clip."""
    z_s, z_i = (x.astype(np.float64) for x in vectors)
    right = np.einsum("se,se->s", z_s, z_i[own])
    wrong = np.einsum("se,se->s", z_s, z_i[other])
    best = np.full((2, len(z_i)), -np.inf)
    np.maximum.at(best[0], own, right)
    # A clip is its partner's wrong answer.
    np.maximum.at(best[1], other, wrong)
    return right > wrong, best[0] > best[1]


def _listed(scored: Scored, own: np.ndarray, other: np.ndarray):
    """Return for the lists of clips and of images which entries are the partner's, bool [Q, k]."""
    side_s, side_i = scored.sides
    of_clips = side_s.lists.items == other[side_s.queries][:, None]
    of_images = other[side_i.lists.items] == side_i.queries[:, None]
    return (of_clips,), (of_images,)


def _list_beats(side: Side, scores, of_partner: np.ndarray, fallback: np.ndarray) -> np.ndarray:
    """Compare the best right entry of each list with the partner's best one."""
    right = np.where(side.lists.right, scores, -np.inf).max(axis=1)
    wrong = np.where(of_partner, scores, -np.inf).max(axis=1)
    hits = fallback.copy()
    listed = np.isfinite(right) | np.isfinite(wrong)
    hits[side.queries[listed]] = (right > wrong)[listed]
    return hits
