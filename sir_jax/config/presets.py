"""What every experiment shares: the fields of a config, with their defaults, and its argument.

An inferred value (one that neither paper states) is marked [I] where a config file sets it.
"""

from collections.abc import Mapping

from ml_collections import ConfigDict

from sir_jax.models import fusion_fields, hubert_fields, qformer_fields, vit_fields

# OpenAI CLIP's pixel statistics.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def parse_arg(arg: str, **defaults) -> ConfigDict:
    """Read `--config=FILE.py:ARG`, big_vision's way.

    Args:
      arg: comma-separated `name=value` pairs; a lone name means True.
      **defaults: every name that is allowed, with a value that fixes its type.

    Raises:
      ValueError: on a name that is not among the defaults.
    """
    values = dict(defaults)
    for part in filter(None, arg.split(",")):
        name, _, text = part.partition("=")
        if name not in defaults:
            raise ValueError(f"config argument {name!r} is unknown; choose from {sorted(defaults)}")
        kind = type(defaults[name])
        if kind is bool:
            values[name] = text.lower() in ("", "1", "true")
        else:
            values[name] = kind(text)
    return ConfigDict(values)


def _loss_config() -> ConfigDict:
    """Return `config.loss`: the three terms of the objective; a weight of 0 leaves one out."""
    c = ConfigDict()
    c.sic = ConfigDict()
    c.sic.weight = 1.0
    c.sic.queue = 0  # past momentum embeddings that count as further candidates
    c.sic.alpha = 0.0  # weight of the momentum teacher's targets
    c.sic.alpha_ramp = 0  # steps in which alpha rises from 0
    c.sim = ConfigDict()
    c.sim.weight = 0.0
    c.sim.mining = "global"  # hard negatives from the whole batch, or each device's 'shard'
    c.cmd = ConfigDict()
    c.cmd.weight = 0.0
    c.cmd.direction = "image"  # what is made noisy and rebuilt: 'image', 'speech' or 'both'
    c.cmd.form = "cosine"  # 'cosine', 'mse' or 'infonce'
    c.cmd.tokens = "replaced"  # which tokens count: the 'replaced' ones or 'all'
    c.cmd.ratio = 0.3  # expected share of replaced tokens
    c.cmd.block = 1  # tokens replaced in a run
    c.cmd.source = "global"  # noise from the whole batch, or each device's 'shard'
    c.cmd.temperature = 0.07  # of 'infonce'
    c.teacher = ConfigDict(dict(momentum=0.995))  # there where queue or alpha ask for it
    return c


def _augment_config() -> ConfigDict:
    """Return `config.data.augment`: what training clips and pictures go through, in this order.

    Every probability is 0: nothing does. Pairs are (least, largest) of a uniform draw. Evaluation
    never augments.
    """
    c = ConfigDict()
    c.speed = ConfigDict(dict(probability=0.0, factor=(0.9, 1.1)))  # pitch and tempo together
    c.reverb = ConfigDict(dict(probability=0.0))
    c.reverb.folder = ""  # of impulse responses; '': made, with the two fields below
    c.reverb.t60 = (0.2, 0.8)  # seconds to fall by 60 dB
    c.reverb.direct_ratio = (0.0, 12.0)  # direct path's energy over the rest's, dB
    c.noise = ConfigDict(dict(probability=0.0))
    c.noise.folder = ""  # of sounds; '': made, of one of `kinds`
    c.noise.kinds = ("white", "pink", "babble")
    c.noise.snr = (5.0, 25.0)  # dB, over the whole clip
    # 300 to 3400 Hz; mu_law: also 8 bits at 8 kHz.
    c.telephone = ConfigDict(dict(probability=0.0, mu_law=True))
    c.gain = ConfigDict(dict(probability=0.0, db=(-6.0, 6.0)))  # undone by `normalize_wave`
    # Factors 1 -+ this; `grey` is a probability. Never a flip: captions say left and right.
    c.image = ConfigDict(dict(brightness=0.0, contrast=0.0, saturation=0.0, grey=0.0))
    return c


