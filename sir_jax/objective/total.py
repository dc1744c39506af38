"""The objective of one batch: SIC, SIM and CMD, each switched by its weight in `config.loss`.

loss = w_sic SIC + w_sim SIM + w_cmd CMD. A term whose weight is 0 has no parameters in training
and no operation in the program. All pure: everything that a term needs is an argument.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sir_jax.losses.queue import Rows
from sir_jax.models import SpeechImageModel
from sir_jax.objective.terms import cmd_term, sic_term, sim_term
from sir_jax.objective.views import Views, encode

Array = jax.Array


class Aux(NamedTuple):
    """What a loss returns beside its value."""

    metrics: dict[str, Array]  # scalars, float32
    queue_rows: Rows | None = None  # rows to put into the queue; None without a queue


@dataclasses.dataclass(frozen=True)
class Objective:
    """What is fixed of the objective while a program runs; all arrays are arguments.

    Attributes:
      model: from `build_model`, with the tasks of `fusion_tasks`.
      cfg: the whole config.
      shards: parts of the batch's rows on different devices, for what is drawn within a shard.
    """

    model: SpeechImageModel
    cfg: Any
    shards: int = 1

    def encode(self, params, ema_params, batch, keys) -> Views:
        """Encode a batch by the student and the teacher; see `views.encode`."""
        return encode(params, ema_params, batch, keys, model=self.model, cfg=self.cfg)

    def loss(self, params, ema_params, queue, batch, step, rng) -> tuple[Array, Aux]:
        """Compute the objective of one batch.

        Args:
          params: the whole parameter tree.
          ema_params: the momentum teacher's leaves; None without one. Has no gradient.
          queue: a `losses.queue.Queue`; None without one. Has no gradient.
          batch: wave [B, N], lengths [B], pixels [B, h, w, 3], image_ids [B]; or what
            `views.stored_features` reads in place of a modality's.
          step: updates made so far, int32 []: the ramp of `sic.alpha`, and which steps are logged.
          rng: key of this batch's dropout, negatives and noise.

        Returns:
          The loss, a float32 scalar, and `Aux`.
        """
        keys = jax.random.split(rng, 5)
        views = self.encode(params, ema_params, batch, keys[:2])
        return self.loss_of_views(views, params, queue, batch["image_ids"], step, keys[2:])

    def loss_of_views(
        self, views: Views, params, queue, ids, step, keys, pieces: int = 1
    ) -> tuple[Array, Aux]:
        """Compute the objective of an encoded batch.

        Args:
          views: from `encode`.
          params: see `loss`, as `queue` and `step`.
          queue: likewise.
          ids: image ids, [B].
          step: likewise.
          keys: three, of the negatives of each direction and of the noise.
          pieces: in how many pieces, one after the other, rows go through the fusion encoder.

        Returns:
          See `loss`.
        """
        temperature, loss_cfg = params["temperature"], self.cfg.loss
        total, metrics, rows = 0.0, {}, None
        if loss_cfg.sic.weight:
            alpha = ramped_alpha(loss_cfg.sic, step)
            loss, metrics = sic_term(views, queue, ids, temperature, alpha, loss_cfg.sic)
            total += loss_cfg.sic.weight * loss
            if queue is not None:
                rows = Rows(views.speech_m.embed, views.image_m.embed, ids)
        if loss_cfg.sim.weight:
            scale = temperature if loss_cfg.sic.weight else None
            groups = self.shards if loss_cfg.sim.mining == "shard" else 1
            loss, more = sim_term(
                views, ids, scale, params, keys[:2], model=self.model, groups=groups, pieces=pieces
            )
            total, metrics = total + loss_cfg.sim.weight * loss, {**metrics, **more}
        if loss_cfg.cmd.weight:
            groups = self.shards if loss_cfg.cmd.source == "shard" else 1
            loss, more = cmd_term(
                views,
                ids,
                params,
                keys[2],
                self.is_logged(step),
                model=self.model,
                cfg=loss_cfg,
                groups=groups,
                pieces=pieces,
            )
            total, metrics = total + loss_cfg.cmd.weight * loss, {**metrics, **more}
        return total, Aux(metrics=metrics, queue_rows=rows)

    def is_logged(self, step: Array) -> Array:
        """Tell whether the metrics of the update after `step` are logged, bool []."""
        train = self.cfg.train
        return ((step + 1) % train.log_every == 0) | (step + 1 == train.steps)


def loss_fn(
    params, ema_params, queue, batch, step, rng, *, model, cfg, shards: int = 1
) -> tuple[Array, Aux]:
    """Compute the objective of one batch; see `Objective` and its `loss`."""
    objective = Objective(model, cfg, shards)
    return objective.loss(params, ema_params, queue, batch, step, rng)


def ramped_alpha(sic, step: Array) -> Array:
    """Return the teacher's weight at a step: linear from 0 to `alpha` over `alpha_ramp` steps."""
    return sic.alpha * jnp.minimum(1.0, (step + 1) / max(sic.alpha_ramp, 1))
