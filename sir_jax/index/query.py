"""Queries of an index: their kind, and the re-ranking of their hits."""

import operator
import os
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from PIL import Image

from sir_jax.data.media.synthesis.said import Said
from sir_jax.errors import UserError
from sir_jax.index.folder import KINDS, kind_of_file

OTHER = {"image": "speech", "speech": "image"}
# Called with an id and its file.
Cut = Callable[[str, Path], Any]


def whole(_: str, path: Path) -> Path:
    """Return a file as it is."""
    return path


class Hit(NamedTuple):
    """An item that a search returns.

    Attributes:
      id: the item's name in the index.
      score: inner product of the item's vector and the query's, -1 to 1.
      match: log-odds that speech and picture match; None without re-ranking, or a file to read.
    """

    id: str
    score: float
    match: float | None = None


def kind_of_content(content, of: str | None = None) -> str | None:
    """Return the kind of an item by its type, or by what its file holds and its suffix.

    Args:
      content: an item that `Retriever.encode_image` or `encode_speech` takes.
      of: the kind of content that shows none: bytes, or a path that tells nothing.

    Returns:
      'image' or 'speech'; None if the kind is unknown.

    Example:
      >>> kind_of_content("hello.wav"), kind_of_content(b"RIFF"), kind_of_content(b"RIFF", "speech")
      ('speech', None, 'speech')
    """
    if isinstance(content, Image.Image | np.ndarray):
        return "image"
    if isinstance(content, tuple | Mapping | Said) or hasattr(content, "get_all_samples"):
        return "speech"
    if isinstance(content, str | os.PathLike):
        return kind_of_file(content) or of
    return of


def group_queries(queries: Sequence, of: str | None) -> dict[tuple[str, str], list[int]]:
    """Group queries by their kind and the kind of item that they search for.

    Args:
      queries: recordings and pictures in any form that `Index.search` takes.
      of: the kind to search for; None for pictures if the query is a recording, and the reverse.

    Returns:
      (kind of the query, kind to search for) -> positions in `queries`.

    Raises:
      UserError: the kind of a query is unknown.
    """
    groups: dict[tuple[str, str], list[int]] = {}
    for position, query in enumerate(queries):
        kind = kind_of_content(query, of and OTHER[of])
        if kind is None:
            label = f"{len(query)} bytes" if isinstance(query, bytes) else repr(query)
            raise UserError(
                f"query {position} ({label}) does not say whether it is a recording or a picture; "
                "add of='image' to find pictures or of='speech' to find recordings"
            )
        groups.setdefault((kind, of or OTHER[kind]), []).append(position)
    return groups


def check_search(k: int, rerank: int, of: str | None) -> tuple[int, int]:
    """Check the options of `Index.search`; return `k` and `rerank` as Python's integers.

    Raises:
      UserError: `k` is no whole number from 1 up, `rerank` is below `k`, or `of` is not a kind.
    """
    k, rerank = whole_number("k", k), whole_number("rerank", rerank)
    if k < 1:
        raise UserError(f"k is {k}; give 1 or more")
    if rerank and rerank < k:
        raise UserError(f"rerank is {rerank}, below k={k}; re-rank at least k results, or 0")
    if of not in (None, *KINDS):
        raise UserError(f"of={of!r} is none of {', '.join(KINDS)}")
    return k, rerank


def whole_number(name: str, value: Any) -> int:
    """Return a whole number of NumPy, JAX or Python as Python's.

    Raises:
      UserError: it is none.
    """
    try:
        return operator.index(value)
    except TypeError:
        raise UserError(f"{name} is {value!r}; give a whole number") from None


def plain_queries(query: Any) -> Any:
    """Return queries in the forms that the rest knows: NumPy instead of other arrays, lists.

    Args:
      query: what `Index.search` was given: besides its own forms, an array of JAX or PyTorch, an
        array of paths, or a list of vectors or of numbers.

    Returns:
      The same query; vectors as float32[E] or float32[n, E].

    Raises:
      UserError: the vectors of a list differ in length.

    Example:
      >>> plain_queries(np.array(["a.png", "b.png"]))
      ['a.png', 'b.png']
      >>> plain_queries([np.ones(2), np.zeros(2)])
      array([[1., 1.],
             [0., 0.]], dtype=float32)
    """
    query = _as_numpy(query)
    if isinstance(query, list) and query:
        query = [_as_numpy(item) for item in query]
        if all(_is_float(item) and item.ndim == 1 for item in query):
            if len({len(item) for item in query}) > 1:
                raise UserError("vectors of different lengths; encode all with one model")
            query = np.stack(query)
    if isinstance(query, np.ndarray) and query.dtype.kind in "UO":
        return query.tolist()
    if _is_float(query) and query.ndim in (1, 2):
        with np.errstate(over="ignore"):  # too large is not finite, which is refused
            return query.astype(np.float32)
    return query


def _as_numpy(content: Any) -> Any:
    """Return an array of another library, or a list of numbers, as NumPy's; the rest as it is."""
    if isinstance(content, list) and content and all(isinstance(x, Real) for x in content):
        return np.array(content, np.float64)
    known = isinstance(content, Image.Image | np.ndarray | np.generic)
    return np.asarray(content) if hasattr(content, "__array__") and not known else content


def _is_float(content: Any) -> bool:
    # JAX's knows bfloat16, too.
    return isinstance(content, np.ndarray) and jnp.issubdtype(content.dtype, jnp.floating)


def rerank_hits(
    model, query, kind: str, hits: list[Hit], path_of: Callable[[str], Path], cut: Cut = whole
) -> list[Hit]:
    """Order hits by the fused score of score and match; equal ones keep their order.

    Args:
      model: a `Retriever` with a matching head.
      query: a recording or a picture.
      kind: the query's kind, 'speech' or 'image'.
      hits: items of the other kind.
      path_of: returns the file of an id.
      cut: returns the part of it that is matched.

    Returns:
      The hits with `match` set, best first.

    Raises:
      UserError: the model has no matching head, or a file cannot be read.
    """
    paths = [cut(hit.id, path_of(hit.id)) for hit in hits]
    speech, image = ([query], paths) if kind == "speech" else (paths, [query])
    match = model.match(speech, image)
    scores = np.array([hit.score for hit in hits])
    fused = model.score.fused(scores, model.temperature, match)
    order = np.argsort(-fused, kind="stable")
    return [hits[n]._replace(match=float(match[n])) for n in order]


def probabilities(model, hits: Sequence[Hit]) -> list[float | None]:
    """Return how probable it is that each hit belongs to its query, as far as the model knows.

    Args:
      model: a `Retriever`, or None.
      hits: of one search.

    Returns:
      The calibrated probability by everything that a hit is ranked by. None where the model has no
      calibration, or there is no other hit to compare with; of a model with a matching head, also
      where a hit was not matched.
    """
    found: list[float | None] = [None] * len(hits)
    if model is None:
        return found
    known = [n for n, hit in enumerate(hits) if hit.match is not None or not model.can_match]
    match = [hits[n].match for n in known] if model.can_match else None
    if known:
        chances = model.probability([hits[n].score for n in known], match)
        for n, chance in zip(known, () if chances is None else chances, strict=False):
            found[n] = float(chance)
    return found
