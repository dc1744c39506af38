"""sir-jax train --config=configs/unified.py --workdir=runs/unified

Both papers at once, which nobody has published: contrastive learning with queue and momentum
distillation, matching with hard negatives (arXiv 2408.13119), and cross-modal denoising (arXiv
2408.13705), one fusion encoder serving the last two. [I] marks every value that no paper states as
far as could be found out.

Arguments, e.g. `--config=configs/unified.py:speech=base,image=B/32,corpus=NAME`:
  speech    HuBERT: tiny or small (both ship with us), base, large or x-large
  image     ViT: tiny (ships with us), B/32, B/16, L/14, L/14-336 or g/14 (with BLIP-2's Q-Former)
  corpus    which corpus to train on
  gpu       80GB: one GPU of that size, whole batch as negatives
  pod       a TPU slice, e.g. v5e:4x4: its batch; `sir-jax pods check --all` compiles all of PODS
  runlocal  tiny random encoders and four steps, to see the whole path run in seconds
"""

from sir_jax.config import presets
from sir_jax.config.papers import (
    align_coarse_to_fine,
    denoise,
    fit,
    parse_paper_arg,
    train_as_albef,
)

# Two slices hold more at once: 512 pairs take 94 % of a chip's memory.
PODS = presets.PODS | {"2*v5e:4x4": 384}


def get_config(arg: str = ""):
    """Return the config with all terms."""
    arg = parse_paper_arg(arg, image="L/14")
    c = presets.frozen_pair(arg.speech, arg.image, arg.corpus)
    # [I] ALBEF's six layers are shared by matching and denoising.
    align_coarse_to_fine(c)
    denoise(c)
    # [I] As for paper B alone.
    train_as_albef(c)
    return fit(c, arg, PODS)
