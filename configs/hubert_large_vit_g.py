"""sir-jax train --config=configs/hubert_large_vit_g.py --workdir=runs/vit_g

HuBERT large + BLIP-2's EVA ViT-g/14: the encoders of Coarse-to-fine alignment (arXiv 2408.13119),
here with the contrastive term alone. The image side ends in BLIP-2's Q-Former, whose queries are
already aligned with language. [I] marks values that no paper states.

Arguments, e.g. `--config=configs/hubert_large_vit_g.py:patches`:
  corpus    which corpus to train on
  patches   ViT-g's own tokens in place of the Q-Former's
  runlocal  tiny encoders and four steps, to see the whole path run in seconds
"""

from sir_jax.config.papers import CORPUS, train_as_albef
from sir_jax.config.presets import frozen_pair, parse_arg, shrink


def get_config(arg: str = ""):
    """Return the config of the HuBERT large + ViT-g pair."""
    arg = parse_arg(arg, corpus=CORPUS, patches=False, runlocal=False)
    c = frozen_pair("large", "g/14", arg.corpus)
    c.model.image_head = "cls" if arg.patches else "qformer"
    c.model.embed_width = 256
    # [I] Everything pretrained is frozen but the Q-Former.
    train_as_albef(c)
    return shrink(c) if arg.runlocal else c
