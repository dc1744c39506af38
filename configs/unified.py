"""sir-jax train --config=configs/unified.py --workdir=runs/unified

Both papers at once, which nobody has published: contrastive learning with queue and momentum
distillation, matching with hard negatives (arXiv 2408.13119), and cross-modal denoising (arXiv
2408.13705), one fusion encoder serving the last two. [I] marks every value that no paper states as
far as could be found out.

Arguments, e.g. `--config=configs/unified.py:speech=base,image=B/32,corpus=NAME`:
  speech    HuBERT: tiny (ships with us), base, large or x-large
  image     ViT: tiny (ships with us), B/32, B/16, L/14, L/14-336 or g/14 (with BLIP-2's Q-Former)
  corpus    which corpus to train on
  gpu       80GB: one GPU of that size, whole batch as negatives
  pod       a TPU slice, e.g. v5e:4x4: its batch; `sir-jax pods check --all` compiles all of PODS
  runlocal  tiny random encoders and four steps, to see the whole path run in seconds
"""

from sir_jax.config import presets as base_config
from sir_jax.config.presets import for_gpu, for_pod, frozen_pair, parse_arg, shrink

# Two slices hold more at once: 512 pairs take 94 % of a chip's memory.
PODS = base_config.PODS | {"2*v5e:4x4": 384}
CORPUS = "spoken_scenes/two-i3000-d250-t500-c4-v64-p128-s0"


def get_config(arg: str = ""):
    """Return the config with all terms."""
    arg = parse_arg(
        arg, speech="large", image="L/14", corpus=CORPUS, gpu="", pod="", runlocal=False
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
    c.loss.cmd.weight = 1.0  # [I]
    c.loss.cmd.direction = "image"  # [I] what most of the sources about the paper say
    c.loss.cmd.form = "cosine"  # [I]
    c.loss.cmd.tokens = "replaced"  # [I]
    c.loss.cmd.ratio = 0.3  # [I]
    c.loss.cmd.block = 1  # [I]
    # [I] ALBEF's six layers, shared by matching and denoising.
    c.model.fusion.update(layers=6, width=768, heads=12, mlp_width=3072, query="speech")
    # [I] ALBEF's retrieval recipe (arXiv 2107.07651), at the rate that new layers need.
    c.optim.learning_rate = 1e-4
    c.optim.warmup_steps = 1_000
    c.optim.weight_decay = 0.02
    c.optim.schedule = "cosine"
    c.optim.end_factor = 1e-2
    c.eval.rerank = 128  # [I] ALBEF's for Flickr30k; 256 for COCO
    return shrink(c) if arg.runlocal else for_pod(for_gpu(c, arg.gpu), arg.pod, PODS)
