"""The `quickstart` verb: corpus, training, evaluation and a spoken search, each by its own verb.

What is there already is used again, so a second run, or one after an interrupt, goes on.
"""

import argparse
import dataclasses
import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

from sir_jax.cli.options import make_parser
from sir_jax.data.paths import data_dir

# Pictures that voices of other engines speak of: an interval of 5 to 7 points each way.
OTHERS = 200
# Whose held-out voices no encoder or model that ships has heard, and eSpeak NG.
TRIED = ("espeak", "flite", "piper")

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

    cfg, _ = parse_flags(train)
    data = [*shlex.split(make_command(cfg.data.corpus))[1:], f"--data_dir={args.data_dir}"]
    workdir = Path(args.workdir)
    compare_workdir(cfg, workdir)  # refuses another config's workdir before minutes are spent

    stages = Stages()
    where = [f"--workdir={workdir}"]
    evaluate = ["evaluate", *where, f"--data_dir={args.data_dir}"]
    others, absent = corpus_by_other_engines(cfg.data.corpus)
    speak = [*shlex.split(make_command(others))[1:], f"--data_dir={args.data_dir}"]
    for name, arguments in (
        ("data", data),
        ("train", ["train", *train]),
        ("evaluate", evaluate),
        *([("voices", speak)] if others != cfg.data.corpus else []),
        *(
            (split, [*evaluate, f"--corpus={others}", f"--split={split}", "--rerank=0"])
            for split in splits_by_other_engines(others)
        ),
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

    print_results(workdir, cfg.data.corpus, others)
    for why in absent:
        print(f"not tried: {why}")
    print(f"\npicture grid: {grid}\n\ntime\n{stages.table()}")
    return 0


def print_results(workdir: Path, corpus: str, others: str) -> None:
    """Print the table of the test split, and a line for the held-out voices of each other engine.

    Args:
      workdir: holds the numbers that `sir-jax evaluate` wrote.
      corpus: that the model was trained on.
      others: the corpus with the splits of the other engines.
    """
    from sir_jax.evaluation.evaluate import result_path
    from sir_jax.evaluation.ranking import format_table

    result = json.loads((workdir / "eval_test.json").read_text())
    print(f"\n{result['corpus']}, unseen images described by unseen voices")
    print(format_table(result["metrics"]))
    for split in splits_by_other_engines(others):
        path = result_path(workdir, split, others, corpus, 0)
        print(described(split, json.loads(path.read_text())["metrics"]))


def corpus_by_other_engines(corpus: str) -> tuple[str, list[str]]:
    """Choose the corpus whose test splits are spoken by engines other than eSpeak NG.

    Args:
      corpus: the name of the corpus that the model is trained on.

    Returns:
      The name of a corpus with test splits by other engines: `corpus` itself if it has them or
      nothing else can, else a small one of as many engines as are installed; and a line for each
      engine that is not.
    """
    from sir_jax.data.builders.spoken_scenes.config import SceneConfig
    from sir_jax.data.media.synthesis.engines import missing_engines

    builder, _, name = corpus.partition("/")
    if builder != "spoken_scenes" or splits_by_other_engines(corpus):
        return corpus, []
    missing = {name: why for name, why in missing_engines().items() if name in TRIED}
    present = [engine for engine in TRIED if engine not in missing]
    if len(present) < 2 or "espeak" not in present:
        return corpus, list(missing.values())
    own = SceneConfig.from_name(name)
    small = dataclasses.replace(
        own,
        train_images=2,
        val_images=2,
        test_images=min(own.test_images, OTHERS),
        captions=1,
        engines=",".join(present),
    )
    return f"{builder}/{small.name}", list(missing.values())


def splits_by_other_engines(corpus: str) -> list[str]:
    """Return the test splits that are by held-out voices of other engines than eSpeak NG."""
    from sir_jax.data.builders.spoken_scenes.config import SceneConfig

    builder, _, name = corpus.partition("/")
    if builder != "spoken_scenes":
        return []
    return [split for split in SceneConfig.from_name(name).splits if split.startswith("test_")]


def described(split: str, metrics: dict[str, float]) -> str:
    """Return the line of a split by another engine.

    Args:
      split: its name, such as 'test_piper'.
      metrics: of `evaluate`.
    """
    engine = split.removeprefix("test_")
    pictures = int(metrics["s2i_gallery"])
    return (
        f"{engine}, a voice that no training heard: speech->image R@1 "
        f"{100 * metrics['s2i_r1']:.1f} % [{100 * metrics['s2i_r1_low']:.1f}, "
        f"{100 * metrics['s2i_r1_high']:.1f}], R@10 {100 * metrics['s2i_r10']:.1f} % "
        f"of {pictures} pictures"
    )
