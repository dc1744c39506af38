"""A process keeps the memory it got where that is ours to decide, and ends with its parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sir_jax.runtime import process

FAULTS = """
import resource
import numpy as np
from sir_jax.runtime.process import keep_memory

print(keep_memory())
np.ones(1 << 24)  # 128 MB, freed at once
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    np.ones(1 << 24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(**env) -> tuple[bool, int]:
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "NUMPY_"))}
    # numpy would ask for huge pages, of which a block has few to fault in.
    plain["NUMPY_MADVISE_HUGEPAGE"] = "0"
    out = subprocess.run(
        [sys.executable, "-c", FAULTS], env=plain | env, capture_output=True, text=True, check=True
    ).stdout.split()
    return out[0] == "True", int(out[1])


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_memory_that_was_freed_is_used_again_without_page_faults():
    done, faults = run()
    if not done:
        pytest.skip("not glibc, or a machine with an accelerator")
    left_alone, default_faults = run(MALLOC_ARENA_TEST="8")
    assert not left_alone
    assert faults < 1_000 < 50_000 < default_faults  # 4 x 128 MB are 131,072 pages of 4 kB


def test_nothing_is_done_beside_an_accelerator(tmp_path, monkeypatch):
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(process, "_ACCELERATORS", (str(tmp_path / "nvidia[0-9]*"),))
    assert not process.keep_memory()


WORKER = """
import os, time
from sir_jax.runtime.process import end_with_parent

def work():
    end_with_parent()
    print(os.getpid(), flush=True)
    time.sleep(600)
"""
PARENT = """
import multiprocessing, subprocess, sys, time
import worker

if __name__ == "__main__":
    if sys.argv[1] == "subprocess":
        subprocess.Popen([sys.executable, "-c", "import worker; worker.work()"])
    else:
        context = multiprocessing.get_context(sys.argv[1])
        context.Process(target=worker.work).start()
    time.sleep(600)
"""


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def ends(pids, seconds: float = 10) -> bool:
    """Tell whether all processes end within so many seconds; kill those that do not."""
    until = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    left = [pid for pid in pids if alive(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return not left


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("way", ["forkserver", "spawn", "subprocess"])
def test_a_worker_ends_when_its_parent_is_killed(tmp_path, way):
    (tmp_path / "worker.py").write_text(WORKER)
    (tmp_path / "parent.py").write_text(PARENT)
    paths = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    process = subprocess.Popen(
        [sys.executable, tmp_path / "parent.py", way],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": paths},
    )
    with process:
        pid = int(process.stdout.readline())
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert alive(pid)
        process.kill()
    # The fork server and the resource tracker end once no worker holds their pipes.
    assert ends({pid, *map(int, children)})
