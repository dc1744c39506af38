"""sir-jax train --config=configs/FILE.py[:arg] --workdir=DIR [--config.any.field=value ...]

Trains the model of a config, or goes on where the workdir stands. SIGTERM and Ctrl-C save before
they stop; the same command then goes on.

--distributed=auto|off|HOST:PORT,ID,COUNT  on several machines: the same command on each. 'auto'
    (default) joins the others where the environment tells of them (Cloud TPU, GKE, SLURM,
    JAX_COORDINATOR_ADDRESS); else give the address of process 0, this process and their number
"""

import logging as stdlib_logging
import shlex
import sys

import jax
from absl import flags, logging

from sir_jax.config.command_line import config_fields, load_config, parse_options, require_workdir
from sir_jax.data.corpus import Corpus, open_corpus
from sir_jax.runtime import distributed
from sir_jax.runtime.console import say
from sir_jax.runtime.interrupt import Interrupted
from sir_jax.training.loop import Evaluate, train


def make_evaluate(corpus: Corpus) -> Evaluate | None:
    """Return the function that ranks the validation split during training; None without one.

    That is `val`, or the first of several whose names begin so, as of Places' `val_seen`.
    """
    splits = [name for name in corpus.splits if name == "val" or name.startswith("val_")]
    if not splits:
        say(f"corpus {corpus.name} has no split 'val': nothing is evaluated, no checkpoint is best")
        return None
    split = corpus.splits[splits[0]]
    from sir_jax.evaluation.ranking import retrieval_metrics
    from sir_jax.inference.embed import embed_split

    def evaluate(params, model, cfg) -> dict[str, float]:
        out = embed_split(model, params, split, cfg.data, cfg.data.batch_size)
        metrics = retrieval_metrics(out.speech, out.image, out.speech_image_ids, out.image_ids)
        return {f"val/{name}": value for name, value in metrics.flat().items()}

    return evaluate


def print_help(argv: list[str], usage: str) -> None:
    """Print the usage, and the fields of the config where one is given."""
    print(usage.strip())
    for arg in argv:
        if arg.startswith("--config="):
            print("\nfields:")
            for name, value in config_fields(load_config(arg.split("=", 1)[1])).items():
                print(f"  --config.{name}={value!r}")


def silence_failed_saves() -> None:
    """Leave it to `Checkpoints` to tell of a save that fails, in one line.

    Orbax logs the stack of every future, and TensorStore one for each that nobody awaits any more.
    """
    logging.set_verbosity(logging.FATAL)
    stdlib_logging.getLogger("asyncio").setLevel(stdlib_logging.CRITICAL + 1)
    before = sys.unraisablehook

    def hook(found):
        if str(found.exc_value) != "Event loop is closed":
            before(found)

    sys.unraisablehook = hook


def main(argv: list[str]) -> int:
    """Run the verb `train`.

    Args:
      argv: arguments after the verb.

    Returns:
      0 when the run is complete. 128 + the signal's number when it was stopped by one and can go
      on, so that `until sir-jax train ...; do :; done` outlives preemptions.

    Raises:
      UserError: on anything the user can mend.
    """
    if not argv or "--help" in argv or "-h" in argv:
        print_help(argv, __doc__)
        return 0 if argv else 2
    cfg, options = parse_options(argv, {"workdir": "", "distributed": "auto"})
    workdir = require_workdir(options)
    with distributed.job(options["distributed"]):
        return run(cfg, workdir, argv)


def run(cfg, workdir: str, argv: list[str]) -> int:
    """Train, once the processes have found each other; see `main`."""
    silence_failed_saves()
    if not flags.FLAGS.is_parsed():
        # Grain's worker processes read absl's global flags, which no absl app has parsed here.
        flags.FLAGS.mark_as_parsed()
    if cfg.train.compile_cache:
        jax.config.update("jax_compilation_cache_dir", cfg.train.compile_cache)
    for name, value in config_fields(cfg).items():
        say(f"{name}={value!r}")
    corpus = open_corpus(cfg.data.corpus, cfg.data.data_dir or None)
    try:
        train(cfg, workdir, make_evaluate(corpus), corpus)
    except Interrupted as stop:
        command = shlex.join(["sir-jax", "train", *argv])
        print(f"{stop}; saved. To go on, run the same command: {command}", file=sys.stderr)
        return 128 + stop.signum
    return 0
