"""Traffic by module, pass and kind: every byte of a program made by hand."""

import jax
import jax.numpy as jnp
import pytest

from sir_jax.pods.traffic import Traffic, describe_traffic_by, module_of, pass_of, read_traffic

_STEP = "jit(train_step)/"
_LAYER = "jvp(SpeechImageModel)/speech/layers_00/"
_AGAIN = "transpose(jvp(SpeechImageModel))/speech/layers_00/rematted_computation/"

# A product of [32,64] and [64,64], whose result stays in vector memory; a layer norm that a loop
# runs three times; a kernel; a copy of the optimiser; a gather of 4 rows; a copy to vector memory,
# without a scope, for an addition.
_PROGRAM = f"""HloModule jit_train_step, is_scheduled=true

%product (p: bf16[32,64], w: bf16[64,64]) -> bf16[32,64] {{
  %p = bf16[32,64]{{1,0}} parameter(0)
  %w = bf16[64,64]{{1,0}} parameter(1)
  %y = bf16[32,64]{{1,0}} convolution(%p, %w), dim_labels=bf_io->bf
  ROOT %z = bf16[32,64]{{1,0}} tanh(%y), metadata={{op_name="{_STEP}{_LAYER}mlp/up/tanh"}}
}}

%norm (n: bf16[32,64]) -> bf16[32,64] {{
  %n = bf16[32,64]{{1,0}} parameter(0)
  %sum = f32[32] reduce(%n), dimensions={{1}}, to_apply=%add
  ROOT %m = bf16[32,64]{{1,0}} subtract(%n, %sum), metadata={{op_name="{_STEP}{_AGAIN}mlp_norm/sub"}}
}}

%body (t: (s32[], bf16[32,64])) -> (s32[], bf16[32,64]) {{
  %t = (s32[], bf16[32,64]{{1,0}}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %x = bf16[32,64]{{1,0}} get-tuple-element(%t), index=1
  %f = bf16[32,64]{{1,0}} fusion(%x), kind=kLoop, calls=%norm
  ROOT %r = (s32[], bf16[32,64]{{1,0}}) tuple(%i, %f)
}}

%cond (u: (s32[], bf16[32,64])) -> pred[] {{
  %three = s32[] constant(3)
}}

ENTRY %main (a: bf16[32,64], w: bf16[64,64], s: f32[100], ids: s32[4]) -> bf16[32,64] {{
  %a = bf16[32,64]{{1,0}} parameter(0)
  %w.1 = bf16[64,64]{{1,0}} parameter(1)
  %s = f32[100]{{0}} parameter(2)
  %ids = s32[4]{{0}} parameter(3)
  %n.1 = s32[] constant(0)
  %up = bf16[32,64]{{1,0:T(8,128)S(1)}} fusion(%a, %w.1), kind=kOutput, calls=%product, metadata={{op_name="{_STEP}{_LAYER}mlp/up/tanh"}}
  %in = (s32[], bf16[32,64]{{1,0}}) tuple(%n.1, %up)
  %while = (s32[], bf16[32,64]{{1,0}}) while(%in), condition=%cond, body=%body
  %o = bf16[32,64]{{1,0}} get-tuple-element(%while), index=1
  %k = bf16[32,64]{{1,0}} custom-call(%o, %o, %o), custom_call_target="tpu_custom_call", metadata={{op_name="{_STEP}{_LAYER}attention/attend/flash/pallas_call"}}
  %c = f32[100]{{0}} copy(%s), metadata={{op_name="{_STEP}optimizer/mul"}}
  %g = bf16[4,64]{{1,0}} gather(%k, %ids), metadata={{op_name="{_STEP}jvp(sim)/gather"}}
  %b = (bf16[32,64]{{1,0:S(1)}}, bf16[32,64]{{1,0}}, u32[]{{:S(2)}}) copy-start(%k)
  %d = bf16[32,64]{{1,0:S(1)}} copy-done(%b)
  ROOT %out = bf16[32,64]{{1,0}} add(%d, %d), metadata={{op_name="{_STEP}{_LAYER}positional_conv/add"}}
}}
"""  # noqa: E501 - an instruction is one line

_ARRAY = 2 * 32 * 64


