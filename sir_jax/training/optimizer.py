"""AdamW with warm-up, weight decay mask and clipping, built from `config.optim`."""

import optax

from sir_jax.config.fields import SCHEDULES
from sir_jax.config.rules import read_rate
from sir_jax.errors import UserError
from sir_jax.runtime.trees import any_match, map_with_path


def make_schedule(cfg, steps: int) -> optax.Schedule:
    """Build the learning rate as a function of the number of updates made so far.

    The warm-up is linear and starts at `learning_rate / warmup_steps`: an update with rate 0 would
    be wasted. After it the rate decays from `learning_rate` to `end_factor * learning_rate` at
    `steps`. A run that is shorter than its warm-up ends within it.

    Args:
      cfg: `config.optim`: `learning_rate`, `warmup_steps`, `schedule`, `end_factor`.
      steps: number of updates of the whole run.

    Raises:
      UserError: the schedule is unknown, or the warm-up is negative.
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
    """Return which parameters weight decay applies to.

    These are the ones with two or more axes whose path no regex matches.

    Args:
      params: nested dict of arrays or shapes.
      no_decay: regexes of paths; see `trees.path_matches`.

    Returns:
      A tree of the same structure with a bool per parameter.

    Example:
      >>> import numpy as np
      >>> decay_mask({"kernel": np.ones((2, 2)), "bias": np.ones(2)}, ())
      {'bias': False, 'kernel': True}
    """
    return map_with_path(
        lambda path, leaf: leaf.ndim >= 2 and not any_match(no_decay, path), params
    )


def make_optimizer(cfg, steps: int) -> optax.GradientTransformation:
    """Build clipping by global norm followed by AdamW (arXiv 1711.05101).

    The step passes the trainable parameters only. So the norm is theirs, and frozen parameters have
    no optimiser state.

    Args:
      cfg: `config.optim`; `clip_norm=0` turns clipping off.
      steps: number of updates of the whole run, for the schedule.

    Raises:
      UserError: the schedule is unknown, or the warm-up is negative.
    """
    adamw = optax.adamw(
        make_schedule(cfg, steps),
        b1=cfg.b1,
        b2=cfg.b2,
        eps=cfg.eps,
        weight_decay=cfg.weight_decay,
        mask=lambda params: decay_mask(params, tuple(cfg.no_decay)),
    )
    parts = [optax.clip_by_global_norm(cfg.clip_norm)] if cfg.clip_norm else []
    parts += [adamw, *([scale_by_rates(tuple(cfg.rates))] if cfg.rates else [])]
    # Not a chain of one: checkpoints of runs without clipping have AdamW's state alone.
    return optax.chain(*parts) if len(parts) > 1 else adamw


def scale_by_rates(rates: tuple[str, ...]) -> optax.GradientTransformation:
    """Multiply the updates of some parameters, and so their rate; weight decay goes with it.

    Args:
      rates: `optim.rates`: PATTERN=FACTOR each, the first that fits a path counts.

    Example:
      >>> import numpy as np
      >>> tx = scale_by_rates(("pool_.*=5",))
      >>> ones = {"pool_image": np.ones(1), "speech_head": np.ones(1)}
      >>> tx.update(ones, tx.init(ones), ones)[0]
      {'pool_image': array([5.]), 'speech_head': array([1.])}
    """
    factors = [read_rate(item) for item in rates]

    def factor(path: str) -> float:
        fits = (number for pattern, number in factors if any_match((pattern,), path))
        return next(fits, 1.0)

    def scale(updates, params):
        del params
        return map_with_path(lambda path, leaf: factor(path) * leaf, updates)

    return optax.stateless(scale)
