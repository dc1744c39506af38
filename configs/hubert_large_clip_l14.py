"""sir-jax train --config=configs/hubert_large_clip_l14.py --workdir=runs/large

HuBERT large + CLIP ViT-L/14, both frozen, contrastive: SpeechCLIP's large parallel model
(arXiv 2210.00705). What is learnt is the weighting of HuBERT's 25 hidden states, one transformer
layer with a CLS token, and the projections. [I] marks values that no paper states.

Arguments, e.g. `--config=configs/hubert_large_clip_l14.py:corpus=NAME`:
  corpus    which corpus to train on
  runlocal  tiny encoders and four steps, to see the whole path run in seconds
"""

from sir_jax.base_config import base_config, parse_arg, shrink

CORPUS = "spoken_scenes/two-i3000-d250-t500-c4-v64-p128-s0"


def get_config(arg: str = ""):
    """Return the config of the frozen large pair."""
    arg = parse_arg(arg, corpus=CORPUS, runlocal=False)
    c = base_config("large", "L/14")
    c.data.corpus = arg.corpus
    # Samples at 16 kHz. [I] Eight lengths up to 15 s waste about a fifth on padding.
    c.data.buckets = (32_000, 48_000, 64_000, 80_000, 112_000, 144_000, 192_000, 240_000)
    # Names of the hub: the local cache is read, nothing is ever downloaded.
    c.init.speech = "facebook/hubert-large-ll60k"
    c.init.image = "openai/clip-vit-large-patch14"
    c.model.speech.dropout = 0.0  # frozen: nothing to regularise
    c.model.head.weigh_layers = True
    c.model.embed_width = 768
    c.model.remat = True
    c.model.dtype = "bfloat16"
    c.optim.learning_rate = 1e-4
    c.optim.warmup_steps = 5_000
    c.optim.weight_decay = 1e-6
    c.optim.schedule = "linear"
    c.optim.end_factor = 1e-4
    c.optim.freeze = ("speech", "image")
    c.optim.frozen_dtype = "bfloat16"
    c.train.steps = 50_000
    c.train.eval_every = 1_000
    c.train.checkpoint_every = 1_000
    return shrink(c) if arg.runlocal else c
