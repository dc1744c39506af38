"""The `search` verb: find pictures by a recording, or recordings by a picture.

Status 3: some of the files that were found are gone or cannot be read; each is marked.
"""

import argparse
import json
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from sir_jax.cli.index import SOME_FAILED
from sir_jax.cli.options import add_batch_size, add_model, make_parser, require_least
from sir_jax.data.media.audio import SAMPLE_RATE, load_sound
from sir_jax.data.media.fonts import Fonts
from sir_jax.data.media.image import blank_reason, load_image
from sir_jax.errors import UserError, first_few
from sir_jax.index.folder import IMAGE_SUFFIXES, kinds_of_files, scan_folder
from sir_jax.index.grid import (
    CELL,
    Cell,
    Row,
    draw_grid,
    save_picture,
    thumbnail,
    writable_suffixes,
)
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


def read_queries(paths: list[str]) -> list[np.ndarray]:
    """Read every query before any work is done, so that a bad one costs nothing.

    A query in which nothing can be heard is named on stderr.

    Args:
      paths: sound files.

    Returns:
      float32[N] each, mono, 16 kHz.

    Raises:
      UserError: a file cannot be read or holds no sample.
    """
    sounds = [load_sound(path) for path in paths]
    for path, sound in zip(paths, sounds, strict=True):
        if not len(sound.wave):
            raise UserError(f"{path} holds no sound (0 samples); record it again")
        if sound.warning:
            print(f"warning: {path}: {sound.warning}", file=sys.stderr)
    return [sound.wave for sound in sounds]


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


def text_beside(query: str) -> str:
    """Return the text of the .txt file beside a recording, '' where there is none.

    Args:
      query: path of the recording.
    """
    beside = Path(query).with_suffix(".txt")
    return beside.read_text("utf-8-sig", "replace").strip() if beside.is_file() else ""


def find_problem(path: Path | None) -> str:
    """Say why the file of a hit cannot be shown; '' where it can, as far as can be seen."""
    if path is None:
        return "added from memory"
    if not path.is_file():
        return "gone"
    return "" if os.access(path, os.R_OK) else "may not be read"


def read_picture(path: Path | None) -> tuple[Image.Image, str]:
    """Return a thumbnail of a hit and what is wrong with its file, '' for nothing."""
    problem = find_problem(path)
    if not problem:
        try:
            return thumbnail(load_image(path)), ""
        except UserError as error:
            problem = str(error).removeprefix(f"{path}: ").partition(";")[0]
    blank = Image.new("RGB", (CELL, CELL), "#e6e6e6")
    word = problem if len(problem) < 20 else "cannot be read"
    ImageDraw.Draw(blank).text((CELL / 2, CELL / 2), word, fill="#6b6b6b", anchor="mm")
    return blank, problem


def show_pictures(index, queries: list[str], waves, found, truth: dict) -> tuple[list[Row], int]:
    """Print what recordings found.

    Args:
      index: the `Index` that was searched.
      queries: paths of the recordings.
      waves: their samples.
      found: `Hit`s of each.
      truth: see `read_truth`.

    Returns:
      The rows of the grid, and the number of hits that cannot be shown.
    """
    rows, bad = [], 0
    for query, wave, hits in zip(queries, waves, found, strict=True):
        text, right = text_beside(query), truth.get(Path(query).name)
        print(f"{query} ({len(wave) / SAMPLE_RATE:.1f} s){': ' + text if text else ''}")
        cells = []
        for rank, hit in enumerate(hits, 1):
            path = _path_of(index, hit)
            picture, problem = read_picture(path)
            bad += bool(problem)
            is_right = path is not None and path.name == right
            mark = ("  <- right" if is_right else "") + (f"  <- {problem}" if problem else "")
            print(f"{rank:>4}  {_score(hit)}  {path or hit.id}{mark}")
            cells.append(Cell(picture, hit.score, is_right))
        rows.append(Row(Path(query).name, text, cells))
    return rows, bad


def show_recordings(index, queries: list[str], found: list[list["Hit"]]) -> int:
    """Print what pictures found, with the text beside each recording.

    Returns:
      The number of hits that cannot be shown.
    """
    bad = 0
    for query, hits in zip(queries, found, strict=True):
        print(query)
        for rank, hit in enumerate(hits, 1):
            path = _path_of(index, hit)
            text, problem = text_beside(str(path)) if path else "", find_problem(path)
            bad += bool(problem)
            mark = f"  <- {problem}" if problem else ""
            print(f"{rank:>4}  {_score(hit)}  {path or hit.id}{': ' + text if text else ''}{mark}")
    return bad


def _path_of(index, hit: "Hit") -> Path | None:
    try:
        return index.path_of(hit.id)
    except UserError:
        return None  # added from memory


def _score(hit: "Hit") -> str:
    return f"{hit.score:6.3f}" + ("" if hit.match is None else f"  {hit.match:+6.2f}")


def as_data(index, queries: list[str], found: list[list["Hit"]]) -> list[dict[str, Any]]:
    """Return what each query found as plain data, with the `problem` of each file, None for none.

    A file is not read for this; that it is there is all that is known of it.
    """
    answers = []
    for query, hits in zip(queries, found, strict=True):
        rows = []
        for hit in hits:
            path = _path_of(index, hit)
            place = {"path": None if path is None else str(path)}
            rows.append(hit._asdict() | place | {"problem": find_problem(path) or None})
        answers.append({"query": query, "hits": rows})
    return answers


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
        "--picture", action="append", help="a picture: find recordings; needs --index"
    )
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
    require_least(args, k=1, batch_size=1, rerank=0)
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
    grid = args.query and not args.json
    if grid:
        check_out(Path(args.out))
    truth = read_truth(args.truth)
    waves = read_queries(args.query or [])
    pictures = [load_image(path) for path in args.picture or []]
    for path, picture in zip(args.picture or [], pictures, strict=True):
        if reason := blank_reason(picture):
            print(f"warning: {path} {reason}", file=sys.stderr)
    if args.images:
        find_images(args.images)  # before the model is loaded
    from sir_jax.inference.retriever import Retriever

    model = Retriever.load(args.workdir or args.model, args.which, args.batch_size)
    index = open_index(args, model)
    names = args.query or args.picture
    queries = [(wave, SAMPLE_RATE) for wave in waves] if args.query else pictures
    found = find(index, queries, "image" if args.query else "speech", args.k, args.rerank)
    if args.json:
        answers = as_data(index, names, found)
        print(json.dumps(answers))
        bad = sum(hit["problem"] is not None for answer in answers for hit in answer["hits"])
    elif args.picture:
        bad = show_recordings(index, names, found)
    else:
        rows, bad = show_pictures(index, names, waves, found, truth)
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
