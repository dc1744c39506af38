"""The queue against a plain deque, the loss over it, and what a sharded push communicates."""

import re
from collections import deque
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sir_jax.losses.contrastive import contrastive, id_targets
from sir_jax.losses.queue import Queue, Rows, empty_queue, filled_rows, push

WIDTH = 4
jitted = jax.jit(push)


def batch_of(start, size, width=WIDTH):
    """Return rows that can be told apart: the n-th row ever made has speech n and image -n."""
    n = np.arange(start, start + size)
    speech = np.repeat(n[:, None], width, axis=1).astype(np.float32) + np.arange(width) / 8
    return Rows(speech.astype(np.float32), -speech.astype(np.float32), (7 * n).astype(np.int32))


class Reference:
    """The expected queue: a deque of the last rows; the n-th row pushed is at index n mod size."""

    def __init__(self, size):
        self.rows, self.size, self.total = deque(maxlen=size), size, 0

    def push(self, rows):
        for row in zip(*rows, strict=True):
            self.rows.append(row)
            self.total += 1

    def check(self, queue):
        queue = jax.device_get(queue)
        filled = len(self.rows)
        assert int(queue.filled) == filled
        assert int(queue.head) == (self.total % self.size if self.size else 0)
        np.testing.assert_array_equal(filled_rows(queue), np.arange(self.size) < filled)
        for age, (speech, image, number) in enumerate(self.rows):
            position = (self.total - filled + age) % self.size
            np.testing.assert_array_equal(queue.speech[position], speech)
            np.testing.assert_array_equal(queue.image[position], image)
            assert queue.ids[position] == number


def test_an_empty_queue_holds_nothing():
    queue = empty_queue(5, WIDTH)
    assert [x.shape for x in queue] == [(5, WIDTH), (5, WIDTH), (5,), (), ()]
    assert [x.dtype for x in queue] == [jnp.float32, jnp.float32, jnp.int32, jnp.int32, jnp.int32]
    Reference(5).check(queue)


@pytest.mark.parametrize("size", [0, 1, 5, 8, 13])
def test_many_pushes_equal_a_deque(size):
    rng = np.random.default_rng(size)
    queue, expected = empty_queue(size, WIDTH), Reference(size)
    # Batches smaller than the queue, equal, larger, more than twice as large; some divide it.
    for count in rng.choice([1, 3, 5, 8, 17, 30], 40):
        rows = batch_of(expected.total, count)
        queue = jitted(queue, rows)
        expected.push(rows)
        expected.check(queue)
        assert [x.dtype for x in queue] == [x.dtype for x in empty_queue(size, WIDTH)]
    assert expected.total > 4 * size


def test_three_pushes_wrap_around():
    queue = empty_queue(5, WIDTH)
    for start in (0, 3, 6):
        queue = jitted(queue, batch_of(start, 3))
    # Row 5 wrapped around to the front, 6, 7 and 8 follow it; row 4 is the oldest.
    np.testing.assert_array_equal(queue.ids, [35, 42, 49, 56, 28])
    np.testing.assert_array_equal(queue.speech[:, 0], [5, 6, 7, 8, 4])
    np.testing.assert_array_equal(queue.image[:, 0], [-5, -6, -7, -8, -4])
    assert (int(queue.head), int(queue.filled)) == (4, 5)


@pytest.mark.parametrize("sizes", [(2, 3), (4, 4, 1), (9,)])
def test_a_batch_in_parts_is_the_batch(sizes):
    rows = batch_of(0, sum(sizes))
    start = jitted(empty_queue(7, WIDTH), batch_of(100, 5))
    parts, at = start, 0
    for size in sizes:
        parts = jitted(parts, jax.tree.map(lambda x, at=at, size=size: x[at : at + size], rows))
        at += size
    jax.tree.map(np.testing.assert_array_equal, parts, jitted(start, rows))


