"""Speech-image retrieval in JAX/Flax.

Dimension letters, used in every einsum and shape comment:

  B  batch              N  audio samples        T  speech frames
  P  image tokens       D  width                H  heads
  K  head width         E  joint embedding      Q  queue length
  G  gallery            R  re-rank list

Suffixes: ``_s`` speech, ``_i`` image, ``_m`` momentum teacher.

Data flows one way: data -> models -> losses -> training -> evaluation -> retrieval.
"""

__version__ = "0.1.0"


def __getattr__(name: str):
    # Only when asked for: `import sir_jax` alone stays light, and imports no JAX.
    if name in ("load", "Retriever"):
        from sir_jax.inference.retriever import Retriever

        return Retriever.load if name == "load" else Retriever
    if name == "Index":
        from sir_jax.index.index import Index

        return Index
    raise AttributeError(f"module 'sir_jax' has no attribute {name!r}")
