"""bash launch/gpu_check.sh [--small] [--out=DIR] [--parts=NAME,NAME]

Asks one GPU all that is open about it, in at most eight minutes, and prints one table:

device        its rates of large products and of copies
parity        both encoders in bfloat16 against float32, and float32 against the CPU
attention     cuDNN's against XLA's, by length
convolutions  products against cuDNN's, and whether these work in bfloat16
step          the train step of configs/unified.py:gpu=80GB, by either attention
search        exact search of 1,000,000 x 256 on the device
encoders      beside compiled PyTorch with SDPA, where it is installed with CUDA
terms         one step of each term of the objective

Each part is a process of its own with a time limit: what one measured before it failed or ran out
of time stays, and the others go on. DIR gets check.json, rewritten after each part, and a log each.
--small runs small sizes on any machine, to see that all of it works.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sir_jax.runtime.files import write_json

# part -> its limit in seconds, in the order in which they run: what is worth most comes first.
PARTS = {
    "device": 30,
    "parity": 60,
    "attention": 60,
    "convolutions": 50,
    "step": 140,
    "search": 40,
    "encoders": 120,
    "terms": 90,
}
WHOLE = 460  # seconds of all of them; a part gets what is left of it
LAYERS = ("device", "parity", "attention", "convolutions")


def run_part(name: str, small: bool) -> None:
    """Run one part in this process; print each row as a line of JSON as soon as it is there."""
    from sir_jax.benchmarks.device import check_layers, check_runs

    for row in getattr(check_layers if name in LAYERS else check_runs, name)(small):
        print(json.dumps(row), flush=True)


def command_of(name: str, small: bool) -> list[str]:
    """Return the command of one part."""
    options = ["--small"] if small else []
    return [sys.executable, "-m", "sir_jax.benchmarks.device.gpu_check", f"--part={name}", *options]


def watch(name: str, command: Sequence[str], limit: float, out: Path) -> dict[str, Any]:
    """Run one part's command under a time limit.

    Args:
      name: of the part.
      command: prints rows as lines of JSON.
      limit: in seconds; what runs longer is killed with all that it started.
      out: folder that gets the part's rows and log.

    Returns:
      `rows` as far as there are any, `seconds`, and `failed`: why the part did not end well, or ''.
    """
    began, rows, log = time.monotonic(), out / f"{name}.rows", out / f"{name}.log"
    with open(rows, "w") as stdout, open(log, "w") as stderr:
        process = subprocess.Popen(command, stdout=stdout, stderr=stderr, start_new_session=True)
        try:
            status = process.wait(max(limit, 0.1))
            failed = "" if status == 0 else f"ended with status {status}: {_last_line(log)}"
        except subprocess.TimeoutExpired:
            failed = f"stopped after {limit:.0f} s"
        finally:
            _kill(process)
    found = [json.loads(line) for line in rows.read_text().splitlines() if _whole(line)]
    rows.unlink()
    return {"rows": found, "seconds": time.monotonic() - began, "failed": failed}


def _kill(process: subprocess.Popen) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it said nothing"


def _whole(line: str) -> bool:
    return line.startswith("{") and line.endswith("}")


def describe(name: str, part: dict[str, Any]) -> list[str]:
    """Return what a part found as lines of a table."""
    lines = []
    for row in part["rows"]:
        values = "  ".join(f"{key} {_spell(value)}" for key, value in row.items() if key != "case")
        lines.append(f"{name:<13}{row['case']:<46}{values}")
    if part["failed"]:
        lines.append(f"{name:<13}{part['failed']}")
    return lines


def _spell(value: Any) -> str:
    """Spell a number by four digits.

    Example:
      >>> _spell(1234.5678), _spell(0.000123456), _spell("none")
      ('1235', '0.0001235', 'none')
    """
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if 1_000 <= abs(value) < 1e9 else f"{value:.4g}"


def check(
    names: Sequence[str], small: bool, out: Path, command: Callable[..., list[str]] = command_of
) -> bool:
    """Run parts one after the other, and print their table at the end.

    Args:
      names: of `PARTS`.
      small: whether sizes are small.
      out: folder that gets `check.json` and the logs.
      command: from a part's name and `small` to its command.

    Returns:
      Whether every part came to its end without an error.
    """
    out.mkdir(parents=True, exist_ok=True)
    began, found = time.monotonic(), {}
    for name in names:
        left = WHOLE - (time.monotonic() - began)
        limit = 10 * PARTS[name] if small else min(PARTS[name], left)
        if limit < 5:
            found[name] = {"rows": [], "seconds": 0.0, "failed": "no time was left"}
        else:
            print(f"{name}: at most {limit:.0f} s", file=sys.stderr, flush=True)
            found[name] = watch(name, command(name, small), limit, out)
        write_json(out / "check.json", found)
    for name, part in found.items():
        print("\n".join(describe(name, part)))
    print(f"{time.monotonic() - began:.0f} s in all; {out / 'check.json'}")
    bad = [row for part in found.values() for row in part["rows"] if "error" in row]
    return not bad and not any(part["failed"] for part in found.values())


def main(argv: list[str]) -> int:
    """Run the check, or one part of it.

    Returns:
      0 where every part came to its end without an error, else 1.
    """
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw, allow_abbrev=False)
    parser.add_argument("--small", action="store_true", help="small sizes, on any machine")
    parser.add_argument("--out", default="build/gpu_check", help="folder of the results")
    parser.add_argument("--parts", default=",".join(PARTS), help="which of them, in this order")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.part:
        run_part(args.part, args.small)
        return 0
    names = args.parts.split(",")
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        parser.error(f"no part {unknown[0]!r}; choose among {', '.join(PARTS)}")
    return 0 if check(names, args.small, Path(args.out)) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
