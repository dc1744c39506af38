"""sir-jax bench step [--config=configs/FILE.py[:arg]] [--config.any.field=value] [--rounds=N]
                   [--batch=N] [--samples=N] [--json=FILE] [--trace=DIR]

Times the compiled train step of one config with contrastive learning alone and with each further
term of the objective, in turn in the same run, and prints what each costs relative to contrastive
alone: time, memory and operations. Weights, sounds and pictures are random. The batch is the
config's, and 32 on a CPU.

state: bytes that live between steps (parameters, optimiser, teacher, queue); peak: the most that
the compiler counts on at once, the state among it.

--trace=DIR: afterwards as many steps of the last variant are traced into DIR, and the tables of
`sir-jax bench trace DIR` are printed, with the share of each further term by the trace beside that
by the times above: what the variant with the term takes more than contrastive learning alone.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from sir_jax.benchmarks.device.trace import TERMS, Trace, describe, part_of, read_trace
from sir_jax.benchmarks.timing import OtherLoad, Times, interleave
from sir_jax.config.command_line import parse_options
from sir_jax.errors import UserError
from sir_jax.runtime import sharding
from sir_jax.training.instruments.profile import start_trace, step_mark, stop_trace
from sir_jax.training.setup import prepare
from sir_jax.training.step import STEP_FIELDS

DEFAULT_CONFIG = "configs/unified.py:speech=tiny,image=tiny"
BATCH_ON_CPU = 32
MIB = 2**20
OPTIONS = {"rounds": "5", "batch": "", "samples": "", "json": "", "trace": ""}
# Variant -> what its further operations are called in a trace.
TRACED = {"+ SIM": "loss.sim", "+ CMD": "loss.cmd"}


class Cost(NamedTuple):
    """The cost of a training step with one variant of the objective."""

    variant: str
    seconds: Times
    state_bytes: int
    peak_bytes: int
    flops: float


def variants(loss_cfg) -> dict[str, dict]:
    """Return the config fields that each variant of the objective sets, by name.

    The options of a term (queue length, alpha, direction, ...) are those of the config.

    Args:
      loss_cfg: `config.loss`.

    Raises:
      UserError: the objective is not contrastive learning with further terms.
    """
    sic = loss_cfg.sic
    off = {
        "loss.sic.queue": 0,
        "loss.sic.alpha": 0.0,
        "loss.sim.weight": 0.0,
        "loss.cmd.weight": 0.0,
    }
    terms = {}
    if sic.queue:
        terms["+ queue"] = {"loss.sic.queue": sic.queue}
    if sic.alpha:
        terms["+ distillation"] = {"loss.sic.alpha": sic.alpha}
    if loss_cfg.sim.weight:
        terms["+ SIM"] = {"loss.sim.weight": loss_cfg.sim.weight}
    if loss_cfg.cmd.weight:
        terms[f"+ CMD of {loss_cfg.cmd.direction}"] = {"loss.cmd.weight": loss_cfg.cmd.weight}
    if not terms or not sic.weight:
        raise UserError(
            "the config's objective is not contrastive learning and something more; "
            f"choose another --config, e.g. {DEFAULT_CONFIG}"
        )
    by_name = {"contrastive": off} | {name: off | fields for name, fields in terms.items()}
    return by_name | {"all": {}} if len(terms) > 1 else by_name


def random_batch(cfg, samples: int) -> dict[str, np.ndarray]:
    """Return a random batch; each clip fills its bucket, and each image has an id of its own."""
    rng, b, size = np.random.default_rng(0), cfg.data.batch_size, cfg.data.image_size
    return {
        "wave": rng.normal(size=(b, samples)).astype(np.float32),
        "lengths": np.full(b, samples, np.int32),
        "pixels": rng.normal(size=(b, size, size, 3)).astype(np.float32),
        "image_ids": np.arange(b, dtype=np.int32),
    }


def build_step(cfg, samples: int) -> tuple[Callable[[], None], Callable[[Times], Cost]]:
    """Compile one variant's train step.

    Args:
      cfg: the config of the variant.
      samples: of every clip.

    Returns:
      A function that makes a step and waits for it, whose `compiled` is the program and whose
      `metrics` are those of the last step; and one from its times to a `Cost` whose variant is
      still ''.
    """
    cfg.data.buckets = (samples,)
    setup = prepare(cfg, sharding.make_mesh(cfg.mesh))
    program = setup.compile_steps()[samples]
    state = jax.jit(setup.init, out_shardings=setup.shardings)(jax.random.key(0))
    batch = random_batch(cfg, samples)
    placed = sharding.place_batch({name: batch[name] for name in STEP_FIELDS}, setup.mesh)

    def step() -> None:
        nonlocal state
        state, metrics = program(state, placed)
        jax.block_until_ready((state, metrics))
        step.metrics = metrics

    step.compiled = program
    state_bytes = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(setup.abstract))
    memory, flops = program.memory_analysis(), program.cost_analysis()["flops"]
    # The state is donated: the new one takes the memory of the old one.
    peak = (
        memory.argument_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
    )
    return step, lambda times: Cost("", times, state_bytes, peak, flops)


def format_table(costs: list[Cost]) -> str:
    """Format the costs; in brackets, relative to the first variant."""
    first = costs[0]
    lines = [f"{'objective':<18}{'ms a step':>16}{'state MiB':>18}{'peak MiB':>18}{'GFLOP':>18}"]
    for cost in costs:
        cells = [
            (1e3 * cost.seconds.median, 1e3 * first.seconds.median),
            (cost.state_bytes / MIB, first.state_bytes / MIB),
            (cost.peak_bytes / MIB, first.peak_bytes / MIB),
            (cost.flops / 1e9, first.flops / 1e9),
        ]
        texts = [f"{value:.0f} (x{value / base:.2f})" for value, base in cells]
        lines.append(f"{cost.variant:<18}{texts[0]:>16}" + "".join(f"{t:>18}" for t in texts[1:]))
    return "\n".join(lines)


def trace_steps(step: Callable[[], None], folder: Path, count: int) -> Trace:
    """Trace some steps of a function of `build_step` into a folder, and read the trace."""
    start_trace(folder)
    for number in range(count):
        with step_mark(number + 1):
            step()
    stop_trace(folder, [step])
    return read_trace(folder)


def compare_shares(trace: Trace, costs: list[Cost]) -> list[str]:
    """Return a line for each further term: its share of a step by the trace, and by the times.

    Args:
      trace: of the last variant.
      costs: of all variants, the first without further terms.
    """
    shares = trace.shares(lambda path: part_of(path, TERMS))
    whole, alone = costs[-1].seconds.median, costs[0].seconds.median
    lines = [f"{'share of a step':<18}{'by trace':>10}{'by times':>10}"]
    for cost in costs[1:]:
        term = next((name for name in TRACED if cost.variant.startswith(name)), None)
        if term:
            timed = (cost.seconds.median - alone) / whole
            lines.append(f"{cost.variant:<18}{shares.get(TRACED[term], 0):>10.1%}{timed:>10.1%}")
    return lines


def _number(name: str, text: str, least: int) -> int:
    if not text.isdigit() or int(text) < least:
        raise UserError(f"--{name}={text}: give a whole number from {least} up")
    return int(text)


def main(argv: list[str]) -> int:
    """Run `sir-jax bench step`.

    Args:
      argv: the arguments after the verb's name.

    Raises:
      UserError: on a wrong option, or a config that cannot be trained.
    """
    if "--help" in argv or "-h" in argv:
        print(__doc__.strip())
        return 0
    if not any(arg.startswith("--config=") for arg in argv):
        argv = [f"--config={DEFAULT_CONFIG}", *argv]
    cfg, own = parse_options(argv, OPTIONS)
    rounds = _number("rounds", own["rounds"], 1)
    batch, samples = (
        _number(name, own[name], 1) if own[name] else 0 for name in ("batch", "samples")
    )
    on_cpu = jax.default_backend() == "cpu"
    cfg.data.batch_size = batch or (BATCH_ON_CPU if on_cpu else cfg.data.batch_size)
    samples = samples or cfg.data.buckets[len(cfg.data.buckets) // 2]
    spec = next(arg for arg in argv if arg.startswith("--config="))
    print(
        f"{spec}: {cfg.data.batch_size} pairs a step, clips of {samples / 16_000:.2f} s, "
        f"{cfg.model.dtype}, frozen: {', '.join(cfg.optim.freeze) or 'nothing'}; "
        f"{jax.device_count()} {jax.devices()[0].device_kind} devices"
    )
    steps, finish = {}, {}
    for name, fields in variants(cfg.loss).items():
        changed = cfg.copy_and_resolve_references()
        changed.update_from_flattened_dict(fields)
        print(f"{name}:", file=sys.stderr)
        steps[name], finish[name] = build_step(changed, samples)
    load = OtherLoad()
    times = interleave(steps, rounds)
    costs = [finish[name](times[name])._replace(variant=name) for name in steps]
    print(format_table(costs))
    share = load.share()
    if share is not None:
        print(f"other processes took {100 * share:.0f} % of the machine meanwhile")
    if own["trace"]:
        trace = trace_steps(steps[costs[-1].variant], Path(own["trace"]), rounds)
        print("\n".join(["", *describe(trace), *compare_shares(trace, costs)]))
    if own["json"]:
        Path(own["json"]).write_text(json.dumps([c._asdict() for c in costs], indent=2) + "\n")
    return 0
