"""The `search` verb: find pictures by a recording or typed words, or recordings by a picture.

Status 3: some of the files that were found are gone or cannot be read; each is marked.
"""

import argparse
import json
import os
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from sir_jax.cli.found import Asked, as_data, show_pictures, show_recordings, text_beside
from sir_jax.cli.index import SOME_FAILED
from sir_jax.cli.options import add_batch_size, add_model, make_parser, require_least
from sir_jax.data.media.audio import SAMPLE_RATE, load_sound
from sir_jax.data.media.fonts import Fonts
from sir_jax.data.media.image import blank_reason, load_image
from sir_jax.data.media.synthesis.said import LANGUAGE, VOICES, say
from sir_jax.errors import UserError, first_few
from sir_jax.index.folder import IMAGE_SUFFIXES, kinds_of_files, scan_folder
from sir_jax.index.grid import draw_grid, save_picture, writable_suffixes
from sir_jax.inference.inputs import QuietMedia

if TYPE_CHECKING:  # it imports JAX, for which the help need not wait
    from sir_jax.index.query import Hit

# Pictures up to which nothing is said of how far it is.
QUIET = 200


def find_images(folder: str | os.PathLike) -> list[Path]:
    """List the pictures of a folder and of the folders in it, sorted.

    Args:
      folder: see `folder.scan_folder`.

    Returns:
      Paths that start with `folder`.

    Raises:
      UserError: it is no folder, or holds no picture.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"--images {folder} is not a folder; give one that holds pictures")
    names = list(scan_folder(folder))
    kinds = kinds_of_files(folder, names)
    found = [folder / name for name, kind in zip(names, kinds, strict=True) if kind == "image"]
    if not found:
        raise UserError(f"--images {folder} holds no picture ({' '.join(IMAGE_SUFFIXES)})")
    return found


def read_queries(args: argparse.Namespace) -> list[Asked]:
    """Read every query before any work is done, so that a bad one costs nothing.

    A query in which nothing can be heard or seen is named on stderr.

    Args:
      args: see `parse`.

    Raises:
      UserError: a file cannot be read or holds no sample, or a text cannot be said.
    """
    if args.say:
        return [_say(text, args.language, args.voices) for text in args.say]
    if args.picture:
        return [_open_picture(path) for path in args.picture]
    return [_open_recording(path) for path in args.query]


def _say(text: str, language: str | None, voices: int | None) -> Asked:
    said = say(text, language or LANGUAGE, voices=voices or VOICES)
    count = Counter(voice.engine for voice in said.voices)
    by = ", ".join(f"{name} {number}" for name, number in count.items())
    told = {
        "language": said.language,
        "voices": [f"{voice.engine}:{voice.name}" for voice in said.voices],
    }
    title = f"said in {said.language} by {len(said.voices)} voices ({by})"
    return Asked(said.text, title, said, said.text, told)


def _open_picture(path: str) -> Asked:
    picture = load_image(path)
    if reason := blank_reason(picture):
        print(f"warning: {path} {reason}", file=sys.stderr)
    return Asked(path, path, picture)


def _open_recording(path: str) -> Asked:
    sound = load_sound(path)
    if not len(sound.wave):
        raise UserError(f"{path} holds no sound (0 samples); record it again")
    if sound.warning:
        print(f"warning: {path}: {sound.warning}", file=sys.stderr)
    title = f"{path} ({len(sound.wave) / SAMPLE_RATE:.1f} s)"
    return Asked(path, title, (sound.wave, SAMPLE_RATE), text_beside(path))


def open_index(args: argparse.Namespace, model):
    """Read the index, or make one of the folder's pictures; bad ones are named on stderr.

    Args:
      args: see `parse`.
      model: a `Retriever`.

    Returns:
      The `Index`.

    Raises:
      UserError: the index is of another model, or no picture can be read.
    """
    from sir_jax.index.index import Index

    if args.index:
        return Index.load(args.index, model)
    paths = find_images(args.images)
    index = Index.build(model, paths, progress=len(paths) > QUIET)
    failures = list(index.failed.values())
    if not len(index):
        reasons = [failure.reason for failure in failures]
        raise UserError(f"no picture could be read: {first_few(reasons)}")
    for failure in failures:
        print(f"skipped: {failure.reason}", file=sys.stderr)
    if failures:
        print(f"{len(failures)} of {len(paths)} files skipped", file=sys.stderr)
    return index


def find(index, queries: list, of: str, k: int, rerank: int) -> list[list["Hit"]]:
    """Rank an index's items for each query.

    Args:
      index: the `Index` to be searched.
      queries: recordings or pictures, as `Index.search` takes them.
      of: 'image' or 'speech', what is searched for.
      k: how many to return; more than there are means all, and is said on stderr.
      rerank: how many are re-ranked; 0 for none.

    Raises:
      UserError: the index holds nothing of that kind.
    """
    gallery = index.images if of == "image" else index.recordings
    what = "pictures" if of == "image" else "recordings"
    if not len(gallery):
        raise UserError(f"the index holds no {what}; index a folder that does")
    if k > len(gallery):
        print(f"-k {k}: there are only {len(gallery)} {what}, all are shown", file=sys.stderr)
        k = len(gallery)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", QuietMedia)  # named by their paths already
        return index.search(queries, k, rerank=max(rerank, k) if rerank else 0, of=of)


def read_truth(path: str) -> dict[str, str]:
    """Read which picture is right for which query.

    Args:
      path: a JSON file {query file name: picture file name}; '' for none.

    Returns:
      The mapping.

    Raises:
      UserError: it cannot be read as such.
    """
    if not path:
        return {}
    try:
        truth = json.loads(Path(path).read_text("utf-8-sig"))
        return {str(query): str(picture) for query, picture in truth.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"--truth {path} is not a JSON file {{query: picture}}: {error}") from error


def check_out(path: Path) -> None:
    """Refuse a picture file that could not be written at the end.

    Args:
      path: where the grid shall go.

    Raises:
      UserError: its suffix is no picture's, it is a folder, or its folder cannot be written to.
    """
    if path.suffix.lower() not in writable_suffixes():
        raise UserError(f"--out {path} is not a picture file's name; end it in .png")
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {path}: {folder} cannot be made ({error.strerror})") from error
    if path.is_dir() or not os.access(folder, os.W_OK):
        raise UserError(f"--out {path} cannot be written; give another place")


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the options of `sir-jax search`.

    Raises:
      UserError: a value that cannot be.
    """
    parser = make_parser("search", __doc__)
    queries = parser.add_mutually_exclusive_group(required=True)
    queries.add_argument(
        "--query", action="append", help="a recording: find pictures; repeat it for several"
    )
    queries.add_argument(
        "--say",
        action="append",
        metavar="TEXT",
        help="words, which voices say: find pictures; repeat it for several",
    )
    queries.add_argument(
        "--picture", action="append", help="a picture: find recordings; needs --index"
    )
    parser.add_argument(
        "--language", help=f"of --say: a code such as en, fr, pt-br, or a name (default {LANGUAGE})"
    )
    parser.add_argument("--voices", type=int, help=f"that say it (default {VOICES})")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--index", help="a folder that `sir-jax index` wrote")
    where.add_argument("--images", help="a folder of pictures; folders in it are searched too")
    model = parser.add_mutually_exclusive_group()
    add_model(model)
    model.add_argument("--workdir", default="", help="where `sir-jax train` wrote")
    parser.add_argument("-k", type=int, default=5, help="results per query (default 5)")
    parser.add_argument(
        "--rerank",
        type=int,
        default=0,
        metavar="N",
        help="order the N best anew by the matching head; at least k (default 0: none)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON; draw no grid")
    parser.add_argument("--out", default="grid.png", help="the picture grid (default grid.png)")
    parser.add_argument("--which", default="best", choices=("best", "last"), help="checkpoint")
    parser.add_argument(
        "--truth", default="", help="JSON {query file name: picture file name}: green frames"
    )
    add_batch_size(parser, "pictures")
    args = parser.parse_args(argv)
    require_least(args, k=1, batch_size=1, rerank=0, voices=1)
    if not args.say and (args.language, args.voices) != (None, None):
        raise UserError("--language and --voices belong to --say; a recording needs neither")
    if args.picture and not args.index:
        raise UserError("--picture finds recordings: give --index, of a folder that holds some")
    return args


