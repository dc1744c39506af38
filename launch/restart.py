"""python launch/restart.py --folder=DIR [--processes=2] [--program=sir-jax] [-- OPTIONS]

Measures how soon a preempted run of several processes on this machine goes on: it is stopped by
SIGTERM after some steps and started again, and the seconds from that start to the next step are
printed, without kept programs and with `train.compile_cache=workdir`. OPTIONS are those of
`sir-jax train`; without, configs/demo.py on a small corpus that is made in DIR first.
"""

import argparse
import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

STEPS = 3  # before the preemption
LIMIT = 3_600.0  # seconds, for a step to come
SMALL = "--level=one --engines=espeak --train_images=64 --val_images=8 --test_images=4 --captions=2"


def make_corpus(program: list[str], folder: Path) -> list[str]:
    """Make a small corpus in a folder; return the options that train on it."""
    data = folder / "data"
    command = [*program, "data", "spoken_scenes", *SMALL.split(), f"--data_dir={data}"]
    subprocess.run(command, check=True)
    (corpus,) = (path.name for path in (data / "spoken_scenes").glob("one-*"))
    names = f"--config.data.corpus=spoken_scenes/{corpus}", f"--config.data.data_dir={data}"
    return ["--config=configs/demo.py", *names]


@contextlib.contextmanager
def job(command: list[str], count: int, log: Path) -> Iterator[list[subprocess.Popen]]:
    """Run a command as several processes of one job; whoever is left at the end is killed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Programs are kept where the config says, and nowhere else.
    env = {name: x for name, x in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    processes = []
    try:
        with open(log, "a") as out:
            for number in range(count):
                at = [f"--distributed=127.0.0.1:{port},{number},{count}"] if count > 1 else []
                processes.append(subprocess.Popen([*command, *at], stdout=out, stderr=out, env=env))
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def last_step(workdir: Path) -> int:
    """Return the last step that a run has written down; 0 before any."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


def await_step(workdir: Path, step: int, processes: list[subprocess.Popen]) -> float:
    """Wait until a run has written a step down; return the time of that."""
    deadline = time.monotonic() + LIMIT
    while last_step(workdir) < step:
        if time.monotonic() > deadline or any(process.poll() for process in processes):
            raise SystemExit(f"step {step} did not come; see {workdir}.log")
        time.sleep(0.02)
    return time.monotonic()


def compile_seconds(workdir: Path) -> float:
    """Return how long all starts of a run have compiled, by its own account."""
    return json.loads((workdir / "goodput.json").read_text())["seconds"]["compile"]


def measure(command: list[str], count: int, workdir: Path) -> tuple[float, float]:
    """Start, preempt and start a run again.

    Returns:
      Seconds from the second start to the next step, and those of them in which it compiled.
    """
    log = Path(f"{workdir}.log")
    command = [*command, f"--workdir={workdir}"]
    with job(command, count, log) as processes:
        await_step(workdir, STEPS, processes)
        processes[0].send_signal(signal.SIGTERM)
        statuses = [process.wait() for process in processes]
    if set(statuses) != {128 + signal.SIGTERM}:
        raise SystemExit(f"the run did not stop as it should: {statuses}; see {log}")
    stopped, compiled = last_step(workdir), compile_seconds(workdir)
    began = time.monotonic()
    with job(command, count, log) as processes:
        seconds = await_step(workdir, stopped + 1, processes) - began
    return seconds, compile_seconds(workdir) - compiled


def main(argv: list[str]) -> None:
    """Print a line for each way to keep programs."""
    # So that whoever ends this ends the run, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    at = argv.index("--") if "--" in argv else len(argv)
    argv, options = argv[:at], argv[at + 1 :]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", required=True, type=Path)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--program", default="sir-jax", help="and its first arguments")
    args = parser.parse_args(argv)
    args.folder.mkdir(parents=True)
    program = shlex.split(args.program)
    command = [*program, "train", *(options or make_corpus(program, args.folder))]
    command.append("--config.train.log_every=1")
    for kept in ("", "workdir"):
        once = [*command, f"--config.train.compile_cache={kept}"]
        seconds, compiled = measure(once, args.processes, args.folder / f"kept-{kept or 'nowhere'}")
        print(
            f"{args.processes} processes, programs kept {kept and 'in the ' or 'nowhere'}{kept}: "
            f"next step {seconds:.1f} s after the start, {compiled:.1f} s of them compiling",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
