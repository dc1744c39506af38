"""Merge the chunks that all hosts embedded into one index."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from sir_jax.errors import UserError, first_few
from sir_jax.index.embed_lists import ChunkPlan, read_chunks
from sir_jax.index.folder import Passed
from sir_jax.index.gallery import INDEX_FILE, read_index, write_index
from sir_jax.index.header import Header, describe_model
from sir_jax.index.items import Failure
from sir_jax.index.updates import REMOVED_SHARE
from sir_jax.inference.retriever import Retriever
from sir_jax.runtime.locks import only_one


class Merged(NamedTuple):
    """The outcome of a merge.

    Attributes:
      counts: how many 'images' and 'recordings' the index holds.
      failed: id -> `Failure` of what is not in it.
      noted: id -> what is odd about an item that is.
    """

    counts: dict[str, int]
    failed: dict[str, Failure]
    noted: dict[str, str]


def merge_chunks(
    model: Retriever,
    plan: ChunkPlan,
    out: Path,
    root: Path | None,
    passed: Mapping[str, Passed] = {},
) -> Merged:
    """Write an index of all chunks of a list into the folder that holds them.

    Args:
      model: the model that made the chunks.
      plan: the whole list, cut into chunks.
      out: the folder of the chunks, which also gets the index.
      root: the folder that ids are relative to; None if ids are paths.
      passed: the files of the folder that are not in the list.

    Raises:
      UserError: chunks are missing, damaged, or of another model or list; `out` holds an index of
        which more would go than an update removes; or another process writes there.
    """
    galleries, failed, noted = read_chunks(model, plan, out)
    header = Header(describe_model(model), root, "auto", failed, dict(passed), noted)
    with only_one(out, "out"):
        _check_replaced(out, plan)
        write_index(out, header.to_json(), galleries)
    counts = dict(images=len(galleries["image"].ids), recordings=len(galleries["speech"].ids))
    return Merged(counts, failed, noted)


def _check_replaced(out: Path, plan: ChunkPlan) -> None:
    """Refuse to replace an index of other files: its folder may be out of reach."""
    if not (out / INDEX_FILE).exists():
        return
    before = [name for gallery in read_index(out, False)[1].values() for name in gallery.ids]
    listed = {item.id for items in plan.items.values() for item in items}
    lost = [name for name in before if name not in listed]
    if len(lost) > max(1, REMOVED_SHARE * len(before)):
        raise UserError(
            f"{out} holds an index of which {len(lost):,} of {len(before):,} items are not in the "
            f"list ({first_few(lost, joint=', ')}); choose another --out, or delete {INDEX_FILE}"
        )
