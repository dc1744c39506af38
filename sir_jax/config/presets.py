"""What experiments share: a config with every field, pairs of released encoders, and their sizes.

An inferred value (one that neither paper states) is marked [I] where it is set.
"""

from collections.abc import Mapping

from ml_collections import ConfigDict

from sir_jax.config.augment_fields import augment_like
from sir_jax.config.fields import TABLE
from sir_jax.config.specs import (
    CLIP_MEAN,
    CLIP_STD,
    HUBERT_VARIANTS,
    VIT_VARIANTS,
    head_fields,
    hubert_fields,
    vit_fields,
)

__all__ = [
    "BUCKETS",
    "CLIP_MEAN",
    "CLIP_STD",
    "GPUS",
    "PODS",
    "RELEASED_IMAGE",
    "RELEASED_SPEECH",
    "base_config",
    "for_gpu",
    "for_pod",
    "frozen_pair",
    "parse_arg",
    "shorten",
    "shrink",
    "small_pair",
]


_TRUTH = {"": True, "1": True, "true": True, "0": False, "false": False}


def parse_arg(arg: str, **defaults) -> ConfigDict:
    """Read `--config=FILE.py:ARG`, big_vision's way.

    Args:
      arg: comma-separated `name=value` pairs; a lone name means True.
      **defaults: every name that is allowed, with a value that fixes its type.

    Raises:
      ValueError: on a name that is not among the defaults, or a value of another type.
    """
    values = dict(defaults)
    for part in filter(None, arg.split(",")):
        name, _, text = part.partition("=")
        if name not in defaults:
            raise ValueError(f"config argument {name!r} is unknown; choose from {sorted(defaults)}")
        kind = type(defaults[name])
        try:
            values[name] = _TRUTH[text.lower()] if kind is bool else kind(text)
        except (KeyError, ValueError):
            wanted = "true or false" if kind is bool else f"of type {kind.__name__}"
            raise ValueError(f"config argument {name}={text!r} must be {wanted}") from None
    return ConfigDict(values)


def _check_variant(name: str, value: str, known: Mapping) -> None:
    if value not in known:
        raise ValueError(f"{name}={value!r} is none of {', '.join(known)}")


def base_config(speech: str, image: str) -> ConfigDict:
    """Return a config with every field at its default, for one pair of encoder variants.

    Args:
      speech: of `specs.HUBERT_VARIANTS`.
      image: of `specs.VIT_VARIANTS`.

    Raises:
      ValueError: on an unknown variant.
    """
    _check_variant("speech", speech, HUBERT_VARIANTS)
    _check_variant("image", image, VIT_VARIANTS)
    shapes = {
        "model.speech": hubert_fields(speech),
        "model.image": vit_fields(image),
        "model.head": head_fields(speech),
        "data": {"image_size": vit_fields(image)["image_size"]},
    }
    plain: dict = {}
    for field in TABLE:
        section, _, last = field.name.rpartition(".")
        target = plain
        for part in filter(None, section.split(".")):
            target = target.setdefault(part, {})
        target[last] = shapes.get(section, {}).get(last, field.default)
    return ConfigDict(plain)


# Where each variant's released weights are looked for: names of the hub, of which the local cache
# is read and nothing is ever downloaded; the tiny and the small ones ship with us.
RELEASED_SPEECH = {
    "tiny": "package:spoken_scenes/speech",
    "small": "package:voices/speech",
    "base": "facebook/hubert-base-ls960",
    "large": "facebook/hubert-large-ll60k",
    "x-large": "facebook/hubert-xlarge-ll60k",
}
RELEASED_IMAGE = {
    "tiny": "package:spoken_scenes/image",
    "B/32": "openai/clip-vit-base-patch32",
    "B/16": "openai/clip-vit-base-patch16",
    "L/14": "openai/clip-vit-large-patch14",
    "L/14-336": "openai/clip-vit-large-patch14-336",
    "g/14": "Salesforce/blip2-itm-vit-g",
}

# Lengths in samples for captions of people. [I] Eight of them up to 15 s waste 15 % on padding,
# where clips are 4.4 s long on average.
BUCKETS = (32_000, 48_000, 64_000, 80_000, 112_000, 144_000, 192_000, 240_000)


def frozen_pair(speech: str, image: str, corpus: str) -> ConfigDict:
    """Return a config whose released encoders stay as they came, as both papers' may be read [I].

    Args:
      speech: a variant of HuBERT, of `RELEASED_SPEECH`.
      image: a variant of ViT, of `RELEASED_IMAGE`; 'g/14' comes with BLIP-2's Q-Former, which is
        trained.
      corpus: to train on.

    Raises:
      ValueError: on an unknown variant.
    """
    _check_variant("speech", speech, RELEASED_SPEECH)
    _check_variant("image", image, RELEASED_IMAGE)
    c = base_config(speech, image)
    c.data.corpus = corpus
    c.data.buckets = BUCKETS
    c.init.speech, c.init.image = RELEASED_SPEECH[speech], RELEASED_IMAGE[image]
    if image == "g/14":
        c.data.image_fit = "squash"
        c.model.image_head = "qformer"
    c.model.speech.dropout = 0.0  # frozen: nothing to regularise
    c.model.head.heads = 4 if speech == "tiny" else 8
    c.model.head.weigh_layers = True
    c.model.remat = "full"
    c.model.dtype = "bfloat16"
    c.optim.freeze = ("speech", "image")
    c.optim.frozen_dtype = "bfloat16"
    c.train.steps = 50_000
    c.train.eval_every = 1_000
    c.train.checkpoint_every = 1_000
    return c


