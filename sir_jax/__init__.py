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
