"""The `search` verb: find pictures by a recording, or recordings by a picture."""

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np

from sir_jax.cli.options import add_batch_size, add_model, make_parser, require_least
from sir_jax.data.media.audio import SAMPLE_RATE, load_audio
from sir_jax.data.media.image import load_image
from sir_jax.errors import UserError, first_few
from sir_jax.index.folder import IMAGE_SUFFIXES, kind_of, scan_folder
from sir_jax.index.grid import Cell, Row, draw_grid, save_picture, thumbnail, writable_suffixes
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
    found = [folder / name for name in scan_folder(folder) if kind_of(name) == "image"]
    if not found:
        raise UserError(f"--images {folder} holds no picture ({' '.join(IMAGE_SUFFIXES)})")
    return found


def read_queries(paths: list[str]) -> list[np.ndarray]:
    """Read every query before any work is done, so that a bad one costs nothing.

    Args:
      paths: sound files.

    Returns:
      float32[N] each, mono, 16 kHz.

    Raises:
      UserError: a file cannot be read or holds no sample.
    """
    waves = [load_audio(path) for path in paths]
    for path, wave in zip(paths, waves, strict=True):
        if not len(wave):
            raise UserError(f"{path} holds no sound (0 samples); record it again")
    return waves


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


def find(index, queries: list, of: str, k: int, rerank: int) -> list[list[Hit]]:
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
        truth = json.loads(Path(path).read_text())
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
    return beside.read_text(errors="replace").strip() if beside.is_file() else ""


def show_pictures(index, queries: list[str], waves, found, truth: dict) -> list[Row]:
    """Print what recordings found and return the rows of the grid.

    Args:
      index: the `Index` that was searched.
      queries: paths of the recordings.
      waves: their samples.
      found: `Hit`s of each.
      truth: see `read_truth`.
    """
    rows = []
    for query, wave, hits in zip(queries, waves, found, strict=True):
        text, right = text_beside(query), truth.get(Path(query).name)
        print(f"{query} ({len(wave) / SAMPLE_RATE:.1f} s){': ' + text if text else ''}")
        cells = []
        for rank, hit in enumerate(hits, 1):
            path = index.path_of(hit.id)
            mark = "  <- right" if path.name == right else ""
            print(f"{rank:>4}  {_score(hit)}  {path}{mark}")
            cells.append(Cell(thumbnail(load_image(path)), hit.score, path.name == right))
        rows.append(Row(Path(query).name, text, cells))
    return rows


def show_recordings(index, queries: list[str], found: list[list[Hit]]) -> None:
    """Print what pictures found, with the text beside each recording."""
    for query, hits in zip(queries, found, strict=True):
        print(query)
        for rank, hit in enumerate(hits, 1):
            path = index.path_of(hit.id)
            text = text_beside(str(path))
            print(f"{rank:>4}  {_score(hit)}  {path}{': ' + text if text else ''}")


def _score(hit: Hit) -> str:
    return f"{hit.score:6.3f}" + ("" if hit.match is None else f"  {hit.match:+6.2f}")


def as_json(index, queries: list[str], found: list[list[Hit]]) -> str:
    """Return one JSON object: what each query found."""
    return json.dumps(
        [
            {
                "query": query,
                "hits": [hit._asdict() | {"path": str(index.path_of(hit.id))} for hit in hits],
            }
            for query, hits in zip(queries, found, strict=True)
        ]
    )


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
    if args.images:
        find_images(args.images)  # before the model is loaded
    from sir_jax.inference.retriever import Retriever

    model = Retriever.load(args.workdir or args.model, args.which, args.batch_size)
    index = open_index(args, model)
    names = args.query or args.picture
    queries = [(wave, SAMPLE_RATE) for wave in waves] if args.query else pictures
    found = find(index, queries, "image" if args.query else "speech", args.k, args.rerank)
    if args.json:
        print(as_json(index, names, found))
    elif args.picture:
        show_recordings(index, names, found)
    else:
        rows = show_pictures(index, names, waves, found, truth)
        print(f"picture grid: {save_picture(draw_grid(rows), args.out)}")
    return 0