def test_every_byte_of_a_program():
    traffic = read_traffic(_PROGRAM)
    assert traffic.modules == {
        "feed-forward": {"forward": 2 * _ARRAY + 2 * 64 * 64},
        "layer norms": {"again": 3 * 2 * _ARRAY},
        "attention: logits": {"forward": 4 * _ARRAY},
        "optimiser": {"forward": 2 * 400},
        "losses": {"forward": 2 * 2 * 4 * 64},
        "positional convolution": {"forward": (2 + 3) * _ARRAY},
    }
    # The result of the product, and the operands of the addition, are in vector memory.
    assert traffic.main == {
        "feed-forward": _ARRAY + 2 * 64 * 64,
        "layer norms": 3 * 2 * _ARRAY,
        "attention: logits": 4 * _ARRAY,
        "optimiser": 2 * 400,
        "losses": 2 * 2 * 4 * 64,
        "positional convolution": (1 + 1) * _ARRAY,
    }
    assert traffic.kinds == {
        "products": 2 * _ARRAY + 2 * 64 * 64,
        "reductions": 3 * 2 * _ARRAY,
        "kernels": 4 * _ARRAY,
        "copies": 2 * 400 + 2 * _ARRAY,
        "gathers": 2 * 2 * 4 * 64,
        "element by element": 3 * _ARRAY,
    }
    assert traffic.total == sum(sum(parts.values()) for parts in traffic.modules.values())


def test_the_table_is_sorted_and_leaves_out_what_is_small():
    traffic = Traffic(
        {"a": {"forward": 2_000_000_000}, "b": {"backward": 7_000_000_000, "again": 990_000_000}},
        {"products": 9_990_000_000},
        {"a": 500_000_000},
    )
    traffic.modules["c"] = {"forward": 10_000_000}
    lines = describe_traffic_by(traffic, least=0.01)
    assert [line.split() for line in lines] == [
        ["GB", "moved", "by", "all", "forward", "backward", "again", "main"],
        ["b", "7.99", "80", "%", "0.00", "7.00", "0.99", "0.00"],
        ["a", "2.00", "20", "%", "2.00", "0.00", "0.00", "0.50"],
        ["of", "all,", "by", "kind:"],
        ["products", "9.99", "100", "%"],
    ]


@pytest.mark.parametrize(
    ("path", "module"),
    [
        ("jit(f)/jvp(M)/speech/layers_00/attention/query/dot_general", "attention: projections"),
        ("jit(f)/jvp(M)/fusion/layers_0/cross_attention/attend/transpose", "attention: layouts"),
        (
            "jit(f)/transpose(jvp(M))/image/layers_0/attention/attend/logits/exp",
            "attention: logits",
        ),
        ("jit(f)/jvp(M)/speech/frontend/conv_1/norm/sub", "layer norms"),
        ("jit(f)/jvp(M)/speech/frontend/conv_1/conv_general_dilated", "convolution front end"),
        ("jit(f)/jvp(cmd)/M/fusion/layers_0/mlp_norm/add", "layer norms"),
        ("jit(f)/optimizer/mul", "optimiser"),
        ("", "the rest"),
    ],
)
def test_modules(path, module):
    assert module_of(path) == module


def test_scopes_reach_a_compiled_program():
    """The names that `MODULES` looks for are those that JAX writes."""
    from sir_jax.models.layers import Block

    block = Block(8, 2, 16, "gelu", 1e-5, True)
    x = jnp.zeros((2, 5, 8))
    params = jax.eval_shape(block.init, jax.random.key(0), x, None, True)

    def loss(params, x):
        step = jax.checkpoint(lambda x: block.apply(params, x, None, True))
        return step(step(x)).sum()

    hlo = jax.jit(jax.value_and_grad(loss)).lower(params, x).compile().as_text()
    modules = read_traffic(hlo).modules
    for module in ("attention: logits", "attention: projections", "layer norms", "feed-forward"):
        assert modules[module]["forward"] and modules[module]["backward"], module
    assert sum(parts.get("again", 0) for parts in modules.values())
    assert {pass_of(path) for path in ("a/b", "transpose(jvp(M))/b")} == {"forward", "backward"}
