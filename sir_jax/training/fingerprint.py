"""Whether the processes of a job run the same code with the same config on the same corpus.

Processes that differ would each compile a program of their own, and wait for each other for ever
or, worse, train on what nobody asked for.
"""

import hashlib
from pathlib import Path
from typing import Any

import jax

import sir_jax
from sir_jax.config.compare import config_differences, to_json
from sir_jax.data.corpus import Corpus
from sir_jax.errors import UserError
from sir_jax.runtime import distributed

# Places and labour on one machine; what they lead to is compared by itself.
OWN_FIELDS = (
    "data.data_dir",
    "data.features",
    "train.compile_cache",
    "train.num_threads",
    "train.num_workers",
)


def fingerprint(cfg, corpus: Corpus) -> dict[str, Any]:
    """Return what has to be the same in all processes, by its name, as JSON has it."""
    splits = {
        f"the index of split {name!r}": hashlib.sha256(split.index.tobytes()).hexdigest()
        for name, split in sorted(corpus.splits.items())
    }
    return {
        "config": to_json(cfg),
        "the code of sir_jax": code_hash(Path(sir_jax.__file__).parent),
        "the version of jax": jax.__version__,
        "the number of devices": jax.local_device_count(),
        "the kind of device": jax.local_devices()[0].device_kind,
        **splits,
    }


def code_hash(package: Path) -> str:
    """Return the SHA-256 of a package's source files, by their paths in it."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        source = path.read_bytes()
        digest.update(f"{path.relative_to(package).as_posix()} {len(source)};".encode())
        digest.update(source)
    return digest.hexdigest()


def check_same(cfg, corpus: Corpus) -> None:
    """Compare this process with the others.

    Raises:
      UserError: naming the first process that differs from process 0, and in what.
    """
    if not distributed.several():
        return
    first, *others = distributed.share("fingerprint", fingerprint(cfg, corpus))
    for peer, other in enumerate(others, 1):
        phrases = differences(first, other)
        if phrases:
            raise UserError(
                f"process 0 (there) and process {peer} (here) differ: {'; '.join(phrases)}; start "
                "the same command with the same code and corpus on every machine"
            )


def differences(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """Return a phrase for each thing in which two fingerprints differ."""
    config = config_differences(there["config"], here["config"])
    phrases = [phrase for name, phrase in config.items() if name not in OWN_FIELDS]
    for name in sorted((there.keys() | here.keys()) - {"config"}):
        a, b = (str(found.get(name, "missing"))[:12] for found in (there, here))
        if there.get(name) != here.get(name):
            phrases.append(f"{name} is {a} there and {b} here")
    return phrases
