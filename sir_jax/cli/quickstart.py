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

import numpy as np
import soundfile

from sir_jax.config.command_line import compare_workdir, parse_flags
from sir_jax.data.corpus import Split, make_command, open_corpus
from sir_jax.data.media.audio import SAMPLE_RATE, load_audio
from sir_jax.data.paths import data_dir
from sir_jax.evaluation.evaluate import write_json
from sir_jax.evaluation.ranking import format_table

QUERIES = 5
VERB = "import sys; from sir_jax.cli.main import entry; sys.exit(entry())"


@dataclasses.dataclass(frozen=True)
class Query:
    """A caption to search with."""

    row: int
    slot: int
    image_id: int
    caption_id: int


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


def choose_queries(split: Split, count: int, seed: int = 0) -> list[Query]:
    """Choose captions at random, of different images and, while there are some, other speakers.

    The choice knows nothing of the model, so the grid shows what the table measures.

    Args:
      split: of a corpus.
      count: how many; fewer where there are fewer images.
      seed: of the choice.

    Returns:
      The queries.
    """
    waiting = list(np.random.default_rng(seed).permutation(split.index))
    chosen: list[Query] = []
    while waiting and len(chosen) < count:
        rows, speakers, left = {q.row for q in chosen}, set(), []
        for entry in waiting:
            row, slot = int(entry["row"]), int(entry["slot"])
            if row in rows or len(chosen) == count:
                continue
            speaker = split[row].captions[slot].speaker
            if speaker in speakers:
                left.append(entry)
                continue
            chosen.append(Query(row, slot, int(entry["image_id"]), int(entry["caption_id"])))
            rows.add(row)
            speakers.add(speaker)
        waiting = left
    return chosen


def export(split: Split, folder: Path) -> list[Path]:
    """Write a split's images and a few spoken queries as the files a user would have.

    Args:
      split: of a corpus.
      folder: gets `images/*.png`, `queries/*.wav` with the words in a .txt beside, `truth.json`.

    Returns:
      The recordings' paths.
    """
    images, queries = folder / "images", folder / "queries"
    for each in (images, queries):
        each.mkdir(parents=True, exist_ok=True)
    for row in range(len(split)):
        record = split[row]
        (images / _image_name(record.image_id)).write_bytes(record.image)
    paths, truth = [], {}
    for query in choose_queries(split, QUERIES):
        caption = split[query.row].captions[query.slot]
        path = queries / f"caption_{query.caption_id:06d}.wav"
        wave = load_audio(caption.audio, f"caption {query.caption_id}")
        soundfile.write(path, wave, SAMPLE_RATE, subtype="PCM_16")
        path.with_suffix(".txt").write_text(f"{caption.text}\n")
        truth[path.name] = _image_name(query.image_id)
        paths.append(path)
    write_json(folder / "truth.json", truth)
    return paths


def _image_name(image_id: int) -> str:
    return f"scene_{image_id:06d}.png"


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
    parser = argparse.ArgumentParser(
        prog="sir-jax quickstart",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="--config.any.field=value is passed on to `sir-jax train`.",
    )
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
    queries = export(open_corpus(cfg.data.corpus, args.data_dir).splits["test"], folder)
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
