"""Score many pairs by fusion encoder or late interaction, from tokens stored in files."""

import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from sir_jax.inference.embed import fetch_results, placement
from sir_jax.inference.token_store import Chunk, TokenStore, plan_both
from sir_jax.losses.matching import match_score
from sir_jax.models import Encoded
from sir_jax.runtime.distributed import place, run_together

BUDGET = 512 << 20  # bytes of token features on a device at once
# Windows are padded to a multiple of this many tokens: those of up to 20 s at 50 Hz then have at
# most 16 different lengths.
MULTIPLE = 64


def expand_to_windows(
    speech_owners: np.ndarray, image_owners: np.ndarray, pairs: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Turn pairs of a clip and an image into fusion passes of a window and an image.

    Args:
      speech_owners: int[W], the clip of each entry of the speech store.
      image_owners: int[Ni], the image of each entry of the image store.
      pairs: int[n, 2], (clip, image).

    Returns:
      Three int[passes]: the number of the pair, the entry of the speech store and the entry of the
      image store.
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
    """Compute the log-odds that each pair matches.

    Windows and images are cut into chunks (`token_store.plan_both`). Each chunk of windows is sent
    to the device once, and while it is there, each chunk of images once. On the device their pairs
    are gathered into batches of one size, so one program is compiled per length of a chunk of
    windows. On a mesh every device holds whole chunks and a part of each batch.

    Args:
      model: the joint model, with the task 'match'.
      params: the model's parameters.
      speech: the tokens of the windows; their owners are the clips 0, 1, ...
      images: the tokens of the images, one entry each; their owners are the images 0, 1, ...
      pairs: int[n, 2], (clip, image), without repetition.
      batch_size: pairs in one fusion pass.
      budget: bytes of chunks on one device at once; the memory of a batch comes on top.
      multiple: windows are padded to a multiple of this many tokens.

    Returns:
      (float64[n], the log-odds that each pair matches, averaged over the clip's windows; the number
      of pairs of a window and an image that were scored).
    """
    params = jax.tree.map(jnp.asarray, params)
    split, whole, parts = placement(params)
    rows = -(-batch_size // parts) * parts
    score = jit_score(model, split, whole)
    plan_s, plan_i = plan_both(
        speech.lengths, speech.token_bytes, images.lengths, images.token_bytes, multiple, budget
    )
    pair, window, image = expand_to_windows(speech.owners, images.owners, pairs)
    chunk_s, row_s = (x[window] for x in _locate_entries(plan_s))
    chunk_i, row_i = (x[image] for x in _locate_entries(plan_i))
    resident_s = _ResidentChunk(speech, plan_s, whole)
    resident_i = _ResidentChunk(images, plan_i, whole)

    def start_batches(group: np.ndarray) -> Iterator[tuple[np.ndarray, jax.Array]]:
        tokens = resident_s.get(chunk_s[group[0]]), resident_i.get(chunk_i[group[0]])
        for start in range(0, len(group), rows):
            batch = group[start : start + rows]
            padded = np.pad(batch, (0, rows - len(batch)), mode="edge")
            batch_rows = place((row_s[padded], row_i[padded]), split)
            yield batch, run_together(score, params, *tokens, *batch_rows)

    scores, passes = np.empty(len(pair), np.float64), 0
    for group in _group_equal(chunk_s * len(plan_i) + chunk_i):
        # Fetch every batch of this group before the next chunk is loaded: a batch in flight keeps
        # its chunks in device memory, and the next chunk would exceed the budget.
        for batch, batch_scores in fetch_results(start_batches(group)):
            scores[batch] = batch_scores[: len(batch)]
            passes += len(batch)
    return np.bincount(pair, scores, len(pairs)) / np.bincount(pair, minlength=len(pairs)), passes


def _group_equal(codes: np.ndarray) -> list[np.ndarray]:
    """Return the positions of each value that occurs, values in ascending order."""
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)


class _ResidentChunk:
    """Keep one chunk of a store on the device until another one is asked for."""

    def __init__(self, store: TokenStore, plan: list[Chunk], sharding: NamedSharding | None):
        self.store, self.plan, self.sharding = store, plan, sharding
        self.number, self.arrays = -1, None

    def get(self, number: int) -> tuple[jax.Array, jax.Array]:
        """Return the chunk's tokens [rows, length, D] and mask [rows, length]."""
        if number != self.number:
            self.arrays = None  # free the old chunk before the new one is placed
            chunk = self.plan[number]
            self.arrays = place(self.store.batch(chunk.padded_entries, chunk.length), self.sharding)
            self.number = number
        return self.arrays


def _locate_entries(plan: list[Chunk]) -> tuple[np.ndarray, np.ndarray]:
    """Return for each entry of a store the number of its chunk and its row there, int32 each."""
    entries = np.concatenate([chunk.entries for chunk in plan])
    chunk_numbers, rows = np.empty((2, len(entries)), np.int32)
    chunk_numbers[entries] = np.repeat(np.arange(len(plan)), [len(c.entries) for c in plan])
    rows[entries] = np.concatenate([np.arange(len(c.entries)) for c in plan])
    return chunk_numbers, rows


@functools.lru_cache(maxsize=16)
def jit_score(model, split: NamedSharding | None, whole: NamedSharding | None) -> Callable:
    """Compile the scoring of a batch of pairs whose tokens are in two chunks.

    Args:
      model: the joint model, with the task 'match'.
      split: sharding of the batch; None on a single device.
      whole: sharding of the scores; None on a single device.

    Returns:
      A function of (params, speech chunk, image chunk, speech rows [B], image rows [B]) that gives
      the scores [B]. A chunk is (tokens [n, T, D], mask [n, T]).
    """

    def gather(chunk, rows):
        tokens, mask = (x[rows] for x in chunk)
        if split is not None:
            tokens, mask = jax.lax.with_sharding_constraint((tokens, mask), split)
        return Encoded(tokens, mask, None)

    def score(params, speech, images, speech_rows, image_rows):
        pair = gather(speech, speech_rows), gather(images, image_rows)
        return match_score(model.apply({"params": params}, *pair, method="match"))

    return jax.jit(score, out_shardings=whole)
