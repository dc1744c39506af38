"""The contrastive loss against NumPy in float64, ALBEF's equations in torch, and known values.

Embeddings are unit vectors of width 32 and temperatures are at least 0.07, so that float32 logits
are exact to 1e-6. The loss casts to float32, so 64-bit JAX would show nothing more.
"""

import functools
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sir_jax.losses import contrastive as losses

# Each as one program a shape: one an operation would be hundreds to compile.
accuracy_in_batch, contrastive, id_targets, soft_cross_entropy, spread = map(
    jax.jit,
    (
        losses.accuracy_in_batch,
        losses.contrastive,
        losses.id_targets,
        losses.soft_cross_entropy,
        losses.spread,
    ),
)

TEMPERATURES = (0.07, 0.5)


class Case(NamedTuple):
    z_s: np.ndarray  # the student's, [B, E]
    z_i: np.ndarray
    m_s: np.ndarray  # the momentum teacher's, [B, E]
    m_i: np.ndarray
    past_s: np.ndarray  # the queue's, [Q, E]
    past_i: np.ndarray
    ids: np.ndarray  # [B]
    past_ids: np.ndarray  # [Q]
    filled: np.ndarray  # bool [Q]


def unit(rng, *shape):
    x = rng.normal(size=shape)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def make_case(queue=0, filled=0, images=4, batch=6, width=32):
    """Return a case with duplicate ids in batch and queue; unfilled rows have ids of the batch."""
    rng = np.random.default_rng(0)
    embeds = [unit(rng, batch, width) for _ in range(4)] + [unit(rng, queue, width) for _ in "si"]
    ids, past_ids = rng.integers(0, images, batch), rng.integers(0, images + 3, queue)
    past_ids[filled:] = ids[0]
    return Case(*embeds, ids, past_ids * (images > 1), np.arange(queue) < filled)


