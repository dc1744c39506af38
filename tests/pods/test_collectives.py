"""Collectives found in programs compiled for eight CPU devices, and in lines of TPU programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from sir_jax.pods.collectives import read_collectives


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((4, 2, 1), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)


def program(mesh, fn, *args, out):
    """Compile fn for arguments (shape, spec) and return the program's text."""
    described = [
        jax.ShapeDtypeStruct(shape, np.float32, sharding=NamedSharding(mesh, spec))
        for shape, spec in args
    ]
    return jax.jit(fn, out_shardings=NamedSharding(mesh, out)).lower(*described).compile().as_text()


def test_sum_over_an_axis(mesh):
    text = program(mesh, lambda x: x.sum(0), ((8, 96), P("data", None)), out=P())
    (one,) = read_collectives(text, mesh)
    assert (one.kind, one.axes, one.group, one.times) == ("all-reduce", ("data",), 4, 1)
    assert one.payload == 96 * 4
    assert one.sent == 2 * 3 / 4 * 96 * 4


def test_gather_over_two_axes(mesh):
    text = program(mesh, lambda x: x, ((16, 32), P(("data", "fsdp"), None)), out=P())
    collectives = read_collectives(text, mesh)
    assert {one.kind for one in collectives} == {"all-gather"}
    assert set().union(*(one.axes for one in collectives)) == {"data", "fsdp"}
    assert max(one.payload for one in collectives) == 16 * 32 * 4


def test_a_collective_in_a_loop_counts_each_turn(mesh):
    def fn(x, w):
        return jax.lax.fori_loop(0, 5, lambda _, x: jnp.tanh(x @ w), x)

    text = program(mesh, fn, ((8, 64), P(None, "fsdp")), ((64, 64), P("fsdp", None)), out=P())
    assert 5 in {one.times for one in read_collectives(text, mesh)}


ENTRY = "ENTRY %main (p: f32[8]) -> f32[8] {\n"


@pytest.mark.parametrize(
    ("line", "kind", "axes", "payload"),
    [
        (
            "  %all-gather.1 = bf16[256,750]{1,0:T(8,128)(2,1)} all-gather(%p), channel_id=2, "
            "replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_1'}, dimensions={0}",
            "all-gather",
            ("fsdp",),
            256 * 750 * 2,
        ),
        (
            "  %r = f32[16]{0} reduce-scatter(%p), channel_id=3, "
            "replica_groups=[2,4]<=[4,2]T(1,0), dimensions={0}, to_apply=%add",
            "reduce-scatter",
            ("data",),
            4 * 16 * 4,
        ),
        (
            "  ROOT %a = (f32[3]{0}, /*index=1*/bf16[5]{0}) all-reduce(%p, %q), channel_id=4, "
            "replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add",
            "all-reduce",
            ("data", "fsdp"),
            3 * 4 + 5 * 2,
        ),
        (
            "  %s = (f32[2]{0}, f32[8]{0}) all-gather-start(%p), channel_id=5, "
            "replica_groups=[2,4]<=[4,2]T(1,0), dimensions={0}",
            "all-gather",
            ("data",),
            8 * 4,
        ),
        (
            "  %c = f32[6]{0} collective-permute(%p), channel_id=6, "
            "source_target_pairs={{0,2},{2,4},{4,6},{6,0},{1,3},{3,5},{5,7},{7,1}}",
            "collective-permute",
            ("data",),
            6 * 4,
        ),
    ],
    ids=["mesh", "iota", "listed, tuple", "start", "permute"],
)
def test_forms_of_instructions(mesh, line, kind, axes, payload):
    (one,) = read_collectives(ENTRY + line + "\n}\n", mesh)
    assert (one.kind, one.axes, one.payload) == (kind, axes, payload)


def test_pieces_with_one_channel_count_once(mesh):
    line = "  %g.{} = f32[64]{{0}} all-gather(%p), channel_id=7, replica_groups=[1,8]<=[8]"
    text = ENTRY + "\n".join(line.format(i) for i in range(3)) + "\n}\n"
    assert len(read_collectives(text, mesh)) == 1


@pytest.mark.parametrize(("start", "times"), [("main", 1), ("body", 24), ("", 24)])
def test_an_asynchronous_collective_runs_as_often_as_it_starts(mesh, start, times):
    begin = '  ROOT %c = f32[64]{0} custom-call(%g), custom_call_target="AsyncCollectiveStart"'
    text = """%body (p: f32[8]) -> f32[8] {
  %g.1 = f32[64]{0} all-gather(%p), channel_id=7, replica_groups=[1,8]<=[8]
BODY
}

%cond (p: f32[8]) -> pred[] {
  %n = s32[]{:T(128)} constant(24)
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %g.2 = f32[64]{0} all-gather(%p), channel_id=7, replica_groups=[1,8]<=[8]
MAIN
  %w = f32[8]{0} while(%p), condition=%cond, body=%body
}
""".replace("BODY", begin if start == "body" else "").replace(
        "MAIN", begin if start == "main" else ""
    )
    (one,) = read_collectives(text, mesh)
    assert one.times == times


def test_groups_of_one_device_send_nothing(mesh):
    line = "  %g = f32[64]{0} all-reduce(%p), channel_id=1, replica_groups=[8,1]<=[8]\n}\n"
    assert read_collectives(ENTRY + line, mesh) == []


def test_the_end_of_a_collective_is_not_counted(mesh):
    text = ENTRY + "  %d = f32[8]{0} all-gather-done(%s), channel_id=9\n}\n"
    assert read_collectives(text, mesh) == []
