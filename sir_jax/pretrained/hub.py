"""Find a checkpoint on this machine: a directory, one that ships with us, the hub's local cache."""

import os
import re
from pathlib import Path

from sir_jax.errors import UserError
from sir_jax.pretrained.files import INDEX, SINGLE

_PACKAGE = "package:"
# owner/name, as https://huggingface.co has it.
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
BIN, BIN_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"


def resolve(path: str | os.PathLike) -> Path:
    """Return a checkpoint's directory; nothing is downloaded.

    Args:
      path: a directory; 'package:NAME', one that ships with sir_jax; a folder `models--OWNER--NAME`
        of the hub's cache; or 'OWNER/NAME', looked up in that cache ($HF_HUB_CACHE, else
        $HF_HOME/hub, else ~/.cache/huggingface/hub) by its `refs/main`.

    Raises:
      UserError: where there is none, saying where it was looked for and how to get it.
    """
    text = os.fspath(path)
    folder = Path(text)
    if text.startswith(_PACKAGE):
        folder = Path(__file__).parent / text.removeprefix(_PACKAGE)
    elif folder.is_dir():
        folder = _snapshot(folder, text) if folder.name.startswith("models--") else folder
    elif _HUB_ID.fullmatch(text):
        folder = _snapshot(cache_folder() / f"models--{text.replace('/', '--')}", text)
    if (folder / "config.json").is_file():
        return folder
    what = "has no config.json" if folder.is_dir() else "is no directory"
    raise UserError(f"{text} {what}; give a directory as transformers saves it, or a hub id")


def cache_folder() -> Path:
    """Return where `huggingface_hub` keeps what it has downloaded."""
    for name, below in (
        ("HF_HUB_CACHE", ""),
        ("HUGGINGFACE_HUB_CACHE", ""),
        ("HF_HOME", "hub"),
        ("XDG_CACHE_HOME", "huggingface/hub"),
    ):
        if value := os.environ.get(name):
            return Path(value).expanduser() / below
    return Path.home() / ".cache" / "huggingface" / "hub"


def _snapshot(repository: Path, text: str) -> Path:
    """Return the snapshot of a cached repository that its `refs/main` names."""
    model = repository.name.removeprefix("models--").replace("--", "/", 1)
    remedy = f"get it with: hf download {model}"
    if not repository.is_dir():
        raise UserError(
            f"{text} is no directory here, and is not in the hub's cache ({repository}); {remedy}"
        )
    main = repository / "refs" / "main"
    if not main.is_file():
        # Downloads of another revision only; which one is meant is not for us to guess.
        found = sorted(str(p) for p in repository.glob("snapshots/*"))
        other = f", or give one of: {', '.join(found)}" if found else ""
        raise UserError(f"{repository} has no refs/main; {remedy}{other}")
    snapshot = repository / "snapshots" / main.read_text().strip()
    if not (snapshot / "config.json").is_file():
        raise UserError(f"{snapshot}, which {main} names, has no config.json; {remedy}")
    return snapshot


def find_weights(folder: Path) -> str | None:
    """Return which file holds or lists a checkpoint's weights, safetensors first; None: no file."""
    return next((x for x in (SINGLE, INDEX, BIN, BIN_INDEX) if (folder / x).is_file()), None)
