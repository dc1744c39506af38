"""Queries of an index: what kind they are of, and the second look at what they found."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from sir_jax.errors import UserError
from sir_jax.index.folder import KINDS, kind_of

OTHER = {"image": "speech", "speech": "image"}


class Hit(NamedTuple):
    """Something that was found.

    Attributes:
      id: of the item.
      score: inner product with the query, -1 to 1.
      match: log-odds that speech and picture belong together; None without re-ranking.
    """

    id: str
    score: float
    match: float | None = None


def kind_of_content(content, of: str | None = None) -> str | None:
    """Return what an item is, by its type or its suffix.

    Args:
      content: what `Retriever.encode_image` or `encode_speech` take.
      of: for what does not say it (bytes, a path without a known suffix).

    Returns:
      'image' or 'speech', None where nothing tells.
    """
    if isinstance(content, Image.Image | np.ndarray):
        return "image"
    if isinstance(content, tuple | Mapping):
        return "speech"
    if isinstance(content, str | os.PathLike):
        return kind_of(content) or of
    return of


def group_queries(queries: Sequence, of: str | None) -> dict[tuple[str, str], list[int]]:
    """Sort queries by what they are and what they look for.

    Args:
      queries: see `Index.search`.
      of: what to find; None for the other kind than the query's.

    Returns:
      (kind of the query, kind to find) -> places in the list.

    Raises:
      UserError: a query does not say what it is.
    """
    groups: dict[tuple[str, str], list[int]] = {}
    for place, query in enumerate(queries):
        kind = kind_of_content(query, of and OTHER[of])
        if kind is None:
            what = f"{len(query)} bytes" if isinstance(query, bytes) else repr(query)
            raise UserError(
                f"query {place} ({what}) does not say whether it is a recording or a picture; "
                "add of='image' to find pictures or of='speech' to find recordings"
            )
        groups.setdefault((kind, of or OTHER[kind]), []).append(place)
    return groups


def check_search(k: int, rerank: int, of: str | None) -> None:
    """Refuse options that no search can follow.

    Raises:
      UserError: see `Index.search`.
    """
    if k < 1:
        raise UserError(f"k is {k}; give 1 or more")
    if rerank and rerank < k:
        raise UserError(f"rerank is {rerank}, below k={k}; re-rank at least k results, or 0")
    if of not in (None, *KINDS):
        raise UserError(f"of={of!r} is none of {', '.join(KINDS)}")


def rerank_hits(
    model, query, kind: str, hits: list[Hit], path_of: Callable[[str], Path]
) -> list[Hit]:
    """Order hits by embedding and fusion encoder together; equal ones keep their order.

    The key is score / temperature + match: both are log-odds up to a constant, the first as the
    contrastive softmax was trained to weigh scores. So a weak matching head cannot undo what the
    embedding knows.

    Args:
      model: a `Retriever` with a matching head.
      query: a recording or a picture.
      kind: of the query.
      hits: of the other kind.
      path_of: returns the file of an id.

    Returns:
      The hits with `match`, best first.

    Raises:
      UserError: the model has no matching head, or a file cannot be read.
    """
    paths = [path_of(hit.id) for hit in hits]
    speech, image = ([query], paths) if kind == "speech" else (paths, [query])
    match = model.match(speech, image)
    scores = np.array([hit.score for hit in hits])
    order = np.argsort(-(scores / model.temperature + match), kind="stable")
    return [hits[n]._replace(match=float(match[n])) for n in order]
