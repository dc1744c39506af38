"""A ring of past momentum embeddings and their image ids (MoCo, arXiv 1911.05722)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array


class Queue(NamedTuple):
    """Rows of both modalities that came together; those from `filled` on hold nothing yet."""

    speech: Array  # float32 [Q, E]
    image: Array  # float32 [Q, E]
    ids: Array  # int32 [Q]
    head: Array  # int32 []: where the next row goes
    filled: Array  # int32 []: rows written so far, at most Q


class Rows(NamedTuple):
    """What one batch adds to a queue."""

    speech: Array  # float32 [B, E]
    image: Array  # float32 [B, E]
    ids: Array  # int32 [B]


def empty_queue(size: int, width: int) -> Queue:
    """Return a queue of `size` unfilled rows of `width`."""
    zeros = jnp.zeros((size, width), jnp.float32)
    nought = jnp.zeros((), jnp.int32)
    # Two arrays, not one twice: the state is donated.
    return Queue(zeros, jnp.zeros_like(zeros), jnp.zeros((size,), jnp.int32), nought, nought + 0)


def filled_rows(queue: Queue) -> Array:
    """Tell which rows hold an embedding, bool [Q]; the others must never count as negatives."""
    return jnp.arange(queue.ids.shape[0]) < queue.filled


def push(queue: Queue, rows: Rows) -> Queue:
    """Write a batch over the oldest rows, around the ring's end where need be.

    Under a batch sharded over N devices and a replicated queue this gathers the B new rows and
    nothing of size Q: a scatter would be split by its updates and summed over the whole queue.

    Args:
      queue: of any size from 0 up.
      rows: a batch of any size; of one longer than the queue the last Q rows stay.
    """
    size, batch = queue.ids.shape[0], rows.ids.shape[0]
    if not size:
        return queue
    kept = jax.tree.map(lambda x: x[max(0, batch - size) :], rows)
    count = min(batch, size)
    start = (queue.head + batch - count) % size

    def write(ring: Array, new: Array) -> Array:
        # The ring with its beginning repeated behind its end takes the new rows in one piece; what
        # went beyond the end is then brought round to the beginning.
        open_ring = jnp.concatenate([ring, ring[:count]])
        at = (start,) + (0,) * (ring.ndim - 1)
        open_ring = jax.lax.dynamic_update_slice(open_ring, new.astype(ring.dtype), at)
        beyond = jnp.arange(count) < start + count - size
        beyond = beyond.reshape(-1, *(1,) * (ring.ndim - 1))
        front = jnp.where(beyond, open_ring[size:], open_ring[:count])
        return jnp.concatenate([front, open_ring[count:size]])

    written = jax.tree.map(write, Rows(queue.speech, queue.image, queue.ids), kept)
    return Queue(
        *written,
        head=(queue.head + batch) % size,
        filled=jnp.minimum(queue.filled + batch, size),
    )
