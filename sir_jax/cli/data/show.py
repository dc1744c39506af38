"""The `data show` verb: a sheet of pictures with the spectrograms and words of their captions."""

import argparse
import io
import sys
from pathlib import Path

from sir_jax.cli.options import add_data_dir
from sir_jax.errors import UserError


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(
        prog="sir-jax data show",
        description="Draw pictures of a corpus with spectrograms, words and speakers.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("name", help="of the corpus: BUILDER/CONFIG")
    parser.add_argument("--split", default="train", help="which split")
    parser.add_argument("--count", type=int, default=6, help="images")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of images")
    parser.add_argument("--font", default="", help="TrueType file to write with first")
    parser.add_argument("--out", default="sheet.png", help="picture file to write")
    add_data_dir(parser)
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Run `sir-jax data show`.

    Args:
      argv: arguments after the words.

    Raises:
      UserError: unknown corpus or split, or the file cannot be written.
    """
    args = parse(argv)
    from PIL import Image

    from sir_jax.data.corpus import open_pictures
    from sir_jax.data.media.fonts import Fonts
    from sir_jax.data.preparation.sheet import show

    form = Image.registered_extensions().get(Path(args.out).suffix.lower())
    if form not in ("PNG", "JPEG", "WEBP"):
        raise UserError(f"--out={args.out}: not a .png, .jpg or .webp file; rename it")
    fonts = Fonts(args.font)
    sheet = show(open_pictures(args.name, args.data_dir), args.split, args.count, args.seed, fonts)
    data = io.BytesIO()
    sheet.save(data, form)
    try:
        Path(args.out).write_bytes(data.getvalue())
    except OSError as error:
        raise UserError(f"--out={args.out}: cannot be written ({error.strerror})") from None
    print(f"{args.out}: {sheet.width} x {sheet.height} pixels")
    if fonts.missing:
        print(fonts.note(), file=sys.stderr)
    return 0
