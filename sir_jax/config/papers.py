"""What the papers say of an experiment, in pieces that the config files under configs/ are made of.

[I] marks every value that neither paper states as far as could be found out. Pieces change a config
from `presets.frozen_pair`; a config file may overwrite what they set.
"""

from collections.abc import Mapping

from ml_collections import ConfigDict

from sir_jax.config.presets import PODS, for_gpu, for_pod, parse_arg, shrink

# Scenes of two objects: the corpus of experiments that name no other.
CORPUS = "spoken_scenes/two-i3000-d250-t500-c4-v64-p128-s0"


def parse_paper_arg(arg: str, image: str) -> ConfigDict:
    """Read the argument of a paper's config file.

    Args:
      arg: see `presets.parse_arg`.
      image: the ViT where none is named.

    Returns:
      `speech`, `image`, `corpus`, `gpu`, `pod` and `runlocal`.
    """
    return parse_arg(
        arg, speech="large", image=image, corpus=CORPUS, gpu="", pod="", runlocal=False
    )


def fit(c: ConfigDict, arg: ConfigDict, pods: Mapping[str, int] = PODS) -> ConfigDict:
    """Fit a paper's config to where it runs.

    Args:
      c: the config.
      arg: from `parse_paper_arg`.
      pods: slices with their pairs a step.

    Raises:
      ValueError: on an unknown GPU or slice.
    """
    return shrink(c) if arg.runlocal else for_pod(for_gpu(c, arg.gpu), arg.pod, pods)


def denoise(c: ConfigDict) -> None:
    """Set the denoising term of paper A (arXiv 2408.13705)."""
    c.loss.cmd.weight = 1.0  # [I]
    c.loss.cmd.direction = "image"  # [I] what most of the sources about the paper say
    c.loss.cmd.form = "cosine"  # [I]
    c.loss.cmd.tokens = "replaced"  # [I]
    c.loss.cmd.ratio = 0.3  # [I]
    c.loss.cmd.block = 1  # [I]


def listen(c: ConfigDict) -> None:
    """Have denoising read the other modality [ours, not the paper's].

    A noisy token that sees its neighbours is rebuilt from them, whatever is said. One that does not
    is rebuilt from what is said, or not at all; then most tokens can be noisy. Measured in
    docs/evaluation.md, "Denoising that listens".
    """
    c.model.fusion.self_attention = False
    c.loss.cmd.ratio = 0.8


def align_coarse_to_fine(c: ConfigDict) -> None:
    """Set the terms of paper B (arXiv 2408.13119), their fusion encoder and their re-ranking."""
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
    c.eval.rerank = 128  # [I] ALBEF's for Flickr30k; 256 for COCO


def train_as_speechclip(c: ConfigDict) -> None:
    """Set SpeechCLIP's recipe (arXiv 2210.00705), with which frozen pairs were first trained."""
    c.optim.learning_rate = 1e-4
    c.optim.warmup_steps = 5_000
    c.optim.weight_decay = 1e-6
    c.optim.schedule = "linear"
    c.optim.end_factor = 1e-4


def train_as_albef(c: ConfigDict) -> None:
    """Set ALBEF's recipe for retrieval (arXiv 2107.07651), at the rate that new layers need."""
    c.optim.learning_rate = 1e-4
    c.optim.warmup_steps = 1_000
    c.optim.weight_decay = 0.02
    c.optim.schedule = "cosine"
    c.optim.end_factor = 1e-2
