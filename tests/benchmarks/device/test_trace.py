"""A trace read: own time of nested instructions, scopes by program, by TPU and by GPU."""

import gzip
import json

import pytest

from sir_jax.benchmarks.device.trace import (
    MODULES,
    REST,
    TERMS,
    Trace,
    _own_time,
    describe,
    part_of,
    read_trace,
)
from sir_jax.cli.model import trace as verb
from sir_jax.errors import UserError

_SPEECH = "jit(train_step)/jvp(SpeechImageModel.speech_features)/speech/layers_00"
_SIM = "jit(train_step)/transpose(jvp(sim))/SpeechImageModel.match/fusion/layers_00/mlp/mul"


def program(up: str) -> str:
    """Return a program: a product, a loop around an addition, a copy that it alone reads."""
    return f"""HloModule jit_train_step, is_scheduled=true

%body (t: f32[4]) -> f32[4] {{
  %t = f32[4]{{0}} parameter(0)
  ROOT %add = f32[4]{{0}} add(%t, %t), metadata={{op_name="{_SIM}"}}
}}

ENTRY %main (a: f32[4]) -> f32[4] {{
  %a = f32[4]{{0}} parameter(0)
  %{up} = f32[4]{{0}} tanh(%a), metadata={{op_name="{_SPEECH}/mlp/up/tanh"}}
  %copy = f32[4]{{0}} copy(%{up})
  ROOT %while = f32[4]{{0}} while(%copy), body=%body, metadata={{op_name="{_SIM}"}}
}}
"""


def write(folder, events, *texts):
    (folder / "plugins").mkdir(parents=True)
    (folder / "programs").mkdir()
    with gzip.open(folder / "plugins" / "vm.trace.json.gz", "wt") as file:
        json.dump({"traceEvents": events}, file)
    for number, text in enumerate(texts):
        (folder / "programs" / f"{number}.hlo.gz").write_bytes(gzip.compress(text.encode()))


def event(name, ts, dur, pid=1, tid=1, **args):
    return {"ph": "X", "name": name, "ts": ts, "dur": dur, "pid": pid, "tid": tid, "args": args}


def meta(kind, name, pid, tid=0):
    return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": {"name": name}}


def step(number):
    return event("train", 0, 1_000, step_num=str(number))


def test_on_a_cpu_the_program_tells_the_scopes(tmp_path):
    def op(name, ts, dur, run, module="jit_train_step", tid=1):
        return event(name, ts, dur, tid=tid, hlo_op=name, hlo_module=module, run_id=run)

    events = [
        meta("process_name", "/host:CPU", 1),
        step(7),
        step(8),
        op("up", 0, 40, "1"),
        op("while", 50, 100, "1"),
        op("add", 60, 30, "1"),
        op("add", 100, 40, "1"),
        op("copy", 45, 10, "1", tid=2),
        # Of another length bucket, whose program has other names; and of another program.
        op("up.2", 300, 20, "2"),
        op("up", 400, 1_000, "3", "jit_evaluate"),
    ]
    write(tmp_path, events, program("up"), program("up.2"))
    trace = read_trace(tmp_path)
    assert trace.steps == 2
    # The copy is for the loop, and shares five microseconds with it on another thread.
    assert trace.micros == {f"{_SPEECH}/mlp/up/tanh": 60, _SIM: 5 + 100}
    assert trace.shares(lambda path: part_of(path, TERMS)) == {
        "loss.sim": pytest.approx(105 / 165),
        "encoders": pytest.approx(60 / 165),
    }


def test_instructions_that_run_at_once_share_the_time():
    def op(name, ts, dur, tid):
        return event(name, ts, dur, tid=tid)

    # On one thread a loop with two turns, of which one ends with it; beside it a product.
    events = [op("while", 0, 100, 1), op("a", 10, 20, 1), op("b", 60, 40, 1), op("c", 50, 100, 2)]
    spent = {}
    for one, part in _own_time(iter(events)):
        spent[one["name"]] = spent.get(one["name"], 0) + part
    assert spent == {"a": 20, "b": 20, "while": 10 + 20 + 5, "c": 5 + 20 + 50}
    assert sum(spent.values()) == 150