def base_config(speech: str, image: str) -> ConfigDict:
    """Return a config with every field, for one pair of encoder variants."""
    c = ConfigDict()
    c.seed = 0
    c.data = _data_config(image)
    c.model = _model_config(speech, image)

    # Encoders to start from: a directory as `transformers` saves it, a hub id that the local cache
    # has, or 'package:NAME', which ships with us. `fusion` is a BERT of the fusion encoder's width,
    # whose last layers it takes as ALBEF does; cross-attention and input projections stay random.
    # `model`, in place of these whatever they are, is a whole retriever to go on from: the name of
    # one that ships with us, a folder of `sir-jax export`, or a workdir of `sir-jax train`.
    c.init = ConfigDict(dict(speech="", image="", fusion="", model=""))

    c.loss = _loss_config()
    c.optim = _optim_config()
    c.train = _train_config()

    # How many of the best by embedding `evaluate` has re-scored by the match logit; 0: none.
    c.eval = ConfigDict(dict(rerank=0))

    # `frozen_whole`: GiB up to which a frozen encoder lies whole on every device, whatever `fsdp`.
    c.mesh = ConfigDict(dict(data=-1, fsdp=1, tensor=1, frozen_whole=4.0))
    return c


def _data_config(image: str) -> ConfigDict:
    c = ConfigDict()
    c.corpus = ""  # e.g. 'spoken_scenes/one-...'
    c.data_dir = ""  # '': $SIR_JAX_DATA, else ./data
    c.batch_size = 256
    c.buckets = (40_000, 56_000, 72_000, 102_400)  # samples at 16 kHz
    c.normalize_wave = True
    c.image_size = vit_fields(image)["image_size"]
    c.image_mean = CLIP_MEAN
    c.image_std = CLIP_STD
    c.image_fit = "crop"  # 'crop': short side to size, centre cut out; 'squash': both sides
    c.crop_scale = (1.0, 1.0)  # share of the area a random crop keeps; (1, 1): none
    c.augment = _augment_config()
    c.features = ""  # where `sir-jax data featurize` wrote frozen encoders' outputs; '': live
    return c


def _model_config(speech: str, image: str) -> ConfigDict:
    c = ConfigDict()
    c.speech = ConfigDict(hubert_fields(speech))
    c.image = ConfigDict(vit_fields(image))
    c.image_head = "cls"  # 'qformer': BLIP-2's queries over the image tokens
    c.qformer = ConfigDict(qformer_fields())
    c.head = ConfigDict(
        dict(layers=1, heads=8, mlp_width=4 * c.speech.width, weigh_layers=False, dropout=0.1)
    )
    c.fusion = ConfigDict(fusion_fields())
    c.embed_width = 256
    c.init_temperature = 0.07
    # What a layer keeps for the backward pass: 'none': all; 'dots': its input and its products with
    # weights; 'full': its input.
    c.remat = "none"
    c.dtype = "float32"
    # Run the encoders' layers as a loop: compiles several times sooner, copies their parameters.
    c.scan = False
    # 'cudnn': cuDNN's flash attention where there is an NVIDIA GPU, in bfloat16; 'xla' elsewhere.
    c.attention = "xla"
    return c


def _optim_config() -> ConfigDict:
    c = ConfigDict()
    c.learning_rate = 1e-4
    c.schedule = "cosine"
    c.warmup_steps = 500
    c.end_factor = 0.0
    c.weight_decay = 0.02
    c.b1 = 0.9
    c.b2 = 0.98
    c.eps = 1e-8
    c.clip_norm = 4.0
    c.no_decay = ("temperature", ".*/(bias|scale|g|cls|position)")
    c.freeze = ()
    c.frozen_dtype = "float32"  # 'bfloat16': frozen parameters take half the memory
    return c


def _train_config() -> ConfigDict:
    c = ConfigDict()
    c.steps = 10_000
    c.log_every = 10
    c.eval_every = 500
    c.checkpoint_every = 500
    # Microbatches: memory of one of them. `grad_accum`: negatives of its own only; `grad_cache`:
    # those of the whole batch, for one more pass of the encoders.
    c.grad_accum = 1
    c.grad_cache = 1
    c.num_threads = 4
    c.num_workers = 0
    c.compile_cache = ""
    c.watchdog_seconds = 600.0  # without a finished step, after which stacks are printed
    return c


# Where each variant's released weights are looked for: names of the hub, of which the local cache
# is read and nothing is ever downloaded; the tiny ones ship with us.
RELEASED_SPEECH = {
    "tiny": "package:spoken_scenes/speech",
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
    for name, value, known in (
        ("speech", speech, RELEASED_SPEECH),
        ("image", image, RELEASED_IMAGE),
    ):
        if value not in known:
            raise ValueError(f"{name}={value!r} is none of {', '.join(known)}")
    c = base_config(speech, image)
    c.data.corpus = corpus
    # Samples at 16 kHz. [I] On clips of 4.4 s on average, these waste 15 % on padding.
    c.data.buckets = (32_000, 48_000, 64_000, 80_000, 112_000, 144_000, 192_000, 240_000)
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
