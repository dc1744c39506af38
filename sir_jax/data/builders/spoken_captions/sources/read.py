"""Find out what form captions have, and read them."""

from collections.abc import Sequence
from pathlib import Path

from sir_jax.data.builders.spoken_captions.pictures import Pictures
from sir_jax.data.builders.spoken_captions.sources.beside import read_beside
from sir_jax.data.builders.spoken_captions.sources.fields import read_fields
from sir_jax.data.builders.spoken_captions.sources.jsons import read_json, read_json_lines
from sir_jax.data.builders.spoken_captions.sources.rows import Found
from sir_jax.data.builders.spoken_captions.sources.stored import is_stored, read_stored
from sir_jax.data.builders.spoken_captions.sources.tables import read_table
from sir_jax.errors import UserError

# By suffix; anything else is a table.
_READERS = {".jsonl": read_json_lines, ".ndjson": read_json_lines, ".json": read_json}


def read_captions(
    images: Path | None, captions: Path | None, chosen: Sequence[str], encoding: str, work: Path
) -> tuple[Pictures, Found]:
    """Read the captions of pictures.

    Args:
      images: folder of the pictures; None where `captions` is a data set.
      captions: a CSV, TSV, JSON or JSON lines file, or the folder of a data set by TFDS or Hugging
        Face; None for the text beside each picture, else its own fields.
      chosen: languages that are asked for; none for all.
      encoding: of the text; '' to find out.
      work: folder for the pictures of a data set.

    Returns:
      The pictures, and what their captions are.

    Raises:
      UserError: something is not there, or is of no such form.
    """
    if captions is not None and captions.is_dir():
        if not is_stored(captions):
            raise UserError(
                f"captions {str(captions)!r}: a folder without a data set of TFDS or Hugging Face; "
                "give a file, or nothing for the text beside each picture or in its own fields"
            )
        if images is not None:
            raise UserError(
                f"images {str(images)!r}: the data set {captions} holds its own; leave it out"
            )
        found = read_stored(captions, chosen, work)
        work.mkdir(parents=True, exist_ok=True)
        return Pictures(work), found
    if images is None:
        raise UserError("images is missing: give the folder of the pictures")
    pictures = Pictures(images)
    if captions is None:
        return pictures, _own(pictures, encoding)
    if not captions.is_file():
        raise UserError(f"captions {str(captions)!r}: no such file")
    return pictures, _READERS.get(captions.suffix.lower(), read_table)(captions, chosen, encoding)


def _own(pictures: Pictures, encoding: str) -> Found:
    """Return the text beside each picture, else what its own fields hold."""
    found = read_beside(pictures, encoding)
    told = {row.picture for row in found.rows}
    fields = read_fields(pictures, [n for n in pictures.pictures if n not in told]).rows
    others = len({row.picture for row in fields})
    found.notes.append(
        f"captions: {len(told):,} pictures have a text beside them, {others:,} have some in their "
        "own fields"
    )
    found.rows += fields
    if not found.rows:
        raise UserError(
            f"{pictures.folder}: no picture has a text beside it (dog.txt of dog.jpg) or a caption "
            "in its fields; give captions, such as a CSV file"
        )
    return found
