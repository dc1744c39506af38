"""The `compare` verb: two retrievers on the same queries, with the interval of their difference."""

import argparse
import json

from sir_jax.cli.options import add_data_dir, make_parser, require_least
from sir_jax.errors import UserError


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the options of `sir-jax compare`.

    Raises:
      UserError: a number that cannot be.
    """
    parser = make_parser("compare", __doc__)
    what = "a workdir of `sir-jax train`, a release's folder, or the name of one that ships"
    parser.add_argument("a", metavar="A", help=what)
    parser.add_argument("b", metavar="B", help="another one")
    parser.add_argument(
        "--corpus", default="", help="to rank; the default is the one that both were trained on"
    )
    parser.add_argument("--split", default="test", help="train, val or test")
    parser.add_argument(
        "--which", default="best", choices=("best", "last"), help="checkpoint of a workdir"
    )
    parser.add_argument(
        "--rerank",
        type=int,
        default=0,
        metavar="K",
        help="rank the K best of each query again, as search does; 0: by embedding alone",
    )
    parser.add_argument("--batch_size", type=int, default=32, help="most files at once")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON, unrounded")
    add_data_dir(parser)
    args = parser.parse_args(argv)
    require_least(args, batch_size=1, rerank=0)
    return args


def main(argv: list[str]) -> int:
    """Run `sir-jax compare`.

    Args:
      argv: the arguments after the verb.

    Raises:
      UserError: no such model, corpus or split, or two corpora to choose from.
    """
    args = parse(argv)
    from sir_jax.data.corpus import open_corpus
    from sir_jax.evaluation.evaluate import compare, evaluate_model, format_compared
    from sir_jax.inference.release import find

    models = [find(source, args.which) for source in (args.a, args.b)]
    first, second = (found.cfg.data for found in models)
    if not args.corpus and first.corpus != second.corpus:
        raise UserError(
            f"A was trained on {first.corpus}, B on {second.corpus}; choose one with --corpus"
        )
    corpus = open_corpus(args.corpus or first.corpus, args.data_dir or first.data_dir)
    split = corpus.split(args.split)
    rankings = []
    for found in models:
        given = found.cfg, found.params, split, args.batch_size, args.rerank, found.score
        ranked = evaluate_model(*given).rankings()
        rankings.append(ranked.get("fused_", ranked[""]))
    compared = compare(*rankings)
    pooled = any("pool_speech" in found.params for found in models)
    scored = "by joint vectors, where a model pools" if pooled else "by embedding"
    scored = f"the best {args.rerank} as search ranks" if args.rerank else scored
    if args.json:
        content = {"a": args.a, "b": args.b, "corpus": corpus.name, "split": args.split}
        rows = [
            {**one._asdict(), **{x: getattr(one, x)._asdict() for x in ("a", "b", "difference")}}
            for one in compared
        ]
        print(json.dumps({**content, "rerank": args.rerank, "compared": rows}))
        return 0
    queries = " and ".join(
        f"{side.queries} {kind}"
        for side, kind in ((rankings[0].s2i, "spoken"), (rankings[0].i2s, "image queries"))
    )
    print(f"{corpus.name}, split {args.split}: {queries}, ranked {scored}")
    print(f"A: {args.a}\nB: {args.b}")
    print(format_compared(compared))
    return 0
