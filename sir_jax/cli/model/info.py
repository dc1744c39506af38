"""The `info` verb: say what a model or an index is."""

import argparse
import json
from pathlib import Path
from typing import Any

from sir_jax.cli.options import make_parser


def describe_model(model) -> dict[str, Any]:
    """Return what there is to know of a `Retriever`, as JSON's types."""
    from sir_jax.data.media.audio import SAMPLE_RATE, longest_window
    from sir_jax.runtime.trees import leaf_paths

    data, leaves = model.cfg.data, leaf_paths(model.params)
    return {
        "name": model.name,
        "fingerprint": model.fingerprint,
        "width": model.width,
        "parameters": int(sum(leaf.size for leaf in leaves.values())),
        "can_match": model.can_match,
        "trained_on": data.get("corpus", ""),
        "longest_window_seconds": longest_window(data) / SAMPLE_RATE,
        "image_size": data.image_size,
    }


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the options of `sir-jax info`."""
    parser = make_parser("info", __doc__)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--model", default="", help="a release, a workdir, or a name that ships")
    source.add_argument("--index", default="", help="a folder that `sir-jax index` wrote")
    parser.add_argument("--verify", action="store_true", help="hash the weights or vectors again")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Run `sir-jax info`.

    Args:
      argv: the arguments after the verb.

    Raises:
      UserError: there is no such model or index; or, with --verify, its weights or vectors are not
        those that it was written with.
    """
    args = parse(argv)
    from sir_jax.inference import release
    from sir_jax.inference.retriever import Retriever

    if args.index:
        from sir_jax.index.index import Index

        found = Index.load(Path(args.index), verify=args.verify or None).describe()
        if args.verify:
            found["verified"] = True
    elif args.model:
        model = Retriever.load(args.model)
        if args.verify:
            release.verify(model)
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
