"""Rank a gallery whose long recordings stand for their best window."""

from collections.abc import Iterable

import numpy as np

from sir_jax.data.media.audio import SAMPLE_RATE, load_span
from sir_jax.errors import UserError
from sir_jax.index.engines.searcher import Searcher
from sir_jax.index.gallery import Gallery
from sir_jax.index.moments.store import Moment
from sir_jax.index.query import Hit, group_queries, plain_queries


def find_hits(
    gallery: Gallery, searcher: Searcher, z: np.ndarray, k: int, way: str, samples: np.ndarray
) -> list[list[Hit]]:
    """Find the best items for each query.

    Args:
      gallery: the items.
      searcher: of the gallery's vectors.
      z: float32[n, E].
      k: most hits.
      way: see `Searcher.search`.
      samples: likewise.

    Returns:
      The hits of each query, best first; items of one score in the gallery's order.
    """
    moments = gallery.moments
    if moments is None:
        result = searcher.search(z, k, way, samples)
        pairs = zip(result.rows, result.scores, strict=True)
        return [_hits(gallery, zip(rows, scores, strict=True)) for rows, scores in pairs]
    long = np.array([gallery.rows[name] for name in moments.ids])
    result = searcher.search(z, k + len(long), way, samples)
    out = []
    best = moments.best(z)
    for rows, scores, own in zip(result.rows, result.scores, best, strict=True):
        rows, scores = np.asarray(rows), np.asarray(scores)
        # The mean of an hour's windows means nothing: it does not compete.
        whole = ~np.isin(rows, long)
        rows, scores = np.append(rows[whole], long), np.append(scores[whole], own)
        order = np.lexsort((rows, -scores))[:k]
        out.append(_hits(gallery, zip(rows[order], scores[order], strict=True)))
    return out


def encode(model, items: list, kind: str) -> np.ndarray:
    """Return the vectors of recordings ('speech') or pictures ('image')."""
    return (model.encode_speech if kind == "speech" else model.encode_image)(items)


def moments_of(index, query, ids: Iterable[str], k: int) -> dict[str, list[Moment]]:
    """Find where in long recordings a query is heard best, see `Index.moments`."""
    query = plain_queries(query)
    if not (isinstance(query, np.ndarray) and query.dtype == np.float32 and query.ndim == 1):
        if index.model is None:
            raise UserError("the index was loaded without a model; Index.load(folder, model)")
        ((kind, _),) = group_queries([query], None)
        query = encode(index.model, [query], kind)[0]
    found, typical = index.recordings.moments, None
    if index.model is not None:
        typical = index.model.score.typical
    return {name: found.of(name, query, k, typical) if found else [] for name in ids}


def cut_moment(gallery: Gallery, z: np.ndarray, name: str, path):
    """Return a recording's best moment as (samples, rate); a short one, or a picture, as it is.

    Args:
      gallery: that holds the item.
      z: float32[E], the query.
      name: of the item.
      path: its file.
    """
    if gallery.moments is None or not (best := gallery.moments.of(name, z, 1)):
        return path
    return load_span(path, None, best[0].start, best[0].end), SAMPLE_RATE


def _hits(gallery: Gallery, pairs) -> list[Hit]:
    return [Hit(gallery.ids[row], float(score)) for row, score in pairs]
