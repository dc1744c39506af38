"""Read a trace: how long each module and each term of the objective took.

The trace is the JSON that XProf's form has beside its protocol buffer. Its events name instructions
of a compiled program; TPUs and GPUs write the named scopes beside them, and the text of the program
tells the rest, which is all of it on a CPU (`training.instruments.profile` writes both).
"""

import gzip
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from sir_jax.errors import UserError
from sir_jax.pods.loops import scope_paths
from sir_jax.pods.traffic import module_of
from sir_jax.training.instruments.profile import PROGRAMS, STEP

# (field of the config, regex of the scopes); the first that is found counts.
MODULES: tuple[tuple[str, str], ...] = (
    ("optim", r"/optimizer/"),
    ("loss.teacher", r"/teacher_update/"),
    ("loss.sic.queue", r"/queue/"),
    ("model.fusion", r"/(fusion|denoise_\w+)/"),
    ("model.match", r"/(match_head|late|pool_\w+)/"),
    ("model.head", r"/speech_(head|projection)/"),
    ("model.speech", r"/speech/"),
    ("model.image_head", r"/image_(head|projection)/"),
    ("model.image", r"/image/"),
    ("loss", r"/(sic|sim|cmd)/"),
)
TERMS: tuple[tuple[str, str], ...] = (
    ("optim", r"/optimizer/"),
    ("loss.teacher", r"/teacher(_update)?/"),
    ("loss.sic", r"/(sic|queue)/"),
    ("loss.sim", r"/sim/"),
    ("loss.cmd", r"/cmd/"),
    ("encoders", r"/(speech|image)(_head|_projection)?/"),
)
REST = "the rest"


class Trace(NamedTuple):
    """What a trace tells of one device.

    Attributes:
      steps: train steps that were dispatched in it.
      micros: microseconds by the path of scopes, of the time in which the device works.
    """

    steps: int
    micros: dict[str, float]

    @property
    def total(self) -> float:
        """Return the microseconds of all instructions."""
        return sum(self.micros.values())

    def shares(self, named) -> dict[str, float]:
        """Return the share of the time by name, largest first.

        Args:
          named: function from a path of scopes to a name.
        """
        sums = Counter()
        for path, micros in self.micros.items():
            sums[named(path)] += micros / max(self.total, 1e-9)
        return dict(sums.most_common())


def part_of(path: str, table: tuple[tuple[str, str], ...]) -> str:
    """Return the name that a table has for a path of scopes.

    Example:
      >>> path = "jit(train_step)/transpose(jvp(sim))/SpeechImageModel.fuse/fusion/norm/mul"
      >>> part_of(path, MODULES), part_of(path, TERMS)
      ('model.fusion', 'loss.sim')
    """
    # A transformation wraps the outermost scope: `jvp(sim)`.
    scopes = f"/{re.sub('[()]', '/', path)}/"
    return next((name for name, known in table if re.search(known, scopes)), REST)


def read_trace(folder: Path) -> Trace:
    """Read the newest trace of a folder.

    Args:
      folder: as given to `jax.profiler.start_trace`.

    Raises:
      UserError: it holds no trace, or one without an instruction.
    """
    found = sorted(Path(folder).rglob("*.trace.json.gz"), key=lambda p: p.stat().st_mtime)
    if not found:
        raise UserError(f"{folder} holds no *.trace.json.gz; give the folder of a trace")
    with gzip.open(found[-1]) as file:
        events = json.load(file)["traceEvents"]
    texts = [gzip.decompress(p.read_bytes()).decode() for p in _programs(folder)]
    known = defaultdict(list)  # paths of instructions, by the name of a module
    for text in texts:
        known[re.match(r"HloModule ([\w.\-]+)", text)[1]].append(scope_paths(text))
    micros, runs = Counter(), defaultdict(list)
    for event, spent in _own_time(_instructions(events)):
        runs[event["args"].get("hlo_module"), event["args"].get("run_id")].append((event, spent))
    for (module, _), of_run in runs.items():
        if known and module is not None and module not in known:
            continue  # another program than the train step
        names = {_name(event) for event, _ in of_run}
        # The programs of all length buckets have one name.
        texts = known.get(module) or sum(known.values(), [])
        paths = max(texts, key=lambda paths: len(names & paths.keys()), default={})
        for event, spent in of_run:
            micros[_scopes(event) or paths.get(_name(event), "")] += spent
    if not micros:
        raise UserError(f"{found[-1]} holds no instruction of a train step")
    steps = {e["args"]["step_num"] for e in events if e.get("name") == STEP and _has_number(e)}
    return Trace(len(steps) or 1, dict(micros))


