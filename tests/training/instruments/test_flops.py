"""Operations counted in traced programs."""

import jax
import jax.numpy as jnp
import numpy as np
from tiny_models import tiny_config

from sir_jax.benchmarks.encoder_flops import hubert_flops, vit_flops
from sir_jax.models import HubertSpec, VitSpec, build_encoder
from sir_jax.runtime.sharding import make_mesh
from sir_jax.training.instruments import flops as counting
from sir_jax.training.instruments.flops import count_flops, seconds_at_peak, step_flops
from sir_jax.training.setup import prepare


def flops(fn, *shapes):
    """Count the operations of fn for float32 arguments."""
    args = [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]
    return count_flops(jax.make_jaxpr(fn)(*args))


def test_products():
    assert flops(lambda a, b: a @ b, (3, 4), (4, 5)) == 2 * 3 * 4 * 5
    einsum = flops(lambda a, b: jnp.einsum("bij,bkj->bik", a, b), (2, 3, 4), (2, 5, 4))
    assert einsum == 2 * 2 * 3 * 4 * 5


def test_loops_conditions_and_calls():
    def loop(a, b):
        return jax.lax.scan(lambda x, _: (jax.checkpoint(jnp.matmul)(x, b), None), a, length=7)[0]

    assert flops(loop, (3, 4), (4, 4)) == 7 * 2 * 3 * 4 * 4

    def branch(a, b):
        return jax.lax.cond(a[0, 0] > 0, lambda: a @ b @ b, lambda: a @ b)

    assert flops(branch, (3, 4), (4, 4)) == 2 * 2 * 3 * 4 * 4
    assert flops(jax.jit(jax.vmap(jnp.dot)), (6, 4), (6, 4)) == 2 * 6 * 4


def test_grouped_convolution():
    def conv(x, w):
        return jax.lax.conv_general_dilated(
            x, w, (2,), "VALID", dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=2
        )

    # 4 outputs of 6 channels, each of 3 taps and the 4 / 2 channels of its group.
    assert flops(conv, (1, 9, 4), (3, 2, 6)) == 2 * 4 * 6 * 3 * 2


def test_encoders_agree_with_the_formulas():
    spec = VitSpec(image_size=32, patch=8, width=32, layers=2, heads=2, mlp_width=48)
    model = build_encoder(spec)
    pixels = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), pixels)
    counted = count_flops(jax.make_jaxpr(model.apply)(params, pixels))
    assert counted == vit_flops(spec)

    spec = HubertSpec(
        width=32, layers=2, heads=2, mlp_width=48, conv_width=(16,) * 7, pos_kernel=16, pos_groups=4
    )
    model = build_encoder(spec)
    wave, lengths = jnp.zeros((1, 16_000)), jnp.array([16_000])
    params = jax.eval_shape(model.init, jax.random.key(0), wave, lengths)
    counted = count_flops(jax.make_jaxpr(model.apply)(params, wave, lengths))
    # The model does more than the formula: it unfolds the positional convolution, and group norm
    # sums by matrix products.
    assert 1.0 <= counted / hubert_flops(spec, 16_000) <= 1.15


def test_a_kernel_counts_as_its_products_on_every_device():
    from sir_jax.models.attention import Flash, attend
    from sir_jax.runtime.sharding import make_mesh

    b, t, s, h, k = 4, 9, 7, 2, 64
    mesh = make_mesh(dict(data=2, fsdp=1, tensor=2), jax.devices()[:4])
    where = Flash(mesh, ("data", "fsdp"), ("tensor",), always=True)
    for implementation in ("xla", where):

        def attended(q, k, v, implementation=implementation):
            return attend(q, k, v, None, implementation).sum()

        shapes = (b, t, h, k), (b, s, h, k), (b, s, h, k)
        assert flops(attended, *shapes) == 2 * 2 * b * h * t * s * k
        # Two products forward, five backward, of which one is the logits again.
        grads = flops(jax.grad(attended, (0, 1, 2)), *shapes)
        assert grads == (2 + 5) * 2 * b * h * t * s * k


def test_an_update_counts_what_the_model_has_to_compute(monkeypatch):
    fields = {"loss.sic.weight": 0.0, "loss.cmd.weight": 1.0, "data.buckets": (3_200,)}
    again = {"model.remat": "full", "train.grad_cache": 2}
    configs = [tiny_config(**fields), tiny_config(**fields, **again)]
    setups = [prepare(cfg, make_mesh(cfg.mesh)) for cfg in configs]
    plain, cached = (step_flops(setup, 3_200) for setup in setups)
    assert plain == cached > 0
    assert seconds_at_peak(setups[0]) == {}  # a CPU's peak is not known
    monkeypatch.setattr(counting, "peak_flops", lambda kind: 1e9)
    monkeypatch.setattr(counting, "step_flops", lambda setup, samples: plain)
    assert seconds_at_peak(setups[0]) == {3_200: plain / 1e9}


def test_of_branches_the_least_is_what_has_to_be_computed():
    def branch(a, b):
        return jax.lax.cond(a[0, 0] > 0, lambda: a @ b @ b, lambda: a)

    traced = jax.make_jaxpr(branch)(np.ones((3, 4), np.float32), np.ones((4, 4), np.float32))
    assert (count_flops(traced), count_flops(traced, min)) == (2 * 2 * 3 * 4 * 4, 0)
