"""A trained retriever, for people who never train: files in, unit vectors out."""

import os
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from sir_jax.data.audio import load_audio
from sir_jax.data.image import load_image
from sir_jax.evaluation.embed import embed_images, embed_speech, ordered_map
from sir_jax.models import build_model
from sir_jax.training.checkpoint import restore_params

# str | Path | bytes of a sound file, or (samples [N] or [N, channels], samples per second)
Speech = str | os.PathLike | bytes | tuple[np.ndarray, int]
# str | Path | bytes of a picture file, a PIL image, or uint8 [h, w], [h, w, 3] or [h, w, 4]
Picture = str | os.PathLike | bytes | Image.Image | np.ndarray


class Retriever:
    """Encode speech and images into one space, where a dot product is the similarity."""

    def __init__(self, cfg, params, batch_size: int = 32):
        """Hold a model ready to encode.

        Args:
          cfg: the whole config of the run that trained it.
          params: its parameters, a nested dict of arrays.
          batch_size: most items that are encoded at once.
        """
        self.cfg = cfg
        self.model = build_model(cfg.model)
        self.params = jax.tree.map(jnp.asarray, params)
        self.batch_size = batch_size

    @classmethod
    def load(cls, workdir: str | os.PathLike, which: str = "best", batch_size: int = 32):
        """Load a trained retriever from the folder it was trained in.

        Args:
          workdir: the `--workdir` of `sir-jax train`.
          which: 'best' or 'last' checkpoint.
          batch_size: most items that are encoded at once.

        Raises:
          UserError: there is no such checkpoint.
        """
        cfg, params = restore_params(workdir, which)
        return cls(cfg, params, batch_size)

    def encode_speech(self, clips: Sequence[Speech]) -> np.ndarray:
        """Encode recordings of any length, rate and channel count.

        Args:
          clips: a list of paths, file contents, or (samples, rate).

        Returns:
          float32[n, E], unit norm, in input order.

        Raises:
          UserError: a clip cannot be read; it is named by its path or its place in the list.
          TypeError: one item where a list belongs.
        """
        return self.encode_waves(ordered_map(_read_clip, enumerate(_several(clips))), len(clips))

    def encode_image(self, images: Sequence[Picture]) -> np.ndarray:
        """Encode pictures of any size.

        Args:
          images: a list of paths, file contents, PIL images or arrays.

        Returns:
          float32[n, E], unit norm, in input order.

        Raises:
          UserError: a picture cannot be read; it is named by its path or its place in the list.
          TypeError: one item where a list belongs.
        """
        pictures = ordered_map(_read_picture, enumerate(_several(images)))
        return self.encode_pictures(pictures, len(images))

    def encode_waves(self, waves: Iterable[np.ndarray], count: int) -> np.ndarray:
        """Encode decoded clips.

        Args:
          waves: float32[N] each, mono, 16 kHz.
          count: about how many; small ones get a small batch.

        Returns:
          float32[n, E].
        """
        return embed_speech(self.model, self.params, waves, self.cfg.data, self._rows(count))

    def encode_pictures(self, pictures: Iterable[Image.Image], count: int) -> np.ndarray:
        """Encode decoded pictures.

        Args:
          pictures: RGB PIL images.
          count: about how many; small ones get a small batch.

        Returns:
          float32[n, E].
        """
        return embed_images(self.model, self.params, pictures, self.cfg.data, self._rows(count))

    def _rows(self, count: int) -> int:
        # Powers of two: one query does not pay for a full batch, and few programs are compiled.
        return min(self.batch_size, 1 << max(count - 1, 0).bit_length())


def best_first(z_q: np.ndarray, z_g: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Search exactly; equal scores keep the gallery's order.

    Args:
      z_q: float32[n, E], queries.
      z_g: float32[G, E], gallery.
      k: results per query, 1..G.

    Returns:
      (int[n, k] rows of the gallery, float32[n, k] scores), best first.
    """
    scores = (z_q.astype(np.float64) @ z_g.astype(np.float64).T).astype(np.float32)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(scores, order, axis=1)


def _read_clip(item: tuple[int, Speech]) -> np.ndarray:
    place, source = item
    return load_audio(source, None if _is_path(source) else f"clip {place}")


def _read_picture(item: tuple[int, Picture]) -> Image.Image:
    place, source = item
    return load_image(source, None if _is_path(source) else f"picture {place}")


def _is_path(source) -> bool:
    return isinstance(source, str | os.PathLike)


def _several(items: Sequence) -> Sequence:
    # A string is a sequence too: its letters would be taken for paths.
    if isinstance(items, str | bytes | os.PathLike | Image.Image | np.ndarray):
        raise TypeError(f"expected a list of items, got one {type(items).__name__}: write [item]")
    return items
