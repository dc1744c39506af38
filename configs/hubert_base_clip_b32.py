"""sir-jax train --config=configs/hubert_base_clip_b32.py --workdir=runs/base

HuBERT base + CLIP ViT-B/32, contrastive: the pair that fits one GPU with everything trained but
the waveform front end. SpeechCLIP's recipe (arXiv 2210.00705) where it speaks; [I] marks values
that no paper states.

Arguments, e.g. `--config=configs/hubert_base_clip_b32.py:corpus=NAME`:
  corpus    which corpus to train on
  runlocal  tiny encoders and four steps, to see the whole path run in seconds
"""

from sir_jax.config.papers import CORPUS, train_as_speechclip
from sir_jax.config.presets import (
    BUCKETS,
    RELEASED_IMAGE,
    RELEASED_SPEECH,
    base_config,
    parse_arg,
    shrink,
)


def get_config(arg: str = ""):
    """Return the config of the base pair."""
    arg = parse_arg(arg, corpus=CORPUS, runlocal=False)
    c = base_config("base", "B/32")
    c.data.corpus = arg.corpus
    c.data.buckets = BUCKETS
    c.init.speech, c.init.image = RELEASED_SPEECH["base"], RELEASED_IMAGE["B/32"]
    c.model.remat = "full"
    c.model.dtype = "bfloat16"
    train_as_speechclip(c)
    c.optim.freeze = ("speech/frontend",)  # as HuBERT is always fine-tuned
    c.optim.frozen_dtype = "bfloat16"
    c.train.steps = 50_000
    c.train.eval_every = 1_000
    c.train.checkpoint_every = 1_000
    return shrink(c) if arg.runlocal else c
