"""sir-jax ablate --config=configs/ablations.py --workdir=runs/ablations

What each term of the two papers adds, on minimal pairs: images 2n and 2n + 1 differ in which object
has which colour, size or place, and their captions are the same words in another order. Every run
has the same encoders to start from, the same steps and the same batches; a seed changes all of
order, initial heads, negatives and noise.

The corpus is made by
  sir-jax data spoken_scenes --engines=espeak --level=compositional --val_images=100 \
    --test_images=300

Arguments, e.g. `--config=configs/ablations.py:runlocal`:
  corpus    which corpus to train on
  runlocal  tiny encoders and four steps, to see the whole path run in seconds
"""

from sir_jax.config.presets import base_config, parse_arg, shrink

CORPUS = "spoken_scenes/compositional-i3000-d100-t300-c4-v64-p128-s0"

SEEDS = (0, 1, 2)

# The teacher of a run this short must follow fast: at ALBEF's momentum of 0.995 its heads would
# still be random to an eighth at the end.
QUEUE = {"loss.sic.queue": 512}
DISTILLATION = {"loss.sic.alpha": 0.4}
MATCHING = {"loss.sim.weight": 1.0}
DENOISING = {"loss.cmd.weight": 1.0}

# Name -> fields that differ from `get_config`.
ABLATIONS = {
    "contrastive": {},
    "+ queue": QUEUE,
    "+ queue + distillation": QUEUE | DISTILLATION,
    "+ queue + distillation + SIM": QUEUE | DISTILLATION | MATCHING,
    "+ CMD": DENOISING,
    "unified": QUEUE | DISTILLATION | MATCHING | DENOISING,
}


def get_config(arg: str = ""):
    """Return the config that every ablation changes: contrastive learning alone."""
    arg = parse_arg(arg, corpus=CORPUS, runlocal=False)
    c = base_config("tiny", "tiny")
    c.data.corpus = arg.corpus
    c.data.batch_size = 32
    c.data.buckets = (48_000, 72_000)
    c.init.speech = "package:spoken_scenes/speech"
    c.init.image = "package:spoken_scenes/image"
    c.optim.freeze = ("speech", "image")  # [I] as both papers may be read
    c.model.speech.dropout = 0.0
    c.model.head.update(heads=4, weigh_layers=True)
    c.model.embed_width = 128
    # The image reads the speech, in matching as in denoising: it is the shorter stream.
    c.model.fusion.update(
        layers=2, width=192, heads=4, mlp_width=768, query="image", init_std=192**-0.5
    )
    c.loss.sic.alpha_ramp = 100
    c.loss.teacher.momentum = 0.98
    c.loss.cmd.ratio = 0.5
    c.optim.learning_rate = 1e-3
    c.optim.warmup_steps = 20
    c.optim.clip_norm = 1.0
    c.train.steps = 600
    c.train.eval_every = 0
    c.train.checkpoint_every = 300
    c.train.num_threads = 2
    c.eval.rerank = 16
    return shrink(c) if arg.runlocal else c
