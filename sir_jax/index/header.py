"""What an index says of itself: its model, its folder, how it is searched, what failed."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sir_jax.errors import UserError
from sir_jax.index.embed_lists import Failure
from sir_jax.index.engines.faiss_search import choose_way
from sir_jax.index.folder import Stamp
from sir_jax.inference.retriever import Retriever


class Head(NamedTuple):
    """An index without its vectors.

    Attributes:
      about: the model's 'name', 'fingerprint' and 'width'.
      root: see `index.Index`.
      way: likewise.
      failed: likewise.
    """

    about: dict[str, Any]
    root: Path | None
    way: str
    failed: dict[str, Failure]

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "model": dict(self.about),
            "normalised": True,
            "root": None if self.root is None else str(self.root),
            "way": self.way,
            "failed": dict(self.failed),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any], path: Path) -> "Head":
        """Read what `to_json` made.

        Args:
          content: plain data.
          path: of the file, for messages.

        Raises:
          UserError: it is something else.
        """
        try:
            about = {name: content["model"][name] for name in ("name", "fingerprint", "width")}
            failed = {
                name: Failure(why, source, None if stamp is None else Stamp(*stamp))
                for name, (why, source, stamp) in content["failed"].items()
            }
            if content["normalised"] is not True:
                raise ValueError("its vectors are not normalised")
            choose_way(0, content["way"])
            root = None if content["root"] is None else Path(content["root"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{path} is damaged ({error!r}); build the index again") from error
        return cls(about, root, content["way"], failed)


def as_model(model) -> Retriever:
    """Return a `Retriever`, loading it where it is named."""
    return Retriever.load(model) if isinstance(model, str | os.PathLike) else model


def describe(model: Retriever) -> dict[str, Any]:
    """Return what an index notes of a model."""
    return dict(name=model.name, fingerprint=model.fingerprint, width=model.width)


def check_model(about: Mapping[str, Any], model: Retriever, folder: str | os.PathLike) -> None:
    """Refuse a model whose vectors cannot be compared with an index'.

    Args:
      about: of the index.
      model: that is to search it or to add to it.
      folder: of the index, for the message.

    Raises:
      UserError: naming both models.
    """
    if model.fingerprint != about["fingerprint"]:
        raise UserError(
            f"{folder} is of model {about['name']} ({about['fingerprint'][:8]}), not of "
            f"{model.name} ({model.fingerprint[:8]}): their vectors cannot be compared; "
            "use that model or build the index again"
        )
