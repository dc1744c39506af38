"""The workdir as a place: where it lies, that all processes see it, and that one job has it."""

import contextlib
import json
import os
import secrets
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ml_collections import ConfigDict

from sir_jax.config.compare import CONFIG_FILE, to_json
from sir_jax.errors import UserError
from sir_jax.runtime import distributed
from sir_jax.runtime.files import write_json
from sir_jax.runtime.locks import LOCK, Taken, locked, owner_name

JOB = "job.json"
SEEN = "processes.json"
CHECKPOINTS = "checkpoints"
EVALUATIONS = "evaluations.json"
# Of the evaluations during training, which one tells the best checkpoint.
BEST_METRIC = "val/mean_r1"

# Scheme of a URL -> the package that reaches such storage.
SCHEMES = {"gs": "gcsfs", "s3": "s3fs", "az": "adlfs", "hf": "huggingface_hub"}

# Seconds. A bucket has no locks; there a job that runs rewrites its file so often, and one whose
# file has not changed for longer than that is dead.
BEAT = 20.0
DEAD = 50.0
# For a file of process 0 to show on another machine.
VISIBLE = 20.0


def as_path(workdir: str | os.PathLike) -> Path:
    """Return a workdir's path; a URL's, as gs://BUCKET/run, has the same methods.

    Raises:
      UserError: a URL of another kind than those of `SCHEMES`.
    """
    if not is_remote(workdir):
        return Path(workdir)
    scheme = os.fspath(workdir).partition("://")[0]
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise UserError(
            f"{workdir}: no folder can be opened by {scheme}://; download it and give the folder, "
            f"or a URL of {known}"
        )
    from etils import epath

    return epath.Path(workdir)


def is_remote(workdir: str | os.PathLike) -> bool:
    """Tell whether a workdir is a URL."""
    return "://" in os.fspath(workdir)


def require_local(folder: str | os.PathLike) -> Path:
    """Return the path of a folder that is memory-mapped and locked, so cannot be in a bucket.

    Raises:
      UserError: it is a URL.
    """
    if is_remote(folder):
        raise UserError(f"{folder}: an index is a local folder; write it to one and copy it there")
    return Path(folder)


def check_reachable(workdir: Path) -> None:
    """See that a workdir's storage can be reached; nothing is checked of a local one.

    Raises:
      UserError: the package for it is missing, or the storage does not answer.
    """
    if not is_remote(workdir):
        return
    try:
        workdir.exists()
    except ImportError as error:
        package = SCHEMES[os.fspath(workdir).partition("://")[0]]
        raise UserError(f"{workdir}: {error}; pip install {package}") from None
    # Each remote file system has its own exceptions.
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{workdir} cannot be reached ({type(error).__name__}: {reason})") from None


def check_shared(workdir: Path) -> None:
    """See that every process writes to the same folder; makes it where there are several.

    Raises:
      UserError: it cannot be made, or this process does not see what process 0 wrote there.
    """
    if not distributed.several():
        return
    token = secrets.token_hex(8)
    path = workdir / SEEN
    if distributed.is_first():
        make_folder(workdir)
        path.write_text(json.dumps(token) + "\n")
    token = distributed.from_first("workdir", token)
    deadline = time.monotonic() + VISIBLE
    while not path.exists() or json.loads(path.read_text() or '""') != token:
        if time.monotonic() > deadline:
            raise UserError(
                f"workdir {workdir} is not the folder of that name that process 0 sees; give one "
                "on storage that all machines share, as gs://BUCKET/run"
            )
        time.sleep(0.1)


def make_folder(workdir: Path) -> None:
    """Make a workdir where it is missing.

    Raises:
      UserError: it cannot be made.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"workdir {workdir}: {error.strerror}; choose another folder") from error


def claim_workdir(cfg: ConfigDict, workdir: Path) -> None:
    """Make the folder where it is missing, and write the config into it.

    Raises:
      UserError: where that cannot be done.
    """
    make_folder(workdir)
    try:
        write_json(workdir / CONFIG_FILE, to_json(cfg))
    except OSError as error:
        raise UserError(f"workdir {workdir}: {error.strerror}; choose another folder") from error


def read_evaluations(folder: Path, last: int) -> dict[int, dict[str, float]]:
    """Read the evaluations made during training, by their steps.

    Args:
      folder: with the checkpoints.
      last: the newest checkpoint's step; evaluations after it will be made again, and are left out.
    """
    path = folder / EVALUATIONS
    stored = json.loads(path.read_text()) if path.exists() else {}
    return {int(step): metrics for step, metrics in stored.items() if int(step) <= last}


def best_step(evaluations: Mapping[int, Mapping[str, float]], steps: Iterable[int]) -> int | None:
    """Return which of the steps has the highest score, the earlier of equals; None without any."""
    scored = sorted(step for step in steps if BEST_METRIC in evaluations.get(step, ()))
    return max(scored, key=lambda step: evaluations[step][BEST_METRIC], default=None)


class Hold:
    """One job's hold of a workdir, from `take` to the end of the `with` block."""

    def __init__(self, workdir: Path):
        """Hold nothing yet."""
        self._workdir = workdir
        self._stack = contextlib.ExitStack()
        self._taken = False

    def take(self) -> None:
        """Take the workdir where it exists, unless it is taken; process 0 does, for all.

        Raises:
          UserError: another job has it.
        """
        if self._taken or not distributed.is_first() or not self._workdir.is_dir():
            return
        held = _beating if is_remote(self._workdir) else _locked
        self._stack.enter_context(held(self._workdir))
        self._taken = True

    def __enter__(self) -> "Hold":
        return self

    def __exit__(self, *error) -> None:
        self._stack.close()


def _in_use(workdir: Path, owner: str) -> UserError:
    return UserError(
        f"workdir {workdir} is in use by another job ({owner}); stop that one, or choose another "
        "workdir"
    )


@contextlib.contextmanager
def _locked(workdir: Path) -> Iterator[None]:
    """Hold a local folder by a lock of the kernel."""
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(locked(workdir / LOCK))
        except OSError as error:
            raise UserError(
                f"workdir {workdir}: {error.strerror}; choose another folder"
            ) from error
        except Taken as taken:
            raise _in_use(workdir, taken.owner) from None
        yield


def _wait_for_dead(path: Path, workdir: Path) -> None:
    """Return once the job that beats in `path` has ended or gone silent; raise if it beats on."""

    def read() -> str | None:
        return path.read_text() if path.exists() else None

    before = read()
    deadline = time.monotonic() + DEAD
    while before is not None and time.monotonic() < deadline:
        time.sleep(BEAT / 10)
        now = read()
        if now is None:
            return
        if before and now and now != before:
            raise _in_use(workdir, json.loads(before)["owner"])
        before = before or now  # an empty file is one that is being written


@contextlib.contextmanager
def _beating(workdir: Path) -> Iterator[None]:
    """Hold a folder of a bucket: by a file that its job rewrites, and removes at its end."""
    path, over = workdir / JOB, threading.Event()
    _wait_for_dead(path, workdir)

    def beat(number: int) -> None:
        with contextlib.suppress(OSError):  # the next one may get through
            path.write_text(json.dumps({"owner": owner_name(), "beat": number}) + "\n")

    def beat_on() -> None:
        number = 1
        while not over.wait(BEAT):
            number += 1
            beat(number)

    beat(1)  # before the caller goes on: the next job must find it
    thread = threading.Thread(target=beat_on, name="workdir", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        path.unlink(missing_ok=True)
