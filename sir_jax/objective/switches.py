"""What a config switches on: the fusion encoder's tasks, the teacher, the queue, what is frozen."""

from sir_jax.config.specs import MODALITIES
from sir_jax.runtime.trees import any_match, leaf_paths

# Sub-trees that have a momentum teacher, as far as they are trained.
TEACHER_PARTS = (
    "speech",
    "speech_head",
    "speech_projection",
    "image",
    "image_head",
    "image_projection",
)

# What only SIC trains; still there without it, as retrieval needs an embedding.
SIC_PARTS = ("speech_projection", "image_projection", "image_head/projection", "temperature")


def noisy_modalities(loss_cfg) -> tuple[str, ...]:
    """Return the modalities that CMD rebuilds."""
    direction = loss_cfg.cmd.direction
    return MODALITIES if direction == "both" else (direction,)


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
