"""The `samples` verb: a folder of pictures and recordings to try the model that ships with.

Test scenes of spoken_scenes, drawn on the spot, and twelve of their captions, which ship: voices
and pictures that no training has met.
"""

import argparse

from sir_jax.cli.options import make_parser
from sir_jax.data.preparation.samples import PICTURES, write_samples


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the options."""
    parser = make_parser("samples", __doc__, keep_lines=True)
    parser.add_argument("--out", default="samples", help="the folder (default samples)")
    parser.add_argument("--pictures", type=int, default=PICTURES)
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Run `sir-jax samples`.

    Args:
      argv: the arguments after the verb.

    Raises:
      UserError: see `write_samples`.
    """
    args = parse(argv)
    folder = write_samples(args.out, args.pictures)
    count = len(list((folder / "recordings").glob("*.flac")))
    print(f"{folder}: {args.pictures} pictures, {count} recordings")
    return 0
