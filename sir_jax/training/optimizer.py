"""The optimiser with warm-up, weight decay mask and clipping, built from `config.optim`."""

import optax

from sir_jax.config.fields import SCHEDULES
from sir_jax.config.rules import read_rate
from sir_jax.errors import UserError
from sir_jax.runtime.trees import any_match, map_with_path

# Root mean square of Muon's update at rate 1: that of AdamW's, as its authors found.
MUON_SIZE = 0.2


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
    """Build clipping by global norm followed by `optim.algorithm`.

    The step passes the trainable parameters only. So the norm is theirs, and frozen parameters have
    no optimiser state.

    Args:
      cfg: `config.optim`; `clip_norm=0` turns clipping off.
      steps: number of updates of the whole run, for the schedule.

    Raises:
      UserError: the schedule is unknown, or the warm-up is negative.
    """
    parts = [optax.clip_by_global_norm(cfg.clip_norm)] if cfg.clip_norm else []
    if cfg.algorithm == "schedule_free":
        parts.append(schedule_free(cfg, make_schedule(cfg, steps)))
    else:
        chosen = muon if cfg.algorithm == "muon" else adamw
        parts += [chosen(cfg, make_schedule(cfg, steps)), *_rates(cfg)]
    # Not a chain of one: checkpoints of runs without clipping have AdamW's state alone.
    return optax.chain(*parts) if len(parts) > 1 else parts[0]


def adamw(cfg, rate: optax.Schedule) -> optax.GradientTransformation:
    """Build AdamW (arXiv 1711.05101)."""
    return optax.adamw(
        rate, b1=cfg.b1, b2=cfg.b2, eps=cfg.eps, weight_decay=cfg.weight_decay, mask=_decays(cfg)
    )


def muon(cfg, rate: optax.Schedule) -> optax.GradientTransformation:
    """Build Muon (Jordan 2024) for the matrices of transformer layers, NAdamW for all else.

    An orthogonal update is scaled to the size of AdamW's (arXiv 2502.16982), so that both parts
    take one rate. `optim.b1` and `b2` are NAdamW's; Muon's momentum is its authors', 0.95.
    """
    direction = optax.contrib.muon(
        1.0,
        eps=cfg.eps,
        adam_b1=cfg.b1,
        adam_b2=cfg.b2,
        muon_weight_dimension_numbers=layer_matrices,
        consistent_rms=MUON_SIZE,
    )
    # Its own decay would know no mask. Its direction is downhill already, so the sign turns.
    decay = optax.add_decayed_weights(-cfg.weight_decay, _decays(cfg))
    return optax.chain(direction, decay, optax.scale_by_schedule(rate))


def layer_matrices(params):
    """Return what of parameters Muon takes: `MuonDimensionNumbers` at each, None at the others."""

    def numbers(path, leaf):
        takes = leaf.ndim == 2 and any_match((r"(.*/)?layers_\d+/.*kernel",), path)
        return optax.contrib.MuonDimensionNumbers() if takes else None

    return map_with_path(numbers, params)


def schedule_free(cfg, rate: optax.Schedule) -> optax.GradientTransformation:
    """Build schedule-free AdamW (arXiv 2405.15682).

    The parameters that it updates are where gradients are taken; those to evaluate and to give away
    are `state.shown_params`; `optim.b1` is how near the two are. As optax's `schedule_free_adamw`,
    with decay's mask, and with the rates of layers inside, where they leave the average true.
    """
    base = optax.chain(
        optax.scale_by_rms(cfg.b2, cfg.eps, eps_in_sqrt=False, bias_correction=True),
        optax.add_decayed_weights(cfg.weight_decay, _decays(cfg)),
        optax.scale_by_learning_rate(rate),
        *_rates(cfg),
    )
    return optax.contrib.schedule_free(base, rate, b1=cfg.b1)


def _decays(cfg):
    return lambda params: decay_mask(params, tuple(cfg.no_decay))


def _rates(cfg) -> list[optax.GradientTransformation]:
    return [scale_by_rates(tuple(cfg.rates))] if cfg.rates else []


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
