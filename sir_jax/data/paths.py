"""Where corpora live."""

import os
from pathlib import Path


def data_dir(arg: str | os.PathLike | None = None) -> Path:
    """Return the folder that holds the corpora.

    Args:
      arg: the caller's choice; where empty, $SIR_JAX_DATA, else ``data`` under the current folder.
    """
    return Path(arg or os.environ.get("SIR_JAX_DATA") or "data").expanduser()
