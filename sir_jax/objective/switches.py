"""What a config switches on: tasks of the fusion encoder, teacher, queue, frozen parameters."""

from sir_jax.config.specs import MODALITIES
from sir_jax.runtime.trees import any_match, leaf_paths

# Sub-trees whose trainable parameters have a momentum teacher.
TEACHER_PARTS = (
    "speech",
    "speech_head",
    "speech_projection",
    "image",
    "image_head",
    "image_projection",
)

# Parameters that only SIC trains. A model without SIC still has them: retrieval needs embeddings.
SIC_PARTS = ("speech_projection", "image_projection", "temperature")


def noisy_modalities(loss_cfg) -> tuple[str, ...]:
    """Return the modalities whose tokens CMD replaces and rebuilds."""
    direction = loss_cfg.cmd.direction
    return MODALITIES if direction == "both" else (direction,)


# Tasks of `models.fusion.TASKS` by `config.model.match.kind`.
MATCH_TASKS = {
    "fusion": ("match",),
    "pooled": ("pool",),
    "both": ("match", "pool"),
    "late": ("match",),  # by `match_spec.kind`
}


def fusion_tasks(loss_cfg, match: str = "fusion") -> tuple[str, ...]:
    """Return the tasks of `models.fusion.TASKS` that a config needs.

    Args:
      loss_cfg: `config.loss`.
      match: `config.model.match.kind`.
    """
    tasks = [*MATCH_TASKS[match]] if loss_cfg.sim.weight else []
    if loss_cfg.cmd.weight:
        tasks += [f"denoise_{modality}" for modality in noisy_modalities(loss_cfg)]
    return tuple(tasks)


def knows_similarities(cfg) -> bool:
    """Tell whether embeddings are trained: by SIC, or before this run."""
    return bool(cfg.loss.sic.weight or cfg.init.model)


def has_teacher(loss_cfg) -> bool:
    """Tell whether `config.loss` needs a momentum teacher: for the queue, or for soft targets."""
    return bool(loss_cfg.sic.weight and (loss_cfg.sic.queue or loss_cfg.sic.alpha))


def queue_size(loss_cfg) -> int:
    """Return the length of the queue; 0 means none."""
    return loss_cfg.sic.queue if loss_cfg.sic.weight else 0


def frozen_patterns(cfg) -> tuple[str, ...]:
    """Return regexes of the frozen parameters: `optim.freeze`, and SIC's own where SIC is off."""
    if cfg.loss.sic.weight:
        return tuple(cfg.optim.freeze)
    # Of a Q-Former matching and denoising train the rest.
    head = "image_head/projection" if cfg.model.image_head == "qformer" else "image_head"
    return (*cfg.optim.freeze, *SIC_PARTS, head)


def is_frozen(params, part: str, cfg) -> bool:
    """Tell whether `optim.freeze` matches every parameter of a part, as of an encoder."""
    patterns = tuple(cfg.optim.freeze)
    return all(any_match(patterns, path) for path in leaf_paths({part: params[part]}))


# Sub-trees of each match of `model.match.kind=both`.
MATCH_PARTS = {
    "match": ("fusion", "match_head"),
    "pool": ("pool_speech", "pool_image", "pooled_scale", "pooled_bias"),
}


def tasks_that_learn(params, tasks: tuple[str, ...], cfg) -> tuple[str, ...]:
    """Return the tasks without a match that is frozen whole, beside one that is not.

    Args:
      params: the whole parameter tree.
      tasks: of the model.
      cfg: the whole config.
    """
    matches = [task for task in tasks if task in MATCH_PARTS]
    if len(matches) < 2:
        return tasks
    still = [all(is_frozen(params, part, cfg) for part in MATCH_PARTS[task]) for task in matches]
    if all(still):
        return tasks
    dropped = {task for task, frozen in zip(matches, still, strict=True) if frozen}
    return tuple(task for task in tasks if task not in dropped)
