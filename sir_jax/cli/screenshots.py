"""Draw the page's pictures for docs/ with the system's Chromium; for who works on the page.

python -m sir_jax.cli.screenshots --index DIR --query WAV [--model NAME|DIR]
"""

import argparse
import sys
from pathlib import Path

from sir_jax.cli.options import add_model
from sir_jax.errors import UserError
from sir_jax.page.screenshots import WORDS


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--index", required=True, help="a folder that `sir-jax index` wrote")
    parser.add_argument("--query", required=True, help="the recording that is searched with")
    parser.add_argument("--pictures", nargs="+", default=[], help="default the best of the query")
    parser.add_argument("--stretch", type=float, nargs=2, help="seconds; default the whole clip")
    parser.add_argument("--say", default=WORDS[0], help="words that are typed")
    parser.add_argument("--language", default=WORDS[1], help="of these words; default en")
    add_model(parser)
    parser.add_argument("--out", type=Path, default=Path("docs"), help="default docs")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Draw the pictures.

    Args:
      argv: the arguments.

    Raises:
      UserError: there is no Chromium, or the index or the model cannot be used.
    """
    args = parse(argv)
    from sir_jax.page.screenshots import draw_docs

    words = args.say, args.language
    draw_docs(args.index, args.model, args.query, args.pictures, args.out, args.stretch, words)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as problem:
        sys.exit(str(problem))
