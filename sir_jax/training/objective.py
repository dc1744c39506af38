"""The objective of one batch: SIC, SIM and CMD, each switched by its weight in `config.loss`.

loss = w_sic SIC + w_sim SIM + w_cmd CMD. A term whose weight is 0 has no parameters in training
and no operation in the program. All pure: everything that a term needs is an argument.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sir_jax.losses.contrastive import contrastive, id_targets
from sir_jax.losses.denoising import (
    Noise,
    add_noise,
    cosine,
    denoising,
    draw_noise,
    other_rows,
)
from sir_jax.losses.matching import hard_negatives, masked_mean, matching
from sir_jax.losses.queue import Rows, filled_rows
from sir_jax.models import Encoded
from sir_jax.models.hubert import HubertOutput
from sir_jax.models.vit import VitOutput
from sir_jax.training.trees import any_match, leaf_paths, overlay

Array = jax.Array

MODALITIES = ("speech", "image")

# Sub-trees that have a momentum teacher, as far as they are trained.
TEACHER_PARTS = (
    "speech", "speech_head", "speech_projection", "image", "image_head", "image_projection",
)  # fmt: skip

# What only SIC trains; still there without it, as retrieval needs an embedding.
SIC_PARTS = ("speech_projection", "image_projection", "image_head/projection", "temperature")


class Aux(NamedTuple):
    """What a loss returns beside its value."""

    metrics: dict[str, Array]  # scalars, float32
    queue_rows: Rows | None = None  # rows to put into the queue; None without a queue


class Views(NamedTuple):
    """A batch as the student and, where there is one, the momentum teacher see it."""

    speech: Encoded
    image: Encoded
    speech_m: Encoded | None
    image_m: Encoded | None


def fusion_tasks(loss_cfg) -> tuple[str, ...]:
    """Return what `config.loss` needs the fusion encoder for, of `models.fusion.TASKS`."""
    tasks = ["match"] if loss_cfg.sim.weight else []
    if loss_cfg.cmd.weight:
        tasks += [f"denoise_{modality}" for modality in noisy_modalities(loss_cfg)]
    return tuple(tasks)


def noisy_modalities(loss_cfg) -> tuple[str, ...]:
    """Return the modalities that CMD rebuilds."""
    direction = loss_cfg.cmd.direction
    return MODALITIES if direction == "both" else (direction,)


def has_teacher(loss_cfg) -> bool:
    """Tell whether `config.loss` needs a momentum teacher: for the queue, or for its targets."""
    return bool(loss_cfg.sic.weight and (loss_cfg.sic.queue or loss_cfg.sic.alpha))


def queue_size(loss_cfg) -> int:
    """Return the length of the embedding queue, 0 for none."""
    return loss_cfg.sic.queue if loss_cfg.sic.weight else 0


def frozen_patterns(cfg) -> tuple[str, ...]:
    """Return the regexes of what is not trained: `optim.freeze`, and what only SIC would train."""
    return tuple(cfg.optim.freeze) + (() if cfg.loss.sic.weight else SIC_PARTS)


def is_frozen(params, modality: str, cfg) -> bool:
    """Tell whether a modality's encoder is frozen as a whole."""
    patterns = tuple(cfg.optim.freeze)
    return all(any_match(patterns, path) for path in leaf_paths({modality: params[modality]}))


def stored_features(batch, modality: str, dtype) -> HubertOutput | VitOutput | None:
    """Return what a batch brings of a frozen encoder's output, None where that is to be computed.

    Args:
      batch: with the fields of `sir_jax.data.feature_store.Features.read`, or without.
      modality: 'speech' or 'image'.
      dtype: of the model's computation.
    """
    if modality == "image":
        if "image_tokens" not in batch:
            return None
        tokens, pooled = batch["image_tokens"].astype(dtype), batch["image_pooled"].astype(dtype)
        return VitOutput(tokens, pooled, ())
    if "frames" not in batch:
        return None
    # A head that weighs all states has no use for the tokens, which are not stored beside them.
    tokens, states = None, ()
    if "speech_states" in batch:
        states = jnp.unstack(batch["speech_states"].astype(dtype), axis=1)
    else:
        tokens = batch["speech_tokens"].astype(dtype)
    frames = (states[0] if states else tokens).shape[1]
    return HubertOutput(tokens, jnp.arange(frames)[None, :] < batch["frames"][:, None], states)


def encode(params, ema_params, batch, keys, *, model, cfg, deterministic: bool = False) -> Views:
    """Encode a batch once by the student and, where there is one, once by the teacher.

    A frozen encoder is the same for both: it is run once, without dropout, or not at all where the
    batch brings its output. `deterministic` leaves out the student's dropout as well.
    """

    def apply(params, method, *args, key=None):
        rngs = None if key is None else {"dropout": key}
        return model.apply(
            {"params": params}, *args, deterministic=key is None, method=method, rngs=rngs
        )

    teacher = None if ema_params is None else overlay(params, ema_params)
    inputs = {"speech": ("wave", "lengths"), "image": ("pixels",)}
    student, momentum = [], []
    for modality, key in zip(MODALITIES, keys, strict=True):
        frozen = is_frozen(params, modality, cfg)
        key_features, key_embed = jax.random.split(key)
        if deterministic:
            key_features = key_embed = None
        features = stored_features(batch, modality, model.dtype)
        if features is None:
            raw = [batch[name] for name in inputs[modality]]
            features = apply(
                params, f"{modality}_features", *raw, key=None if frozen else key_features
            )
        student.append(apply(params, f"embed_{modality}", features, key=key_embed))
        if teacher is None:
            momentum.append(None)
            continue
        if not frozen:
            features = apply(teacher, f"{modality}_features", *raw)
        momentum.append(apply(teacher, f"embed_{modality}", features))
    return Views(*student, *jax.lax.stop_gradient(momentum))


