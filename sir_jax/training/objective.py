"""The objective of one batch: SIC, SIM and CMD, each switched by its weight in `config.loss`.

loss = w_sic SIC + w_sim SIM + w_cmd CMD. A term whose weight is 0 has no parameters in training
and no operation in the program. All pure: everything that a term needs is an argument.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from sir_jax.losses.queue import Rows
from sir_jax.models.hubert import HubertOutput
from sir_jax.models.vit import VitOutput
from sir_jax.training.terms import (
    MODALITIES,
    Views,
    cmd_term,
    noisy_modalities,
    sic_term,
    sim_term,
)
from sir_jax.training.trees import any_match, leaf_paths, overlay

Array = jax.Array

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


def fusion_tasks(loss_cfg) -> tuple[str, ...]:
    """Return what `config.loss` needs the fusion encoder for, of `models.fusion.TASKS`."""
    tasks = ["match"] if loss_cfg.sim.weight else []
    if loss_cfg.cmd.weight:
        tasks += [f"denoise_{modality}" for modality in noisy_modalities(loss_cfg)]
    return tuple(tasks)


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
    return loss_of_views(
        views, params, queue, batch["image_ids"], step, keys[2:], model=model, cfg=cfg,
        shards=shards,
    )  # fmt: skip


def loss_of_views(
    views: Views, params, queue, ids, step, keys, *, model, cfg, shards: int = 1, pieces: int = 1
) -> tuple[Array, Aux]:
    """Compute the objective of an encoded batch.

    Args:
      views: from `encode`.
      params: see `loss_fn`, as all that follow unless said.
      queue: likewise.
      ids: image ids, [B].
      step: likewise.
      keys: three, of the negatives of each direction and of the noise.
      model: likewise.
      cfg: likewise.
      shards: likewise.
      pieces: in how many pieces, one after the other, rows go through the fusion encoder.

    Returns:
      See `loss_fn`.
    """
    temperature, loss_cfg = params["temperature"], cfg.loss
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
        loss, more = sim_term(
            views, ids, scale, params, keys[:2], model=model, groups=groups, pieces=pieces
        )
        total, metrics = total + loss_cfg.sim.weight * loss, {**metrics, **more}
    if loss_cfg.cmd.weight:
        groups = shards if loss_cfg.cmd.source == "shard" else 1
        logged = ((step + 1) % cfg.train.log_every == 0) | (step + 1 == cfg.train.steps)
        loss, more = cmd_term(
            views, ids, params, keys[2], logged, model=model, cfg=loss_cfg, groups=groups,
            pieces=pieces,
        )  # fmt: skip
        total, metrics = total + loss_cfg.cmd.weight * loss, {**metrics, **more}
    return total, Aux(metrics=metrics, queue_rows=rows)


def ramped_alpha(sic, step: Array) -> Array:
    """Return the teacher's weight at a step: linear from 0 to `alpha` over `alpha_ramp` steps."""
    return sic.alpha * jnp.minimum(1.0, (step + 1) / max(sic.alpha_ramp, 1))
