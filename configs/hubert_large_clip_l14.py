"""sir-jax train --config=configs/hubert_large_clip_l14.py --workdir=runs/large

HuBERT large + CLIP ViT-L/14, both frozen, contrastive: SpeechCLIP's large parallel model
(arXiv 2210.00705). What is learnt is the weighting of HuBERT's 25 hidden states, one transformer
layer with a CLS token, and the projections. [I] marks values that no paper states.

Arguments, e.g. `--config=configs/hubert_large_clip_l14.py:corpus=NAME`:
  corpus    which corpus to train on
  runlocal  tiny encoders and four steps, to see the whole path run in seconds
"""

from sir_jax.config.presets import frozen_pair, parse_arg, shrink

CORPUS = "spoken_scenes/two-i3000-d250-t500-c4-v64-p128-s0"


def get_config(arg: str = ""):
    """Return the config of the frozen large pair."""
    arg = parse_arg(arg, corpus=CORPUS, runlocal=False)
    c = frozen_pair("large", "L/14", arg.corpus)
    c.model.embed_width = 768
    c.optim.learning_rate = 1e-4
    c.optim.warmup_steps = 5_000
    c.optim.weight_decay = 1e-6
    c.optim.schedule = "linear"
    c.optim.end_factor = 1e-4
    return shrink(c) if arg.runlocal else c
