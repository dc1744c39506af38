"""The header of an index: its model, its folder, how it is searched, what is not in it."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sir_jax.errors import UserError
from sir_jax.index.engines.faiss_search import choose_way
from sir_jax.index.folder import Passed, Stamp
from sir_jax.index.items import Failure, read_failure
from sir_jax.index.moments.store import count_moments
from sir_jax.inference.retriever import Retriever


class Header(NamedTuple):
    """Everything that an index stores besides its galleries.

    Attributes:
      about: 'name', 'fingerprint' and 'width' of the model that made the vectors.
      root: the folder that ids are relative to; None for an index of other items.
      way: how the index is searched, one of `engines.WAYS`.
      failed: id -> `Failure` of each file that could not be read.
      passed: id -> `Passed` of each file of the folder that is neither picture nor recording.
      noted: id -> what is odd about an item, such as digital silence.
    """

    about: dict[str, Any]
    root: Path | None
    way: str
    failed: dict[str, Failure]
    passed: dict[str, Passed]
    noted: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return the header as plain data."""
        return {
            "model": dict(self.about),
            "normalised": True,
            "root": None if self.root is None else str(self.root),
            "way": self.way,
            "failed": dict(self.failed),
            "passed": dict(self.passed),
            "noted": dict(self.noted),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any], path: Path) -> "Header":
        """Read the plain data that `to_json` made.

        Args:
          content: plain data.
          path: the file that the data was read from, for messages.

        Raises:
          UserError: the data is not a header.
        """
        try:
            about = {name: content["model"][name] for name in ("name", "fingerprint", "width")}
            failed = {name: read_failure(values) for name, values in content["failed"].items()}
            # Older indexes do not have these two.
            passed = {
                name: Passed(why, None if stamp is None else Stamp(*stamp))
                for name, (why, stamp) in content.get("passed", {}).items()
            }
            noted = {str(name): str(note) for name, note in content.get("noted", {}).items()}
            if content["normalised"] is not True:
                raise ValueError("its vectors are not normalised")
            choose_way(0, content["way"])
            root = None if content["root"] is None else Path(content["root"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{path} is damaged ({error!r}); build the index again") from error
        return cls(about, root, content["way"], failed, passed, noted)


def as_model(model) -> Retriever:
    """Return a `Retriever`; `model` may also be what `Retriever.load` takes."""
    return Retriever.load(model) if isinstance(model, str | os.PathLike) else model


def describe_model(model: Retriever) -> dict[str, Any]:
    """Return what an index stores about its model."""
    return dict(name=model.name, fingerprint=model.fingerprint, width=model.width)


def describe_index(index) -> dict[str, Any]:
    """Return a summary of an index as plain data, see `Index.describe`."""
    return {
        "images": len(index.images),
        "recordings": len(index.recordings),
        **count_moments(index.recordings.moments),
        "failed": len(index.failed),
        "passed_over": len(index.passed),
        "noted": len(index.noted),
        "root": str(index.root or ""),
        "model": index.about["name"],
        "fingerprint": index.about["fingerprint"],
        "width": index.about["width"],
        "way": index.way,
    }


def check_model(about: Mapping[str, Any], model: Retriever, folder: str | os.PathLike) -> None:
    """Refuse a model whose vectors cannot be compared with those of an index.

    Args:
      about: `Index.about`.
      model: the model that is to search the index or add to it.
      folder: the folder of the index, for the message.

    Raises:
      UserError: the index was made by another model; the message names both.
    """
    if model.fingerprint != about["fingerprint"]:
        raise UserError(
            f"{folder} is of model {about['name']} ({about['fingerprint'][:8]}), not of "
            f"{model.name} ({model.fingerprint[:8]}): their vectors cannot be compared; "
            "use that model or build the index again"
        )
