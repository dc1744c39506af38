"""A retriever as an encoder of MTEB, for its audio-image retrieval tasks.

    import mteb, sir_jax
    from sir_jax.retrieval.mteb_adapter import MtebEncoder

    tasks = mteb.get_tasks(tasks=["SpokenCOCOA2IRetrieval", "SpokenCOCOI2ARetrieval"])
    mteb.evaluate(MtebEncoder(sir_jax.load(NAME)), tasks)

MTEB brings the data (`pip install 'sir_jax[mteb]'`). Nothing of it is imported before it is needed.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from sir_jax.errors import UserError
from sir_jax.inference.retriever import Retriever

# MTEB's column -> the retriever's method.
_METHODS = {"audio": "encode_speech", "image": "encode_image"}
_MODALITIES = ("audio", "image", "text", "video")


class MtebEncoder:
    """Fill `mteb.models.EncoderProtocol` with a retriever."""

    def __init__(self, model: Retriever, licence: str | None = None):
        """Wrap a retriever.

        Args:
          model: a trained retriever.
          licence: of its weights, by MTEB's name for it ("cc-by-4.0"); None for unknown.

        Raises:
          UserError: mteb is not installed.
        """
        self.model = model
        self.mteb_model_meta = _metadata(model, licence)

    def encode(
        self,
        inputs: Iterable[Mapping[str, list]],
        *,
        task_metadata: Any = None,
        hf_split: str = "",
        hf_subset: str = "",
        prompt_type: Any = None,
        batch_size: int | None = None,
        show_progress_bar: bool = False,
        **kwargs: Any,
    ) -> np.ndarray:
        """Encode the recordings or the pictures of a data loader.

        Args:
          inputs: batches with the column 'audio' or 'image'.
          task_metadata: of the task; its prompts are for models that read text.
          hf_split: not used.
          hf_subset: not used.
          prompt_type: not used: queries and documents are encoded alike.
          batch_size: rows of a batch.
          show_progress_bar: draw one.
          **kwargs: of other encoders.

        Returns:
          float32[n, E], unit norm, in the loader's order.

        Raises:
          UserError: a batch holds neither or both, or text or video; or an item cannot be read.
        """
        del task_metadata, hf_split, hf_subset, prompt_type, kwargs
        batches = iter(_undecoded(inputs))
        first = next(batches, None)
        if first is None:
            return np.zeros((0, self.model.width), np.float32)
        columns = [name for name in _MODALITIES if name in first]
        if len(columns) != 1 or columns[0] not in _METHODS:
            raise UserError(
                f"a batch of {' + '.join(columns) or 'nothing'}: this model encodes audio alone or "
                "image alone; choose a task of category a2i or i2a"
            )
        encode = getattr(self.model, _METHODS[columns[0]])
        read = _recording if columns[0] == "audio" else _picture
        items = (read(item) for item in _items(first, batches, columns[0]))
        return encode(items, batch_size=batch_size, progress=show_progress_bar)

    def similarity(self, embeddings1, embeddings2):
        """Return the inner products of all pairs, a tensor [n, m]."""
        from mteb.similarity_functions import dot_score

        return dot_score(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1, embeddings2):
        """Return the inner products of rows of equal number, a tensor [n]."""
        from mteb.similarity_functions import pairwise_dot_score

        return pairwise_dot_score(embeddings1, embeddings2)


def _undecoded(inputs: Iterable[Mapping[str, list]]) -> Iterable[Mapping[str, list]]:
    """Return batches whose recordings are file contents, where the loader's data set has them.

    So they are decoded as a user's files are, and torchcodec and FFmpeg are not needed.
    """
    dataset = getattr(inputs, "dataset", None)
    column = getattr(dataset, "features", {}).get("audio")
    if type(column).__name__ != "Audio":
        return inputs
    from datasets import Audio

    rows = dataset.cast_column("audio", Audio(decode=False))
    return ({name: [row[name]] for name in _MODALITIES if name in row} for row in rows)


def _items(first: Mapping[str, list], rest: Iterable[Mapping], column: str) -> Iterator:
    yield from first[column]
    for batch in rest:
        yield from batch[column]


def _recording(item: Any) -> bytes | str | tuple[np.ndarray, int]:
    """Return file contents, a path, or (samples, rate), of a dict or of torchcodec's decoder."""
    if isinstance(item, Mapping) and "array" not in item:
        return _file(item)
    samples = np.asarray(item["array"])
    if samples.ndim > 1:
        samples = samples.T  # channels come first there, last here
    # Arrow hands lists of float64 back.
    samples = samples.astype(np.float32) if samples.dtype == np.float64 else samples
    return samples, int(item["sampling_rate"])


def _picture(item: Any) -> Any:
    return _file(item) if isinstance(item, Mapping) else item


def _file(item: Mapping) -> bytes | str:
    return bytes(item["bytes"]) if item.get("bytes") else item["path"]


def _metadata(model: Retriever, licence: str | None):
    try:
        from mteb.models import ModelMeta
        from mteb.models.model_meta import ScoringFunction
    except ImportError as error:
        raise UserError(
            f"{error.name} is not installed; MTEB needs it: pip install 'sir_jax[mteb]'"
        ) from error
    leaves = jax.tree.leaves(model.params)
    return ModelMeta(
        loader=None,
        # MTEB wants 'organization/name' and makes a folder of it.
        name="sir_jax/" + re.sub(r"[^\w.-]+", "_", model.name),
        revision=model.fingerprint,
        release_date=None,
        languages=None,
        n_parameters=sum(leaf.size for leaf in leaves),
        memory_usage_mb=sum(leaf.nbytes for leaf in leaves) / 2**20,
        max_tokens=None,
        embed_dim=model.width,
        license=licence,
        open_weights=None,
        public_training_code=None,
        public_training_data=None,
        framework=["JAX"],
        similarity_fn_name=ScoringFunction.DOT_PRODUCT,
        use_instructions=False,
        training_datasets=None,
        modalities=["audio", "image"],
    )
