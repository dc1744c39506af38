"""Match scores of many pairs: the fusion encoder over token features that lie in files."""

import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from sir_jax.inference.embed import fetched, placement
from sir_jax.inference.token_store import Chunk, TokenStore, plan_both
from sir_jax.losses.matching import match_score
from sir_jax.models import Encoded
from sir_jax.runtime.distributed import place, run_together

BUDGET = 512 << 20  # bytes of token features on a device at once
MULTIPLE = 64  # tokens; windows of up to 20 s at 50 Hz then have at most 16 lengths


def window_passes(
    speech_owners: np.ndarray, image_owners: np.ndarray, pairs: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Spell out each pair as its clip's windows with its image.

    Args:
      speech_owners: int[W], the clip of each entry of the speech store.
      image_owners: int[Ni], the image of each entry of the image store.
      pairs: int[n, 2], (clip, image).

    Returns:
      int[passes] each: the pair, the entry of the speech store, that of the image store.
    """
    by_clip = np.argsort(speech_owners, kind="stable")
    counts = np.bincount(speech_owners)
    first = np.cumsum(counts) - counts
    times = counts[pairs[:, 0]]
    pair = np.repeat(np.arange(len(pairs)), times)
    nth = np.arange(len(pair)) - np.repeat(np.cumsum(times) - times, times)
    return pair, by_clip[first[pairs[pair, 0]] + nth], np.argsort(image_owners)[pairs[pair, 1]]


def score_pairs(
    model,
    params,
    speech: TokenStore,
    images: TokenStore,
    pairs: np.ndarray,
    batch_size: int,
    budget: int = BUDGET,
    multiple: int = MULTIPLE,
) -> tuple[np.ndarray, int]:
    """Ask the fusion encoder of each pair whether it matches.

    Windows and images are cut into chunks (`tokens.plan_both`). A chunk of windows goes to the
    device once, and for it each chunk of images; their pairs are gathered there in batches of one
    size. One program is compiled for each length of a window's chunk. On a mesh each device has the
    chunks whole and a part of each batch.

    Args:
      model: with the task 'match'.
      params: its parameters.
      speech: the windows' tokens; their owners are clips 0, 1, ...
      images: the images' tokens, one entry each; their owners are images 0, 1, ...
      pairs: int[n, 2], (clip, image), each once.
      batch_size: pairs in a fusion pass.
      budget: bytes of tokens on one device at once; what a batch needs comes on top.
      multiple: windows are padded to a multiple of so many tokens.

    Returns:
      Log-odds that each pair matches, float64[n], the mean over the clip's windows; and how many
      windows met an image.
    """
    params = jax.tree.map(jnp.asarray, params)
    split, whole, parts = placement(params)
    rows = -(-batch_size // parts) * parts
    score = jit_score(model, split, whole)
    plan_s, plan_i = plan_both(
        speech.lengths, speech.token_bytes, images.lengths, images.token_bytes, multiple, budget
    )
    pair, window, image = window_passes(speech.owners, images.owners, pairs)
    chunk_s, row_s = (x[window] for x in _places(plan_s))
    chunk_i, row_i = (x[image] for x in _places(plan_i))
    held_s, held_i = _Held(speech, plan_s, whole), _Held(images, plan_i, whole)

    def started(group: np.ndarray) -> Iterator[tuple[np.ndarray, jax.Array]]:
        tokens = held_s.get(chunk_s[group[0]]), held_i.get(chunk_i[group[0]])
        for start in range(0, len(group), rows):
            wanted = group[start : start + rows]
            filled = np.pad(wanted, (0, rows - len(wanted)), mode="edge")
            places = place((row_s[filled], row_i[filled]), split)
            yield wanted, run_together(score, params, *tokens, *places)

    scores, passes = np.empty(len(pair), np.float64), 0
    for group in _groups(chunk_s * len(plan_i) + chunk_i):
        # To the end before the next chunk comes: a batch under way holds on to its own.
        for wanted, found in fetched(started(group)):
            scores[wanted] = found[: len(wanted)]
            passes += len(wanted)
    return np.bincount(pair, scores, len(pairs)) / np.bincount(pair, minlength=len(pairs)), passes


def _groups(codes: np.ndarray) -> list[np.ndarray]:
    """Return the places of each code that occurs, codes in rising order."""
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)


class _Held:
    """Hold one chunk of a store on the device; the next one takes its place."""

    def __init__(self, store: TokenStore, plan: list[Chunk], sharding: NamedSharding | None):
        self.store, self.plan, self.sharding = store, plan, sharding
        self.number, self.arrays = -1, None

    def get(self, number: int) -> tuple[jax.Array, jax.Array]:
        """Return the chunk's tokens [rows, length, D] and mask [rows, length]."""
        if number != self.number:
            self.arrays = None  # let go before the next one comes
            chunk = self.plan[number]
            self.arrays = place(self.store.batch(chunk.filled, chunk.length), self.sharding)
            self.number = number
        return self.arrays


def _places(plan: list[Chunk]) -> tuple[np.ndarray, np.ndarray]:
    """Return the chunk and the row, int32, of each entry of a store."""
    entries = np.concatenate([chunk.entries for chunk in plan])
    places = np.empty((2, len(entries)), np.int32)
    places[0, entries] = np.repeat(np.arange(len(plan)), [len(chunk.entries) for chunk in plan])
    places[1, entries] = np.concatenate([np.arange(len(chunk.entries)) for chunk in plan])
    return places[0], places[1]


@functools.lru_cache(maxsize=16)
def jit_score(model, split: NamedSharding | None, whole: NamedSharding | None) -> Callable:
    """Return the match scores of pairs of chunks' rows.

    Takes (params, speech chunk, image chunk, speech rows, image rows), a chunk being tokens
    [n, T, D] and mask [n, T].
    """

    def gathered(chunk, rows):
        tokens, mask = (x[rows] for x in chunk)
        if split is not None:
            tokens, mask = jax.lax.with_sharding_constraint((tokens, mask), split)
        return Encoded(tokens, mask, None)

    def score(params, speech, images, speech_rows, image_rows):
        pair = gathered(speech, speech_rows), gathered(images, image_rows)
        return match_score(model.apply({"params": params}, *pair, method="match"))

    return jax.jit(score, out_shardings=whole)
