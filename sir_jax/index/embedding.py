"""Embed items of one kind; one that cannot be read, or gets no usable vector, is named instead.

Decoding overlaps with encoding.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from sir_jax.data.media.audio import SAMPLE_RATE, longest_window
from sir_jax.data.parallel import GROUP
from sir_jax.errors import BadMedia, UserError
from sir_jax.index.folder import digest_of
from sir_jax.index.gallery import Gallery
from sir_jax.index.items import Failure, Item
from sir_jax.index.moments.embed import embed_long
from sir_jax.index.moments.store import Moments
from sir_jax.index.vectors import are_usable
from sir_jax.inference.inputs import Noted, Reader, read_speech

# Stands for a recording that is read later, by its windows.
LONG = np.zeros(0, np.float32)


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
    rows = encode((x for x in reader(contents()) if x is not LONG), len(items), batch_size)
    failed = {
        items[n].id: _failure(items[n], why, loader.faults.get(n, "error"))
        for n, why in reader.failures
    }
    rows, positions, moments = _add_long(model, items, rows, reader, loader, failed, batch_size)
    good = are_usable(rows)
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
        moments=moments and moments.taken([item.id for item, _ in read]),
    )
    noted = {items[n].id: loader.notes[n] for n in positions[good] if n in loader.notes}
    return Embedded(gallery, failed, noted)


def _add_long(
    model, items: Sequence[Item], rows: np.ndarray, reader, loader, failed, batch_size
) -> tuple[np.ndarray, np.ndarray, Moments | None]:
    """Embed the recordings that `loader` has put aside because they are long.

    Returns:
      The rows of all items that were read, those of long ones the means of their windows; the
      items' positions; and the windows.
    """
    positions = np.array(reader.positions, int)
    if not loader.long:
        return rows, positions, None
    sounds = [(items[n].id, items[n].content) for n in sorted(loader.long)]
    moments, errors, notes = embed_long(model, sounds, batch_size)
    for n in sorted(loader.long):
        if note := notes.get(items[n].id):
            loader.notes[n] = note
        if error := errors.get(items[n].id):
            if reader.errors == "raise":
                raise error
            failed[items[n].id] = _failure(items[n], str(error), getattr(error, "fault", "error"))
    means = dict(zip(moments.ids, moments.means(), strict=True)) if moments else {}
    short = iter(rows)
    found = [
        (n, means.get(items[n].id) if n in loader.long else next(short)) for n in reader.positions
    ]
    found = [(n, row) for n, row in found if row is not None]
    matrix = np.array([row for _, row in found], np.float32).reshape(len(found), rows.shape[1])
    return matrix, np.array([n for n, _ in found], int), moments


class _Loader:
    """Read items of one kind, in threads.

    Attributes:
      faults: position -> `BadMedia.fault` of each item that could not be read.
      notes: position -> what is odd about an item that could be.
      digests: position -> digest of the file.
      long: positions of recordings that are longer than the model reads at once: for these, `LONG`
        is returned.
    """

    def __init__(self, model, items: Sequence[Item], kind: str):
        self._items = items
        picture = kind == "image"
        self._most = longest_window(model.cfg.data) / SAMPLE_RATE
        self._read = model.read_pixels if picture else self._read_short
        self.long: set[int] = set()
        self._noun = "picture" if picture else "clip"
        self.faults: dict[int, str] = {}
        self.notes: dict[int, str] = {}
        self.digests: dict[int, str] = {}

    def _read_short(self, position: int, content: Any) -> Noted:
        try:
            return read_speech(position, content, self._most)
        except BadMedia as error:
            if error.fault != "too long":
                raise
            self.long.add(position)
            return Noted(LONG, "")

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
