"""sir-jax train --config=configs/demo.py --workdir=runs/demo

One-object spoken scenes on two CPU cores in at most eight minutes, starting from the small
encoders that ship with the package (made by launch/pretrain.sh).

Arguments, e.g. `--config=configs/demo.py:scratch`:
  scratch  start from random encoders instead
  runlocal  shrink everything to seconds
"""

from sir_jax.config.presets import base_config, parse_arg

CORPUS = "spoken_scenes/one-i3000-d250-t500-c4-v64-p128-s0"


def get_config(arg: str = ""):
    """Return the demo's config."""
    arg = parse_arg(arg, scratch=False, runlocal=False)
    c = base_config("tiny", "tiny")
    c.data.corpus = CORPUS
    c.data.batch_size = 64
    c.data.buckets = (46_000, 52_000, 67_000)
    c.model.head.update(heads=4)
    c.model.speech.dropout = 0.0
    c.model.embed_width = 128
    c.optim.learning_rate = 1e-3
    c.optim.warmup_steps = 20
    c.optim.clip_norm = 1.0
    c.train.steps = 256
    c.train.eval_every = 128
    c.train.checkpoint_every = 64
    c.train.num_threads = 2
    if not arg.scratch:
        c.init.speech = "package:spoken_scenes/speech"
        c.init.image = "package:spoken_scenes/image"
        # As everybody does with HuBERT: the front end stays as it came. So do the lower layers,
        # which saves a fifth of a step.
        c.optim.freeze = (
            "speech/frontend",
            "speech/feature_norm",
            "speech/feature_projection",
            "speech/positional_conv",
            "speech/layers_00",
            "speech/layers_01",
        )
    if arg.runlocal:
        c.data.batch_size = 8
        c.optim.warmup_steps = 1
        c.train.update(steps=4, eval_every=4, checkpoint_every=2, log_every=1)
    return c
