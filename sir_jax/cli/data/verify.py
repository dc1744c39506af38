"""The `data verify` verb: see that a prepared corpus is whole."""

import argparse

from sir_jax.cli.options import add_data_dir, make_parser

_SHOWN = 50


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the options."""
    parser = make_parser(
        "data verify",
        "Compare a prepared corpus with its checksums, its index and its counts, and its splits "
        "with each other.",
    )
    parser.add_argument("name", help="of the corpus, e.g. flickr8k_audio/official")
    parser.add_argument("--full", action="store_true", help="decode everything as well")
    add_data_dir(parser)
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Run `sir-jax data verify`.

    Args:
      argv: arguments after the words.

    Returns:
      0 where the corpus is whole, else 1.

    Raises:
      UserError: there is no such corpus, or nothing can be read of it.
    """
    args = parse(argv)
    from sir_jax.data.preparation.verify import count_images, open_named, verify

    corpus = open_named(args.name, args.data_dir)
    wrong = verify(corpus, args.full, notes := [])
    for line in wrong[:_SHOWN]:
        print(line)
    if len(wrong) > _SHOWN:
        print(f"... and {len(wrong) - _SHOWN:,} more")
    for line in notes:
        print(line)
    state = f"{len(wrong):,} things wrong" if wrong else "whole"
    print(f"{corpus.name}: {state} ({count_images(corpus):,} pictures in {corpus.directory})")
    return 1 if wrong else 0
