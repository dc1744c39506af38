"""Find a checkpoint on this machine: a directory, one that ships with us, the hub's local cache."""

import os
import re
from pathlib import Path

from sir_jax.errors import UserError
from sir_jax.pretrained.files import INDEX, SINGLE

CONFIG = "config.json"
_PACKAGE = "package:"
# What the name of a repository's folder in the hub's cache begins with.
_CACHED = "models--"
# owner/name, as https://huggingface.co has it.
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
BIN, BIN_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"


def resolve(path: str | os.PathLike) -> Path:
    """Return a checkpoint's directory; nothing is downloaded.

    Args:
      path: a directory; 'package:NAME', one that ships with sir_jax; 'OWNER/NAME', which the hub's
        cache on this machine has; or its folder `models--OWNER--NAME` there.

    Raises:
      UserError: where there is none, saying where it was looked for and how to get it; for the
        hub's cache without `huggingface_hub`.
    """
    text = os.fspath(path)
    folder = Path(text)
    if text.startswith(_PACKAGE):
        folder = Path(__file__).parent / text.removeprefix(_PACKAGE)
    elif folder.is_dir():
        if folder.name.startswith(_CACHED):
            name = folder.name.removeprefix(_CACHED).replace("--", "/", 1)
            folder = _snapshot(name, folder.parent)
    elif _HUB_ID.fullmatch(text):
        folder = _snapshot(text)
    if (folder / CONFIG).is_file():
        return folder
    what = f"has no {CONFIG}" if folder.is_dir() else "is no directory"
    raise UserError(f"{text} {what}; give a directory as transformers saves it, or a hub id")


def _snapshot(name: str, cache: Path | None = None) -> Path:
    """Return the snapshot of a repository that its `refs/main` names.

    Args:
      name: of the repository, 'OWNER/NAME'.
      cache: the folder that holds it; None for the hub's own, as its environment variables say.
    """
    try:
        from huggingface_hub import constants, try_to_load_from_cache
    except ModuleNotFoundError:
        raise UserError(
            f"{name} is no directory here, and reading the hub's cache needs huggingface_hub; "
            "pip install huggingface_hub, or give the folder that holds config.json"
        ) from None
    cache = Path(constants.HF_HUB_CACHE) if cache is None else cache
    try:
        found = try_to_load_from_cache(name, CONFIG, cache)
    except ValueError as error:  # a name that the hub forbids
        raise UserError(f"{name} is no directory here, and no hub id: {error}") from None
    if isinstance(found, str):
        return Path(found).parent
    raise _absent(name, cache / f"{_CACHED}{name.replace('/', '--')}")


def _absent(name: str, repository: Path) -> UserError:
    """Return the error that says why a repository's folder gives no checkpoint."""
    remedy, main = f"get it with: hf download {name}", repository / "refs" / "main"
    if not repository.is_dir():
        return UserError(
            f"{name} is no directory here, and is not in the hub's cache ({repository}); {remedy}"
        )
    if not main.is_file():
        # Downloads of another revision only; which one is meant is not for us to guess.
        found = sorted(str(p) for p in repository.glob("snapshots/*"))
        other = f", or give one of: {', '.join(found)}" if found else ""
        return UserError(f"{repository} has no refs/main; {remedy}{other}")
    snapshot = repository / "snapshots" / main.read_text()
    return UserError(f"{snapshot}, which {main} names, has no {CONFIG}; {remedy}")


def find_weights(folder: Path) -> str | None:
    """Return which file holds or lists a checkpoint's weights, safetensors first; None: no file."""
    return next((x for x in (SINGLE, INDEX, BIN, BIN_INDEX) if (folder / x).is_file()), None)
