"""The `evaluate` verb: print the recall table of a trained retriever and write it as JSON."""

import argparse
import json
import os
import time
from pathlib import Path

from sir_jax.data.corpus import open_corpus
from sir_jax.errors import UserError
from sir_jax.evaluation.embed import embed_split
from sir_jax.evaluation.ranking import Metrics, retrieval_metrics
from sir_jax.evaluation.rerank import Reranked, rerank
from sir_jax.models import build_model
from sir_jax.training.checkpoint import restore_params


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


def write_json(path: Path, content: dict) -> None:
    """Write JSON so that an interrupt leaves the old file or the new one.

    Args:
      path: the file.
      content: what to write.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(part, path)


def main(argv: list[str]) -> int:
    """Run `sir-jax evaluate`.

    Args:
      argv: the arguments after the verb.

    Raises:
      UserError: no such workdir, checkpoint, corpus or split.
    """
    parser = argparse.ArgumentParser(
        prog="sir-jax evaluate", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--workdir", required=True, help="where `sir-jax train` wrote")
    parser.add_argument("--split", default="test", help="train, val or test")
    parser.add_argument("--which", default="best", choices=("best", "last"), help="checkpoint")
    parser.add_argument("--data_dir", default="", help="where the corpora live, if they moved")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument(
        "--rerank", type=int, metavar="K",
        help="rank the K best of each query again by the match score; 0: by embedding alone; the "
        "default is the config's eval.rerank, where the model can match",
    )  # fmt: skip
    args = parser.parse_args(argv)
    if args.batch_size < 1:
        raise UserError(f"--batch_size is {args.batch_size}; give 1 or more")
    if args.rerank is not None and args.rerank < 0:
        raise UserError(f"--rerank is {args.rerank}; give 0 or more")

    cfg, params = restore_params(args.workdir, args.which)
    corpus = open_corpus(cfg.data.corpus, args.data_dir or cfg.data.data_dir)
    if args.split not in corpus.splits:
        raise UserError(
            f"{corpus.name} has no split {args.split!r}; choose one of {', '.join(corpus.splits)}"
        )
    start = time.monotonic()
    # A run from before there were other losses than SIC has no `loss` in its config.
    trained = cfg.get("loss", {}).get("sim", {}).get("weight", 0)
    k = args.rerank
    if k is None:
        k = cfg.get("eval", {}).get("rerank", 0) if trained else 0
    model = build_model(cfg.model, ("match",) if k and trained else ())
    metrics = evaluate_split(model, params, corpus.splits[args.split], cfg.data, args.batch_size, k)
    print(f"{corpus.name}, split {args.split}, {args.which} checkpoint of {args.workdir}")
    print(metrics.table())
    path = Path(args.workdir) / f"eval_{args.split}.json"
    content = {"corpus": corpus.name, "split": args.split, "which": args.which}
    write_json(path, content | {"metrics": metrics.flat()})
    print(f"written to {path} ({time.monotonic() - start:.1f} s)")
    return 0
