"""The `data spoken_captions` verb: any captioned pictures, their captions said aloud."""

import argparse
from pathlib import Path

from sir_jax.cli.data.making import make_and_report
from sir_jax.cli.options import add_data_dir, make_parser
from sir_jax.data.builders.spoken_captions.config import CaptionsConfig
from sir_jax.data.media.synthesis.engines import ENGINES
from sir_jax.data.preparation.prepare import Options
from sir_jax.errors import UserError

_DESCRIPTION = """\
Make a corpus of captioned pictures: speech synthesisers say the captions.

Captions come from a CSV, TSV, JSON lines or JSON file (a list of objects, Karpathy's form or
COCO's), from a data set of TFDS or Hugging Face on the disk, or without --captions from the .txt
file beside each picture, else from the picture's own fields (XMP, IPTC, EXIF)."""


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the options."""
    parser = make_parser("data spoken_captions", _DESCRIPTION, keep_lines=True)

    def add(name: str, **options) -> None:
        spellings = dict.fromkeys([f"--{name.replace('_', '-')}", f"--{name}"])
        parser.add_argument(*spellings, dest=name, **options)

    add("images", help="folder of the pictures, with all folders in it")
    add("captions", help="a file, or the folder of a data set")
    add("languages", default="", help="of the captions: fr,en; empty: all that they state")
    add("voices", type=int, default=6, help="that say each caption in training (default 6)")
    add("engines", default="espeak", help=f"of {','.join(ENGINES)} (default espeak)")
    add(
        "hold_out_pictures",
        type=int,
        default=10,
        help="percent of the pictures that are in test alone, half as many in val (default 10); 0: "
        "each picture is in every split, said by other voices",
    )
    add("name", default="", help="what the corpus' name begins with (default: the file's name)")
    add("encoding", default="", help="of the captions: cp1251, utf-16, ..; empty: found out")
    add("tolerance", type=float, help="share of a split that may be missing (default 0.01)")
    add(
        "max_seconds",
        type=float,
        default=Options.max_seconds,
        help="that a spoken caption may last (default %(default)s)",
    )
    add("allow_leaks", action="store_true", help="keep pictures that are in more than one split")
    add("workers", type=int, default=0, help="processes; 0: every CPU core")
    add_data_dir(parser)
    return parser.parse_args(argv)


def choose(args: argparse.Namespace) -> tuple:
    """Return the `Captions`, the `CaptionsConfig` and the `Options` that the options say.

    Raises:
      UserError: an option is missing or wrong.
    """
    from sir_jax.data.builders.spoken_captions.sources.rows import language_code
    from sir_jax.data.preparation.captions import Captions

    if not args.images and not args.captions:
        raise UserError("--images is missing: give the folder of the pictures")
    images, captions = (
        Path(text).expanduser() if text else None for text in (args.images, args.captions)
    )
    source = Captions(images, captions, args.encoding)
    config = CaptionsConfig(
        tuple(map(language_code, _words(args.languages))),
        args.voices,
        args.hold_out_pictures,
        _words(args.engines),
        args.name or source.label,
    )
    options = Options(args.tolerance, args.max_seconds, args.workers, args.allow_leaks)
    return source, config, options


def main(argv: list[str]) -> int:
    """Run `sir-jax data spoken_captions`.

    Args:
      argv: arguments after the words.

    Returns:
      0, or 130 after Ctrl-C.

    Raises:
      UserError: on anything the user can mend.
    """
    args = parse(argv)
    source, config, options = choose(args)
    from sir_jax.data.preparation.captions import prepare_captions
    from sir_jax.data.preparation.prepare import summary
    from sir_jax.data.preparation.report import read_report

    return make_and_report(
        lambda: prepare_captions(source, config, args.data_dir, options),
        lambda corpus: summary(corpus, read_report(corpus.directory.parent)),
    )


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())
