"""The queue: a ring of past momentum embeddings and their image ids (MoCo, arXiv 1911.05722)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array


class Queue(NamedTuple):
    """The ring: speech and image of one row belong together. Rows from `filled` on are unused."""

    speech: Array  # float32 [Q, E]
    image: Array  # float32 [Q, E]
    ids: Array  # int32 [Q]
    head: Array  # int32 []: the row that is written next
    filled: Array  # int32 []: number of rows written so far, at most Q


class Rows(NamedTuple):
    """The rows that one batch adds to a queue."""

    speech: Array  # float32 [B, E]
    image: Array  # float32 [B, E]
    ids: Array  # int32 [B]


def empty_queue(size: int, width: int) -> Queue:
    """Return a queue of `size` unfilled rows for embeddings of `width`.

    Example:
      >>> rows = Rows(jnp.ones((2, 1)), jnp.ones((2, 1)), jnp.array([7, 8]))
      >>> queue = push(empty_queue(3, 1), rows)
      >>> print(queue.ids, queue.head, filled_rows(queue))
      [7 8 0] 2 [ True  True False]
    """
    # Each field has an array of its own: the state is donated, and one buffer cannot be twice.
    zeros = jnp.zeros((size, width), jnp.float32)
    zero = jnp.zeros((), jnp.int32)
    return Queue(zeros, jnp.zeros_like(zeros), jnp.zeros((size,), jnp.int32), zero, zero + 0)


def filled_rows(queue: Queue) -> Array:
    """Tell which rows hold an embedding, bool [Q]; the others must not serve as negatives."""
    return jnp.arange(queue.ids.shape[0]) < queue.filled


def push(queue: Queue, rows: Rows) -> Queue:
    """Overwrite the oldest rows by a batch, wrapping around at the ring's end.

    With a sharded batch and a replicated queue this gathers the B new rows and sends nothing of
    size Q. A scatter would not do: XLA splits it by its updates and then sums whole queues.

    Args:
      queue: of any size; 0 stays empty.
      rows: a batch of any size; of one longer than the queue only the last Q rows are kept.

    Returns:
      The new queue.
    """
    size, batch = queue.ids.shape[0], rows.ids.shape[0]
    if not size:
        return queue
    kept = jax.tree.map(lambda x: x[max(0, batch - size) :], rows)
    count = min(batch, size)
    start = (queue.head + batch - count) % size

    def write(ring: Array, new: Array) -> Array:
        # `dynamic_update_slice` cannot wrap around. So the ring is extended by a copy of its first
        # rows, the new rows are written in one piece, and those past the end move to the front.
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
