"""Speech-image matching (SIM): the draw of hard negatives, the losses over pairs and over lists."""

import jax
import jax.numpy as jnp

from sir_jax.losses.contrastive import soft_cross_entropy

Array = jax.Array


def hard_negatives(
    key: Array, scores: Array, ids: Array, barred: Array | None = None
) -> tuple[Array, Array]:
    """Draw one hard negative for each row: a column of another image, similar ones more often.

    P(j | i) is proportional to exp(scores_ij) over the columns j whose image id differs from that
    of row i, as in ALBEF (arXiv 2107.07651).

    Args:
      key: random key.
      scores: similarities divided by the temperature, [B, B]; no gradient flows to them.
      ids: image ids of the rows, which are also those of the columns, [B].
      barred: True for columns that are not drawn either, bool [B, B]; None for none.

    Returns:
      The drawn column, int32 [B]; and whether the row has one that may be drawn, bool [B].
      Without one the drawn column is meaningless, and the caller must leave it out.

    Example:
      >>> print(*hard_negatives(jax.random.key(0), jnp.zeros((2, 2)), jnp.array([3, 4])))
      [1 0] [ True  True]
    """
    other = _may_be_drawn(ids, barred)
    valid = other.any(axis=-1)
    # A row without a negative draws from all columns: over -inf alone the draw would be silent
    # garbage.
    logits = jnp.where(other | ~valid[:, None], jax.lax.stop_gradient(scores), -jnp.inf)
    drawn = jax.random.categorical(key, logits.astype(jnp.float32), axis=-1)
    return drawn.astype(jnp.int32), valid


def several_hard_negatives(
    key: Array, scores: Array, ids: Array, barred: Array | None = None, *, count: int
) -> tuple[Array, Array]:
    """Draw several hard negatives for each row, none of them twice.

    The first is drawn as `hard_negatives` draws it, each further one in the same way from the
    columns that are left: the k largest of log-probabilities with Gumbel noise are such a draw
    (Kool et al., arXiv 1903.06059).

    Args:
      key, scores, ids, barred: see `hard_negatives`.
      count: k, the columns to draw for a row, below B. With 1 the draw is that of `hard_negatives`.

    Returns:
      The drawn columns, int32 [B, k]; and which of them exist, bool [B, k]: of a row with m columns
      that may be drawn, the first m. The others are meaningless.

    Example:
      >>> ids = jnp.array([3, 4, 4])
      >>> print(several_hard_negatives(jax.random.key(0), jnp.zeros((3, 3)), ids, count=2)[1])
      [[ True  True]
       [ True False]
       [ True False]]
    """
    if count == 1:
        drawn, valid = hard_negatives(key, scores, ids, barred)
        return drawn[:, None], valid[:, None]
    other = _may_be_drawn(ids, barred)
    logits = jax.lax.stop_gradient(scores).astype(jnp.float32)
    noisy = jnp.where(other, logits + jax.random.gumbel(key, scores.shape), -jnp.inf)
    drawn = jax.lax.top_k(noisy, count)[1]
    return drawn, jnp.arange(count) < other.sum(axis=-1, keepdims=True)


def _may_be_drawn(ids: Array, barred: Array | None) -> Array:
    """Return which columns are negatives of a row, bool [B, B]; see `hard_negatives`."""
    other = ids[:, None] != ids[None, :]
    return other if barred is None else other & ~barred


def matching(logits: Array, valid: Array) -> tuple[Array, Array, Array]:
    """Compute the binary cross-entropy of each row's true pair and its hard negatives.

    Args:
      logits: [B, 1 + 2k, 2]. Axis 1: the true pair; the row's speech with k hard images; k hard
        speeches with the row's image. Axis 2: class 1 is 'they match'.
      valid: which of the negatives exist, bool [B, 2k].

    Returns:
      Three arrays [B, 1 + 2k]: the loss of each pair, 0 where a negative does not exist; whether
      the pair exists; and whether it is classified correctly.

    Example:
      >>> loss, counted, correct = matching(jnp.zeros((1, 3, 2)), jnp.array([[True, False]]))
      >>> print(f"{loss.sum():.3f}", counted, correct)
      1.386 [[ True  True False]] [[False  True  True]]
    """
    counted = jnp.concatenate([jnp.ones_like(valid[:, :1]), valid], axis=1)
    # Zeroed before the softmax: a NaN that is masked only after it would still reach the gradient.
    present = jnp.where(counted[..., None], logits.astype(jnp.float32), 0.0)
    log_p = jax.nn.log_softmax(present, axis=-1)
    labels = (jnp.arange(logits.shape[1]) == 0).astype(jnp.int32)
    loss = -jnp.take_along_axis(log_p, labels[None, :, None], axis=-1)[..., 0]
    correct = logits.argmax(axis=-1) == labels[None, :]
    return jnp.where(counted, loss, 0.0), counted, correct


