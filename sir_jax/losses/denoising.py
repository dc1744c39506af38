"""Cross-modal denoising (CMD, arXiv 2408.13705): the noise and the loss.

The paper replaces some tokens of one modality by tokens of other items of the batch, and rebuilds
them from the other modality. It does not give the ratio, the pattern or the loss: all are options.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array

FORMS = ("cosine", "mse", "infonce")


class Noise(NamedTuple):
    """Which tokens are replaced, and by which tokens of the batch."""

    replaced: Array  # bool [B, T]
    rows: Array  # int32 [B, T]: the item that the new token comes from
    columns: Array  # int32 [B, T]: the new token's position in that item


def draw_noise(
    key: Array, mask: Array, ids: Array, ratio: float, block: int = 1, first: int = 1
) -> Noise:
    """Choose the tokens to replace, and for each a token of another image's item.

    Each sequence is cut into runs of `block` tokens, starting at a random offset. A run is replaced
    with probability `ratio`. Its new tokens are neighbours in one other item: they start at a
    random position, and wrap around at the item's end.

    Args:
      key: random key.
      mask: True for valid tokens, which come before all padding, [B, T].
      ids: image ids, [B]; a token is never replaced by one of an item with the same id.
      ratio: expected share of replaced tokens, from 0 to 1.
      block: length of a run; 1 draws each token independently.
      first: number of leading tokens that are neither replaced nor used as replacements: 1 with a
        CLS token, else 0.

    Returns:
      `Noise`. Padding is neither replaced nor used. Where no other item has another image id,
      nothing is replaced.

    Example:
      >>> mask, ids = jnp.ones((2, 3), bool), jnp.array([5, 6])
      >>> noise = draw_noise(jax.random.key(0), mask, ids, ratio=1.0)
      >>> print(noise.replaced[0], noise.rows[0])
      [False  True  True] [1 1 1]
    """
    b, t = mask.shape
    keys = jax.random.split(key, 4)
    tokens = mask.sum(axis=-1) - first  # per item, how many may be replaced or used
    other, logits = _sources(ids, tokens)
    position = jnp.arange(t)[None, :] - first + jax.random.randint(keys[0], (b, 1), 0, block)
    run, offset = jnp.maximum(position, 0) // block, jnp.maximum(position, 0) % block

    def per_run(values: Array) -> Array:
        return jnp.take_along_axis(values, run, axis=1)

    chosen = per_run(jax.random.uniform(keys[1], (b, t + 1)) < ratio)
    possible = mask & (jnp.arange(t) >= first) & other.any(axis=-1, keepdims=True)
    rows = per_run(jax.random.categorical(keys[2], logits[:, None, :], shape=(b, t + 1)))
    start = per_run(jax.random.uniform(keys[3], (b, t + 1)))
    length = jnp.maximum(tokens[rows], 1)
    columns = (jnp.floor(start * length).astype(jnp.int32) + offset) % length + first
    return Noise(chosen & possible, rows.astype(jnp.int32), columns)


def draw_alike(
    key: Array, tokens: Array, mask: Array, ids: Array, ratio: float, first: int = 1
) -> Noise:
    """Choose tokens of each item that are alike, and for them such tokens of another image's item.

    One token of an item is drawn, and the tokens most like it, by cosine, are its set: of a picture
    the patches of one thing, of a clip the frames of one sound, as far as the tokens tell. The set
    is replaced by the set of one other item, the most alike by the most alike, and from the start
    again where that is smaller. So a whole thing gives way to a whole thing of one other image: the
    noise is a scene that could be, which its neighbours do not give away. Each item's set serves
    for both, which needs no second draw.

    Args:
      key: random key.
      tokens: clean tokens, [B, T, D]; no gradient flows to them.
      mask: True for valid tokens, [B, T].
      ids: image ids, [B]; a token is never replaced by one of an item with the same id.
      ratio: share of an item's tokens that is its set, rounded, and at least one token.
      first: number of leading tokens that are neither replaced nor used; see `draw_noise`.

    Returns:
      `Noise`. Padding is neither replaced nor used. Where no other item has another image id,
      nothing is replaced.

    Example:
      >>> tokens, mask = jnp.eye(2)[jnp.array([[0, 1, 1], [0, 0, 0]])], jnp.ones((2, 3), bool)
      >>> noise = draw_alike(jax.random.key(0), tokens, mask, jnp.array([5, 6]), 0.6, first=0)
      >>> print(noise.replaced.sum(axis=1), noise.rows[:, 0])
      [2 2] [1 0]
    """
    b, t = mask.shape
    key_token, key_source = jax.random.split(key)
    tokens = jax.lax.stop_gradient(tokens)
    usable = mask & (jnp.arange(t) >= first)
    count = usable.sum(axis=-1)
    drawn = jnp.where(usable, jax.random.uniform(key_token, (b, t)), -1.0).argmax(axis=-1)[:, None]
    like = cosine(tokens, jnp.take_along_axis(tokens, drawn[..., None], axis=1))
    like = jnp.where(usable, like, -jnp.inf)
    # The drawn token is in its set, even where it is a zero vector or others equal it.
    order = jnp.argsort(jnp.where(jnp.arange(t) == drawn, -jnp.inf, -like), axis=-1)
    rank = jnp.argsort(order, axis=-1)
    size = jnp.maximum(jnp.round(ratio * count).astype(jnp.int32), 1)
    other, logits = _sources(ids, count)
    rows = jax.random.categorical(key_source, logits, axis=-1).astype(jnp.int32)
    columns = jnp.take_along_axis(order[rows], rank % size[rows][:, None], axis=-1)
    replaced = usable & (rank < size[:, None]) & other.any(axis=-1, keepdims=True)
    return Noise(replaced, jnp.broadcast_to(rows[:, None], (b, t)), columns.astype(jnp.int32))


def _sources(ids: Array, tokens: Array) -> tuple[Array, Array]:
    """Return which items may give an item noise, bool [B, B], and logits to draw one evenly.

    Args:
      ids: image ids, [B].
      tokens: how many tokens of an item may be used, [B].
    """
    other = (ids[:, None] != ids[None, :]) & (tokens > 0)[None, :]
    # An item without a source draws from all: over -inf alone the draw would be silent garbage.
    return other, jnp.where(other | ~other.any(axis=-1, keepdims=True), 0.0, -jnp.inf)


def other_rows(ids: Array) -> tuple[Array, Array]:
    """Return for each item the next item of another image, to serve as a wrong context.

    Args:
      ids: image ids, [B].

    Returns:
      The index of that item, int32 [B]; and whether there is one, bool [B].

    Example:
      >>> rows, exist = other_rows(jnp.array([4, 4, 9]))
      >>> print(rows, exist)
      [2 2 0] [ True  True  True]
    """
    b = ids.shape[0]
    other = ids[:, None] != ids[None, :]
    distance = (jnp.arange(b)[None, :] - jnp.arange(b)[:, None] - 1) % b
    rows = jnp.where(other, distance, b).argmin(axis=-1)
    return rows.astype(jnp.int32), other.any(axis=-1)


def replacements(tokens: Array, noise: Noise) -> Array:
    """Return the replacement of each token, [B, T, D], whether or not `noise` replaces it.

    Args:
      tokens: tokens of the batch, [B, T, D].
      noise: from `draw_noise`.
    """
    return tokens[noise.rows, noise.columns]


def add_noise(tokens: Array, noise: Noise) -> Array:
    """Return tokens [B, T, D] with those that `noise` names replaced.

    No gradient flows through a replacement to the item that it came from: as noise it has nothing
    to teach that item. This also saves the backward pass a scatter over the batch, which is slow on
    CPU, and an all-reduce where the batch is sharded.
    """
    return jnp.where(
        noise.replaced[..., None], jax.lax.stop_gradient(replacements(tokens, noise)), tokens
    )


def cosine(a: Array, b: Array) -> Array:
    """Return the cosine similarity along the last axis, in float32; 0 where a vector is zero."""
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    norms = jnp.square(a).sum(axis=-1) * jnp.square(b).sum(axis=-1)
    return (a * b).sum(axis=-1) * jax.lax.rsqrt(jnp.maximum(norms, 1e-20))


def _info_nce(rebuilt: Array, targets: Array, others: Array, own, replaced, temperature) -> Array:
    """Return each token's `infonce` loss, [B, T].

    Args:
      rebuilt: [B, T, D].
      targets: the item's clean tokens, [B, T, D].
      others: the replacement of each token, [B, T, D].
      own: which targets are keys, [B, T].
      replaced: which replacements are keys, [B, T].
      temperature: positive.
    """

    def unit(x):
        x = x.astype(jnp.float32)
        return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(axis=-1, keepdims=True), 1e-20))

    keys = unit(jnp.concatenate([targets, others], axis=1))
    valid = jnp.concatenate([own, replaced], axis=1)[:, None, :]
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
    """Compute the denoising loss: how far rebuilt tokens are from the clean ones.

    For a rebuilt token r and its clean token v, the loss is

      cosine:  1 - cos(r, v)
      mse:     mean_d (r_d - v_d)^2
      infonce: -log softmax_k(cos(r, k) / temperature) at k = v, where the keys k are the clean
               tokens of the item and the tokens that replaced some of them.

    Args:
      rebuilt: rebuilt tokens, [B, T, D].
      targets: clean tokens, [B, T, D]; no gradient flows to them.
      noise: which tokens were replaced.
      valid: True for tokens that are neither padding nor CLS, [B, T].
      form: one of `FORMS`.
      replaced_only: True to average over the replaced tokens, False over all valid ones.
      temperature: used by `infonce` alone.

    Returns:
      The mean loss of each item, float32 [B], and whether the item has a token to average over,
      bool [B]; without one its loss is 0.

    Raises:
      ValueError: `form` is unknown.

    Example:
      >>> noise = Noise(jnp.array([[False, True]]), jnp.zeros((1, 2), int), jnp.zeros((1, 2), int))
      >>> clean, valid = jnp.ones((1, 2, 4)), jnp.ones((1, 2), bool)
      >>> print(*denoising(clean + 0.5, clean, noise, valid, "mse"))
      [0.25] [ True]
    """
    if form not in FORMS:
        raise ValueError(f"form {form!r} is none of {', '.join(FORMS)}")
    # Padding and CLS may hold any values: zeroed here, before they can overflow and put NaN into
    # the gradient.
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
