"""Floating-point operations of an encoder's forward pass: matrix products and convolutions only."""

from sir_jax.models import HubertSpec, VitSpec


def transformer_flops(tokens: int, width: int, mlp_width: int, layers: int) -> int:
    """Return the operations of pre- or post-norm self-attention layers over `tokens` tokens."""
    projections = 4 * tokens * width * width
    attention = 2 * tokens * tokens * width
    mlp = 2 * tokens * width * mlp_width
    return 2 * layers * (projections + attention + mlp)


def hubert_flops(spec: HubertSpec, samples: int) -> int:
    """Return the operations for one clip of `samples` samples."""
    frames, channels, macs = samples, 1, 0
    for width, kernel, stride in zip(
        spec.conv_width, spec.conv_kernel, spec.conv_stride, strict=True
    ):
        frames = (frames - kernel) // stride + 1
        macs += frames * kernel * channels * width
        channels = width
    macs += frames * channels * spec.width
    macs += frames * spec.pos_kernel * spec.width * spec.width // spec.pos_groups
    return 2 * macs + transformer_flops(frames, spec.width, spec.mlp_width, spec.layers)


def vit_flops(spec: VitSpec) -> int:
    """Return the operations for one image."""
    patches = (spec.image_size // spec.patch) ** 2
    embed = 2 * patches * 3 * spec.patch**2 * spec.width
    return embed + transformer_flops(1 + patches, spec.width, spec.mlp_width, spec.layers)
