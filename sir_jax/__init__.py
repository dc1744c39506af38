"""Speech-image retrieval in JAX/Flax.

>>> import sir_jax
>>> model = sir_jax.load("spoken-scenes")
>>> model.encode_speech([]).shape  # [B, E], of which the pooled match has 128
(0, 256)

Dimension letters, used in every einsum and shape comment:

  B  batch              N  audio samples        T  speech frames
  P  image tokens       D  width                H  heads
  K  head width         E  joint embedding      Q  queue length
  G  gallery            R  re-rank list

Suffixes: ``_s`` speech, ``_i`` image, ``_m`` momentum teacher.

Each room imports from those before it alone: config, runtime, models, losses, pretrained, data,
objective, inference, training, index, evaluation, learning, page, interop, pods, benchmarks, cli.
Search (inference, index, page) does without training and objective.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sir_jax import models, pretrained
    from sir_jax.data.media.synthesis.said import say
    from sir_jax.index.index import Index
    from sir_jax.inference.retriever import Retriever

    load = Retriever.load

__version__ = "0.1.0"
__all__ = ["Index", "Retriever", "load", "models", "pretrained", "say"]


def __getattr__(name: str) -> Any:
    # Only when asked for: `import sir_jax` alone stays light, and imports no JAX.
    if name in ("load", "Retriever"):
        from sir_jax.inference.retriever import Retriever

        return Retriever.load if name == "load" else Retriever
    if name == "Index":
        from sir_jax.index.index import Index

        return Index
    if name == "say":
        from sir_jax.data.media.synthesis.said import say

        return say
    if name in ("models", "pretrained"):
        return importlib.import_module(f"sir_jax.{name}")
    raise AttributeError(f"module 'sir_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])
