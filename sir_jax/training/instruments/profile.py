"""A trace of some steps in XProf's form, and the texts of the programs that ran in them.

A trace names instructions. The text of a program says from which scopes each of them comes: Flax
names every module, the objective its terms, the train step its parts.
"""

import contextlib
import gzip
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import jax

from sir_jax.runtime import distributed
from sir_jax.runtime.console import say
from sir_jax.runtime.workdir import is_remote

# Of a workdir; the texts of programs lie in a folder of the trace's.
FOLDER, PROGRAMS = "profile", "programs"
# What one step is called in a trace.
STEP = "train"


def step_mark(step: int) -> contextlib.AbstractContextManager:
    """Return what marks the dispatch of a step in a trace, by the number of its update."""
    return jax.profiler.StepTraceAnnotation(STEP, step_num=step)


def start_trace(folder: Path) -> None:
    """Begin to trace into a local folder; what a trace before it left there stays.

    Without the calls of Python, which are most of a trace's events, and slow down what is traced.
    """
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    jax.profiler.start_trace(str(folder), profiler_options=options)


def stop_trace(folder: Path, programs: Iterable[Callable]) -> None:
    """End a trace, and write the texts of compiled programs beside it.

    Args:
      folder: as for `start_trace`.
      programs: those that ran; what has no text is left out.
    """
    jax.profiler.stop_trace()
    (folder / PROGRAMS).mkdir(parents=True, exist_ok=True)
    for number, program in enumerate(programs):
        text_of = getattr(getattr(program, "compiled", program), "as_text", None)
        if text_of:
            path = folder / PROGRAMS / f"{number}.hlo.gz"
            path.write_bytes(gzip.compress(text_of().encode(), 1))


class StepTrace:
    """The trace of a run's steps that `train.profile` asks for; the first process writes it."""

    def __init__(self, profile: tuple[int, int], workdir: Path, programs: Iterable[Callable]):
        """Trace nothing yet.

        Args:
          profile: `train.profile`.
          workdir: gets the folder `profile`.
          programs: the compiled train steps.
        """
        self._first, self._count = profile
        self._workdir, self._programs = workdir, programs
        self._into: Path | None = None  # where the trace goes, while there is one
        self._began = 0
        self._done = not self._count or not distributed.is_first()

    def begins(self, step: int) -> bool:
        """Tell whether the trace begins before the update that follows a step.

        A run that goes on within the stretch traces the rest of it.
        """
        return not self._done and self._first <= step < self._first + self._count

    def ends(self, step: int) -> bool:
        """Tell whether the trace has all its steps."""
        return self._into is not None and step >= self._first + self._count

    def start(self, step: int) -> None:
        """Begin, once all updates up to a step have finished."""
        remote = is_remote(self._workdir)
        self._into = Path(tempfile.mkdtemp()) if remote else self._workdir / FOLDER
        self._began, self._done = step, True
        start_trace(self._into)

    def stop(self, step: int) -> None:
        """End where one is under way, once all updates up to a step have finished."""
        if self._into is None:
            return
        folder, self._into = self._into, None
        stop_trace(folder, self._programs)
        place = self._workdir / FOLDER
        if folder != place:
            _upload(folder, place)
        say(f"steps {self._began + 1} to {step} are traced; see `sir-jax bench trace {place}`")


def _upload(folder: Path, place: Path) -> None:
    """Move a folder's files into a bucket, to which the profiler cannot write."""
    for path in _files(folder):
        target = place / path.relative_to(folder).as_posix()
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    shutil.rmtree(folder)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())
