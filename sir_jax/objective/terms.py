"""The terms of the objective on an encoded batch: SIC and SIM; CMD is in `denoising`. All pure.

Negatives come from within a group of rows: the whole batch, or one device's shard of it.
"""

import functools

import jax
import jax.numpy as jnp

from sir_jax.losses.contrastive import (
    accuracy_in_batch,
    contrastive,
    id_targets,
    soft_negative,
    spread,
)
from sir_jax.losses.false_negatives import false_negatives
from sir_jax.losses.matching import (
    logits_of_odds,
    masked_mean,
    matching,
    pooled_log_odds,
    prior_entropy,
    several_hard_negatives,
)
from sir_jax.losses.queue import filled_rows
from sir_jax.models import Encoded
from sir_jax.objective.microbatches import map_rows
from sir_jax.objective.rows import flat, grouped, interleaved, repeated, take
from sir_jax.objective.views import Views, best_embeds

Array = jax.Array


@jax.named_scope("sic")
def sic_term(
    views: Views, queue, ids, temperature, alpha, sic, share: Array | None = None, noisy=None
) -> tuple[Array, dict]:
    """Compute speech-image contrastive learning (SIC) over batch and queue, in both directions.

    Args:
      views: the encoded batch.
      queue: a `losses.queue.Queue`; None without one.
      ids: image ids, [B].
      temperature: of the softmax.
      alpha: weight of the teacher's targets at this step.
      sic: `config.loss.sic`.
      share: of a true pair's cosine, above which a pair is no negative; None without a limit.
      noisy: noisy views of the images, each one more negative of its own row's speech: the
        student's embeddings, [B, E], also beside a teacher's keys; whether they have noise, [B];
        and their weight. None for none.

    Returns:
      The loss, and metrics by name.
    """
    z_s, z_i = views.speech.embed, views.image.embed
    keys_s, keys_i, teacher_s, teacher_i = z_s, z_i, None, None
    if views.speech_m is not None:
        keys_s, keys_i = views.speech_m.embed, views.image_m.embed
    if sic.alpha:
        teacher_s, teacher_i = keys_s, keys_i
    past_s, past_i, past_ids, filled = _past(queue, ids, z_s.shape[1])
    hard = id_targets(ids, past_ids, filled)
    barred_s, barred_i = _barred_candidates(views, past_s, past_i, hard > 0, share)
    own = None if noisy is None else soft_negative(z_s, *noisy, temperature)
    s2i, s2i_right = contrastive(
        z_s, keys_i, past_i, filled, hard, temperature, teacher_s, alpha, barred_s, own
    )
    i2s, i2s_right = contrastive(
        z_i, keys_s, past_s, filled, hard, temperature, teacher_i, alpha, barred_i
    )
    loss = 0.5 * (s2i.mean() + i2s.mean())
    metrics = {
        "sic": loss,
        "s2i_accuracy": s2i_right,
        "i2s_accuracy": i2s_right,
        "chance_accuracy": (hard[:, : ids.shape[0]] > 0).mean(),  # among the batch's own keys
        "speech_spread": spread(z_s),
        "image_spread": spread(z_i),
    }
    if sic.alpha:
        metrics["alpha"] = alpha
    if noisy is not None:
        metrics["s2i_above_noisy"] = _share_nearer(z_s, z_i, *noisy[:2])
    if share is not None:
        counted = jnp.concatenate([jnp.ones_like(ids, bool), filled]) & (hard == 0)
        metrics["sic_masked"] = masked_mean(barred_s | barred_i, counted)
    if queue is not None:
        metrics["queue_fill"] = queue.filled / queue.ids.shape[0]
        metrics["s2i_accuracy_in_batch"] = accuracy_in_batch(z_s, keys_i, hard)
        metrics["i2s_accuracy_in_batch"] = accuracy_in_batch(z_i, keys_s, hard)
    return loss, metrics


