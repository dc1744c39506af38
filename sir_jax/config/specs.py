"""The shapes of encoders and heads: what fixes each of them, choices, and published variants."""

import dataclasses

MODALITIES = ("speech", "image")
DTYPES = ("float32", "bfloat16")
# Of `model.remat`: what a layer keeps for the backward pass: all; its input; its input and its
# products with weights, which are most of the arithmetic and little of the memory.
REMAT = ("none", "full", "dots")
# Of `model.attention`: XLA; cuDNN's flash kernels on NVIDIA GPUs; a flash kernel on TPUs; that one
# where it moves fewer bytes.
IMPLEMENTATIONS = ("auto", "xla", "cudnn", "flash")
VIT_FORMS = ("clip", "blip2")
CONV_NORMS = ("group", "layer")
IMAGE_HEADS = ("cls", "mlp", "pool", "qformer")
SPEECH_HEADS = ("transformer", "conv")
# Of `model.match.kind`, what tells whether a pair matches: the fusion encoder, which reads each
# pair; pooled vectors, which an index holds; both; or late interaction, which compares the tokens
# of each pair.
MATCHES = ("fusion", "pooled", "both", "late")
# The names of `models.layers.ACTIVATIONS`.
ACTIVATIONS = ("gelu", "gelu_tanh", "quick_gelu", "relu")

# In which the learnt temperature is kept: ALBEF's clamp (arXiv 2107.07651, public code).
TEMPERATURE_RANGE = (0.001, 0.5)

# OpenAI CLIP's pixel statistics.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclasses.dataclass(frozen=True)
class HubertSpec:
    """Everything that fixes a HuBERT's shape; the defaults are HuBERT base."""

    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_width: int = 3072
    conv_width: tuple[int, ...] = (512,) * 7
    conv_kernel: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_stride: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_bias: bool = False
    conv_norm: str = "group"  # 'group': over time, first layer only; 'layer': every layer
    conv_activation: str = "gelu"
    pos_kernel: int = 128
    pos_groups: int = 16
    norm_first: bool = False  # 'do_stable_layer_norm' of transformers
    activation: str = "gelu"
    epsilon: float = 1e-5
    dropout: float = 0.1

    def __post_init__(self):
        if not len(self.conv_width) == len(self.conv_kernel) == len(self.conv_stride):
            raise ValueError(
                f"conv_width {self.conv_width}, conv_kernel {self.conv_kernel} and conv_stride "
                f"{self.conv_stride} differ in length"
            )
        if self.conv_norm not in CONV_NORMS:
            raise ValueError(f"conv_norm {self.conv_norm!r} is neither 'group' nor 'layer'")

    @property
    def min_samples(self) -> int:
        """Return the samples that give one frame (400 at the published sizes)."""
        need = 1
        for kernel, stride in zip(self.conv_kernel[::-1], self.conv_stride[::-1], strict=True):
            need = (need - 1) * stride + kernel
        return need


HUBERT_VARIANTS: dict[str, dict] = {
    # A 25 Hz encoder of 2 M parameters for CPU demonstrations; shipped weights have this shape.
    "tiny": dict(
        width=192,
        layers=4,
        heads=4,
        mlp_width=768,
        conv_width=(32, 64, 128, 192),
        conv_kernel=(32, 8, 4, 4),
        conv_stride=(10, 4, 4, 4),
        conv_bias=True,
        conv_norm="layer",
        pos_kernel=32,
        pos_groups=8,
        norm_first=True,
    ),
    # The same with two layers more, 3 M parameters: what ships and has heard many voices.
    "small": dict(
        width=192,
        layers=6,
        heads=4,
        mlp_width=768,
        conv_width=(32, 64, 128, 192),
        conv_kernel=(32, 8, 4, 4),
        conv_stride=(10, 4, 4, 4),
        conv_bias=True,
        conv_norm="layer",
        pos_kernel=32,
        pos_groups=8,
        norm_first=True,
    ),
    "base": dict(),
    "large": dict(
        width=1024,
        layers=24,
        heads=16,
        mlp_width=4096,
        conv_bias=True,
        conv_norm="layer",
        norm_first=True,
    ),
    "x-large": dict(
        width=1280,
        layers=48,
        heads=16,
        mlp_width=5120,
        conv_bias=True,
        conv_norm="layer",
        norm_first=True,
    ),
}
HUBERT_VARIANTS["xlarge"] = HUBERT_VARIANTS["x-large"]  # the older spelling


@dataclasses.dataclass(frozen=True)
class VitSpec:
    """Everything that fixes a ViT's shape; the defaults are CLIP ViT-B/32.

    `form` says where it is normalised: "clip" before the first layer, and CLS alone at the end;
    "blip2" nowhere before, and every token at the end. BLIP-2's patch projection has a bias.
    """

    image_size: int = 224
    patch: int = 32
    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_width: int = 3072
    activation: str = "quick_gelu"
    epsilon: float = 1e-5
    dropout: float = 0.0
    form: str = "clip"

    def __post_init__(self):
        if self.form not in VIT_FORMS:
            raise ValueError(f"form {self.form!r} is none of {', '.join(VIT_FORMS)}")
        if self.image_size % self.patch:
            raise ValueError(f"image_size {self.image_size} is no multiple of patch {self.patch}")


