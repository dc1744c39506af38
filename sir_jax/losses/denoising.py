"""Cross-modal denoising (CMD, arXiv 2408.13705): noise from other items, and what undoes it.

The paper says that some features of one modality are replaced by those of other items of the batch
and rebuilt from the other modality; ratio, pattern and loss are not known, so all are options.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array

FORMS = ("cosine", "mse", "infonce")


class Noise(NamedTuple):
    """Which tokens are replaced, and by which."""

    replaced: Array  # bool [B, T]
    rows: Array  # int32 [B, T]: the item that the new token comes from
    columns: Array  # int32 [B, T]: its place there


def draw_noise(
    key: Array, mask: Array, ids: Array, ratio: float, block: int = 1, first: int = 1
) -> Noise:
    """Choose tokens to be replaced by tokens of other images' items.

    The sequence is cut into runs of `block` tokens, beginning at a random phase; each run is
    replaced with probability `ratio` by neighbouring tokens of one other item, taken from a random
    place and around its end where need be.

    Args:
      key: of all draws.
      mask: True for valid tokens, which lead, [B, T].
      ids: image ids, [B]; a token never comes from an item with the same id.
      ratio: expected share of replaced tokens, from 0 to 1.
      block: length of a run; 1 draws every token by itself.
      first: leading tokens that are neither replaced nor used: 1 with a CLS token, else 0.

    Returns:
      `Noise`. Padding and the leading tokens are never replaced and never used; an item all of
      whose batch shares its id is left as it is.
    """
    b, t = mask.shape
    keys = jax.random.split(key, 4)
    tokens = mask.sum(axis=-1) - first  # that may be replaced or used
    other = (ids[:, None] != ids[None, :]) & (tokens > 0)[None, :]
    place = jnp.arange(t)[None, :] - first + jax.random.randint(keys[0], (b, 1), 0, block)
    run, offset = jnp.maximum(place, 0) // block, jnp.maximum(place, 0) % block

    def per_run(values: Array) -> Array:
        return jnp.take_along_axis(values, run, axis=1)

    chosen = per_run(jax.random.uniform(keys[1], (b, t + 1)) < ratio)
    possible = mask & (jnp.arange(t) >= first) & other.any(axis=-1, keepdims=True)
    logits = jnp.where(other | ~other.any(axis=-1, keepdims=True), 0.0, -jnp.inf)
    rows = per_run(jax.random.categorical(keys[2], logits[:, None, :], shape=(b, t + 1)))
    start = per_run(jax.random.uniform(keys[3], (b, t + 1)))
    length = jnp.maximum(tokens[rows], 1)
    columns = (jnp.floor(start * length).astype(jnp.int32) + offset) % length + first
    return Noise(chosen & possible, rows.astype(jnp.int32), columns)


def other_rows(ids: Array) -> tuple[Array, Array]:
    """Find for each item the next one of another image, to have the wrong context from.

    Args:
      ids: image ids, [B].

    Returns:
      int32 [B], and bool [B], False where all items share the id.
    """
    b = ids.shape[0]
    other = ids[:, None] != ids[None, :]
    distance = (jnp.arange(b)[None, :] - jnp.arange(b)[:, None] - 1) % b
    rows = jnp.where(other, distance, b).argmin(axis=-1)
    return rows.astype(jnp.int32), other.any(axis=-1)


def replacements(tokens: Array, noise: Noise) -> Array:
    """Return the token that may stand at each place, [B, T, D], of the batch's [B, T, D]."""
    return tokens[noise.rows, noise.columns]


def add_noise(tokens: Array, noise: Noise) -> Array:
    """Return tokens [B, T, D] with the chosen ones replaced; the new ones have no gradient.

    They are noise, whose item has nothing to learn from being in the way. Backwards this spares a
    scatter over the batch: slow on CPU, a sum over all devices where it is sharded.
    """
    return jnp.where(
        noise.replaced[..., None], jax.lax.stop_gradient(replacements(tokens, noise)), tokens
    )


def cosine(a: Array, b: Array) -> Array:
    """Return the cosine along the last axis in float32; 0 where a vector is zero."""
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    norms = jnp.square(a).sum(axis=-1) * jnp.square(b).sum(axis=-1)
    return (a * b).sum(axis=-1) * jax.lax.rsqrt(jnp.maximum(norms, 1e-20))


def _info_nce(rebuilt: Array, targets: Array, others: Array, own, intruded, temperature) -> Array:
    def unit(x):
        x = x.astype(jnp.float32)
        return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(axis=-1, keepdims=True), 1e-20))

    keys = unit(jnp.concatenate([targets, others], axis=1))
    valid = jnp.concatenate([own, intruded], axis=1)[:, None, :]
    logits = jnp.einsum("btd,bsd->bts", unit(rebuilt), keys) / temperature
    logits = jnp.where(valid, logits, -1e30)
    return -jnp.diagonal(jax.nn.log_softmax(logits, axis=-1), axis1=1, axis2=2)


def denoising(
    rebuilt: Array,
    targets: Array,
    noise: Noise,
    valid: Array,
    form: str,
    replaced_only: bool = True,
    temperature: float = 0.07,
) -> tuple[Array, Array]:
    """Compare rebuilt tokens with the clean ones.

    Per token: `cosine` 1 - cos(r, v); `mse` mean_d (r_d - v_d)^2; `infonce` -log of the softmax of
    cos(r, k) / temperature at v, where the keys k are the item's own clean tokens and those that
    took the place of some of them.

    Args:
      rebuilt: [B, T, D].
      targets: clean tokens, [B, T, D]; no gradient flows to them.
      noise: what was replaced.
      valid: True for tokens that are neither padding nor CLS, [B, T].
      form: one of `FORMS`.
      replaced_only: whether the replaced tokens count, or all valid ones.
      temperature: of `infonce`.

    Returns:
      The mean over each item's counted tokens, float32 [B], and bool [B], False for an item
      without one, whose value is 0.

    Raises:
      ValueError: on an unknown form.
    """
    if form not in FORMS:
        raise ValueError(f"form {form!r} is none of {', '.join(FORMS)}")
    # What stands in padding and CLS may be anything: taken out before it can overflow and come back
    # by the gradient.
    rebuilt, targets = (
        jnp.where(valid[..., None], x.astype(jnp.float32), 0.0) for x in (rebuilt, targets)
    )
    targets = jax.lax.stop_gradient(targets)
    if form == "cosine":
        loss = 1.0 - cosine(rebuilt, targets)
    elif form == "mse":
        loss = jnp.square(rebuilt - targets).mean(axis=-1)
    else:
        others = replacements(targets, noise)
        loss = _info_nce(rebuilt, targets, others, valid, noise.replaced, temperature)
    counted = noise.replaced if replaced_only else valid
    number = counted.sum(axis=-1)
    mean = jnp.where(counted, loss, 0.0).sum(axis=-1) / jnp.maximum(number, 1)
    return mean, number > 0
