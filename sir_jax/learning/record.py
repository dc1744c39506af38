"""What was chosen and what is finished, in `learn.json`, so that the same call goes on."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from sir_jax.config.compare import check_folder
from sir_jax.data.builders.spoken_captions.pictures import Pictures
from sir_jax.errors import UserError, first_few
from sir_jax.learning.wish import Wish
from sir_jax.runtime.files import write_json
from sir_jax.runtime.locks import LOCK

FILE = "learn.json"


class Record:
    """The record of one folder.

    Args:
      out: the folder.
      asked: what decides the result.

    Attributes:
      chosen: sizes by their names.
      done: what is known of each finished stage, by the stage's name.

    Raises:
      UserError: the folder holds something else, or a finished stage of what was asked for
        otherwise.
    """

    def __init__(self, out: Path, asked: dict[str, Any]):
        check_folder(out, "out")
        self._path, self._asked = out / FILE, asked
        self.chosen: dict[str, Any] = {}
        self.done: dict[str, dict[str, Any]] = {}
        if not self._path.exists():
            others = sorted({path.name for path in out.glob("*")} - {LOCK})
            if others:
                raise UserError(
                    f"out {str(out)!r} holds {first_few(others, 3, joint=', ')} and no {FILE}; "
                    "choose another folder"
                )
            return
        try:
            stored = json.loads(self._path.read_text())
            before, self.chosen, self.done = (stored[key] for key in ("asked", "chosen", "done"))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{self._path} cannot be read ({error!r}); choose another out"
            ) from error
        differing = [
            f"{name} is {before.get(name)!r} there and {value!r} here"
            for name, value in asked.items()
            if before.get(name) != value
        ]
        if differing and not self.done:
            self.chosen = {}  # nothing is made that could be mixed up
        elif differing:
            raise UserError(
                f"out {str(out)!r} was begun otherwise: {'; '.join(differing)}; choose another "
                "out, or ask as before"
            )

    def finish(self, stage: str, **facts: Any) -> None:
        """Note that a stage is finished, and what is known of it."""
        self.done[stage] = facts
        self.write()

    def write(self) -> None:
        """Write the record, whole or not at all."""
        content = {"asked": self._asked, "chosen": self.chosen, "done": self.done}
        write_json(self._path, content)


def stamp_of(wish: Wish) -> str:
    """Return hexadecimal digits that change with the names, sizes and times of what is read.

    Raises:
      UserError: there is no such folder of pictures, or no such file of captions.
    """
    found = hashlib.blake2b(digest_size=8)
    folder = Pictures(wish.images)
    files = [(name, wish.images / name) for name in folder.files]
    if wish.captions is not None:
        if not wish.captions.is_file():
            raise UserError(
                f"captions {str(wish.captions)!r}: no such file; give a CSV, TSV or JSON file, or "
                "nothing for the text beside each picture"
            )
        files.append(("", wish.captions))
    if not folder.pictures:
        raise UserError(
            f"images {str(wish.images)!r} holds no picture; give a folder of JPEG or PNG files"
        )
    for name, path in files:
        info = os.stat(path)
        found.update(f"{name}\n{info.st_size} {info.st_mtime_ns}\n".encode())
    return found.hexdigest()
