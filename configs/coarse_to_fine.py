"""sir-jax train --config=configs/coarse_to_fine.py --workdir=runs/coarse_to_fine

Paper B, Coarse-to-fine Alignment (arXiv 2408.13119): HuBERT + BLIP-2's image encoder, contrastive
learning with an embedding queue (SIC), momentum distillation, and matching with hard negatives
(SIM). [I] marks every value that the paper does not state as far as could be found out: ALBEF's
(arXiv 2107.07651), of which it is the speech version.

Arguments, e.g. `--config=configs/coarse_to_fine.py:speech=base,image=B/32,corpus=NAME`:
  speech    HuBERT: tiny or small (both ship with us), base, large or x-large
  image     ViT: tiny (ships with us), B/32, B/16, L/14, L/14-336 or g/14 (with BLIP-2's Q-Former)
  corpus    which corpus to train on
  gpu       80GB: one GPU of that size, whole batch as negatives
  pod       a TPU slice, e.g. v5e:4x4: its batch; `sir-jax pods check --all` compiles all of PODS
  runlocal  tiny random encoders and four steps, to see the whole path run in seconds
"""

from sir_jax.config import presets
from sir_jax.config.papers import align_coarse_to_fine, fit, parse_paper_arg, train_as_albef

# Two slices hold more at once than one, which 16 pairs a chip fill to 90 %.
PODS = presets.PODS | {"2*v5e:4x4": 256}


def get_config(arg: str = ""):
    """Return the config of paper B."""
    arg = parse_paper_arg(arg, image="g/14")
    c = presets.frozen_pair(arg.speech, arg.image, arg.corpus)
    align_coarse_to_fine(c)
    # [I] Of ALBEF, too, of which this is the speech version.
    train_as_albef(c)
    return fit(c, arg, PODS)
