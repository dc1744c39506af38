"""sir-jax train --config=configs/demo.py --workdir=runs/demo

One-object spoken scenes on two CPU cores in a few minutes, starting from the small encoders that
ship with the package (made by launch/pretrain.sh).

Arguments, e.g. `--config=configs/demo.py:scratch`:
  scratch  start from random encoders instead
  runlocal  shrink everything to seconds
"""

from sir_jax.config.presets import parse_arg, small_pair

CORPUS = "spoken_scenes/one-i3000-d250-t500-c4-v64-p128-s0"


def get_config(arg: str = ""):
    """Return the demo's config."""
    arg = parse_arg(arg, scratch=False, runlocal=False)
    c = small_pair(CORPUS)
    c.optim.warmup_steps = 20
    c.train.steps = 220
    c.train.eval_every = 220
    c.train.checkpoint_every = 55
    if arg.scratch:
        c.init.update(speech="", image="")
        c.optim.freeze = ()
    if arg.runlocal:
        c.data.batch_size = 8
        c.optim.warmup_steps = 1
        c.train.update(steps=4, eval_every=4, checkpoint_every=2, log_every=1)
    return c