def small_pair(corpus: str) -> ConfigDict:
    """Return a config whose encoders are the small ones that ship, for two CPU cores.

    The speech encoder has heard people and many machines. What it cannot hear again here is not
    unlearnt: both encoders stay as they came, and two layers on top learn from augmented clips.

    Args:
      corpus: to train on.
    """
    c = base_config("small", "tiny")
    c.data.corpus = corpus
    c.data.batch_size = 64
    c.data.buckets = (56_000, 80_000, 112_000)
    augment_like(c, "people")
    c.init.speech, c.init.image = RELEASED_SPEECH["small"], RELEASED_IMAGE["tiny"]
    c.model.speech.dropout = 0.0
    c.model.head.update(layers=2, heads=12)
    c.model.embed_width = 128
    c.optim.freeze = ("speech", "image")
    c.optim.learning_rate = 1e-3
    c.optim.clip_norm = 1.0
    c.train.num_threads = 2
    return c


def shorten(c: ConfigDict) -> ConfigDict:
    """Turn an experiment of the small pair into seconds: four steps of eight pairs, one bucket.

    Args:
      c: a config from `small_pair`, changed.

    Returns:
      The same config.
    """
    c.data.batch_size = 8
    c.data.buckets = c.data.buckets[-1:]
    c.optim.warmup_steps = 1
    c.train.update(steps=4, eval_every=4, checkpoint_every=2, log_every=1)
    c.eval.rerank = min(c.eval.rerank, 4)
    return c


# TPU slices that the papers' configs are compiled for, and pairs a step there: 16 a chip. A config
# that takes more memory says what is otherwise.
PODS = {
    "v4:2x2x2": 128,
    "v5e:4x4": 256,
    "v5p:4x4x4": 1_024,
    "v6e:16x16": 4_096,
    "2*v5e:4x4": 512,  # two slices
}


def for_pod(c: ConfigDict, pod: str, pods: Mapping[str, int] = PODS) -> ConfigDict:
    """Fit an experiment to a TPU slice.

    Args:
      c: a config from `frozen_pair`, changed.
      pod: of `pods`; '' changes nothing.
      pods: slices with their pairs a step.

    Returns:
      The same config, with that slice's batch. Of batches above 1,024, whose tokens would not all
      fit on a chip, hard negatives and noise come from each chip's own part.

    Raises:
      ValueError: on an unknown slice.
    """
    if not pod:
        return c
    if pod not in pods:
        raise ValueError(f"pod={pod!r} is none of {', '.join(pods)}")
    c.data.batch_size = pods[pod]
    if c.data.batch_size > 1_024:
        c.loss.sim.mining = c.loss.cmd.source = "shard"
    c.train.num_threads = 32
    c.model.scan = True
    c.model.attention = "auto"
    return c


# GPUs that the papers' configs are sized for: pairs a step, and microbatches that keep all of them
# as negatives. By the TPU compiler's count of the same program: see launch/README.md.
GPUS = {"80GB": dict(batch_size=256, grad_cache=2)}


def for_gpu(c: ConfigDict, gpu: str) -> ConfigDict:
    """Fit an experiment to one GPU.

    Args:
      c: a config from `frozen_pair`, changed.
      gpu: of `GPUS`; '' changes nothing.

    Returns:
      The same config, with that GPU's batch.

    Raises:
      ValueError: on an unknown GPU.
    """
    if not gpu:
        return c
    if gpu not in GPUS:
        raise ValueError(f"gpu={gpu!r} is none of {', '.join(GPUS)}")
    c.data.batch_size, c.train.grad_cache = GPUS[gpu]["batch_size"], GPUS[gpu]["grad_cache"]
    c.train.num_threads = 16
    return c


def shrink(c: ConfigDict) -> ConfigDict:
    """Turn an experiment into seconds on any machine: tiny random encoders of the same form.

    Args:
      c: a config from `base_config`, changed.

    Returns:
      The same config, four steps long; what it freezes, weighs and computes in stays as it was.
    """
    c.init.update(speech="", image="", fusion="", model="")
    form, dropout = c.model.image.form, c.model.speech.dropout
    c.model.speech = ConfigDict(hubert_fields("tiny", dropout=dropout))
    c.model.image = ConfigDict(vit_fields("tiny", form=form))
    c.model.qformer.update(queries=4, width=192, layers=2, heads=4, mlp_width=768)
    c.model.head.update(heads=4, mlp_width=768)
    c.model.fusion.update(layers=2, width=192, heads=4, mlp_width=768, init_std=192**-0.5)
    c.loss.sic.queue = min(c.loss.sic.queue, 20)
    c.loss.sic.alpha_ramp = min(c.loss.sic.alpha_ramp, 2)
    c.data.update(image_size=64, batch_size=8, buckets=(46_000, 67_000))
    c.optim.warmup_steps = 1
    c.train.update(steps=4, eval_every=4, checkpoint_every=2, log_every=1, num_threads=2)
    c.eval.rerank = min(c.eval.rerank, 4)
    return c
