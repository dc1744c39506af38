"""The objective of one batch: SIC, SIM and CMD, each switched by its weight in `config.loss`.

loss = w_sic SIC + w_sim SIM + w_cmd CMD. A term with weight 0 adds no operation to the program and
trains no parameters. All functions are pure: everything that a term needs is an argument.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sir_jax.losses.queue import Rows
from sir_jax.models import SpeechImageModel
from sir_jax.objective.denoising import DenoisingTask, cmd_term, draw_tasks
from sir_jax.objective.lists import list_term
from sir_jax.objective.switches import knows_similarities, tasks_that_learn
from sir_jax.objective.terms import sic_term, sim_term
from sir_jax.objective.views import Views, best_embeds, encode

Array = jax.Array


class Aux(NamedTuple):
    """What the objective returns beside the loss."""

    metrics: dict[str, Array]  # float32 scalars by name
    queue_rows: Rows | None = None  # rows to push onto the queue; None without a queue
    embeds: tuple[Array, Array] | None = None  # speech and image, [B, E]; None without groups


@dataclasses.dataclass(frozen=True)
class Objective:
    """The objective of a config and a model. It holds no arrays: methods take them as arguments.

    Attributes:
      model: from `build_model`, with the tasks of `fusion_tasks`.
      cfg: the whole config.
      shards: number of devices that the batch's rows are split over. Negatives and noise are drawn
        within a shard where the config asks for it.
    """

    model: SpeechImageModel
    cfg: Any
    shards: int = 1

    def encode(self, params, ema_params, batch, keys) -> Views:
        """Encode a batch with student and teacher; see `views.encode`."""
        return encode(params, ema_params, batch, keys, model=self.model, cfg=self.cfg)

    def loss(self, params, ema_params, queue, batch, step, rng) -> tuple[Array, Aux]:
        """Compute the objective of one batch.

        Args:
          params: the whole parameter tree.
          ema_params: the momentum teacher's parameters; None without one. No gradient flows to
            them.
          queue: a `losses.queue.Queue`; None without one. No gradient flows to it.
          batch: wave [B, N], lengths [B], pixels [B, h, w, 3] and image_ids [B]. Stored features
            may take the place of wave and lengths, or of pixels; see `views.stored_features`.
          step: number of updates made so far, int32 []; it sets `sic.alpha` on its ramp, and tells
            whether the step is logged.
          rng: random key of dropout, negatives and noise.

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
          params: the whole parameter tree.
          queue: a `losses.queue.Queue`; None without one.
          ids: image ids, [B].
          step: number of updates made so far, int32 [].
          keys: three random keys: two for the negatives of each direction, one for the noise.
          pieces: number of pieces in which rows go through the fusion encoder, one after the other.

        Returns:
          The loss, a float32 scalar, and `Aux`.
        """
        temperature, loss_cfg = params["temperature"], self.cfg.loss
        total, metrics, rows, noisy = 0.0, {}, None, None
        share = relative_limit(self.cfg, step)
        if loss_cfg.cmd.weight:
            tasks = self.denoising_tasks(views, ids, keys[2])
            if loss_cfg.cmd.negative_weight:
                noisy = *tasks["image"].embeds(self.model, params), loss_cfg.cmd.negative_weight
        if loss_cfg.sic.weight:
            alpha = ramped_alpha(loss_cfg.sic, step)
            loss, metrics = sic_term(
                views, queue, ids, temperature, alpha, loss_cfg.sic, share, noisy
            )
            total += loss_cfg.sic.weight * loss
            if queue is not None:
                rows = Rows(views.speech_m.embed, views.image_m.embed, ids)
        if loss_cfg.sim.weight:
            loss, more = self.matching_loss(views, params, ids, keys[:2], pieces, share)
            total, metrics = total + loss_cfg.sim.weight * loss, {**metrics, **more}
        if loss_cfg.cmd.weight:
            given = {"model": self.model, "cmd": loss_cfg.cmd, "pieces": pieces}
            loss, more = cmd_term(tasks, params, keys[2], self.is_logged(step), **given)
            total, metrics = total + loss_cfg.cmd.weight * loss, {**metrics, **more}
        embeds = best_embeds(views) if self.cfg.data.groups else None
        return total, Aux(metrics=metrics, queue_rows=rows, embeds=embeds)

    def denoising_tasks(self, views: Views, ids, key) -> dict[str, DenoisingTask]:
        """Draw CMD's noise, within what `loss.cmd.source` says."""
        source = self.cfg.loss.cmd.source
        groups = {"shard": self.shards, "group": self.lists_in(ids)}.get(source, 1)
        return draw_tasks(views, ids, key, model=self.model, cfg=self.cfg.loss, groups=groups)

    def matching_loss(self, views: Views, params, ids, keys, pieces: int, share) -> tuple:
        """Compute SIM, with its list-wise part where that has a weight; see `loss_of_views`."""
        sim = self.cfg.loss.sim
        scale = params["temperature"] if knows_similarities(self.cfg) else None
        # What is frozen beside another match has nothing to learn from being asked.
        model = self.model.clone(tasks=tasks_that_learn(params, self.model.tasks, self.cfg))
        given = {"model": model, "pieces": pieces, "share": share}
        groups = self.shards if sim.mining == "shard" else 1
        loss, metrics = sim_term(
            views, ids, scale, params, keys, groups=groups, negatives=sim.negatives, **given
        )
        if sim.list_weight or sim.teach_weight:
            key = jax.random.fold_in(keys[1], groups)
            lists = {"sim": sim, "groups": 1 if sim.list_over == "batch" else self.lists_in(ids)}
            more, told = list_term(views, ids, scale, params, key, **lists, **given)
            loss, metrics = loss + more, {**metrics, **told}
        return loss, metrics

    def lists_in(self, ids: Array) -> int:
        """Return how many groups of `data.groups` neighbouring rows a batch of ids [B] has."""
        return ids.shape[0] // (self.cfg.data.groups or ids.shape[0])

    def is_logged(self, step: Array) -> Array:
        """Tell whether the metrics of the update that follows `step` are logged, bool []."""
        train = self.cfg.train
        return ((step + 1) % train.log_every == 0) | (step + 1 == train.steps)


def loss_fn(
    params, ema_params, queue, batch, step, rng, *, model, cfg, shards: int = 1
) -> tuple[Array, Aux]:
    """Compute the objective of one batch; see `Objective.loss`."""
    objective = Objective(model, cfg, shards)
    return objective.loss(params, ema_params, queue, batch, step, rng)


def ramped_alpha(sic, step: Array) -> Array:
    """Return the teacher's weight at a step: it rises linearly to `alpha` in `alpha_ramp` steps."""
    return sic.alpha * jnp.minimum(1.0, (step + 1) / max(sic.alpha_ramp, 1))


def relative_limit(cfg, step: Array) -> Array | None:
    """Return the share of a true pair's cosine above which a pair is no negative, at a step.

    Without a limit: None where there never is one, infinity in the steps before the groups, when
    embeddings tell nothing yet.

    Args:
      cfg: the whole config.
      step: number of updates made so far, int32 [].
    """
    share = cfg.loss.max_relative
    if not 0 < share < 1:
        return None
    return jnp.where(step >= cfg.data.grouped_after, share, jnp.inf)