CASES = {
    "no queue": make_case(),
    "empty queue": make_case(7),
    "half-filled queue": make_case(10, 5),
    "full queue that does not divide by the batch": make_case(13, 13),
    "no negative at all": make_case(8, 5, images=1),
    "a batch of one": make_case(5, 3, batch=1),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
every_temperature = pytest.mark.parametrize("temperature", TEMPERATURES)


def hard_targets(case):
    return id_targets(jnp.asarray(case.ids), jnp.asarray(case.past_ids), jnp.asarray(case.filled))


def online(z_s, z_i, ids, temperature):
    """Run both directions without queue and teacher: the loss [B] and both accuracies."""
    none = jnp.zeros((0, z_s.shape[1])), jnp.zeros((0,), bool)
    hard = id_targets(jnp.asarray(ids), jnp.zeros((0,), jnp.int32), none[1])
    s2i, s2i_correct = contrastive(z_s, z_i, *none, hard, temperature)
    i2s, i2s_correct = contrastive(z_i, z_s, *none, hard, temperature)
    return 0.5 * (s2i + i2s), s2i_correct, i2s_correct


def reference(z, keys, past, ids, past_ids, filled, temperature, teacher=None, alpha=0.0):
    """Compute the docstring's formula in float64, one number at a time, without unfilled rows."""
    columns = [(k, n) for k, n in zip(keys, ids, strict=True)]
    columns += [(k, n) for k, n, full in zip(past, past_ids, filled, strict=True) if full]
    temperature = float(np.float32(temperature))

    def log_softmax(query):
        logits = [np.dot(query.astype(float), k.astype(float)) / temperature for k, _ in columns]
        top = max(logits)
        total = top + np.log(sum(np.exp(x - top) for x in logits))
        return [x - total for x in logits]

    losses = []
    for row in range(len(z)):
        positive = [n == ids[row] for _, n in columns]
        targets = [(1 - alpha) * p / sum(positive) for p in positive]
        if teacher is not None:
            soft = log_softmax(teacher[row])
            targets = [t + alpha * np.exp(x) for t, x in zip(targets, soft, strict=True)]
        log_p = log_softmax(z[row])
        losses.append(-sum(t * x for t, x in zip(targets, log_p, strict=True)))
    return np.array(losses)


@every_temperature
@every_case
def test_equals_float64_reference(case, temperature):
    hard = hard_targets(case)
    for z, keys, past, teacher in (
        (case.z_s, case.m_i, case.past_i, case.m_s),
        (case.z_i, case.m_s, case.past_s, case.m_i),
    ):
        for alpha in (None, 0.0, 0.4, 1.0):
            extra = () if alpha is None else (teacher, alpha)
            loss, _ = contrastive(z, keys, past, case.filled, hard, temperature, *extra)
            expected = reference(
                z, keys, past, case.ids, case.past_ids, case.filled, temperature, *extra
            )
            assert loss.shape == (len(z),) and loss.dtype == jnp.float32
            np.testing.assert_allclose(loss, expected, rtol=1e-6, atol=1e-6)


def torch_leaves(*arrays):
    return [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in arrays]


def albef(case, temperature, alpha=None):
    """Compute ALBEF's retrieval loss in torch float64 (arXiv 2107.07651, equations 1, 2 and 6).

    Targets by image id are those of ALBEF's published code.

    Args:
      alpha: weight of the momentum distillation; None for the equations without it.

    Returns:
      The loss, and its gradients with respect to z_s, z_i and the temperature.
    """
    z_s, z_i, tau = torch_leaves(case.z_s, case.z_i, np.float32(temperature))
    with torch.no_grad():
        m_s, m_i, past_s, past_i = (torch.tensor(x, dtype=torch.float64) for x in case[2:6])
        full = torch.tensor(case.filled)
        keys_s, keys_i = torch.cat([m_s, past_s[full]]), torch.cat([m_i, past_i[full]])
        ids = torch.tensor(case.ids)
        same = ids[:, None].eq(torch.cat([ids, torch.tensor(case.past_ids)[full]])).double()
        y_s2i = y_i2s = same / same.sum(1, keepdim=True)
        if alpha is not None:
            y_s2i = alpha * F.softmax(m_s @ keys_i.T / tau, 1) + (1 - alpha) * y_s2i
            y_i2s = alpha * F.softmax(m_i @ keys_s.T / tau, 1) + (1 - alpha) * y_i2s
    # torch's cross-entropy takes targets that are probabilities.
    s2i = F.cross_entropy(z_s @ keys_i.T / tau, y_s2i)
    i2s = F.cross_entropy(z_i @ keys_s.T / tau, y_i2s)
    loss = (s2i + i2s) / 2
    loss.backward()
    return loss.item(), [x.grad.numpy() for x in (z_s, z_i, tau)]


@every_temperature
@every_case
@pytest.mark.parametrize("alpha", [None, 0.4])
def test_equals_albef_in_torch_with_gradients(case, temperature, alpha):
    hard = hard_targets(case)

    def both(z_s, z_i, tau):
        more_s, more_i = ((), ()) if alpha is None else ((case.m_s, alpha), (case.m_i, alpha))
        s2i, _ = contrastive(z_s, case.m_i, case.past_i, case.filled, hard, tau, *more_s)
        i2s, _ = contrastive(z_i, case.m_s, case.past_s, case.filled, hard, tau, *more_i)
        return 0.5 * (s2i.mean() + i2s.mean())

    loss, grads = jax.jit(jax.value_and_grad(both, (0, 1, 2)))(
        case.z_s, case.z_i, jnp.float32(temperature)
    )
    expected, expected_grads = albef(case, temperature, alpha)
    np.testing.assert_allclose(loss, expected, rtol=1e-6, atol=1e-6)
    for ours, theirs in zip(grads, expected_grads, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@every_temperature
def test_online_keys_equal_torch_with_gradients_to_both_sides(temperature):
    case = CASES["no queue"]
    z_s, z_i, tau = torch_leaves(case.z_s, case.z_i, np.float32(temperature))
    same = torch.tensor(case.ids[:, None] == case.ids).double()
    targets = same / same.sum(1, keepdim=True)
    logits = z_s @ z_i.T / tau
    expected = (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2
    expected.backward()

    step = jax.jit(
        jax.value_and_grad(lambda s, i, t: online(s, i, case.ids, t)[0].mean(), (0, 1, 2))
    )
    loss, grads = step(case.z_s, case.z_i, jnp.float32(temperature))
    np.testing.assert_allclose(loss, expected.item(), rtol=1e-6, atol=1e-6)
    for ours, theirs in zip(grads, (z_s, z_i, tau), strict=True):
        np.testing.assert_allclose(ours, theirs.grad.numpy(), rtol=1e-5, atol=1e-6)


def test_queue_and_teacher_have_exactly_no_gradient():
    case = CASES["half-filled queue"]
    hard = hard_targets(case)

    def loss(z, past, teacher):
        return contrastive(z, case.m_i, past, case.filled, hard, 0.07, teacher, 0.4)[0].sum()

    by_z, by_past, by_teacher = jax.jit(jax.grad(loss, (0, 1, 2)))(case.z_s, case.past_i, case.m_s)
    assert np.abs(by_z).max() > 0.1
    np.testing.assert_array_equal(by_past, 0.0)
    np.testing.assert_array_equal(by_teacher, 0.0)


def test_keys_have_no_gradient_through_the_targets():
    # With alpha 1 and student = teacher, predictions equal targets, so the gradient through the
    # logits is zero. A gradient through the targets would not be.
    case = CASES["half-filled queue"]

    def loss(keys):
        return contrastive(
            case.z_s, keys, case.past_i, case.filled, hard_targets(case), 0.5, case.z_s, 1.0
        )[0].sum()

    np.testing.assert_allclose(jax.jit(jax.grad(loss))(case.m_i), 0.0, atol=1e-6)


@jax.jit
def both_of_a_half_filled_queue(past, alpha):
    """Return ((sum, (losses, correct)), gradients)."""
    case = CASES["half-filled queue"]
    hard = hard_targets(case)

    def loss(z, tau):
        rows, correct = contrastive(z, case.m_i, past, case.filled, hard, tau, case.m_s, alpha)
        return rows.sum(), (rows, correct)

    return jax.value_and_grad(loss, (0, 1), has_aux=True)(case.z_s, jnp.float32(0.07))


@pytest.mark.parametrize("garbage", [1.0, 1e30, np.nan])
@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_unfilled_rows_never_matter(garbage, alpha):
    case = CASES["half-filled queue"]
    both = functools.partial(both_of_a_half_filled_queue, alpha=alpha)
    ((_, expected), expected_grads) = both(np.where(case.filled[:, None], case.past_i, 0.0))
    ((_, actual), grads) = both(np.where(case.filled[:, None], case.past_i, np.float32(garbage)))
    jax.tree.map(np.testing.assert_array_equal, actual, expected)
    jax.tree.map(np.testing.assert_array_equal, grads, expected_grads)


def test_id_targets_have_the_expected_values():
    ids, past_ids = jnp.array([0, 1, 0]), jnp.array([0, 1, 5, 0])
    third, half = np.float32(1) / np.float32(3), 0.5
    # The last row is unfilled: its id is the 0 of an empty queue, not an image's.
    np.testing.assert_array_equal(
        id_targets(ids, past_ids, jnp.array([True, True, True, False])),
        np.float32(
            [
                [third, 0, third, third, 0, 0, 0],
                [0, half, 0, 0, half, 0, 0],
                [third, 0, third, third, 0, 0, 0],
            ]
        ),
    )


def test_soft_cross_entropy_has_the_expected_value():
    # Probabilities 1/4 and 3/4; then an unfilled column, which has no target.
    logits = jnp.array([[0.0, np.log(3.0), -1e30]])
    np.testing.assert_allclose(
        soft_cross_entropy(logits, jnp.array([[0.5, 0.5, 0.0]])),
        [-0.5 * (np.log(0.25) + np.log(0.75))],
        rtol=1e-6,
    )


def test_accuracies_have_the_expected_values():
    z_i = np.eye(3, dtype=np.float32)
    z_s = z_i[[0, 0, 2]]  # the second caption points at the first image
    _, s2i, i2s = online(z_s, z_i, np.array([1, 2, 3]), 0.1)
    np.testing.assert_allclose((s2i, i2s), 2 / 3)
    _, s2i, i2s = online(z_s, z_i, np.array([1, 1, 3]), 0.1)
    np.testing.assert_allclose((s2i, i2s), 1.0)


def test_accuracy_with_a_queue_has_the_expected_value():
    x, y, v, w = np.eye(4, dtype=np.float32)
    z, keys, past = np.stack([x, y, v]), np.stack([w, w, w]), np.stack([x, y, v])
    ids = jnp.array([1, 2, 3])

    def accuracy(past_ids, filled, *teacher):
        hard = id_targets(ids, jnp.array(past_ids), jnp.array(filled))
        return contrastive(z, keys, past, jnp.array(filled), hard, 0.1, *teacher)[1]

    # Each row's most similar column is in the queue; only the first row's is of its own image.
    np.testing.assert_allclose(accuracy([1, 1, 1], [True] * 3), 1 / 3)
    # The teacher does not change the accuracy.
    np.testing.assert_allclose(accuracy([1, 1, 1], [True] * 3, np.stack([y, y, y]), 1.0), 1 / 3)
    # A row whose match is unfilled ties between the other columns; the first one, which is not of
    # its image, is taken.
    np.testing.assert_allclose(accuracy([1, 2, 3], [True, False, False]), 1 / 3)
    np.testing.assert_allclose(accuracy([1, 2, 3], [True, True, False]), 2 / 3)


def test_a_batch_of_one_image_has_zero_gradient():
    rng = np.random.default_rng(0)
    z_i = np.repeat(unit(rng, 1, 8), 4, axis=0)
    z_s = np.repeat(unit(rng, 1, 8), 4, axis=0)
    ids = np.array([4, 4, 4, 4])
    loss, grad = jax.jit(jax.value_and_grad(lambda z: online(z, z_i, ids, 0.1)[0].sum()))(z_s)
    np.testing.assert_allclose(loss, 4 * np.log(4), rtol=1e-6)
    np.testing.assert_allclose(grad, 0.0, atol=1e-5)


def test_low_precision_embeddings_are_compared_in_float32():
    case = CASES["half-filled queue"]
    rough = [jnp.asarray(x, jnp.bfloat16) for x in (case.z_s, case.m_i, case.past_i, case.m_s)]
    args = case.filled, hard_targets(case), 0.07

    def run(z, keys, past, teacher):
        return contrastive(z, keys, past, *args, teacher, 0.4)[0]

    exact = [x.astype(jnp.float32) for x in rough]
    np.testing.assert_array_equal(run(*rough), run(*exact))


def test_negatives_are_global_under_a_sharded_batch_and_the_queue_stays():
    rng = np.random.default_rng(0)
    queue, batch, width = 200, 16, 8
    z_s, z_i, m_s, m_i = (unit(rng, batch, width) for _ in range(4))
    past, ids = unit(rng, queue, width), rng.integers(0, 10, batch)
    past_ids, filled = rng.integers(0, 20, queue), np.arange(queue) < 150

    @jax.jit
    @jax.value_and_grad
    def with_queue(z, keys, teacher, ids, past, past_ids, filled):
        hard = id_targets(ids, past_ids, filled)
        return contrastive(z, keys, past, filled, hard, 0.07, teacher, 0.4)[0].mean()

    @jax.jit
    def without(s, i, ids):
        return jax.value_and_grad(lambda s, i: online(s, i, ids, 0.07)[0].mean(), (0, 1))(s, i)

    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    sharded, replicated = (z_s, m_i, m_s, ids), (past, past_ids, filled)
    placed = jax.device_put(sharded, rows) + jax.device_put(replicated, whole)
    for step, one, many in (
        (with_queue, sharded + replicated, placed),
        (without, (z_s, z_i, ids), jax.device_put((z_s, z_i, ids), rows)),
    ):
        for a, b in zip(jax.tree.leaves(step(*many)), jax.tree.leaves(step(*one)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)

    program = with_queue.lower(*placed).compile().as_text()
    sent = re.findall(r"= (.*?) (?:all-|collective-|reduce-scatter)[a-z-]*\(", program)
    sizes = [
        np.prod([int(n) for n in s.split(",") if n])
        for line in sent
        for s in re.findall(r"\[([\d,]*)\]", line)
    ]
    # The batch's keys and ids are sent; nothing of the queue's length is.
    assert max(sizes) == batch * width


def test_accuracy_in_the_batch_leaves_the_queue_out():
    z, keys = np.eye(3, 4, dtype=np.float32), np.eye(4, dtype=np.float32)[[0, 2, 1]]
    # Rows 1 and 2 find each other's key, which is right where both have one picture.
    past, filled = np.arange(2) + 7, np.ones(2, bool)
    for ids, share in ((np.array([5, 6, 7]), 1 / 3), (np.array([5, 6, 6]), 1.0)):
        found = accuracy_in_batch(z, keys, id_targets(ids, past, filled))
        assert float(found) == pytest.approx(share)


def test_spread_is_one_less_the_mean_cosine_of_two_rows():
    z = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    cosines = (z @ z.T)[~np.eye(7, dtype=bool)]
    assert float(spread(z)) == pytest.approx(1 - cosines.mean(), abs=1e-6)
    assert float(spread(np.repeat(z[:1], 7, axis=0))) == pytest.approx(0.0, abs=1e-6)
    assert float(spread(z[:1])) == pytest.approx(1.0, abs=1e-6)  # nothing to compare with