def _programs(folder: Path) -> list[Path]:
    return sorted(Path(folder).rglob(f"{PROGRAMS}/*.hlo.gz"))


def _has_number(event: dict) -> bool:
    return "step_num" in event.get("args", {})


def _name(event: dict) -> str:
    return event["args"].get("hlo_op", event["name"])


def _scopes(event: dict) -> str:
    """Return the scopes that a TPU (`tf_op`) or a GPU (`name`) writes; '' where there are none."""
    said = event["args"].get("tf_op") or event["args"].get("name", "")
    return said.rstrip(":") if "/" in said else ""


def _instructions(events: list[dict]) -> Iterator[dict]:
    """Yield the events that are instructions, of the first accelerator where there is one."""
    names, threads = {}, {}
    for event in events:
        if event.get("ph") == "M" and event["name"] == "process_name":
            names[event["pid"]] = event["args"]["name"]
        elif event.get("ph") == "M" and event["name"] == "thread_name":
            threads[event["pid"], event["tid"]] = event["args"]["name"]
    devices = sorted((name, pid) for pid, name in names.items() if name.startswith("/device:"))
    first = devices[0][1] if devices else None
    # A TPU names its instructions on one line; other lines repeat them as modules and scopes.
    lines = {key for key, name in threads.items() if name == "XLA Ops" and key[0] == first}
    for event in events:
        if event.get("ph") != "X" or first not in (None, event["pid"]):
            continue
        at = event["pid"], event["tid"]
        if "hlo_op" in event.get("args", {}) if not lines else at in lines:
            yield {"args": {}, **event}


def _own_time(events: Iterator[dict]) -> Iterator[tuple[dict, float]]:
    """Yield each event with its part of the clock's time, in microseconds.

    On a thread that is what those inside it leave of it. Threads that work at the same time share
    that time evenly, so that the parts add up to the time in which any of them works.
    """
    stretches = list(_stretches(events))
    edges = sorted(
        (at, begins, number)
        for number, (start, end, _) in enumerate(stretches)
        for at, begins in ((start, True), (end, False))
    )
    spent, active, before = [0.0] * len(stretches), set(), 0.0
    for at, begins, number in edges:
        for one in active:
            spent[one] += (at - before) / len(active)
        before = at
        (active.add if begins else active.discard)(number)
    for (_, _, event), part in zip(stretches, spent, strict=True):
        yield event, part


def _stretches(events: Iterator[dict]) -> Iterator[tuple[float, float, dict]]:
    """Yield (start, end, event) of the times in which no other event of the thread is inside."""
    by_thread = defaultdict(list)
    for event in events:
        by_thread[event["pid"], event["tid"]].append(event)
    for thread in by_thread.values():
        open_ones, now = [], 0.0  # (event, its end), each inside the one before
        for event in [*sorted(thread, key=lambda e: (e["ts"], -e["dur"])), None]:
            start = event["ts"] if event else float("inf")
            while open_ones and open_ones[-1][1] <= start:
                closed, end = open_ones.pop()
                if end > now:
                    yield now, end, closed
                    now = end
            if event is None:
                break
            if open_ones and start > now:
                yield now, start, open_ones[-1][0]
            now = max(now, start)
            open_ones.append((event, start + event["dur"]))


def describe(trace: Trace) -> list[str]:
    """Return tables of the time by module, by term and by kind of layer, as lines of text."""
    each = trace.total / trace.steps / 1e3
    lines = [f"{trace.steps} steps, {each:.1f} ms of instructions a step"]
    tables = {
        "by module": lambda path: part_of(path, MODULES),
        "by term": lambda path: part_of(path, TERMS),
        "by kind of layer": module_of,
    }
    for title, named in tables.items():
        lines.append(f"{title:<26}{'ms a step':>12}{'share':>8}")
        for name, share in trace.shares(named).items():
            lines.append(f"  {name:<24}{share * each:>12.2f}{100 * share:>6.1f} %")
    return lines
