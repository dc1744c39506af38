"""The in-batch contrastive loss against a float64 reference and by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from sir_jax.losses.contrastive import in_batch_contrastive


def reference(z_s, z_i, ids, temperature):
    """The published equation, row by row, in float64."""
    logits = z_s.astype(np.float64) @ z_i.astype(np.float64).T / temperature
    losses = np.zeros(len(ids))
    for scores in (logits, logits.T):
        for row in range(len(ids)):
            log_p = scores[row] - scores[row].max()
            log_p = log_p - np.log(np.exp(log_p).sum())
            losses[row] -= 0.5 * np.mean([log_p[j] for j in range(len(ids)) if ids[j] == ids[row]])
    return losses


def unit(rng, *shape):
    x = rng.normal(size=shape)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def test_equals_float64_reference_with_duplicate_images():
    rng = np.random.default_rng(0)
    z_s, z_i = unit(rng, 9, 16), unit(rng, 9, 16)
    ids = np.array([3, 1, 3, 2, 5, 5, 5, 7, 8])
    loss, _ = in_batch_contrastive(z_s, z_i, ids, jnp.float32(0.07))
    np.testing.assert_allclose(loss, reference(z_s, z_i, ids, 0.07), rtol=1e-5, atol=1e-6)


def test_accuracies_by_hand():
    z_i = np.eye(3, dtype=np.float32)
    z_s = z_i[[0, 0, 2]]  # the second caption points at the first image
    _, aux = in_batch_contrastive(z_s, z_i, np.array([1, 2, 3]), jnp.float32(0.1))
    np.testing.assert_allclose(aux["s2i_accuracy"], 2 / 3)
    _, aux = in_batch_contrastive(z_s, z_i, np.array([1, 1, 3]), jnp.float32(0.1))
    np.testing.assert_allclose(aux["s2i_accuracy"], 1.0)


def test_a_batch_of_one_image_has_zero_gradient():
    rng = np.random.default_rng(0)
    z_i = np.repeat(unit(rng, 1, 8), 4, axis=0)
    z_s = np.repeat(unit(rng, 1, 8), 4, axis=0)
    ids = np.array([4, 4, 4, 4])
    grad = jax.grad(lambda z: in_batch_contrastive(z, z_i, ids, 0.1)[0].sum())(z_s)
    np.testing.assert_allclose(grad, 0.0, atol=1e-5)


def test_negatives_are_global_under_a_sharded_batch():
    rng = np.random.default_rng(0)
    z_s, z_i, ids = unit(rng, 16, 8), unit(rng, 16, 8), rng.integers(0, 10, 16)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    sharded = [jax.device_put(x, rows) for x in (z_s, z_i, ids)]
    step = jax.jit(
        jax.value_and_grad(lambda s, i, n: in_batch_contrastive(s, i, n, 0.07)[0].mean(), (0, 1))
    )
    for a, b in zip(jax.tree.leaves(step(*sharded)), jax.tree.leaves(step(z_s, z_i, ids)),
                    strict=True):  # fmt: skip
        np.testing.assert_allclose(a, b, atol=1e-6)
