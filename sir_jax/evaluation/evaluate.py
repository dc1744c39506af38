"""The `evaluate` verb: print the recall table of a trained retriever and write it as JSON."""

import argparse
import json
import os
import sys
import time
from pathlib import Path

from sir_jax.data.corpus import open_corpus
from sir_jax.errors import UserError
from sir_jax.evaluation.folds import folds_of, mean_flat
from sir_jax.evaluation.ranking import Metrics, format_table, retrieval_metrics
from sir_jax.evaluation.rerank import SCORINGS, Reranked, format_reranked, rerank
from sir_jax.inference.embed import embed_split
from sir_jax.inference.release import find, rerank_of
from sir_jax.models import build_model


def evaluate_split(
    model, params, split, data_cfg, batch_size: int, k: int = 0
) -> Metrics | Reranked:
    """Embed a split and rank it both ways, and where wanted re-rank the best by the match score.

    Args:
      model: the joint model.
      params: its parameters.
      split: a `sir_jax.data.corpus.Split`.
      data_cfg: `config.data`.
      batch_size: rows of a batch.
      k: items of each query that are re-ranked; 0 for none.

    Returns:
      `Metrics`, or `Reranked` where k is not 0: both have `flat()` and `table()`.

    Raises:
      UserError: the model cannot match.
    """
    if k:
        return rerank(model, params, split, data_cfg, batch_size, k)
    z = embed_split(model, params, split, data_cfg, batch_size)
    return retrieval_metrics(z.speech, z.image, z.speech_image_ids, z.image_ids)


def evaluate_folds(
    model, params, split, data_cfg, batch_size: int, k: int, images: int
) -> tuple[dict[str, float], str]:
    """Evaluate a split in folds of so many images; see `evaluation.folds`.

    Args:
      model, params, split, data_cfg, batch_size, k: see `evaluate_split`.
      images: of a fold.

    Returns:
      The means by name, and the printed table of them.

    Raises:
      UserError: the split has fewer images than a fold.
    """
    folds = folds_of(split, images)
    flat = mean_flat(
        [evaluate_split(model, params, fold, data_cfg, batch_size, k).flat() for fold in folds]
    )
    left = len(split) - images * len(folds)
    lines = [
        f"mean over {len(folds)} folds of {images} images"
        + (f"; {left} images that fill no fold are left out" if left else ""),
        format_reranked(flat) if k else format_table(flat),
        "spread over the folds: mean R@1 "
        + ", ".join(
            f"{title} +- {100 * flat[f'std_{prefix}mean_r1']:.1f} %"
            for prefix, title in SCORINGS
            if f"std_{prefix}mean_r1" in flat
        ),
    ]
    return flat, "\n".join(lines)


def result_path(workdir: Path, split: str, corpus: str, trained_on: str, fold_images: int) -> Path:
    """Return where the numbers go: another corpus or another protocol has a file of its own."""
    parts = ["eval"]
    if corpus != trained_on:
        parts.append(corpus.replace("/", "-"))
    parts.append(split)
    if fold_images:
        parts.append(f"folds-of-{fold_images}")
    return Path(workdir) / f"{'_'.join(parts)}.json"


def trained_on(cfg, corpus: str) -> str:
    """Say on what a model was trained, where that is not what it is evaluated on."""
    if corpus == cfg.data.corpus:
        return ""
    # A release does not tell from what its run went on.
    first = "init" in cfg and not cfg.init.get("model")
    return f", trained on {cfg.data.corpus}" + (": zero-shot" if first else "")


def write_json(path: Path, content: dict) -> None:
    """Write JSON so that an interrupt leaves the old file or the new one.

    Args:
      path: the file.
      content: what to write.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(part, path)


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the options of `sir-jax evaluate`.

    Raises:
      UserError: a number that cannot be.
    """
    parser = argparse.ArgumentParser(
        prog="sir-jax evaluate", description=__doc__, allow_abbrev=False
    )
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
    args = parser.parse_args(argv)
    if args.batch_size < 1:
        raise UserError(f"--batch_size is {args.batch_size}; give 1 or more")
    if args.rerank is not None and args.rerank < 0:
        raise UserError(f"--rerank is {args.rerank}; give 0 or more")
    if args.fold_images < 0:
        raise UserError(f"--fold_images is {args.fold_images}; give 0 or more")
    return args


def main(argv: list[str]) -> int:
    """Run `sir-jax evaluate`.

    Args:
      argv: the arguments after the verb.

    Raises:
      UserError: no such workdir, checkpoint, corpus or split.
    """
    args = parse(argv)
    cfg, params, name, _ = find(args.workdir or args.model, args.which)
    corpus = open_corpus(args.corpus or cfg.data.corpus, args.data_dir or cfg.data.data_dir)
    split = corpus.split(args.split)
    start = time.monotonic()
    k = rerank_of(cfg) if args.rerank is None else args.rerank
    model = build_model(cfg.model, ("match",) if k and "match_head" in params else ())
    given = (model, params, split, cfg.data, args.batch_size, k)
    if args.fold_images:
        flat, table = evaluate_folds(*given, args.fold_images)
    else:
        metrics = evaluate_split(*given)
        flat, table = metrics.flat(), metrics.table()
    which = f"{args.which} checkpoint of {args.workdir}" if args.workdir else f"model {name}"
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
        print(f"{corpus.name}, split {args.split}, {which}" + trained_on(cfg, corpus.name))
        print(table)
    if args.model:
        return 0
    path = result_path(args.workdir, args.split, corpus.name, cfg.data.corpus, args.fold_images)
    write_json(path, content)
    print(
        f"written to {path} ({time.monotonic() - start:.1f} s)",
        file=sys.stderr if args.json else sys.stdout,
    )
    return 0
