"""The correction for loops: bodies count once per run, slices only with their own bytes."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from sir_jax.pods.loops import loop_factor
from sir_jax.pods.topology import Topology

# Outside of the loop 4 MiB are copied (read and written). Each of five turns reads a slice of 1 MiB
# from a stack, and reads and writes 4 MiB.
_PROGRAM = """HloModule jit_f, is_scheduled=true

%inner (p: f32[1048576]) -> f32[1024,1024] {
  %p = f32[1048576]{0} parameter(0)
  ROOT %b = f32[1024,1024]{1,0} bitcast(%p)
}

%fused (p0: f32[1048576], p1: f32[5,512,512], p2: s32[]) -> f32[1048576] {
  %p0 = f32[1048576]{0:T(1024)S(1)} parameter(0)
  %x = f32[1024,1024]{1,0} fusion(%p0), kind=kLoop, calls=%inner
  %p1 = f32[5,512,512]{2,1,0} parameter(1)
  %p2 = s32[] parameter(2)
  %zero = s32[] constant(0)
  %w = f32[1,512,512]{2,1,0} dynamic-slice(%p1, %p2, %zero, %zero), dynamic_slice_sizes={1,512,512}
  ROOT %y = f32[1048576]{0} custom-call(%x, %w), custom_call_target="f"
}

%body (t: (s32[], f32[1048576], f32[5,512,512])) -> (s32[], f32[1048576], f32[5,512,512]) {
  %t = (s32[], f32[1048576]{0}, f32[5,512,512]{2,1,0}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %x.1 = f32[1048576]{0} get-tuple-element(%t), index=1
  %s = f32[5,512,512]{2,1,0} get-tuple-element(%t), index=2
  %f = f32[1048576]{0} fusion(%x.1, %s, %i), kind=kOutput, calls=%fused
  ROOT %r = (s32[], f32[1048576]{0}, f32[5,512,512]{2,1,0}) tuple(%i, %f, %s)
}

%cond (t.1: (s32[], f32[1048576], f32[5,512,512])) -> pred[] {
  %five = s32[]{:T(128)} constant(5)
  %t.1 = (s32[], f32[1048576]{0}, f32[5,512,512]{2,1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%t.1), index=0
  ROOT %lt = pred[] compare(%i.1, %five), direction=LT
}

ENTRY %main (a: f32[1048576], b: f32[5,512,512]) -> f32[1048576] {
  %a = f32[1048576]{0} parameter(0)
  %b = f32[5,512,512]{2,1,0} parameter(1)
  %n = s32[] constant(0)
  %c = f32[1048576]{0} copy(%a)
  %in = (s32[], f32[1048576]{0}, f32[5,512,512]{2,1,0}) tuple(%n, %c, %b)
  %w = (s32[], f32[1048576]{0}, f32[5,512,512]{2,1,0}) while(%in), condition=%cond, body=%body
  ROOT %out = f32[1048576]{0} get-tuple-element(%w), index=1
}
"""


def test_the_body_of_a_loop_counts_once_per_turn():
    # The body also reads the 4 bytes of the counter. The condition, which is counted once, reads
    # two numbers and writes one byte.
    outside, body, condition = 8 * 2**20, 9 * 2**20 + 4, 9
    expected = (outside + 5 * body + condition) / (outside + body + condition)
    assert loop_factor(_PROGRAM) == pytest.approx(expected, rel=1e-9)


def test_an_operand_passed_on_to_a_running_collective_is_not_moved():
    # The fusion reads 1 MiB and writes 1 MiB. The 64 MiB that are being gathered pass through it.
    text = """%inner (p: f32[262144], g: f32[16777216]) -> (f32[262144], f32[16777216]) {
  %p = f32[262144]{0} parameter(0)
  %g = f32[16777216]{0} parameter(1)
  %y = f32[262144]{0} tanh(%p)
  %a = f32[16777216]{0} all-gather(%g), channel_id=1, replica_groups={{0,1}}
  ROOT %r = (f32[262144]{0}, f32[16777216]{0}) tuple(%y, %a)
}

%body (t: (f32[262144], f32[16777216])) -> (f32[262144], f32[16777216]) {
  %t = (f32[262144]{0}, f32[16777216]{0}) parameter(0)
  %x = f32[262144]{0} get-tuple-element(%t), index=0
  %h = f32[16777216]{0} get-tuple-element(%t), index=1
  ROOT %f = (f32[262144]{0}, f32[16777216]{0}) fusion(%x, %h), kind=kLoop, calls=%inner
}

%cond (t: (f32[262144], f32[16777216])) -> pred[] {
  %n = s32[] constant(11)
}

ENTRY %main (p: f32[262144]) -> f32[262144] {
  %p = f32[262144]{0} parameter(0)
  %c = f32[262144]{0} copy(%p)
  %w = (f32[262144]{0}, f32[16777216]{0}) while(%c), condition=%cond, body=%body
}
"""
    # 2 MiB are moved by the copy, and 2 MiB in each of eleven turns.
    assert loop_factor(text) == pytest.approx((1 + 11) / 2, rel=1e-9)


def test_a_loop_of_one_turn_needs_no_correction():
    assert loop_factor(_PROGRAM.replace("constant(5)", "constant(1)")) == 1.0


def test_every_turn_of_a_compiled_loop_costs_the_same():
    topology = Topology.parse("v5e:2x2")
    one = NamedSharding(topology.mesh(dict(data=-1, fsdp=1, tensor=1)), PartitionSpec())

    def moved(layers: int) -> float:
        stack = jax.ShapeDtypeStruct((layers, 1024, 1024), jnp.bfloat16, sharding=one)
        x = jax.ShapeDtypeStruct((4096, 1024), jnp.bfloat16, sharding=one)
        run = jax.jit(lambda w, x: jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0])
        compiled = run.lower(stack, x).compile()
        return compiled.cost_analysis()["bytes accessed"] * loop_factor(compiled.as_text())

    four, eight, twelve = moved(4), moved(8), moved(12)
    assert twelve - eight == pytest.approx(eight - four, rel=1e-3)
    # Each turn moves at least the layer's kernel, its input and its output.
    assert (eight - four) / 4 > 2 * (1024 * 1024 + 2 * 4096 * 1024)
