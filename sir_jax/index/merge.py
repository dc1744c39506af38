"""Merge the chunks that all hosts embedded into one index."""

from collections.abc import Mapping
from pathlib import Path

from sir_jax.index.embed_lists import ChunkPlan, read_chunks
from sir_jax.index.folder import Passed
from sir_jax.index.gallery import write_index
from sir_jax.index.header import Header, describe_model
from sir_jax.index.items import Failure
from sir_jax.inference.retriever import Retriever
from sir_jax.runtime.locks import only_one


def merge_chunks(
    model: Retriever,
    plan: ChunkPlan,
    out: Path,
    root: Path | None,
    passed: Mapping[str, Passed] = {},
) -> tuple[dict[str, int], dict[str, Failure]]:
    """Write an index of all chunks of a list into the folder that holds them.

    Args:
      model: the model that made the chunks.
      plan: the whole list, cut into chunks.
      out: the folder of the chunks, which also gets the index.
      root: the folder that ids are relative to; None if ids are paths.
      passed: the files of the folder that are not in the list.

    Returns:
      (the counts of 'images' and 'recordings', the failures by id).

    Raises:
      UserError: chunks are missing, damaged, or of another model or list; or
        another process writes there.
    """
    galleries, failed, noted = read_chunks(model, plan, out)
    header = Header(describe_model(model), root, "auto", failed, dict(passed), noted)
    with only_one(out, "out"):
        write_index(out, header.to_json(), galleries)
    return dict(images=len(galleries["image"].ids), recordings=len(galleries["speech"].ids)), failed
