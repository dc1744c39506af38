"""The checksums of the files of a prepared corpus."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from sir_jax.runtime.files import PART, write_json

NAME = "checksums.json"
# Files that training keeps beside a finished corpus; see `corpus.spoken_samples`.
SPOKEN = "spoken-"


def checked_files(directory: Path) -> list[Path]:
    """Return the files of a prepared corpus that are checksummed, sorted by name."""
    return sorted(
        path
        for path in directory.iterdir()
        if path.is_file()
        and path.name != NAME
        and not path.name.startswith(SPOKEN)
        and not path.name.endswith(PART)
    )


def file_sha256(path: Path, report: Callable[[int], None] = lambda size: None) -> str:
    """Return the sha256 of a file; `report` is called with the size of each part that was read."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while part := stream.read(1 << 20):
            digest.update(part)
            report(len(part))
    return digest.hexdigest()


def write_checksums(directory: Path, report: Callable[[int], None] = lambda size: None) -> None:
    """Write the checksums of all files of a prepared corpus into its folder."""
    sums = {path.name: file_sha256(path, report) for path in checked_files(directory)}
    write_json(directory / NAME, sums, indent=1)


def read_checksums(directory: Path) -> dict[str, str] | None:
    """Return the sha256 of each file by its name; None if the corpus has no checksums."""
    try:
        return json.loads((directory / NAME).read_text())
    except FileNotFoundError:
        return None
