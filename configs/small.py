"""sir-jax train --config=configs/small.py --workdir=runs/small

The small model that ships with the package (`sir_jax.load("spoken-scenes")`): all terms, spoken
scenes, starting from the small encoders that ship as well. Speech reads the image when matching, so
that the fusion encoder tells which patches answer which stretch of speech.
launch/release.sh makes, evaluates and exports it.

Arguments, e.g. `--config=configs/small.py:match,runlocal`:
  match     the second of two stages. The first one learns to embed, on scenes of one object. This
            one keeps that as it is and teaches the fusion encoder to tell which of up to three
            objects is named: with --config.init.model=runs/small and stored features
  runlocal  shrink everything to seconds
"""

from sir_jax.config.presets import base_config, parse_arg

CORPUS = "spoken_scenes/one-i3000-d250-t500-c4-v64-p128-s0"
CROWDED = "spoken_scenes/among-i6000-d250-t500-c2-v64-p128-s0"


def get_config(arg: str = ""):
    """Return the config of the small model."""
    arg = parse_arg(arg, match=False, runlocal=False)
    c = base_config("tiny", "tiny")
    c.data.corpus = CORPUS
    c.data.batch_size = 32
    c.data.buckets = (46_000, 52_000, 67_000)
    c.init.speech = "package:spoken_scenes/speech"
    c.init.image = "package:spoken_scenes/image"
    # The same layers as configs/demo.py stay as they came.
    c.optim.freeze = (
        "speech/frontend",
        "speech/feature_norm",
        "speech/feature_projection",
        "speech/positional_conv",
        "speech/layers_00",
        "speech/layers_01",
    )
    c.model.speech.dropout = 0.0
    c.model.head.update(heads=4)
    c.model.embed_width = 128
    # A fusion encoder this narrow, starting from nothing, needs the larger initial kernels.
    c.model.fusion.update(
        layers=2, width=192, heads=4, mlp_width=768, query="speech", init_std=192**-0.5
    )
    c.loss.sic.queue = 512
    c.loss.sic.alpha = 0.4
    c.loss.sic.alpha_ramp = 200
    c.loss.teacher.momentum = 0.98
    c.loss.sim.weight = 1.0
    c.loss.cmd.weight = 1.0
    c.loss.cmd.ratio = 0.5
    c.optim.learning_rate = 1e-3
    c.optim.warmup_steps = 40
    c.optim.clip_norm = 1.0
    c.train.steps = 1_000
    c.train.eval_every = 250
    c.train.checkpoint_every = 50
    c.train.num_threads = 2
    c.eval.rerank = 16
    if arg.match:
        c.data.corpus = CROWDED
        c.optim.freeze = (
            "speech",
            "image",
            "(speech|image)_projection",
            "speech_head",
            "temperature",
        )
        c.loss.sic.update(weight=0.0, queue=0, alpha=0.0, alpha_ramp=0)
        c.loss.cmd.weight = 0.0
        # Embeddings stay, so one evaluation, at the end, tells all.
        c.train.update(steps=2_000, eval_every=0, checkpoint_every=500)
    if arg.runlocal:
        c.data.batch_size = 8
        c.optim.warmup_steps = 1
        c.train.update(steps=4, eval_every=4, checkpoint_every=2, log_every=1)
        c.eval.rerank = 4
    return c
