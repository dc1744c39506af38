"""The config of what is learnt."""

from typing import Any

from ml_collections import ConfigDict

from sir_jax.config.presets import small_pair
from sir_jax.inference import release

# Of `config.data`, what a release was trained on.
_SEEN = ("normalize_wave", "trim_silence", "image_size", "image_mean", "image_std", "image_fit")


def starting_point(corpus: str, model: str) -> ConfigDict:
    """Return the config of what training starts from; its sizes are still to be set.

    Both encoders stay as they came: that of speech has heard more voices than a synthesiser has.
    That of images has seen drawn scenes alone; the layer on top of it moves photographs apart.

    Args:
      corpus: to train on.
      model: a release to go on from; '' for the small encoders that ship.

    Raises:
      UserError: there is no such model.
    """
    c = small_pair(corpus)
    c.data.image_fit = "squash"  # a crop would lose the ends of what is long or tall
    # Encoded once: what changes a clip's length cannot be stored.
    for effect in ("speed", "tempo", "silence"):
        c.data.augment[effect].probability = 0.0
    c.data.trim_silence = "speech"
    c.optim.freeze = ("speech", "image")
    c.model.head.update(kind="conv", dropout=0.3)
    c.model.image_head = "mlp"
    c.optim.learning_rate = 3e-3
    c.optim.clip_norm = 0.0
    if model:
        found = release.find(model).cfg
        c.model.update(found.model)
        for name in _SEEN:
            c.data[name] = found.data[name]
        c.init.update(speech="", image="", model=model)
    return c


def with_sizes(c: ConfigDict, sizes: dict[str, Any], step: float, cores: int) -> ConfigDict:
    """Set the sizes of a config.

    Args:
      c: from `starting_point`.
      sizes: 'batch_size', 'buckets' and 'steps'.
      step: seconds that a step takes.
      cores: of the machine.

    Returns:
      The same config.
    """
    c.data.batch_size, c.data.buckets = sizes["batch_size"], tuple(sizes["buckets"])
    steps = sizes["steps"]
    c.optim.warmup_steps = min(50, steps // 10)
    c.train.steps = steps
    c.train.eval_every = steps
    c.train.checkpoint_every = max(1, min(steps, round(60 / step)))  # a minute is lost at most
    c.train.num_threads = cores
    return c
