"""Embed items of one kind; one that cannot be read, or gets no usable vector, is named instead.

Decoding overlaps with encoding.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from sir_jax.data.parallel import GROUP
from sir_jax.errors import BadMedia, UserError
from sir_jax.index.folder import digest_of
from sir_jax.index.gallery import Gallery
from sir_jax.index.items import Failure, Item
from sir_jax.index.vectors import are_usable
from sir_jax.inference.inputs import Reader, read_speech


class Embedded(NamedTuple):
    """The outcome of embedding items of one kind.

    Attributes:
      gallery: of the items with a vector.
      failed: id -> `Failure` of the others.
      noted: id -> what is odd about an item that has a vector, such as 'digital silence'.
    """

    gallery: Gallery
    failed: dict[str, Failure]
    noted: dict[str, str]


def embed_items(
    model,
    items: Sequence[Item],
    kind: str,
    *,
    errors: str = "skip",
    batch_size: int | None = None,
    done: Callable[[], None] = lambda: None,
) -> Embedded:
    """Embed items of one kind.

    Args:
      model: a `Retriever`.
      items: the items, all of one kind.
      kind: 'image' or 'speech'.
      errors: what happens to an item that cannot be read: 'skip' or 'raise'.
      batch_size: most items that are encoded at once; None for the model's own.
      done: called after each item.

    Raises:
      UserError: an item cannot be read and errors is 'raise', or the model is damaged.
    """
    if not items:
        return Embedded(Gallery.empty(kind, model.width), {}, {})
    loader = _Loader(model, items, kind)
    reader = Reader(loader, errors, False, kind, GROUP if kind == "image" else 1)

    def contents() -> Iterator:
        for item in items:
            yield item.content
            done()

    encode = model.encode_pixels if kind == "image" else model.encode_waves
    rows = encode(reader(contents()), len(items), batch_size)
    failed = {
        items[n].id: _failure(items[n], why, loader.faults.get(n, "error"))
        for n, why in reader.failures
    }
    good, positions = are_usable(rows), np.array(reader.positions, int)
    if not good.all():
        _require_sound(model, kind)
        for n in positions[~good]:
            what = "pixels" if kind == "image" else "samples"
            why = f"{items[n].label}: its {what} give no vector of finite length; export it again"
            if errors == "raise":
                raise BadMedia(why)
            failed[items[n].id] = _failure(items[n], why, "undecodable")
        rows = rows[good]
    read = [(items[n], loader.digests.get(n)) for n in positions[good]]
    gallery = Gallery(
        kind,
        [item.id for item, _ in read],
        rows,
        [item.source for item, _ in read],
        [item.stamp and item.stamp._replace(digest=digest or "") for item, digest in read],
    )
    noted = {items[n].id: loader.notes[n] for n in positions[good] if n in loader.notes}
    return Embedded(gallery, failed, noted)


class _Loader:
    """Read items of one kind, in threads.

    Attributes:
      faults: position -> `BadMedia.fault` of each item that could not be read.
      notes: position -> what is odd about an item that could be.
      digests: position -> digest of the file.
    """

    def __init__(self, model, items: Sequence[Item], kind: str):
        self._items = items
        picture = kind == "image"
        self._read = model.read_pixels if picture else read_speech
        self._noun = "picture" if picture else "clip"
        self.faults: dict[int, str] = {}
        self.notes: dict[int, str] = {}
        self.digests: dict[int, str] = {}

    def __call__(self, position: int, content: Any) -> np.ndarray:
        item = self._items[position]
        if item.source is not None:
            self.digests[position] = digest_of(content)
        try:
            value, note = self._read(position, content)
        except UserError as error:
            self.faults[position] = getattr(error, "fault", "error")
            raise
        # A decoder's own mistake in one file must not cost the others their vectors.
        except Exception as error:
            self.faults[position] = "undecodable"
            lines = str(error).strip().splitlines() or [""]
            raise BadMedia(
                f"{item.label}: cannot be read "
                f"({type(error).__name__}: {lines[0][:200]}); convert or replace it"
            ) from error
        if note:
            name = f"{self._noun} {position}" if item.source is None else str(content)
            # Without the name, so that items with the same note can be counted.
            self.notes[position] = note.removeprefix(name).lstrip(": ")
        return value


def _failure(item: Item, why: str, fault: str) -> Failure:
    return Failure(why, item.source, item.stamp, fault)


def _require_sound(model, kind: str) -> None:
    """Refuse a model that gives no vector for noise, either.

    Raises:
      UserError: it is damaged.
    """
    rng = np.random.default_rng(0)
    if kind == "image":
        noise = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        rows = model.encode_pixels([model.load_pixels(0, noise)], 1)
    else:
        rows = model.encode_waves([0.1 * rng.standard_normal(16_000).astype(np.float32)], 1)
    if not are_usable(rows).all():
        raise UserError(
            f"model {model.name} is damaged: its vectors are not finite, whatever it is given"
        )
