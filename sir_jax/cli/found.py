"""Show what a search found: lines, rows of a grid, or plain data."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image, ImageDraw

from sir_jax.data.media.image import load_image
from sir_jax.errors import UserError
from sir_jax.index.grid import CELL, Cell, Row, thumbnail

if TYPE_CHECKING:  # it imports JAX, for which the help need not wait
    from sir_jax.index.moments.store import Moment
    from sir_jax.index.query import Hit


class Asked(NamedTuple):
    """A query.

    Attributes:
      name: the path, or the words that were typed.
      title: what is printed before the words.
      content: a form that `Index.search` takes.
      text: its words; '' where they are not known.
      told: what else is said of it as plain data.
    """

    name: str
    title: str
    content: Any
    text: str = ""
    told: dict[str, Any] = {}


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


def show_pictures(
    index, queries: list[Asked], found: list[list["Hit"]], truth: dict[str, str]
) -> tuple[list[Row], int]:
    """Print what recordings or words found.

    Args:
      index: the `Index` that was searched.
      queries: the recordings or words.
      found: `Hit`s of each.
      truth: query file name -> picture file name.

    Returns:
      The rows of the grid, and the number of hits that cannot be shown.
    """
    rows, bad = [], 0
    for query, hits in zip(queries, found, strict=True):
        right = truth.get(Path(query.name).name)
        print(f"{query.title}{': ' + query.text if query.text else ''}")
        cells, chances = [], _chances(index, hits)
        for rank, hit in enumerate(hits, 1):
            path = _path_of(index, hit)
            picture, problem = read_picture(path)
            bad += bool(problem)
            is_right = path is not None and path.name == right
            mark = ("  <- right" if is_right else "") + (f"  <- {problem}" if problem else "")
            print(f"{rank:>4}  {_score(hit, chances[rank - 1])}  {path or hit.id}{mark}")
            cells.append(Cell(picture, hit.score, is_right))
        label = query.title if query.told else Path(query.name).name
        rows.append(Row(label, query.text, cells))
    return rows, bad


def find_moments(index, query: Asked, hits: list["Hit"]) -> dict[str, list["Moment"]]:
    """Return where in the recordings of hits a picture is spoken of; id -> `Moment`s."""
    names = [hit.id for hit in hits if hit.id in index.recordings.rows]
    if index.recordings.moments is None or not names:
        return {hit.id: [] for hit in hits}
    return index.moments(query.content, names)


def show_recordings(index, queries: list[Asked], found: list[list["Hit"]]) -> int:
    """Print what pictures found, with the text beside each recording.

    Returns:
      The number of hits that cannot be shown.
    """
    bad = 0
    for query, hits in zip(queries, found, strict=True):
        moments = find_moments(index, query, hits)
        print(query.title)
        chances = _chances(index, hits)
        for rank, hit in enumerate(hits, 1):
            path = _path_of(index, hit)
            text, problem = text_beside(str(path)) if path else "", find_problem(path)
            bad += bool(problem)
            mark = f"  <- {problem}" if problem else ""
            where = _where(moments[hit.id])
            words = f": {text}" if text and not where else ""
            score = _score(hit, chances[rank - 1])
            print(f"{rank:>4}  {score}  {path or hit.id}{where}{words}{mark}")
    return bad


def _where(moments: list["Moment"]) -> str:
    if not moments:
        return ""
    word = "at" if moments[0].clear else "nowhere clearly, perhaps at"
    return f" {word} {'; '.join(map(_span, moments))}"


def _span(moment: "Moment") -> str:
    return f"{clock(moment.start)}-{clock(moment.end)} ({moment.score:.3f})"


def clock(seconds: float) -> str:
    """Return a time within a recording.

    >>> clock(7.26), clock(3725.04)
    ('0:07.3', '1:02:05.0')
    """
    tenths = round(10 * seconds)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    start = f"{hours}:{minutes:02}" if hours else f"{minutes}"
    return f"{start}:{rest // 10:02}.{rest % 10}"


def _path_of(index, hit: "Hit") -> Path | None:
    try:
        return index.path_of(hit.id)
    except UserError:
        return None  # added from memory


def _chances(index, hits: list["Hit"]) -> list[float | None]:
    from sir_jax.index.query import probabilities

    return probabilities(index.model, hits)


def _score(hit: "Hit", probability: float | None) -> str:
    # Log-odds are no measure that people could read: JSON has them.
    return f"{hit.score:6.3f}" + ("" if probability is None else f"  {probability:6.1%}")


def as_data(index, queries: list[Asked], found: list[list["Hit"]]) -> list[dict[str, Any]]:
    """Return what each query found as plain data, with the `problem` of each file, None for none.

    A file is not read for this; that it is there is all that is known of it.
    """
    answers = []
    for query, hits in zip(queries, found, strict=True):
        rows = []
        moments = find_moments(index, query, hits)
        for hit, probability in zip(hits, _chances(index, hits), strict=True):
            path = _path_of(index, hit)
            place: dict[str, Any] = {"path": None if path is None else str(path)}
            place["problem"] = find_problem(path) or None
            if own := moments[hit.id]:
                place["moments"] = [moment._asdict() for moment in own]
            rows.append(hit._asdict() | {"probability": probability} | place)
        answers.append({"query": query.name} | query.told | {"hits": rows})
    return answers
