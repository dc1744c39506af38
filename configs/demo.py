"""sir-jax train --config=configs/demo.py --workdir=runs/demo

One-object spoken scenes on two CPU cores in a few minutes, starting from the small encoders that
ship with the package (made by launch/pretrain.sh).

Arguments, e.g. `--config=configs/demo.py:scratch`:
  scratch  start from random encoders instead
  runlocal  shrink everything to seconds
"""

from sir_jax.config.presets import parse_arg, shorten, small_pair

CORPUS = "spoken_scenes/one-i3000-d250-t500-c4-v64-p128-s0"


def get_config(arg: str = ""):
    """Return the demo's config."""
    arg = parse_arg(arg, scratch=False, runlocal=False)
    c = small_pair(CORPUS)
    # Silence makes clips twice as long to encode; a demonstration has no minutes for it.
    c.data.augment.silence.probability = 0.0
    c.data.buckets = (48_000, 60_000, 88_000)
    c.optim.warmup_steps = 20
    c.train.steps = 160
    c.train.eval_every = 160
    c.train.checkpoint_every = 40
    if arg.scratch:
        c.init.update(speech="", image="")
        c.optim.freeze = ()
    return shorten(c) if arg.runlocal else c