def main(argv: list[str]) -> int:
    """Run `sir-jax search`.

    Args:
      argv: the arguments after the verb.

    Returns:
      0, or 3 where some of the files that were found cannot be shown.

    Raises:
      UserError: a query, the folder, the index, the model or an option cannot be used.
    """
    args = parse(argv)
    grid = not args.picture and not args.json
    if grid:
        check_out(Path(args.out))
    truth = read_truth(args.truth)
    queries = read_queries(args)
    if args.images:
        find_images(args.images)  # before the model is loaded
    from sir_jax.inference.retriever import Retriever

    model = Retriever.load(args.workdir or args.model, args.which, args.batch_size)
    index = open_index(args, model)
    of = "speech" if args.picture else "image"
    found = find(index, [query.content for query in queries], of, args.k, args.rerank)
    if args.json:
        answers = as_data(index, queries, found)
        print(json.dumps(answers))
        bad = sum(hit["problem"] is not None for answer in answers for hit in answer["hits"])
    elif args.picture:
        bad = show_recordings(index, queries, found)
    else:
        rows, bad = show_pictures(index, queries, found, truth)
        fonts = Fonts()
        print(f"picture grid: {save_picture(draw_grid(rows, fonts), args.out)}")
        if fonts.missing:
            print(fonts.note(), file=sys.stderr)
    if bad:
        print(
            f"{bad} of {sum(map(len, found))} results have no file that can be shown; bring the "
            "index up to date with `sir-jax index`",
            file=sys.stderr,
        )
    return SOME_FAILED if bad else 0