def _past(queue, ids, width: int) -> tuple:
    """Return the queue's speech, images and ids, and which rows are filled; empty without one."""
    if queue is None:
        none = jnp.zeros((0, width))
        return none, none, jnp.zeros((0,), ids.dtype), jnp.zeros((0,), bool)
    return queue.speech, queue.image, queue.ids, filled_rows(queue)


def _barred_candidates(views: Views, past_s, past_i, same, share: Array | None) -> tuple:
    """Return which candidates are no negatives of speech, and of images; None without a limit."""
    if share is None:
        return None, None
    speech, image = best_embeds(views)
    return (
        false_negatives(speech, image, past_i, same, share),
        false_negatives(image, speech, past_s, same, share),
    )


def _share_nearer(z_s: Array, z_i: Array, noisy: Array, exists: Array) -> Array:
    """Return the share of speech that is nearer to its image than to that image's noisy view."""
    nearer = (z_s * z_i).sum(axis=-1) > (z_s * noisy).sum(axis=-1)
    return masked_mean(nearer, exists)


@jax.named_scope("sim")
def sim_term(
    views: Views,
    ids,
    temperature,
    params,
    keys,
    *,
    model,
    groups: int,
    negatives: int = 1,
    pieces: int = 1,
    share: Array | None = None,
) -> tuple[Array, dict]:
    """Compute speech-image matching (SIM): true pairs, and each side with hard negatives.

    Hard negatives are drawn by the student's similarities, as in BLIP. Fusion encoder and pooled
    match, where the model has both, are asked about the same pairs, and their losses are added.

    Args:
      views: the encoded batch.
      ids: image ids, [B].
      temperature: of the similarities; None draws evenly, where nothing has trained them.
      params: the whole parameter tree.
      keys: two random keys, one for each direction.
      model: from `build_model`.
      groups: number of groups that negatives are drawn within.
      negatives: k, the hard images and the hard speeches of a row; less than a group's rows.
      pieces: number of pieces in which rows go through the fusion encoder, one after the other.
      share: of a true pair's cosine, above which a pair is no negative; None without a limit.

    Returns:
      The loss, and metrics by name.
    """
    image_rows, has_image, speech_rows, has_speech = _mine(
        views, ids, temperature, keys, groups, negatives, share
    )
    speech, image = grouped((views.speech, views.image), groups)
    valid = flat(jnp.concatenate([has_image, has_speech], axis=2))
    logits, metrics = {}, {"sim_negatives": valid.mean(dtype=jnp.float32)}
    if "match" in model.tasks:
        key = jax.random.fold_in(keys[0], groups)
        drawn = speech_rows, image_rows
        logits["sim"] = fusion_logits(speech, image, drawn, params, key, model, pieces)
    if "pool" in model.tasks:
        name = "sim_pooled" if logits else "sim"
        pooled = pooled_vectors(views, params, model, groups)
        logits[name] = pooled_logits(*pooled, speech_rows, image_rows, params)
    loss = 0.0
    for name, of_pairs in logits.items():
        losses, counted, correct = matching(of_pairs.reshape(len(valid), -1, 2), valid)
        metrics[name] = masked_mean(losses, counted)
        metrics["sim_prior"] = prior_entropy(counted)
        metrics[f"{name}_accuracy"] = masked_mean(correct.astype(jnp.float32), counted)
        loss += metrics[name]
    return loss, metrics


def fusion_logits(
    speech: Encoded, image: Encoded, drawn, params, key, model, pieces: int = 1
) -> Array:
    """Send all (1 + 2k) B pairs through the fusion encoder in one call.

    The pairs of a row are neighbours, so that a sharded batch keeps them on the row's device.

    Args:
      speech, image: the batch, [groups, B / groups, ...].
      drawn: rows of the hard speeches and of the hard images, [groups, B / groups, k] each.
      params: the whole parameter tree.
      key: random key of dropout.
      model: from `build_model`, with the task 'match'.
      pieces: number of pieces in which rows go through the fusion encoder, one after the other.

    Returns:
      [(1 + 2k) B, 2], a row's true pair, its speech with k hard images, k hard speeches with its
      image.
    """
    speech_rows, image_rows = drawn
    k = image_rows.shape[2]
    speech = interleaved(repeated(speech, 1 + k), take(speech, speech_rows))
    image = interleaved(repeated(image, 1), take(image, image_rows), repeated(image, k))
    return match_pairs(speech, image, params, key, model, pieces)


