"""Operations by formula, against published numbers, a small sum and XLA's count."""

import jax
import numpy as np
import pytest

from sir_jax.benchmarks.encoder_flops import hubert_flops, vit_flops
from sir_jax.models import HUBERT_VARIANTS, VIT_VARIANTS, HubertSpec, VitSpec, build_encoder


@pytest.mark.parametrize(
    ("variant", "gflop"),
    # open_clip's published profile of the first two encoders has 8.82 and 162.03.
    [("B/32", 8.82), ("L/14", 162.02), ("g/14", 520.72)],
)
def test_vit_at_published_sizes(variant, gflop):
    assert vit_flops(VitSpec(**VIT_VARIANTS[variant])) / 1e9 == pytest.approx(gflop, abs=0.005)


def test_tiny_vit():
    spec = VitSpec(image_size=8, patch=4, width=2, layers=1, heads=1, mlp_width=3)
    embed = 4 * (4 * 4 * 3) * 2
    layer = 5 * 2 * 2 * 4 + 2 * 5 * 5 * 2 + 2 * 5 * 2 * 3
    assert vit_flops(spec) == 2 * (embed + layer)


def test_hubert_agrees_with_xlas_count():
    spec = HubertSpec(
        **{
            **HUBERT_VARIANTS["base"],
            "layers": 2,
            "width": 192,
            "heads": 4,
            "mlp_width": 384,
            "conv_width": (64,) * 7,
        }
    )
    module, wave = build_encoder(spec), np.zeros((1, 16_000), np.float32)
    lengths = np.array([16_000])
    params = jax.eval_shape(module.init, jax.random.key(0), wave, lengths)
    counted = jax.jit(module.apply).lower(params, wave, lengths).cost_analysis()["flops"]
    # XLA also counts elementwise operations.
    assert hubert_flops(spec, 16_000) == pytest.approx(counted, rel=0.05)