VIT_VARIANTS: dict[str, dict] = {
    # For CPU demonstrations; shipped weights have this shape.
    "tiny": dict(image_size=64, patch=8, width=192, layers=4, heads=4, mlp_width=768),
    "B/32": dict(),
    "B/16": dict(patch=16),
    "L/14": dict(patch=14, width=1024, layers=24, heads=16, mlp_width=4096),
    "L/14-336": dict(image_size=336, patch=14, width=1024, layers=24, heads=16, mlp_width=4096),
    # EVA's 40 layers less the last, as every released BLIP-2 has it.
    "g/14": dict(
        patch=14,
        width=1408,
        layers=39,
        heads=16,
        mlp_width=6144,
        activation="gelu",
        epsilon=1e-6,
        form="blip2",
    ),
}


@dataclasses.dataclass(frozen=True)
class QFormerSpec:
    """Everything that fixes a Q-Former's shape; the defaults are every released BLIP-2."""

    queries: int = 32
    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_width: int = 3072
    cross_every: int = 2  # layers 0, 2, 4, ... attend to the image
    projection: int = 256  # width of the space shared with text; 0 for none
    activation: str = "gelu"
    epsilon: float = 1e-12
    dropout: float = 0.1

    def __post_init__(self):
        if self.cross_every < 1:
            raise ValueError(f"cross_every {self.cross_every} is not at least 1")


@dataclasses.dataclass(frozen=True)
class Blip2Spec:
    """Everything that fixes the shape of BLIP-2's image side."""

    vision: VitSpec
    qformer: QFormerSpec = QFormerSpec()


@dataclasses.dataclass(frozen=True)
class HeadSpec:
    """The speech head: SpeechCLIP's parallel branch (arXiv 2210.00705) unless changed."""

    kind: str = "transformer"  # one of `SPEECH_HEADS`
    layers: int = 1
    heads: int = 8
    mlp_width: int = 3072
    weigh_layers: bool = False  # learnt softmax weighting of all hidden states
    dropout: float = 0.1
    taps: int = 5  # frames that a convolution of `conv` reads, an odd number
    places: int = 6  # along the clip that `conv` reads
    hidden: int = 0  # numbers of a layer between what `conv` reads and its summary; 0: none

    def __post_init__(self):
        if self.kind not in SPEECH_HEADS:
            raise ValueError(f"kind {self.kind!r} is none of {', '.join(SPEECH_HEADS)}")
        if self.taps % 2 == 0:
            raise ValueError(f"taps {self.taps} is even; the frame itself is in the middle")


@dataclasses.dataclass(frozen=True)
class FusionSpec:
    """Everything that fixes the fusion encoder's shape; the layers are BERT's with cross-attention.

    The defaults are ALBEF's (arXiv 2107.07651), speech standing for text.
    """

    layers: int = 6
    width: int = 768
    heads: int = 12
    mlp_width: int = 3072
    query: str = "speech"  # whose CLS is asked whether a pair matches; 'image' reads speech instead
    self_attention: bool = True  # without it, a noisy token knows its neighbours only through
    # the other modality
    init_std: float = 0.02  # of all kernels: BERT's, for its width; a narrow encoder that starts
    # from nothing learns several times sooner from 1 / sqrt(width)
    activation: str = "gelu"
    epsilon: float = 1e-12
    dropout: float = 0.1

    def __post_init__(self):
        if self.query not in ("speech", "image"):
            raise ValueError(f"query {self.query!r} is neither 'speech' nor 'image'")
        if self.layers < 1:
            raise ValueError(f"layers {self.layers} is not at least 1")
        if self.width % 2:
            raise ValueError(f"width {self.width} is odd")


@dataclasses.dataclass(frozen=True)
class MatchSpec:
    """What tells whether a pair matches, and what fixes the shape of pooled match and late one.

    The numbers are those that told minimal pairs apart [ours, not the papers'].
    """

    kind: str = "fusion"  # one of `MATCHES`
    queries: int = 8  # learnt queries that read a token stream
    hidden: int = 512  # hidden numbers of the MLP over what they read
    width: int = 128  # F, numbers in a pooled vector; in a token, of late interaction
    places: bool = False  # each query of speech reads near its place along the clip
    frames: bool = False  # what is read of speech are the encoder's frames, not its head's tokens
    taps: int = 0  # frames that a convolution reads before the queries of speech; 0: none

    def __post_init__(self):
        if self.kind not in MATCHES:
            raise ValueError(f"kind {self.kind!r} is none of {', '.join(MATCHES)}")


def hubert_fields(variant: str, **changes) -> dict:
    """Return every field of a HuBERT variant as a dict, for a config file."""
    return dataclasses.asdict(HubertSpec(**{**HUBERT_VARIANTS[variant], **changes}))


def vit_fields(variant: str, **changes) -> dict:
    """Return every field of a ViT variant as a dict, for a config file."""
    return dataclasses.asdict(VitSpec(**{**VIT_VARIANTS[variant], **changes}))


def qformer_fields(**changes) -> dict:
    """Return every field of the released Q-Former as a dict, for a config file."""
    return dataclasses.asdict(QFormerSpec(**changes))


def head_fields(variant: str) -> dict:
    """Return every field of the speech head over a HuBERT variant as a dict, for a config file."""
    return dataclasses.asdict(HeadSpec(mlp_width=4 * hubert_fields(variant)["width"]))


def fusion_fields(**changes) -> dict:
    """Return every field of the fusion encoder as a dict, for a config file."""
    return dataclasses.asdict(FusionSpec(**changes))


def match_fields(**changes) -> dict:
    """Return every field of the match as a dict, for a config file."""
    return dataclasses.asdict(MatchSpec(**changes))
