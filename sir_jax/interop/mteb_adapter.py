"""Use a retriever as an encoder in MTEB's audio-image retrieval tasks.

    import mteb, sir_jax
    from sir_jax.interop.mteb_adapter import MtebEncoder

    tasks = mteb.get_tasks(tasks=["SpokenCOCOA2IRetrieval", "SpokenCOCOI2ARetrieval"])
    mteb.evaluate(MtebEncoder(sir_jax.load(NAME)), tasks)

MTEB downloads the data; install it with `pip install 'sir_jax[mteb]'`. It is imported when a class
or method needs it.
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
    """An implementation of `mteb.models.EncoderProtocol` by a retriever."""

    def __init__(self, model: Retriever, licence: str | None = None):
        """Wrap a retriever.

        Args:
          model: a trained retriever.
          licence: MTEB's name for the licence of the weights, such as "cc-by-4.0"; None if unknown.

        Raises:
          UserError: MTEB is not installed.
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
          task_metadata: ignored; its prompts are for models that read text.
          hf_split: ignored.
          hf_subset: ignored.
          prompt_type: ignored, because queries and documents are encoded in the same way.
          batch_size: rows of a batch.
          show_progress_bar: whether to report progress on stderr.
          **kwargs: ignored; arguments for other encoders.

        Returns:
          float32[n, E], unit norm, in the loader's order.

        Raises:
          UserError: a batch has neither or both of the columns, or text or video; or an item cannot
            be read.
        """
        del task_metadata, hf_split, hf_subset, prompt_type, kwargs
        batches = iter(_without_decoding(inputs))
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
        """Return the inner products of corresponding rows, a tensor [n]."""
        from mteb.similarity_functions import pairwise_dot_score

        return pairwise_dot_score(embeddings1, embeddings2)


def _without_decoding(inputs: Iterable[Mapping[str, list]]) -> Iterable[Mapping[str, list]]:
    """Return batches with recordings as file contents if the loader's data set holds files.

    They are then decoded as a user's files are, without torchcodec and FFmpeg.
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
    """Turn a dict or a decoder of torchcodec into file contents, a path, or (samples, rate)."""
    if isinstance(item, Mapping) and "array" not in item:
        return _file(item)
    samples = np.asarray(item["array"])
    if samples.ndim > 1:
        samples = samples.T  # [channels, N] to [N, channels]
    # Arrow returns lists of float64.
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
        # MTEB requires 'organization/name' and uses it as a folder.
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
