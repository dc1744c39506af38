"""The `quickstart` verb: corpus, training, evaluation and a spoken search, each by its own verb.

What is there already is used again, so a second run, or one after an interrupt, goes on.
"""

import argparse
import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

from sir_jax.cli.options import make_parser
from sir_jax.data.paths import data_dir

VERB = "import sys; from sir_jax.cli.main import entry; sys.exit(entry())"


def run_verb(arguments: list[str]) -> int:
    """Run one verb as its own process, showing the line that a user would type.

    Args:
      arguments: the verb and its options.

    Returns:
      Its exit status.
    """
    print(f"\n$ {shlex.join(['sir-jax', *arguments])}", flush=True)
    running: list[subprocess.Popen] = []
    previous = {
        # The terminal sends Ctrl-C to the verb too, which saves what it has; leave it the time.
        signal.SIGINT: signal.signal(signal.SIGINT, lambda *_: None),
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: [p.terminate() for p in running]),
    }
    try:
        running.append(subprocess.Popen([sys.executable, "-c", VERB, *arguments]))
        return running[0].wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class Stages:
    """Run the stages in order, timing each; the first that fails ends it all."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    def run(self, name: str, arguments: list[str]) -> int:
        """Run one verb.

        Args:
          name: what the table of times calls it.
          arguments: the verb and its options.

        Returns:
          0, or the exit status that the quickstart ends with.
        """
        start = time.monotonic()
        status = run_verb(arguments)
        self.seconds[name] = time.monotonic() - start
        if status:
            # 2 is a mistake of the user's, which the verb has explained.
            hint = "" if status == 2 else "; the same command goes on from there"
            print(f"\nsir-jax quickstart: {name} ended with status {status}{hint}", file=sys.stderr)
        # A negative status is the signal that ended the process: the shell's 128 + number.
        return status if status >= 0 else 128 - status

    def table(self) -> str:
        """Return the time of each stage."""
        times = [*self.seconds.items(), ("all", sum(self.seconds.values()))]
        return "\n".join(f"  {name:<10}{seconds:8.1f} s" for name, seconds in times)


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Read the options; what is not the quickstart's own goes to `sir-jax train`.

    Args:
      argv: the arguments after the verb.

    Returns:
      (options, the arguments of `sir-jax train`).
    """
    parser = make_parser("quickstart", __doc__, keep_lines=True)
    parser.epilog = "--config.any.field=value is passed on to `sir-jax train`."
    parser.add_argument("--workdir", default="runs/demo", help="default runs/demo")
    parser.add_argument("--data_dir", default="", help="default $SIR_JAX_DATA, else data")
    parser.add_argument("--config", default="configs/demo.py", help="default configs/demo.py")
    args, rest = parser.parse_known_args(argv)
    args.data_dir = str(data_dir(args.data_dir))
    train = [f"--config={args.config}", *rest, f"--config.data.data_dir={args.data_dir}"]
    return args, [*train, f"--workdir={args.workdir}"]


def main(argv: list[str]) -> int:
    """Run `sir-jax quickstart`.

    Args:
      argv: the arguments after the verb.

    Returns:
      0, or the status of the verb that failed.

    Raises:
      UserError: an option, the config or the workdir cannot be used.
    """
    args, train = parse(argv)
    from sir_jax.config.command_line import parse_flags
    from sir_jax.config.compare import compare_workdir
    from sir_jax.data.corpus import make_command, open_corpus
    from sir_jax.data.preparation.split_files import write_split
    from sir_jax.evaluation.ranking import format_table

    cfg, _ = parse_flags(train)
    data = [*shlex.split(make_command(cfg.data.corpus))[1:], f"--data_dir={args.data_dir}"]
    workdir = Path(args.workdir)
    compare_workdir(cfg, workdir)  # refuses another config's workdir before minutes are spent

    stages = Stages()
    where = [f"--workdir={workdir}"]
    for name, arguments in (
        ("data", data),
        ("train", ["train", *train]),
        ("evaluate", ["evaluate", *where, f"--data_dir={args.data_dir}"]),
    ):
        if status := stages.run(name, arguments):
            return status

    folder = workdir / "demo"
    queries = write_split(open_corpus(cfg.data.corpus, args.data_dir).splits["test"], folder)
    grid = folder / "grid.png"
    search = ["search", *where, *(f"--query={path}" for path in queries)]
    search += [f"--images={folder / 'images'}", "-k", "5"]
    search += [f"--truth={folder / 'truth.json'}", f"--out={grid}"]
    if status := stages.run("search", search):
        return status

    result = json.loads((workdir / "eval_test.json").read_text())
    print(f"\n{result['corpus']}, unseen images described by unseen voices")
    print(format_table(result["metrics"]))
    print(f"\npicture grid: {grid}\n\ntime\n{stages.table()}")
    return 0
