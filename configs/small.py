"""sir-jax train --config=configs/small.py --workdir=runs/small

The model that ships with the package (`sir_jax.load("spoken-scenes")`): spoken scenes by two
synthesisers and every augmentation, from the small encoders that ship. Speech reads the image when
matching, so that the fusion encoder tells which patches answer which stretch of speech.
launch/release.sh makes, evaluates and exports it.

Arguments, e.g. `--config=configs/small.py:match,runlocal`:
  match     the second of three stages. The first one learns to embed, on scenes of one object. This
            one keeps that as it is and teaches the fusion encoder to tell which of up to three
            objects is named: with --config.init.model=runs/small and stored features
  pooled    the third stage, which keeps all of that and teaches the pooled match what belongs to
            what, on scenes of all levels: from runs/small-match, with stored features
  runlocal  shrink everything to seconds
"""

from sir_jax.config.augment_fields import augment_like
from sir_jax.config.presets import parse_arg, shorten, small_pair

CORPUS = "spoken_scenes/one-i3000-d50-t50-c4-v64-p128-s0-espeak+flite+piper"
CROWDED = "spoken_scenes/among-i6000-d100-t500-c2-v64-p128-s0-espeak+flite"
MIXED = "spoken_scenes/mixed-i8000-d80-t80-c3-v64-p128-s0-espeak+flite+piper"

EMBEDDING = ("speech", "image", "(speech|image)_projection", "speech_head", "temperature")


def get_config(arg: str = ""):
    """Return the config of the small model."""
    arg = parse_arg(arg, match=False, pooled=False, runlocal=False)
    c = small_pair(CORPUS)
    # A fusion encoder this narrow, starting from nothing, needs the larger initial kernels.
    c.model.fusion.update(
        layers=2, width=192, heads=4, mlp_width=768, query="speech", init_std=192**-0.5
    )
    c.optim.warmup_steps = 20
    c.train.steps = 800
    c.train.eval_every = 800
    c.train.checkpoint_every = 100
    c.eval.rerank = 16
    if arg.match:
        c.data.corpus = CROWDED
        c.data.batch_size = 32
        augment_like(c, "none")  # stored features hold each clip once
        c.optim.freeze = EMBEDDING
        c.loss.sic.weight = 0.0
        c.loss.sim.weight = 1.0
        # Embeddings stay, so one evaluation, at the end, tells all.
        c.train.update(steps=1_200, eval_every=0, checkpoint_every=200)
    if arg.pooled:
        c.data.corpus = MIXED
        c.init.model = "runs/small-match"
        c.data.buckets = (64_000, 96_000, 160_000)
        # Features are stored: no clip changes its length.
        for name in ("speed", "tempo", "silence"):
            c.data.augment[name].probability = 0.0
        c.optim.freeze = (*EMBEDDING, "fusion", "match_head")
        c.loss.sic.weight = 0.0
        # Each clip finds its picture among those of the whole batch, by what the embedding lacks.
        c.loss.sim.update(weight=1.0, list_weight=4.0, list_over="batch")
        c.model.match.update(kind="both", places=True, frames=True, taps=3)
        c.data.update(groups=8, grouped_after=700, search_space=12_288)
        c.optim.warmup_steps = 50
        c.train.update(steps=6_000, eval_every=0, checkpoint_every=1_000)
    return shorten(c) if arg.runlocal else c
