"""The `learn` verb: your own pictures, from captions to search by voice and by typing.

The captions are said by synthesisers, a retriever learns from them which picture is meant, and the
pictures are indexed. Sizes are chosen by the amount of data and the machine, and each is printed
with its reason. Ctrl-C or SIGTERM stops it; the same command goes on, and skips what is finished.
"""

import argparse
import sys
import time

from sir_jax.cli.options import add_data_dir, make_parser
from sir_jax.errors import UserError
from sir_jax.learning.wish import Wish
from sir_jax.runtime.console import Terminated, terminable

INTERRUPTED, TERMINATED, SOME_FAILED = 130, 143, 3
_NAMED = 20
_AGAIN = "the same command goes on from there"


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the options."""
    parser = make_parser("learn", __doc__, keep_lines=True)

    def add(name: str, **options) -> None:
        spellings = dict.fromkeys([f"--{name.replace('_', '-')}", f"--{name}"])
        parser.add_argument(*spellings, dest=name, **options)

    add("images", required=True, help="folder of the pictures, with all folders in it")
    add(
        "captions", help="CSV, TSV or JSON; default: the text beside each picture, or in its fields"
    )
    add("languages", default="", help="of the captions: fr,en; empty: all that they state")
    add("out", default="learnt", help="gets release/, index/ and what is between (default learnt)")
    add_data_dir(parser)
    parser.add_argument(
        "--from",
        dest="model",
        default="",
        help="a release or a workdir to go on from; default: the small encoders that ship",
    )
    add(
        "hold_out_pictures",
        type=int,
        default=0,
        help="percent of the pictures that training never sees, to test it; default 0: all are "
        "learnt, and the test asks for them by voices that training never hears",
    )
    add("minutes", type=float, default=20.0, help="for training, about (default 20)")
    add("voices", type=int, help="that say each caption; default: by the number of captions")
    add("engines", default="", help="that speak; default: those that are installed and quick")
    add("steps", type=int, help="of training; default: by the pictures and the minutes")
    add("batch_size", type=int, help="pairs a step; default: by the pictures")
    add("encoding", default="", help="of the captions: cp1251, utf-16, ..; empty: found out")
    add("tolerance", type=float, help="share of captions that may be left out (default 0.01)")
    return parser.parse_args(argv)


def choose(args: argparse.Namespace) -> Wish:
    """Return what the options ask for.

    Raises:
      UserError: a number is too small, or the folders do not go together.
    """
    return Wish(
        images=args.images,
        out=args.out,
        captions=args.captions,
        languages=_words(args.languages),
        data_dir=args.data_dir or None,
        model=args.model,
        hold_out_pictures=args.hold_out_pictures,
        minutes=args.minutes,
        voices=args.voices,
        engines=_words(args.engines),
        steps=args.steps,
        batch_size=args.batch_size,
        encoding=args.encoding,
        tolerance=args.tolerance,
    )


def main(argv: list[str]) -> int:
    """Run `sir-jax learn`.

    Args:
      argv: the arguments after the verb.

    Returns:
      0, 3 where some pictures cannot be indexed, or 128 + the number of the signal that stopped it.

    Raises:
      UserError: on anything the user can mend.
    """
    wish = choose(parse(argv))
    try:
        with terminable():
            return _learn(wish)
    except Terminated:
        print(f"\nstopped by SIGTERM; {_AGAIN}", file=sys.stderr)
        return TERMINATED
    except KeyboardInterrupt:
        print(f"\ninterrupted; {_AGAIN}", file=sys.stderr)
        return INTERRUPTED
    except OSError as error:
        raise UserError(f"{error}; mend that, and {_AGAIN}") from error


def _learn(wish: Wish) -> int:
    """Learn, and print how well it went; see `main`."""
    from sir_jax.cli.model.train import silence_failed_saves
    from sir_jax.learning.report import search_commands
    from sir_jax.learning.stages import learn, lines_of
    from sir_jax.runtime.interrupt import Interrupted

    silence_failed_saves()
    start = time.monotonic()
    try:
        learnt = learn(wish, lambda line: print(line, flush=True))
    except Interrupted as stop:
        print(f"{stop}; saved: {_AGAIN}", file=sys.stderr)
        return 128 + stop.signum
    print(f"\nready after {(time.monotonic() - start) / 60:.1f} min")
    for line in lines_of(learnt, wish.hold_out_pictures):
        print(line)
    by_voice, by_typing = search_commands(wish.out, learnt.words)
    print(f"\nsearch by voice:\n  {by_voice}\nsearch by typing:\n  {by_typing}")
    for reason in list(learnt.index_failed.values())[:_NAMED]:
        print(f"not in the index: {reason}", file=sys.stderr)
    return SOME_FAILED if learnt.index_failed else 0


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())
