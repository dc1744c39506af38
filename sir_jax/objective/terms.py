"""The terms of the objective on an encoded batch: SIC, SIM and CMD. All pure."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sir_jax.config.specs import MODALITIES
from sir_jax.losses.contrastive import contrastive, id_targets
from sir_jax.losses.denoising import Noise, add_noise, cosine, denoising, draw_noise, other_rows
from sir_jax.losses.matching import hard_negatives, masked_mean, matching
from sir_jax.losses.queue import filled_rows
from sir_jax.models import Encoded
from sir_jax.objective.microbatches import map_rows
from sir_jax.objective.switches import noisy_modalities
from sir_jax.objective.views import Views

Array = jax.Array


def sic_term(views: Views, queue, ids, temperature, alpha, sic) -> tuple[Array, dict]:
    """Compute speech-image contrastive learning over the batch and the queue, both directions."""
    z_s, z_i = views.speech.embed, views.image.embed
    keys_s, keys_i, teacher_s, teacher_i = z_s, z_i, None, None
    if views.speech_m is not None:
        keys_s, keys_i = views.speech_m.embed, views.image_m.embed
    if sic.alpha:
        teacher_s, teacher_i = keys_s, keys_i
    if queue is None:
        past_s = past_i = jnp.zeros((0, z_s.shape[1]))
        past_ids, filled = jnp.zeros((0,), ids.dtype), jnp.zeros((0,), bool)
    else:
        past_s, past_i, past_ids = queue.speech, queue.image, queue.ids
        filled = filled_rows(queue)
    hard = id_targets(ids, past_ids, filled)
    s2i, s2i_right = contrastive(z_s, keys_i, past_i, filled, hard, temperature, teacher_s, alpha)
    i2s, i2s_right = contrastive(z_i, keys_s, past_s, filled, hard, temperature, teacher_i, alpha)
    loss = 0.5 * (s2i.mean() + i2s.mean())
    metrics = {"sic": loss, "s2i_accuracy": s2i_right, "i2s_accuracy": i2s_right}
    if sic.alpha:
        metrics["alpha"] = alpha
    if queue is not None:
        metrics["queue_fill"] = queue.filled / queue.ids.shape[0]
    return loss, metrics


def _grouped(tree: Any, groups: int) -> Any:
    """Cut rows [B, ...] into [groups, B / groups, ...], as a sharded batch lies on its devices."""
    return jax.tree.map(lambda x: x.reshape(groups, -1, *x.shape[1:]), tree)


def _flat(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)


@jax.vmap
def _take(tree: Any, rows: Array) -> Any:
    """Take rows [G, R] of a tree's leaves [G, B, ...], group by group."""
    return jax.tree.map(lambda x: take_rows(x, rows) if x.dtype != bool else x[rows], tree)


@jax.custom_vjp
def take_rows(x: Array, rows: Array) -> Array:
    """Take rows [R] of x [B, ...], with a gradient that is one reduce-scatter of a sharded batch.

    The gradient is written as a product with one-hot rows. Of the scatter-add that autodiff would
    make, XLA gathers the updates of all devices and then adds up all devices' results: three times
    the traffic; on CPU it is slow besides.
    """
    return x[rows]


def _take_rows_fwd(x, rows):
    return x[rows], (rows, jnp.zeros((x.shape[0], 0)))


def _take_rows_bwd(residuals, d_out):
    rows, like = residuals
    taken = (rows[:, None] == jnp.arange(like.shape[0])).astype(d_out.dtype)
    d_x = jnp.einsum(
        "rb,rd->bd", taken, d_out.reshape(d_out.shape[0], -1), preferred_element_type=jnp.float32
    )
    return d_x.astype(d_out.dtype).reshape(-1, *d_out.shape[1:]), None


take_rows.defvjp(_take_rows_fwd, _take_rows_bwd)


def sim_term(
    views: Views, ids, temperature, params, keys, *, model, groups: int, pieces: int = 1
) -> tuple[Array, dict]:
    """Compute speech-image matching: each pair, its speech with a hard image, and the reverse.

    Negatives are drawn by the student's own similarities, as BLIP has it; evenly where
    `temperature` is None, as without SIC nothing trains them. All 3B pairs go through the fusion
    encoder at once, a row's three beside each other, so that none leaves its device.
    """
    speech, image, ids = _grouped((views.speech, views.image, ids), groups)
    scores = jnp.zeros((*ids.shape, ids.shape[1]))
    if temperature is not None:
        scores = jnp.einsum("gse,gie->gsi", speech.embed, image.embed) / temperature
    draw = jax.vmap(hard_negatives)
    image_rows, has_image = draw(jax.random.split(keys[0], groups), scores, ids)
    speech_rows, has_speech = draw(
        jax.random.split(keys[1], groups), jnp.swapaxes(scores, 1, 2), ids
    )

    def triples(*rows):
        stacked = jax.tree.map(lambda *x: jnp.stack(x, axis=2), *rows)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[3:]), stacked)

    def match(key, speech, image):
        return model.apply(
            {"params": params},
            speech,
            image,
            deterministic=False,
            method="match",
            rngs={"dropout": key},
        )

    logits = map_rows(
        match,
        jax.random.fold_in(keys[0], groups),
        pieces,
        triples(speech, speech, _take(speech, speech_rows)),
        triples(image, _take(image, image_rows), image),
    )
    valid = _flat(jnp.stack([has_image, has_speech], axis=2))
    losses, counted, right = matching(logits.reshape(-1, 3, 2), valid)
    loss = masked_mean(losses, counted)
    metrics = {
        "sim": loss,
        "sim_accuracy": masked_mean(right.astype(jnp.float32), counted),
        "sim_negatives": valid.mean(dtype=jnp.float32),
    }
    return loss, metrics