def test_low_precision_rows_are_kept_in_float32():
    rows = jax.tree.map(jnp.asarray, batch_of(0, 3))
    rough = rows._replace(speech=rows.speech.astype(jnp.bfloat16))
    queue = jitted(empty_queue(4, WIDTH), rough)
    assert queue.speech.dtype == jnp.float32
    np.testing.assert_array_equal(queue.speech[:3], rough.speech.astype(jnp.float32))


def test_a_donated_queue_is_written_in_place():
    donated = jax.jit(push, donate_argnums=0)
    queue, expected = empty_queue(7, WIDTH), Reference(7)
    for _ in range(6):
        rows, old = batch_of(expected.total, 3), queue
        queue = donated(queue, rows)
        expected.push(rows)
        expected.check(queue)
        assert all(x.is_deleted() for x in jax.tree.leaves(old))


@pytest.mark.parametrize("pushes", [0, 2, 5])
def test_the_loss_over_the_ring_is_the_loss_over_the_rows_pushed(pushes):
    # Batches of 4 in a queue of 10: empty, filled with 8, and full with wrap-around.
    rng = np.random.default_rng(pushes)

    def unit(*shape):
        x = rng.normal(size=shape).astype(np.float32)
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    queue, expected = empty_queue(10, 32), Reference(10)
    for _ in range(pushes):
        rows = Rows(unit(4, 32), unit(4, 32), rng.integers(0, 6, 4).astype(np.int32))
        queue = jitted(queue, rows)
        expected.push(rows)
    z, keys, teacher, ids = unit(4, 32), unit(4, 32), unit(4, 32), np.array([0, 1, 0, 5])
    hard = id_targets(ids, queue.ids, filled_rows(queue))
    rest = queue.image, filled_rows(queue), hard, 0.1, teacher, 0.4
    loss, _ = jax.jit(contrastive)(z, keys, *rest)

    columns = np.stack([*keys, *(image for _, image, _ in expected.rows)]).astype(np.float64)
    names = np.array([*ids, *(number for _, _, number in expected.rows)])

    def softmax(query):
        logits = columns @ query.astype(np.float64) / float(np.float32(0.1))
        weights = np.exp(logits - logits.max())
        return weights / weights.sum()

    for row in range(4):
        positive = (names == ids[row]) / (names == ids[row]).sum()
        targets = 0.6 * positive + 0.4 * softmax(teacher[row])
        np.testing.assert_allclose(
            loss[row], -(targets * np.log(softmax(z[row]))).sum(), rtol=1e-6, atol=1e-6
        )


def mesh_of_eight():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    return rows, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


# The batch is 24: it does not divide the queue, equals it, and is longer.
@pytest.mark.parametrize("size", [50, 24, 11])
def test_a_sharded_batch_is_pushed_as_on_one_device(size):
    rows_sharding, whole = mesh_of_eight()
    step = jax.jit(push, donate_argnums=0, out_shardings=whole)
    queue, expected = jax.device_put(empty_queue(size, WIDTH), whole), Reference(size)
    for _ in range(7):
        rows = batch_of(expected.total, 24)
        queue = step(queue, jax.device_put(rows, rows_sharding))
        expected.push(rows)
        for device in range(8):  # every device's copy
            expected.check(Queue(*(x.addressable_shards[device].data for x in queue)))


def test_a_sharded_push_sends_new_rows_only():
    rows_sharding, whole = mesh_of_eight()
    size, batch, width = 1000, 16, 24
    queue = jax.device_put(empty_queue(size, width), whole)
    rows = jax.device_put(batch_of(0, batch, width), rows_sharding)
    step = partial(jax.jit, out_shardings=whole)(push)
    program = step.lower(queue, rows).compile().as_text()
    sent = re.findall(r"= (.*?) (?:all-|collective-|reduce-scatter)[a-z-]*\(", program)
    shapes = [s for line in sent for s in re.findall(r"\[([\d,]*)\]", line)]
    assert set(shapes) == {f"{batch},{width}", f"{batch}"}  # speech and image; ids
