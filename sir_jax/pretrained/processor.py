"""What a checkpoint's processor does to a picture or a clip, read from the file beside it."""

from pathlib import Path

from sir_jax.errors import UserError
from sir_jax.pretrained.files import read_json

FILE = "preprocessor_config.json"
# transformers 5 puts a processor's parts into one file; it goes before the other, there as here.
_NESTED = "processor_config.json"


def read_processor(folder: Path, parts: tuple[str, ...]) -> dict:
    """Read the fields of a checkpoint's processor; empty where it has none.

    Args:
      folder: the checkpoint's directory.
      parts: names that the part for this encoder may have in `processor_config.json`.

    Raises:
      UserError: where a file is damaged.
    """
    if (folder / _NESTED).is_file():
        nested = read_json(folder / _NESTED)
        for part in parts:
            if isinstance(nested.get(part), dict):
                return nested[part]
    return read_json(folder / FILE) if (folder / FILE).is_file() else {}


def require(fields: dict, wanted: dict) -> None:
    """Refuse a processor that has another value in some field than the data pipeline computes.

    Raises:
      UserError: naming the field and both values.
    """
    for field, value in wanted.items():
        # Null is false: the keys of another processor's steps may stand there unset.
        found = False if fields[field] is None else fields[field]
        near = isinstance(value, float) and isinstance(found, float) and abs(found - value) < 1e-6
        if found != value and not near:
            raise UserError(f"{FILE} has {field}={found}; only {value} is ported")


def square(size, field: str) -> int:
    """Return the side of a size given as one number, or as height and width.

    Raises:
      UserError: on any other form, and on height and width that differ.
    """
    sides = {size} if isinstance(size, int) else set()
    if isinstance(size, dict) and size.keys() == {"height", "width"}:
        sides = {size["height"], size["width"]}
    if len(sides) != 1:
        raise UserError(f"{FILE} has {field}={size}; only a square is ported")
    return sides.pop()
