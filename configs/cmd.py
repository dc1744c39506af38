"""sir-jax train --config=configs/cmd.py --workdir=runs/cmd

Paper A, Cross-Modal Denoising (arXiv 2408.13705): HuBERT + CLIP, contrastive learning and
denoising; the fusion encoder is there in training only. [I] marks every value that the paper does
not state as far as could be found out: sizes, noise, loss form, weights and the whole recipe.

Arguments, e.g. `--config=configs/cmd.py:speech=base,image=B/32,corpus=NAME`:
  speech    HuBERT: tiny or small (both ship with us), base, large or x-large
  image     ViT: tiny (ships with us), B/32, B/16, L/14, L/14-336 or g/14 (with BLIP-2's Q-Former)
  corpus    which corpus to train on
  gpu       80GB: one GPU of that size, whole batch as negatives
  pod       a TPU slice, e.g. v5e:4x4: its batch; `sir-jax pods check --all` compiles all of PODS
  runlocal  tiny random encoders and four steps, to see the whole path run in seconds
"""

from sir_jax.config.papers import denoise, fit, listen, parse_paper_arg, train_as_speechclip
from sir_jax.config.presets import PODS, frozen_pair

__all__ = ["PODS", "get_config"]


def get_config(arg: str = ""):
    """Return the config of paper A."""
    arg = parse_paper_arg(arg, image="L/14")
    c = frozen_pair(arg.speech, arg.image, arg.corpus)
    c.model.embed_width = 256 if arg.image == "g/14" else 768  # [I] CLIP L/14's joint width
    denoise(c)
    # [I] Two layers, the noisy patches reading the speech.
    c.model.fusion.update(layers=2, width=768, heads=12, mlp_width=3072)
    listen(c)
    # [I] SpeechCLIP's recipe (arXiv 2210.00705), against which the paper most likely measures.
    train_as_speechclip(c)
    return fit(c, arg)
