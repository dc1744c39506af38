"""AdamW with warm-up, decay mask and clipping, built from `config.optim`."""

import optax

from sir_jax.config.fields import SCHEDULES
from sir_jax.errors import UserError
from sir_jax.runtime.trees import any_match, map_with_path


def make_schedule(cfg, steps: int) -> optax.Schedule:
    """Build the learning rate as a function of the updates made so far.

    The warm-up is linear and its first update already has `learning_rate / warmup_steps`: from
    zero, the first step would be spent on nothing. The decay goes from `learning_rate` at the end
    of the warm-up to `end_factor * learning_rate` at `steps`. A run shorter than its warm-up, which
    only tries things out, ends on the way up.

    Args:
      cfg: `config.optim`: `learning_rate`, `warmup_steps`, `schedule`, `end_factor`.
      steps: length of the whole run.

    Raises:
      UserError: on an unknown schedule, or a negative warm-up.
    """
    peak, warmup = cfg.learning_rate, cfg.warmup_steps
    if warmup < 0:
        raise UserError(f"optim.warmup_steps={warmup} is below 0")
    rest = max(steps - warmup, 1)
    decays = {
        "cosine": optax.cosine_decay_schedule(peak, rest, alpha=cfg.end_factor),
        "linear": optax.linear_schedule(peak, peak * cfg.end_factor, rest),
        "constant": optax.constant_schedule(peak),
    }
    if cfg.schedule not in decays:
        raise UserError(f"optim.schedule={cfg.schedule!r} is none of {', '.join(SCHEDULES)}")
    if not warmup:
        return decays[cfg.schedule]
    rise = optax.linear_schedule(peak / warmup, peak * (1 + 1 / warmup), warmup)
    return optax.join_schedules([rise, decays[cfg.schedule]], [warmup])


def decay_mask(params, no_decay: tuple[str, ...]):
    """Tell which leaves weight decay shrinks: those of two or more axes that no regex matches.

    Args:
      params: nested dict of arrays or shapes.
      no_decay: regexes; see `trees.path_matches`.

    Returns:
      The same tree with a bool a leaf.
    """
    return map_with_path(
        lambda path, leaf: leaf.ndim >= 2 and not any_match(no_decay, path), params
    )


def make_optimizer(cfg, steps: int) -> optax.GradientTransformation:
    """Build global-norm clipping followed by AdamW (arXiv 1711.05101).

    It is given the trainable leaves only, so the norm is theirs and frozen ones have no state.

    Args:
      cfg: `config.optim`; `clip_norm=0` is no clipping.
      steps: length of the whole run, for the schedule.

    Raises:
      UserError: see `make_schedule`.
    """
    adamw = optax.adamw(
        make_schedule(cfg, steps),
        b1=cfg.b1,
        b2=cfg.b2,
        eps=cfg.eps,
        weight_decay=cfg.weight_decay,
        mask=lambda params: decay_mask(params, tuple(cfg.no_decay)),
    )
    if not cfg.clip_norm:
        return adamw
    return optax.chain(optax.clip_by_global_norm(cfg.clip_norm), adamw)
