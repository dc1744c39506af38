"""The `robustness` verb: recall in noise, in rooms, on telephones, and of worse pictures.

Writes robustness.csv, one row for each condition and metric with its 95 % interval and the paired
difference to the clean condition, and robustness.png. Stopped, the same call goes on.
"""

import argparse
from pathlib import Path

from sir_jax.cli.options import make_parser, require_least


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the options of `sir-jax robustness`.

    Raises:
      UserError: a number that cannot be.
    """
    parser = make_parser("robustness", __doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--workdir", default="", help="where `sir-jax train` wrote")
    source.add_argument(
        "--model", default="", help="a release: its folder, or the name of one that ships"
    )
    parser.add_argument("--split", default="test", help="of the corpus")
    parser.add_argument("--which", default="best", choices=("best", "last"), help="checkpoint")
    parser.add_argument(
        "--corpus", default="", help="another one than that which it was trained on"
    )
    parser.add_argument("--data_dir", default="", help="where the corpora live, if they moved")
    parser.add_argument(
        "--out", default="", help="folder; the default is robustness in the workdir, or here"
    )
    parser.add_argument(
        "--conditions",
        default="",
        metavar="A,B",
        help="families, such as 'white noise,speed', or clean for none; the default is all",
    )
    parser.add_argument("--images", type=int, default=0, help="the first pictures alone; 0: all")
    parser.add_argument("--captions", type=int, default=0, help="of a picture, the first; 0: all")
    parser.add_argument("--seed", type=int, default=0, help="of noise, rooms, crops and intervals")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument(
        "--beside", default="", metavar="OUT", help="draw another finished grid beside this one"
    )
    args = parser.parse_args(argv)
    require_least(args, batch_size=1, images=0, captions=0, seed=0)
    return args


def main(argv: list[str]) -> int:
    """Run `sir-jax robustness`.

    Args:
      argv: the arguments after the verb.

    Raises:
      UserError: no such model, corpus, split or condition; the folder holds another grid.
    """
    args = parse(argv)
    from sir_jax.data.corpus import open_corpus
    from sir_jax.errors import UserError
    from sir_jax.evaluation.evaluate import trained_on
    from sir_jax.evaluation.robustness.conditions import choose
    from sir_jax.evaluation.robustness.figure import save
    from sir_jax.evaluation.robustness.grid import run_grid
    from sir_jax.evaluation.robustness.parts import limit
    from sir_jax.evaluation.robustness.table import TABLE, format_table, read_table
    from sir_jax.inference.retriever import Retriever

    conditions = choose([name.strip() for name in args.conditions.split(",") if name.strip()])
    other = read_table(Path(args.beside) / TABLE) if args.beside else []
    if args.beside and not other:
        raise UserError(f"--beside={args.beside} has no {TABLE}; give the --out of a finished grid")
    model = Retriever.load(args.workdir or args.model, args.which)
    cfg = model.cfg
    corpus = open_corpus(args.corpus or cfg.data.corpus, args.data_dir or cfg.data.get("data_dir"))
    split = limit(corpus.split(args.split), args.images, args.captions)
    folder = Path(args.out or (f"{args.workdir}/robustness" if args.workdir else "robustness"))
    path = run_grid(
        model.model,
        model.params,
        split,
        cfg.data,
        conditions,
        folder,
        fingerprint=model.fingerprint,
        corpus=corpus.name,
        batch_size=args.batch_size,
        seed=args.seed,
    )
    rows = read_table(path)
    print(f"{corpus.name}, split {args.split}, model {model.name}" + trained_on(cfg, corpus.name))
    print(format_table(rows))
    tables = {model.name: rows}
    if other:
        tables[Path(args.beside).name if Path(args.beside).name != model.name else "other"] = other
    figure = path.with_suffix(".png")
    if conditions:
        save(tables, figure)
    written = f"{path} and {figure}" if conditions else path
    print(f"written to {written}; ranked by embedding alone")
    return 0
