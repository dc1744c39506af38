"""The `evaluate` verb: print the recall table of a trained retriever and write it as JSON."""

import argparse
import json
import sys
import time

from sir_jax.cli.options import make_parser, require_least
from sir_jax.errors import UserError


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the options of `sir-jax evaluate`.

    Raises:
      UserError: a number that cannot be.
    """
    parser = make_parser("evaluate", __doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--workdir", default="", help="where `sir-jax train` wrote")
    source.add_argument(
        "--model", default="", help="a release: its folder, or the name of one that ships"
    )
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON, unrounded")
    parser.add_argument("--split", default="test", help="train, val or test")
    parser.add_argument("--which", default="best", choices=("best", "last"), help="checkpoint")
    parser.add_argument(
        "--corpus",
        default="",
        help="evaluate on this corpus, zero-shot; the default is the one trained on",
    )
    parser.add_argument(
        "--fold_images",
        type=int,
        default=0,
        metavar="N",
        help="mean over folds of N images each, as COCO's 1k protocol with N=1000; 0: all at once",
    )
    parser.add_argument("--data_dir", default="", help="where the corpora live, if they moved")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument(
        "--rerank",
        type=int,
        metavar="K",
        help="rank the K best of each query again by the match score; 0: by embedding alone; the "
        "default is the config's eval.rerank, where the model can match",
    )
    parser.add_argument(
        "--curve",
        action="store_true",
        help="rank 128 again, and print the fused R@1 by how many are; slow",
    )
    parser.add_argument(
        "--fit",
        action="store_true",
        help="first fit the score again, weights and calibration, on the validation split of the "
        "corpus trained on; training does so at its end",
    )
    _add_ways_to_fit(parser)
    args = parser.parse_args(argv)
    require_least(args, batch_size=1, rerank=0, fold_images=0)
    if args.fit and not args.workdir:
        raise UserError("--fit: the score of a release is fixed; fit its --workdir, then export")
    if (args.fit_corpus or args.typical_corpus or args.cautious) and not args.fit:
        raise UserError(
            "--fit_corpus, --typical_corpus and --cautious say how to fit; give --fit as well"
        )
    return args


def _add_ways_to_fit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--fit_corpus", default="", metavar="CORPUS", help="fit on this corpus instead"
    )
    parser.add_argument(
        "--typical_corpus",
        default="",
        metavar="CORPUS",
        help="learn from this one how alike a true pair is, by which moments are clear",
    )
    parser.add_argument(
        "--cautious",
        action="store_true",
        help="fit the lowest weight of the pooled match that is within one standard error of the "
        "best: for voices and pictures unlike the split's",
    )


def main(argv: list[str]) -> int:
    """Run `sir-jax evaluate`.

    Args:
      argv: the arguments after the verb.

    Raises:
      UserError: no such workdir, checkpoint, corpus or split.
    """
    args = parse(argv)
    from sir_jax.data.corpus import open_pictures
    from sir_jax.evaluation.evaluate import evaluate, result_path, trained_on
    from sir_jax.evaluation.rerank import CURVE
    from sir_jax.inference.release import find, rerank_of
    from sir_jax.models import tasks_of_params
    from sir_jax.runtime.files import write_json

    if args.fit:
        fit(args)
    cfg, params, name, _, score = find(args.workdir or args.model, args.which)
    corpus = open_pictures(args.corpus or cfg.data.corpus, args.data_dir or cfg.data.data_dir)
    split = corpus.split(args.split)
    start = time.monotonic()
    k = rerank_of(cfg) if args.rerank is None else args.rerank
    k = CURVE[-1] if args.curve and "match" in tasks_of_params(params) else k
    flat, table = evaluate(cfg, params, split, args.batch_size, k, args.fold_images, score)
    content = {
        "corpus": corpus.name,
        "trained_on": cfg.data.corpus,
        "split": args.split,
        "which": args.which,
        "fold_images": args.fold_images,
        "metrics": flat,
    }
    if args.json:
        print(json.dumps(content))
    else:
        which = f"{args.which} checkpoint of {args.workdir}" if args.workdir else f"model {name}"
        print(f"{corpus.name}, split {args.split}, {which}" + trained_on(cfg, corpus.name))
        print(table)
    if args.model:
        return 0
    path = result_path(args.workdir, args.split, corpus.name, cfg.data.corpus, args.fold_images)
    write_json(path, content, own=True)
    print(
        f"written to {path} ({time.monotonic() - start:.1f} s)",
        file=sys.stderr if args.json else sys.stdout,
    )
    return 0


def fit(args: argparse.Namespace) -> None:
    """Fit the score of a run's checkpoint, on the corpus that it was trained on or another one.

    Raises:
      UserError: the model does not match, or there is no validation split.
    """
    from sir_jax.data.corpus import open_pictures
    from sir_jax.evaluation.score.fit import fit_workdir, validation_split
    from sir_jax.inference.workdirs import restore_params

    cfg, _ = restore_params(args.workdir, args.which)
    folder = args.data_dir or cfg.data.data_dir
    corpus = open_pictures(args.fit_corpus or cfg.data.corpus, folder)
    typical = open_pictures(args.typical_corpus, folder) if args.typical_corpus else None
    if typical is not None and validation_split(typical) is None:
        raise UserError(f"--typical_corpus={typical.name} has no validation split; give another")
    how = {"cautious": args.cautious, "typical": typical}
    if fit_workdir(args.workdir, corpus, args.which, **how) is None:
        raise UserError(
            f"--fit: {args.workdir} has no match (loss.sim.weight was 0), or corpus {corpus.name} "
            "no validation split; leave --fit out"
        )
