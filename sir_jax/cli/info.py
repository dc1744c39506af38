"""The `info` verb: say what a model or an index is."""

import argparse
import json
from pathlib import Path
from typing import Any

from sir_jax.data.media.audio import SAMPLE_RATE
from sir_jax.errors import UserError
from sir_jax.inference import release
from sir_jax.inference.retriever import Retriever
from sir_jax.runtime.trees import leaf_paths


def describe_model(model: Retriever) -> dict[str, Any]:
    """Return what there is to know of a model, as JSON's types."""
    data, leaves = model.cfg.data, leaf_paths(model.params)
    return {
        "name": model.name,
        "fingerprint": model.fingerprint,
        "width": model.width,
        "parameters": int(sum(leaf.size for leaf in leaves.values())),
        "can_match": model.can_match,
        "trained_on": data.get("corpus", ""),
        "longest_window_seconds": max(data.buckets) / SAMPLE_RATE,
        "image_size": data.image_size,
    }


def verify(model: Retriever) -> None:
    """Hash a model's weights again.

    Raises:
      UserError: they are not those that its fingerprint was made of.
    """
    found = release.fingerprint(model.cfg, model.params)
    if found != model.fingerprint:
        raise UserError(
            f"model {model.name}: its weights hash to {found}, not to its fingerprint "
            f"{model.fingerprint}; get it again"
        )


def main(argv: list[str]) -> int:
    """Run `sir-jax info`.

    Args:
      argv: the arguments after the verb.

    Raises:
      UserError: there is no such model or index; or, with --verify, its weights are not those that
        it was written with.
    """
    parser = argparse.ArgumentParser(prog="sir-jax info", description=__doc__, allow_abbrev=False)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--model", default="", help="a release, a workdir, or a name that ships")
    what.add_argument("--index", default="", help="a folder that `sir-jax index` wrote")
    parser.add_argument("--verify", action="store_true", help="hash the model's weights again")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(argv)
    if args.index:
        from sir_jax.index.index import Index

        found = Index.load(Path(args.index)).describe()
    elif args.model:
        model = Retriever.load(args.model)
        if args.verify:
            verify(model)
        found = describe_model(model)
    else:
        found = {"models": release.shipped()}
    if args.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            value = ", ".join(map(str, value)) if isinstance(value, list) else value
            print(f"{name.replace('_', ' '):<24}{value}")
    return 0
