"""sir-jax ablate --config=FILE[:arg] --workdir=DIR [--only=NAME,..] [--seeds=0,1,2] [--split=test]
             [--config.any.field=value ...]

Runs every ablation of a config file with every seed, each in a folder of its own below the workdir,
and writes DIR/results.csv, one row a metric; prints means and spread, what each has more than the
first, paired by query (DIR/gains.csv, gains.png), and on minimal pairs how often partners are told
apart. Stopped, the same command goes on where it was.

The file has `get_config(arg)`, the base; `ABLATIONS`, name -> {dotted field: value}; and `SEEDS`.
"""

from pathlib import Path

from sir_jax.cli.options import asks_for_help, print_help
from sir_jax.errors import UserError


def parse(argv: list[str]) -> tuple:
    """Return (base config, workdir, ablations by name, seeds, split).

    Raises:
      UserError: on anything mistyped.
    """
    from sir_jax.config.command_line import load_module, parse_flags

    own = {"--only": "", "--seeds": "", "--split": "test"}
    rest = []
    for arg in argv:
        name, _, value = arg.partition("=")
        if name in own:
            own[name] = value
        else:
            rest.append(arg)
    base, workdir = parse_flags(rest)
    spec = next(arg.split("=", 1)[1] for arg in rest if arg.startswith("--config="))
    module = load_module(spec)
    if not getattr(module, "ABLATIONS", None):
        raise UserError(f"--config={spec} defines no ABLATIONS: name -> fields that differ")
    wanted = [name.strip() for name in own["--only"].split(",") if name.strip()]
    unknown = [name for name in wanted if name not in module.ABLATIONS]
    if unknown:
        raise UserError(
            f"--only: no ablation {unknown[0]!r}; choose from {', '.join(module.ABLATIONS)}"
        )
    ablations = {name: module.ABLATIONS[name] for name in wanted or module.ABLATIONS}
    try:
        seeds = [int(seed) for seed in own["--seeds"].split(",") if seed] or [*module.SEEDS]
    except ValueError:
        raise UserError(f"--seeds={own['--seeds']}: give whole numbers, e.g. 0,1,2") from None
    return base, Path(workdir), ablations, seeds, own["--split"]


def main(argv: list[str]) -> int:
    """Run `sir-jax ablate`.

    Args:
      argv: the arguments after the verb.

    Raises:
      UserError: on anything the user can mend.
    """
    if asks_for_help(argv):
        return print_help(argv, __doc__)
    base, workdir, ablations, seeds, split = parse(argv)
    from sir_jax.data.corpus import open_pictures
    from sir_jax.evaluation.ablate import format_all, keep_gains, read_results, run_all

    corpus = open_pictures(base.data.corpus, base.data.data_dir or None)
    table = run_all(base, ablations, seeds, corpus, split, workdir)
    first, *_ = names = [*ablations]
    gains = keep_gains(Path(workdir), names, seeds, split)
    print(format_all(read_results(table), gains, first, split))
    print(
        "%; +-: standard deviation over seeds; over pictures: 95 % interval of one run's mean R@1; "
        f"every number is in {table}, gains with intervals in gains.csv and gains.png beside it"
    )
    return 0
