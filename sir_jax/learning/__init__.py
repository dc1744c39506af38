"""From a folder of captioned pictures to search by voice: corpus, training, release and index.

>>> from sir_jax.learning import Wish
>>> Wish("photos", "found", captions="names.csv", languages=("fr",)).hold_out_pictures
0
"""

from typing import Any

from sir_jax.learning.wish import Wish

__all__ = ["Learnt", "Wish", "learn"]


def __getattr__(name: str) -> Any:
    # Only when asked for: the command's help need not wait for JAX.
    if name in ("Learnt", "learn"):
        from sir_jax.learning import stages

        return getattr(stages, name)
    raise AttributeError(f"module 'sir_jax.learning' has no attribute {name!r}")