def test_on_a_tpu_the_line_of_instructions_alone_counts(tmp_path):
    events = [
        meta("process_name", "/host:CPU", 1),
        meta("process_name", "/device:TPU:0", 3),
        meta("process_name", "/device:TPU:1", 4),
        meta("thread_name", "XLA Modules", 3, 1),
        meta("thread_name", "XLA Ops", 3, 2),
        step(1),
        event("jit_train_step(99)", 0, 500, 3, 1, run_id="5"),
        event("fusion.9", 0, 300, 3, 2, tf_op=f"{_SIM}:", long_name="%fusion.9 = .."),
        event("up", 300, 100, 3, 2, long_name="%up = .."),
        event("fusion.9", 0, 300, 4, 2, tf_op=f"{_SIM}:"),
    ]
    write(tmp_path, events, program("up"))
    assert read_trace(tmp_path).micros == {_SIM: 300, f"{_SPEECH}/mlp/up/tanh": 100}


def test_on_a_gpu_kernels_carry_their_scopes(tmp_path):
    said = {"hlo_op": "dot.1", "hlo_module": "jit_train_step", "name": _SIM}
    events = [
        meta("process_name", "/device:GPU:0", 2),
        meta("thread_name", "Stream #13(Compute)", 2, 13),
        event("gemm", 0, 30, 2, 13) | {"args": said},
        event("MemcpyD2D", 40, 9, 2, 13),
    ]
    write(tmp_path, events)
    trace = read_trace(tmp_path)
    assert (trace.steps, trace.micros) == (1, {_SIM: 30})


@pytest.mark.parametrize(
    ("path", "module", "term"),
    [
        ("jit(f)/optimizer/mul", "optim", "optim"),
        ("jit(f)/teacher_update/mul", "loss.teacher", "loss.teacher"),
        ("jit(f)/jvp(teacher)/M.embed/speech_head/norm/mul", "model.head", "loss.teacher"),
        (f"{_SPEECH}/attention/attend/logits/exp", "model.speech", "encoders"),
        ("jit(f)/jvp(M.embed_image)/image_projection/dot", "model.image_head", "encoders"),
        ("jit(f)/jvp(M)/image/layers_00/mlp/up/dot", "model.image", "encoders"),
        ("jit(f)/jvp(sim)/pool_image/dot", "model.match", "loss.sim"),
        ("jit(f)/jvp(sim)/list/M.match/match_head/dot", "model.match", "loss.sim"),
        ("jit(f)/jvp(cmd)/M.denoise/denoise_image/dot", "model.fusion", "loss.cmd"),
        ("jit(f)/jvp(sic)/div", "loss", "loss.sic"),
        ("jit(f)/queue/scatter", "loss.sic.queue", "loss.sic"),
        ("", REST, REST),
    ],
)
def test_scopes_have_the_names_of_the_config(path, module, term):
    assert (part_of(path, MODULES), part_of(path, TERMS)) == (module, term)


def test_tables_and_mistakes(tmp_path, capsys):
    lines = describe(Trace(2, {_SIM: 3_000.0, f"{_SPEECH}/mlp/up/tanh": 1_000.0}))
    assert lines[0] == "2 steps, 2.0 ms of instructions a step"
    assert lines[2].split() == ["model.fusion", "1.50", "75.0", "%"]
    assert [line.split()[0] for line in lines].count("feed-forward") == 1
    with pytest.raises(UserError, match="holds no .*trace.json.gz"):
        verb.main([str(tmp_path)])
    write(tmp_path, [step(1)])
    with pytest.raises(UserError, match="no instruction of a train step"):
        verb.main([str(tmp_path)])
