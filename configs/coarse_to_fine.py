"""sir-jax train --config=configs/coarse_to_fine.py --workdir=runs/coarse_to_fine

Paper B, Coarse-to-fine Alignment (arXiv 2408.13119): HuBERT + BLIP-2's image encoder, contrastive
learning with an embedding queue (SIC), momentum distillation, and matching with hard negatives
(SIM). [I] marks every value that the paper does not state as far as could be found out: ALBEF's
(arXiv 2107.07651), of which it is the speech version.

Arguments, e.g. `--config=configs/coarse_to_fine.py:speech=base,image=B/32,corpus=NAME`:
  speech    HuBERT: tiny (ships with us), base, large or x-large
  image     ViT: tiny (ships with us), B/32, B/16, L/14, L/14-336 or g/14 (with BLIP-2's Q-Former)
  corpus    which corpus to train on
  gpu       80GB: one GPU of that size, whole batch as negatives
  pod       a TPU slice, e.g. v5e:4x4: its batch; `sir-jax pods check --all` compiles all of PODS
  runlocal  tiny random encoders and four steps, to see the whole path run in seconds
"""

from sir_jax.config import presets as base_config
from sir_jax.config.presets import for_gpu, for_pod, frozen_pair, parse_arg, shrink

# Two slices hold more at once than one, which 16 pairs a chip fill to 90 %.
PODS = base_config.PODS | {"2*v5e:4x4": 256}
CORPUS = "spoken_scenes/two-i3000-d250-t500-c4-v64-p128-s0"


def get_config(arg: str = ""):
    """Return the config of paper B."""
    arg = parse_arg(
        arg, speech="large", image="g/14", corpus=CORPUS, gpu="", pod="", runlocal=False
    )
    c = frozen_pair(arg.speech, arg.image, arg.corpus)
    c.model.embed_width = 256  # [I] ALBEF's, and BLIP-2's by its checkpoint
    c.loss.sic.queue = 8_192  # [I] a quarter of Flickr8k's captions; ALBEF's 65,536 would hold two
    # epochs of them, and suits SpokenCOCO
    c.loss.sic.alpha = 0.4  # [I] ALBEF's
    c.loss.sic.alpha_ramp = 117  # [I] the first epoch: 30,000 captions in batches of 256
    c.loss.teacher.momentum = 0.995  # [I] ALBEF's
    c.loss.sim.weight = 1.0  # [I] ALBEF's
    c.loss.sim.mining = "global"  # [I] as BLIP-2; ALBEF mines on each device
    # [I] ALBEF's six layers; speech reads the image, and its CLS is asked.
    c.model.fusion.update(layers=6, width=768, heads=12, mlp_width=3072, query="speech")
    # [I] ALBEF's retrieval recipe (arXiv 2107.07651), at the rate that new layers need.
    c.optim.learning_rate = 1e-4
    c.optim.warmup_steps = 1_000
    c.optim.weight_decay = 0.02
    c.optim.schedule = "cosine"
    c.optim.end_factor = 1e-2
    c.eval.rerank = 128  # [I] ALBEF's for Flickr30k; 256 for COCO
    return shrink(c) if arg.runlocal else for_pod(for_gpu(c, arg.gpu), arg.pod, PODS)