def cmd_term(
    views: Views, ids, params, key, logged, *, model, cfg, groups: int, pieces: int = 1
) -> tuple[Array, dict]:
    """Compute cross-modal denoising, the mean over its directions.

    At logged steps the same is done once more, forward, with another image's context: the head
    uses the other modality as far as its cosine falls by that.
    """
    losses, metrics = [], {}
    for modality in noisy_modalities(cfg):
        key_noise, key_drop = jax.random.split(jax.random.fold_in(key, MODALITIES.index(modality)))
        task = DenoisingTask.of(views, ids, modality, key_noise, model, cfg.cmd, groups)
        rebuilt = task.rebuild(model, params, task.context, key_drop, pieces)
        loss = task.loss(rebuilt, cfg.cmd)

        def control(task=task, key_drop=key_drop):
            context, wrong = task.wrong_context()
            return task.similarity(task.rebuild(model, params, context, key_drop, pieces), wrong)

        losses.append(loss)
        metrics |= {
            f"cmd_{modality}": loss,
            f"cmd_{modality}_cosine": task.similarity(rebuilt),
            f"cmd_{modality}_cosine_shuffled": jax.lax.cond(logged, control, lambda: jnp.zeros(())),
        }
    loss = sum(losses) / len(losses)
    return loss, {"cmd": loss, **metrics}


class DenoisingTask(NamedTuple):
    """One modality's tokens made noisy, with what they are rebuilt from and compared with."""

    modality: str
    noisy: Encoded
    context: Encoded  # the other modality, clean
    target: Array  # clean tokens, the teacher's where there is one, [B, T, D]
    noise: Noise  # grouped: [G, B / G, T]
    valid: Array  # neither padding nor CLS, grouped likewise
    ids: Array  # grouped likewise

    @classmethod
    def of(cls, views: Views, ids, modality: str, key, model, cmd, groups: int):
        """Draw the noise and put it in."""
        if modality == "speech":
            clean, context, target = views.speech, views.image, views.speech_m
        else:
            clean, context, target = views.image, views.speech, views.image_m
        target = jax.lax.stop_gradient((clean if target is None else target).tokens)
        first = int(modality == "speech" or model.image_has_cls)
        ids, mask, tokens = _grouped((ids, clean.mask, clean.tokens), groups)
        noise = jax.vmap(lambda *a: draw_noise(*a, cmd.ratio, cmd.block, first))(
            jax.random.split(key, groups), mask, ids
        )
        noisy = clean._replace(tokens=_flat(jax.vmap(add_noise)(tokens, noise)))
        valid = mask & (jnp.arange(mask.shape[2]) >= first)
        return cls(modality, noisy, context, target, noise, valid, ids)

    def rebuild(self, model, params, context: Encoded, key=None, pieces: int = 1) -> Array:
        """Return the rebuilt tokens, float32 [B, T, D]; without a key there is no dropout."""

        def denoise(key, noisy, context):
            return model.apply(
                {"params": params},
                noisy,
                context,
                self.modality,
                deterministic=key is None,
                method="denoise",
                rngs=None if key is None else {"dropout": key},
            )

        return map_rows(denoise, key, pieces, self.noisy, context)

    def loss(self, rebuilt: Array, cmd) -> Array:
        """Return the mean of the loss over the items that have a token that counts."""
        losses, counted = jax.vmap(
            lambda *a: denoising(*a, cmd.form, cmd.tokens == "replaced", cmd.temperature)
        )(*_grouped((rebuilt, self.target), self.ids.shape[0]), self.noise, self.valid)
        return masked_mean(losses, counted)

    def wrong_context(self) -> tuple[Encoded, Array]:
        """Return another image's context for each item, and which items have one, [B]."""
        rows, wrong = jax.vmap(other_rows)(self.ids)
        return _flat(_take(_grouped(self.context, self.ids.shape[0]), rows)), _flat(wrong)

    def similarity(self, rebuilt: Array, rows: Array | None = None) -> Array:
        """Return the mean cosine with the clean tokens over the replaced ones of the rows [B]."""
        counted = _flat(self.noise.replaced)
        if rows is not None:
            counted = counted & rows[:, None]
        return masked_mean(cosine(rebuilt, self.target), counted)
