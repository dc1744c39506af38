"""The allocator keeps what it got, and stays as it is where that is not ours to decide."""

import os
import subprocess
import sys

import pytest

from sir_jax.runtime import allocator

FAULTS = """
import resource
import numpy as np
from sir_jax.runtime.allocator import keep_memory

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
    monkeypatch.setattr(allocator, "_ACCELERATORS", (str(tmp_path / "nvidia[0-9]*"),))
    assert not allocator.keep_memory()
