"""Cross-modal denoising (CMD) in the objective: noisy tokens, what is rebuilt of them. All pure.

Noise comes from within a group of rows: the whole batch, one device's shard of it, or look-alikes.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from sir_jax.config.specs import MODALITIES
from sir_jax.losses.denoising import (
    Noise,
    add_noise,
    cosine,
    denoising,
    draw_alike,
    draw_noise,
    other_rows,
)
from sir_jax.losses.matching import masked_mean
from sir_jax.models import Encoded
from sir_jax.objective.microbatches import map_rows
from sir_jax.objective.rows import flat, grouped, take
from sir_jax.objective.switches import noisy_modalities
from sir_jax.objective.views import Views

Array = jax.Array


@jax.named_scope("cmd")
def draw_tasks(views: Views, ids, key, *, model, cfg, groups: int) -> dict[str, "DenoisingTask"]:
    """Draw the noise of each modality that `config.loss.cmd` makes noisy.

    Args:
      views: the encoded batch.
      ids: image ids, [B].
      key: random key of noise and dropout, which `cmd_term` gets as well.
      model: from `build_model`.
      cfg: `config.loss`.
      groups: number of groups that noise is drawn within.

    Returns:
      What is to be denoised, by modality.
    """
    return {
        modality: DenoisingTask.of(
            views, ids, modality, _keys(key, modality)[0], model, cfg.cmd, groups
        )
        for modality in noisy_modalities(cfg)
    }


def _keys(key: Array, modality: str) -> Array:
    """Return a modality's two keys, of its noise and of dropout."""
    return jax.random.split(jax.random.fold_in(key, MODALITIES.index(modality)))


@jax.named_scope("cmd")
def cmd_term(
    tasks: dict[str, "DenoisingTask"], params, key, logged, *, model, cmd, pieces: int = 1
) -> tuple[Array, dict]:
    """Compute cross-modal denoising (CMD), the mean over its directions.

    Logged steps also rebuild with the context of another image, without a gradient: the more the
    cosine falls by that, the more the head uses the other modality.

    Args:
      tasks: from `draw_tasks`.
      params: the whole parameter tree.
      key: as `draw_tasks` has it.
      logged: whether this step is logged, bool [].
      model: from `build_model`.
      cmd: `config.loss.cmd`.
      pieces: number of pieces in which rows go through the fusion encoder, one after the other.

    Returns:
      The loss, and metrics by name.
    """
    losses, metrics = [], {}
    for modality, task in tasks.items():
        key_drop = _keys(key, modality)[1]
        rebuilt = task.rebuild(model, params, task.context, key_drop, pieces)
        loss = task.loss(rebuilt, cmd)

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
    """The noisy tokens of one modality, the context to rebuild them from, and the clean tokens."""

    modality: str
    noisy: Encoded
    context: Encoded  # the other modality, clean
    target: Array  # clean tokens, the teacher's where there is one, [B, T, D]
    noise: Noise  # [groups, B / groups, T]
    valid: Array  # True for tokens that are neither padding nor CLS, [groups, B / groups, T]
    ids: Array  # image ids, [groups, B / groups]

    @classmethod
    def of(cls, views: Views, ids, modality: str, key, model, cmd, groups: int):
        """Draw noise for a modality's tokens and apply it.

        Args:
          views: the encoded batch.
          ids: image ids, [B].
          modality: 'speech' or 'image', whose tokens are replaced.
          key: random key.
          model: from `build_model`.
          cmd: `config.loss.cmd`.
          groups: number of groups that noise is drawn within.
        """
        if modality == "speech":
            clean, context, target = views.speech, views.image, views.speech_m
        else:
            clean, context, target = views.image, views.speech, views.image_m
        target = jax.lax.stop_gradient((clean if target is None else target).tokens)
        first = int(modality == "speech" or model.image_has_cls)
        ids, mask, tokens = grouped((ids, clean.mask, clean.tokens), groups)
        noise = jax.vmap(drawing(cmd, first))(jax.random.split(key, groups), tokens, mask, ids)
        noisy = clean._replace(tokens=flat(jax.vmap(add_noise)(tokens, noise)))
        valid = mask & (jnp.arange(mask.shape[2]) >= first)
        return cls(modality, noisy, context, target, noise, valid, ids)

    def embeds(self, model, params) -> tuple[Array, Array]:
        """Embed noisy images by the head of the clean ones, without dropout.

        Returns:
          float32 [B, E], and whether the image has any noise, bool [B].
        """
        noisy = self.noisy
        embed = model.apply({"params": params}, noisy.tokens, noisy.mask, method="embed_tokens")
        return embed, flat(self.noise.replaced.any(axis=-1))

    def rebuild(self, model, params, context: Encoded, key=None, pieces: int = 1) -> Array:
        """Return the rebuilt tokens, float32 [B, T, D]; `key` None turns dropout off."""

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
        """Return the mean loss over the items that have a token to average over."""
        losses, counted = jax.vmap(
            lambda *a: denoising(*a, cmd.form, cmd.tokens == "replaced", cmd.temperature)
        )(*grouped((rebuilt, self.target), self.ids.shape[0]), self.noise, self.valid)
        return masked_mean(losses, counted)

    def wrong_context(self) -> tuple[Encoded, Array]:
        """Return for each item the context of another image, and whether there is one, [B]."""
        rows, wrong = jax.vmap(other_rows)(self.ids)
        return flat(take(grouped(self.context, self.ids.shape[0]), rows)), flat(wrong)

    def similarity(self, rebuilt: Array, rows: Array | None = None) -> Array:
        """Return the mean cosine of rebuilt and clean tokens over the replaced ones.

        Args:
          rebuilt: from `rebuild`, [B, T, D].
          rows: rows to average over, bool [B]; None for all.
        """
        counted = flat(self.noise.replaced)
        if rows is not None:
            counted = counted & rows[:, None]
        return masked_mean(cosine(rebuilt, self.target), counted)


def drawing(cmd, first: int) -> Callable[..., Noise]:
    """Return the function of (key, tokens, mask, ids) that draws the noise of `loss.cmd.pattern`.

    Args:
      cmd: `config.loss.cmd`.
      first: number of leading tokens without noise; see `losses.denoising.draw_noise`.
    """
    if cmd.pattern == "alike":
        return lambda *of_items: draw_alike(*of_items, cmd.ratio, first)
    return lambda key, tokens, mask, ids: draw_noise(key, mask, ids, cmd.ratio, cmd.block, first)
