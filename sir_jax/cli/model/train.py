"""sir-jax train --config=configs/FILE.py[:arg] --workdir=DIR [--config.any.field=value ...]

Trains the model of a config, or goes on where the workdir stands. SIGTERM and Ctrl-C save before
they stop; the same command then goes on. `--help` lists every field of a config, with its default
and what it may be; with a --config, that config's values.

--distributed=auto|off|HOST:PORT,ID,COUNT  on several machines: the same command on each. 'auto'
    (default) joins the others where the environment tells of them (Cloud TPU, GKE, SLURM,
    JAX_COORDINATOR_ADDRESS); else give the address of process 0, this process and their number
"""

import logging as stdlib_logging
import shlex
import sys

from absl import flags, logging

from sir_jax.cli.options import asks_for_help, print_help

# Of `train.compile_cache`: the folder of compiled programs in the workdir.
IN_WORKDIR, PROGRAMS = "workdir", "programs"


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
    """Run `sir-jax train`.

    Args:
      argv: arguments after the verb.

    Returns:
      0 when the run is complete. 128 + the signal's number when it was stopped by one and can go
      on, so that `until sir-jax train ...; do :; done` outlives preemptions.

    Raises:
      UserError: on anything the user can mend.
    """
    if asks_for_help(argv):
        return print_help(argv, __doc__, fields=True)
    from sir_jax.config.command_line import parse_options, require_workdir
    from sir_jax.runtime import distributed

    cfg, options = parse_options(argv, {"workdir": "", "distributed": "auto"})
    workdir = require_workdir(options)
    with distributed.job(options["distributed"]):
        return run(cfg, workdir, argv)


def run(cfg, workdir: str, argv: list[str]) -> int:
    """Train, once the processes have found each other; see `main`."""
    from sir_jax.config.fields import config_fields
    from sir_jax.data.corpus import open_pictures
    from sir_jax.evaluation.evaluate import make_evaluate
    from sir_jax.runtime.console import say
    from sir_jax.runtime.interrupt import Interrupted
    from sir_jax.training.loop import train

    silence_failed_saves()
    if not flags.FLAGS.is_parsed():
        # Grain's worker processes read absl's global flags, which no absl app has parsed here.
        flags.FLAGS.mark_as_parsed()
    keep_programs(cfg, workdir)
    for name, value in config_fields(cfg).items():
        say(f"{name}={value!r}")
    corpus = open_pictures(cfg.data.corpus, cfg.data.data_dir or None)
    try:
        train(cfg, workdir, make_evaluate(corpus), corpus)
    except Interrupted as stop:
        command = shlex.join(["sir-jax", "train", *argv])
        print(f"{stop}; saved. To go on, run the same command: {command}", file=sys.stderr)
        return 128 + stop.signum
    fit(cfg, workdir, corpus)
    return 0


def fit(cfg, workdir: str, corpus) -> None:
    """Fit the score of the best checkpoint, so that search, page and release have it at once.

    Several processes do not: their parameters do not lie whole in any of them.
    """
    from sir_jax.evaluation.score.fit import fit_workdir, validation_split
    from sir_jax.runtime import distributed
    from sir_jax.runtime.console import say

    if not cfg.loss.sim.weight or validation_split(corpus) is None:
        return
    if distributed.several():
        command = f"sir-jax evaluate --workdir={workdir} --fit"
        say(f"several processes do not fit the score; where it is searched: {command}")
        return
    fit_workdir(workdir, corpus, again=False)


def keep_programs(cfg, workdir: str = "") -> None:
    """Have compiled programs kept where the config says.

    Args:
      cfg: the whole config.
      workdir: of the run; '' where there is none, and then nothing is kept there.
    """
    folder = cfg.train.compile_cache
    if folder == IN_WORKDIR:
        folder = f"{workdir.rstrip('/')}/{PROGRAMS}" if workdir else ""
    if folder:
        import jax

        jax.config.update("jax_compilation_cache_dir", folder)
