"""sir-jax train --config=configs/hubert_base_clip_b32.py --workdir=runs/base

HuBERT base + CLIP ViT-B/32, contrastive: the pair that fits one GPU with everything trained but
the waveform front end. SpeechCLIP's recipe (arXiv 2210.00705) where it speaks; [I] marks values
that no paper states.

Arguments, e.g. `--config=configs/hubert_base_clip_b32.py:corpus=NAME`:
  corpus    which corpus to train on
  runlocal  tiny encoders and four steps, to see the whole path run in seconds
"""

from sir_jax.config.presets import base_config, parse_arg, shrink

CORPUS = "spoken_scenes/two-i3000-d250-t500-c4-v64-p128-s0"


def get_config(arg: str = ""):
    """Return the config of the base pair."""
    arg = parse_arg(arg, corpus=CORPUS, runlocal=False)
    c = base_config("base", "B/32")
    c.data.corpus = arg.corpus
    # Samples at 16 kHz. [I] Eight lengths up to 15 s waste about a fifth on padding.
    c.data.buckets = (32_000, 48_000, 64_000, 80_000, 112_000, 144_000, 192_000, 240_000)
    # Names of the hub: the local cache is read, nothing is ever downloaded.
    c.init.speech = "facebook/hubert-base-ls960"
    c.init.image = "openai/clip-vit-base-patch32"
    c.model.remat = "full"
    c.model.dtype = "bfloat16"
    c.optim.learning_rate = 1e-4
    c.optim.warmup_steps = 5_000
    c.optim.weight_decay = 1e-6
    c.optim.schedule = "linear"
    c.optim.end_factor = 1e-4
    c.optim.freeze = ("speech/frontend",)  # as HuBERT is always fine-tuned
    c.optim.frozen_dtype = "bfloat16"
    c.train.steps = 50_000
    c.train.eval_every = 1_000
    c.train.checkpoint_every = 1_000
    return shrink(c) if arg.runlocal else c