def match_pairs(speech: Encoded, image: Encoded, params, key, model, pieces: int = 1) -> Array:
    """Send pairs [n, ...] through the fusion encoder; return logits [n, 2].

    Args:
      speech, image: of each pair.
      params, key, model, pieces: see `fusion_logits`.
    """

    def match(key, *pair):
        rngs = {"dropout": key}
        return model.apply(
            {"params": params}, *pair, deterministic=False, method="match", rngs=rngs
        )

    return map_rows(match, key, pieces, speech, image)


def pooled_vectors(views: Views, params, model, groups: int) -> tuple[Array, Array]:
    """Return the pooled vectors of speech and of images, [groups, B / groups, F] each."""
    sides = (views.speech, "speech"), (views.image, "image")
    return tuple(
        grouped(model.apply({"params": params}, one, name, method="pool"), groups)
        for one, name in sides
    )


def pooled_logits(p_s: Array, p_i: Array, speech_rows, image_rows, params) -> Array:
    """Match the same pairs as `fusion_logits` by pooled vectors: no token leaves its device.

    Args:
      p_s, p_i: pooled vectors of speech and images, [groups, B / groups, F].
      speech_rows, image_rows: as `drawn` of `fusion_logits`.
      params: the whole parameter tree.

    Returns:
      As `fusion_logits`, [groups, B / groups, 1 + 2k, 2].
    """
    own_s, own_i = repeated((p_s, p_i), 1)
    pairs = (own_s, own_i), (own_s, take(p_i, image_rows)), (take(p_s, speech_rows), own_i)
    cosines = jnp.concatenate([(a * b).sum(axis=-1) for a, b in pairs], axis=-1)
    return logits_of_odds(pooled_log_odds(cosines, params["pooled_scale"], params["pooled_bias"]))


def _mine(
    views: Views, ids, temperature, keys, groups: int, negatives: int, share: Array | None
) -> tuple:
    """Draw k hard images for each speech and k hard speeches for each image; see `sim_term`.

    Returns:
      Rows of images, which exist, rows of speech, which exist; all [groups, B / groups, k], rows
      within their group.
    """
    barred = barred_pairs(views, ids, groups, share)
    speech, image, ids = grouped((views.speech.embed, views.image.embed, ids), groups)
    scores = jnp.zeros((*ids.shape, ids.shape[1]))
    if temperature is not None:
        scores = jnp.einsum("gse,gie->gsi", speech, image) / temperature
    draw = jax.vmap(functools.partial(several_hard_negatives, count=negatives))
    images = draw(jax.random.split(keys[0], groups), scores, ids, barred[0])
    scores = jnp.swapaxes(scores, 1, 2)
    return *images, *draw(jax.random.split(keys[1], groups), scores, ids, barred[1])


def barred_pairs(views: Views, ids, groups: int, share: Array | None) -> tuple:
    """Return which pairs are no negatives, of speech with image and the other way round.

    Args:
      views: the encoded batch.
      ids: image ids, [B].
      groups: number of groups that negatives are drawn within.
      share: see `sim_term`.

    Returns:
      bool [groups, B / groups, B / groups] twice; None twice without a limit.
    """
    if share is None:
        return None, None
    speech, image, ids = grouped((*best_embeds(views), ids), groups)
    none = speech[:, :0]
    find = jax.vmap(lambda a, b, past, same: false_negatives(a, b, past, same, share))
    same = ids[:, :, None] == ids[:, None, :]
    return find(speech, image, none, same), find(image, speech, none, same)
