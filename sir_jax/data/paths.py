"""The folder of the corpora."""

import os
from pathlib import Path


def data_dir(arg: str | os.PathLike | None = None) -> Path:
    """Return the folder that holds the corpora.

    Args:
      arg: path of the folder; if empty, $SIR_JAX_DATA, else `data` in the current folder.
    """
    return Path(arg or os.environ.get("SIR_JAX_DATA") or "data").expanduser()
