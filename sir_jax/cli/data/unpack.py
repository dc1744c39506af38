"""The `data unpack` verb: a corpus's pictures and recordings as files in a folder."""

import argparse
import re
from pathlib import Path

from sir_jax.cli.options import add_data_dir
from sir_jax.errors import UserError

_UNSAFE = re.compile(r"[^\w.-]+")


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(
        prog="sir-jax data unpack",
        description="Write pictures of a corpus as files, to index them or to look at them.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("name", help="of the corpus: BUILDER/CONFIG")
    parser.add_argument("--split", default="test", help="which split")
    parser.add_argument("--out", required=True, help="folder to write into; files there are kept")
    parser.add_argument("--count", type=int, default=0, help="the first images; 0: all")
    parser.add_argument("--captions", type=int, default=0, help="recordings of an image, at most")
    add_data_dir(parser)
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Run `sir-jax data unpack`.

    Args:
      argv: arguments after the words.

    Raises:
      UserError: unknown corpus or split, or a file cannot be written.
    """
    args = parse(argv)
    from sir_jax.data.corpus import open_pictures

    split = open_pictures(args.name, args.data_dir).split(args.split)
    count = min(args.count or len(split), len(split))
    written = {"pictures": 0, "recordings": 0}
    for row in range(count):
        record = split[row]
        stem = Path(args.out) / file_stem(record.key, record.image_id)
        _write(stem, record.image)
        written["pictures"] += 1
        for number, caption in enumerate(record.captions[: args.captions]):
            clip = stem.with_name(f"{stem.name}.{number}")
            _write(clip, caption.audio, caption.text)
            written["recordings"] += 1
    print(f"{args.out}: {written['pictures']:,} pictures, {written['recordings']:,} recordings")
    return 0


def file_stem(key: str, image_id: int) -> str:
    """Return a file's name, without a suffix, inside of any folder.

    >>> file_stem("animals/duck", 7), file_stem("../x y.png", 7), file_stem("", 7)
    ('animals/duck', 'x_y', '000007')
    """
    parts = [_UNSAFE.sub("_", part).strip("._") for part in key.split("/")]
    parts[-1] = parts[-1].removesuffix(Path(parts[-1]).suffix)
    return "/".join(filter(None, parts)) or f"{image_id:06}"


def _write(stem: Path, data: bytes, text: str = "") -> None:
    from sir_jax.data.media.sniff import content_of

    path = stem.with_name(f"{stem.name}.{content_of(data).format}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_bytes(data)
        if text:
            path.with_suffix(".txt").write_text(f"{text}\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"--out: {path} cannot be written ({error.strerror})") from None