def prior_entropy(counted: Array) -> Array:
    """Return the mean loss of a head that knows nothing but how many of the pairs are true.

    A run whose `matching` loss stays there is not learning.

    Args:
      counted: of `matching`, bool [B, 1 + 2k]; column 0 are the true pairs.

    Example:
      >>> print(f"{prior_entropy(jnp.ones((4, 3), bool)):.4f}")  # one of three is true
      0.6365
    """
    share = counted[:, 0].sum() / jnp.maximum(counted.sum(), 1)
    return jax.scipy.special.entr(share) + jax.scipy.special.entr(1 - share)


def _in_lists(logits: Array, barred: Array | None) -> Array:
    """Return logits of pairs with those that are no negatives out of every softmax, float32."""
    logits = logits.astype(jnp.float32)
    return logits if barred is None else jnp.where(barred, -1e30, logits)


def list_matching(
    scores: Array, ids: Array, barred: tuple[Array, Array] | tuple[None, None] = (None, None)
) -> tuple[Array, Array]:
    """Compute the list-wise loss of a group: each row finds its own among all pairs of the group.

    l_i = -sum_j t_ij log softmax_j(scores_ij), where t_i is spread evenly over the columns of the
    row's image; the mean of that for speech and for images.

    Args:
      scores: of speech i with image j, [n, n].
      ids: image ids of the rows, which are also those of the columns, [n].
      barred: True for pairs that are no negatives, of speech with image and of image with speech,
        bool [n, n] each; never for a pair of one image.

    Returns:
      The loss of each row, float32 [n], and whether its speech and its image both score one of
      their own image highest, as a share, [n].

    Example:
      >>> loss, right = list_matching(jnp.array([[2.0, 0.0], [0.0, 2.0]]), jnp.array([3, 4]))
      >>> print(loss.round(3), right)
      [0.127 0.127] [1. 1.]
    """
    same = ids[:, None] == ids[None, :]
    targets = same / same.sum(axis=-1, keepdims=True)
    losses, right = [], []
    for logits, bar in zip((scores, scores.T), barred, strict=True):
        logits = _in_lists(logits, bar)
        losses.append(soft_cross_entropy(logits, targets))
        best = logits.argmax(axis=-1)
        right.append(jnp.take_along_axis(same, best[:, None], axis=-1)[:, 0])
    return 0.5 * (losses[0] + losses[1]), 0.5 * (right[0].astype(jnp.float32) + right[1])


def list_teaching(
    similarities: Array,
    scores: Array,
    barred: tuple[Array, Array] | tuple[None, None] = (None, None),
) -> Array:
    """Compute the contrastive loss of a group with the match's scores as soft targets.

    l_i = -sum_j softmax_j(scores_i)_j log softmax_j(similarities_i)_j, the mean of that for speech
    and for images, as LoopITR distils a matching head into embeddings (arXiv 2203.05465).

    Args:
      similarities: of speech i with image j, divided by the temperature, [n, n].
      scores: of the same pairs, by embedding and match, [n, n]; no gradient flows to them.
      barred: as `list_matching` has it.

    Returns:
      The loss of each row, float32 [n].

    Example:
      >>> print(list_teaching(jnp.zeros((2, 2)), jnp.zeros((2, 2))).round(3))
      [0.693 0.693]
    """
    scores = jax.lax.stop_gradient(scores)
    losses = []
    pairs = ((similarities, scores), (similarities.T, scores.T))
    for (logits, teacher), bar in zip(pairs, barred, strict=True):
        targets = jax.nn.softmax(_in_lists(teacher, bar), axis=-1)
        losses.append(soft_cross_entropy(_in_lists(logits, bar), targets))
    return 0.5 * (losses[0] + losses[1])


def match_score(logits: Array) -> Array:
    """Return the log-odds that a pair matches, float32 [...], from logits [..., 2].

    Example:
      >>> print(match_score(jnp.array([0.5, 2.0])))
      1.5
    """
    logits = logits.astype(jnp.float32)
    return logits[..., 1] - logits[..., 0]


def pooled_log_odds(cosine: Array, scale: Array, bias: Array) -> Array:
    """Return the log-odds that pairs match, float32, from the cosines of their pooled vectors.

    Args:
      cosine: any shape.
      scale: logarithm of the number that multiplies a cosine; the parameter `pooled_scale`.
      bias: the parameter `pooled_bias`. It orders nothing.

    Example:
      >>> print(pooled_log_odds(jnp.array([0.5, -0.5]), jnp.log(4.0), jnp.array(-1.0)))
      [ 1. -3.]
    """
    return jnp.exp(scale) * cosine.astype(jnp.float32) + bias


def logits_of_odds(log_odds: Array) -> Array:
    """Return logits [..., 2] whose `match_score` is the given log-odds [...].

    Example:
      >>> print(match_score(logits_of_odds(jnp.array(1.5))))
      1.5
    """
    return jnp.stack([jnp.zeros_like(log_odds), log_odds], axis=-1)


def masked_mean(values: Array, counted: Array) -> Array:
    """Return the mean of `values` where `counted` is True; 0 where it is True nowhere.

    Example:
      >>> print(masked_mean(jnp.array([1.0, 3.0, 9.0]), jnp.array([True, True, False])))
      2.0
    """
    return jnp.where(counted, values, 0.0).sum() / jnp.maximum(counted.sum(), 1)
