"""The `search` verb: find the pictures of a folder that a recording describes."""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from sir_jax.data.audio import SAMPLE_RATE, load_audio
from sir_jax.data.image import load_image
from sir_jax.errors import UserError
from sir_jax.evaluation.embed import ordered_map
from sir_jax.retrieval.grid import Hit, Row, draw_grid, save_picture, thumbnail, writable_suffixes
from sir_jax.retrieval.retriever import Retriever, best_first

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")


@dataclasses.dataclass(frozen=True)
class Found:
    """What one query found, best first."""

    paths: list[Path]
    scores: list[float]


def find_images(folder: str | os.PathLike) -> list[Path]:
    """List the pictures of a folder and of the folders in it, sorted.

    Args:
      folder: where to look; links to folders are not followed.

    Returns:
      Paths that start with `folder`.

    Raises:
      UserError: it is no folder, or holds no picture.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"--images {folder} is not a folder; give one that holds pictures")
    found = sorted(
        Path(root, name)
        for root, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(SUFFIXES)
    )
    if not found:
        raise UserError(f"--images {folder} holds no picture ({' '.join(SUFFIXES)})")
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


def encode_folder(retriever: Retriever, paths: list[Path]) -> tuple[np.ndarray, list[Path]]:
    """Encode the pictures that can be read; name each one that cannot on stderr and go on.

    Args:
      retriever: the model.
      paths: picture files.

    Returns:
      (float32[G, E], the G paths that were read).

    Raises:
      UserError: none can be read.
    """
    read: list[Path] = []
    skipped: list[str] = []

    def attempt(path: Path) -> tuple[Path, Image.Image | None, str]:
        try:
            return path, load_image(path), ""
        except UserError as error:
            return path, None, str(error)

    def pictures() -> Iterator[Image.Image]:
        for number, (path, image, problem) in enumerate(ordered_map(attempt, paths), 1):
            if number % 500 == 0:
                print(f"{number} of {len(paths)} pictures read", file=sys.stderr)
            if image is None:
                skipped.append(problem)
            else:
                read.append(path)
                yield image

    z = retriever.encode_pictures(pictures(), len(paths))
    if not read:
        more = f" (and {len(skipped) - 1} more)" if len(skipped) > 1 else ""
        raise UserError(f"no picture could be read: {skipped[0]}{more}")
    for problem in skipped:
        print(f"skipped: {problem}", file=sys.stderr)
    if skipped:
        print(f"{len(skipped)} of {len(paths)} files skipped", file=sys.stderr)
    return z, read


def search_folder(retriever: Retriever, waves: list[np.ndarray], folder, k: int) -> list[Found]:
    """Rank a folder's pictures for each spoken query.

    Args:
      retriever: the model.
      waves: float32[N] each, mono, 16 kHz.
      folder: holds the pictures.
      k: how many to return; more than there are means all, and is said on stderr.

    Returns:
      One `Found` per query.

    Raises:
      UserError: no picture can be read.
    """
    paths = find_images(folder)
    z_s = retriever.encode_waves(waves, len(waves))
    z_i, paths = encode_folder(retriever, paths)
    if k > len(paths):
        print(f"-k {k}: there are only {len(paths)} pictures, all are shown", file=sys.stderr)
        k = len(paths)
    order, scores = best_first(z_s, z_i, k)
    return [
        Found([paths[i] for i in row], values.tolist())
        for row, values in zip(order, scores, strict=True)
    ]


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


def report(queries: list[str], waves: list[np.ndarray], found: list[Found], truth: dict) -> list:
    """Print the ranked files and return the rows of the grid.

    Args:
      queries: paths of the recordings.
      waves: their samples.
      found: what each of them found.
      truth: see `read_truth`.

    Returns:
      `grid.Row`s.
    """
    rows = []
    for query, wave, result in zip(queries, waves, found, strict=True):
        text, right = text_beside(query), truth.get(Path(query).name)
        print(f"{query} ({len(wave) / SAMPLE_RATE:.1f} s){': ' + text if text else ''}")
        hits = []
        for rank, (path, score) in enumerate(zip(result.paths, result.scores, strict=True), 1):
            mark = "  <- right" if path.name == right else ""
            print(f"{rank:>4}  {score:6.3f}  {path}{mark}")
            hits.append(Hit(thumbnail(load_image(path)), score, path.name == right))
        rows.append(Row(Path(query).name, text, hits))
    return rows


def main(argv: list[str]) -> int:
    """Run `sir-jax search`.

    Args:
      argv: the arguments after the verb.

    Raises:
      UserError: a query, the folder, the workdir or an option cannot be used.
    """
    parser = argparse.ArgumentParser(prog="sir-jax search", description=__doc__, allow_abbrev=False)
    parser.add_argument("--workdir", required=True, help="where `sir-jax train` wrote")
    parser.add_argument(
        "--query", required=True, action="append", help="a recording; repeat it for several"
    )
    parser.add_argument("--images", required=True, help="a folder; folders in it are searched too")
    parser.add_argument("-k", type=int, default=5, help="pictures per query (default 5)")
    parser.add_argument("--out", default="grid.png", help="the picture grid (default grid.png)")
    parser.add_argument("--which", default="best", choices=("best", "last"), help="checkpoint")
    parser.add_argument(
        "--truth", default="", help="JSON {query file name: picture file name}: green frames"
    )
    parser.add_argument("--batch_size", type=int, default=32)
    args = parser.parse_args(argv)
    for option, value in (("-k", args.k), ("--batch_size", args.batch_size)):
        if value < 1:
            raise UserError(f"{option} is {value}; give 1 or more")
    check_out(Path(args.out))
    truth = read_truth(args.truth)
    waves = read_queries(args.query)
    find_images(args.images)  # before the model is loaded
    retriever = Retriever.load(args.workdir, args.which, args.batch_size)
    found = search_folder(retriever, waves, args.images, args.k)
    out = save_picture(draw_grid(report(args.query, waves, found, truth)), args.out)
    print(f"picture grid: {out}")
    return 0