def loss_fn(
    params, ema_params, queue, batch, step, rng, *, model, cfg, shards: int = 1
) -> tuple[Array, Aux]:
    """Compute the objective of one batch.

    Args:
      params: the whole parameter tree.
      ema_params: the momentum teacher's leaves; None without one. Has no gradient.
      queue: a `losses.queue.Queue`; None without one. Has no gradient.
      batch: wave [B, N], lengths [B], pixels [B, h, w, 3], image_ids [B]; or what
        `stored_features` reads in place of a modality's.
      step: updates made so far, int32 []: the ramp of `sic.alpha`, and which steps are logged.
      rng: key of this batch's dropout, negatives and noise.
      model: from `build_model`, with the tasks of `fusion_tasks`.
      cfg: the whole config.
      shards: parts of the batch's rows on different devices, for what is drawn within a shard.

    Returns:
      The loss, a float32 scalar, and `Aux`.
    """
    keys = jax.random.split(rng, 5)
    views = encode(params, ema_params, batch, keys[:2], model=model, cfg=cfg)
    ids, temperature, loss_cfg = batch["image_ids"], params["temperature"], cfg.loss
    total, metrics, rows = 0.0, {}, None
    if loss_cfg.sic.weight:
        alpha = ramped_alpha(loss_cfg.sic, step)
        loss, metrics = sic_term(views, queue, ids, temperature, alpha, loss_cfg.sic)
        total += loss_cfg.sic.weight * loss
        if queue is not None:
            rows = Rows(views.speech_m.embed, views.image_m.embed, ids)
    if loss_cfg.sim.weight:
        scale = temperature if loss_cfg.sic.weight else None
        groups = shards if loss_cfg.sim.mining == "shard" else 1
        loss, more = sim_term(views, ids, scale, params, keys[2:4], model=model, groups=groups)
        total, metrics = total + loss_cfg.sim.weight * loss, {**metrics, **more}
    if loss_cfg.cmd.weight:
        groups = shards if loss_cfg.cmd.source == "shard" else 1
        logged = ((step + 1) % cfg.train.log_every == 0) | (step + 1 == cfg.train.steps)
        loss, more = cmd_term(
            views, ids, params, keys[4], logged, model=model, cfg=loss_cfg, groups=groups
        )
        total, metrics = total + loss_cfg.cmd.weight * loss, {**metrics, **more}
    return total, Aux(metrics=metrics, queue_rows=rows)


def ramped_alpha(sic, step: Array) -> Array:
    """Return the teacher's weight at a step: linear from 0 to `alpha` over `alpha_ramp` steps."""
    return sic.alpha * jnp.minimum(1.0, (step + 1) / max(sic.alpha_ramp, 1))


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
    return jax.tree.map(lambda x: x[rows], tree)


def sim_term(
    views: Views, ids, temperature, params, keys, *, model, groups: int
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

    logits = model.apply(
        {"params": params},
        triples(speech, speech, _take(speech, speech_rows)),
        triples(image, _take(image, image_rows), image),
        deterministic=False, method="match", rngs={"dropout": jax.random.fold_in(keys[0], groups)},
    )  # fmt: skip
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
    views: Views, ids, params, key, logged, *, model, cfg, groups: int
) -> tuple[Array, dict]:
    """Compute cross-modal denoising, the mean over its directions.

    At logged steps the same is done once more, forward, with another image's context: the head
    uses the other modality as far as its cosine falls by that.
    """
    losses, metrics = [], {}
    for modality in noisy_modalities(cfg):
        key_noise, key_drop = jax.random.split(jax.random.fold_in(key, MODALITIES.index(modality)))
        task = DenoisingTask.of(views, ids, modality, key_noise, model, cfg.cmd, groups)
        rebuilt = task.rebuild(model, params, task.context, key_drop)
        loss = task.loss(rebuilt, cfg.cmd)

        def control(task=task, key_drop=key_drop):
            context, wrong = task.wrong_context()
            return task.similarity(task.rebuild(model, params, context, key_drop), wrong)

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

    def rebuild(self, model, params, context: Encoded, key=None) -> Array:
        """Return the rebuilt tokens, float32 [B, T, D]; without a key there is no dropout."""
        return model.apply(
            {"params": params}, self.noisy, context, self.modality, deterministic=key is None,
            method="denoise", rngs=None if key is None else {"dropout": key},
        )  # fmt: skip

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
