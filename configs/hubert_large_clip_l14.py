"""sir-jax train --config=configs/hubert_large_clip_l14.py --workdir=runs/large

HuBERT large + CLIP ViT-L/14, both frozen, contrastive: SpeechCLIP's large parallel model
(arXiv 2210.00705). What is learnt is the weighting of HuBERT's 25 hidden states, one transformer
layer with a CLS token, and the projections. [I] marks values that no paper states.

Arguments, e.g. `--config=configs/hubert_large_clip_l14.py:corpus=NAME`:
  corpus    which corpus to train on
  runlocal  tiny encoders and four steps, to see the whole path run in seconds
"""

from sir_jax.config.papers import CORPUS, train_as_speechclip
from sir_jax.config.presets import frozen_pair, parse_arg, shrink


def get_config(arg: str = ""):
    """Return the config of the frozen large pair."""
    arg = parse_arg(arg, corpus=CORPUS, runlocal=False)
    c = frozen_pair("large", "L/14", arg.corpus)
    c.model.embed_width = 768
    train_as_speechclip(c)
    return shrink(c) if arg.runlocal else c
