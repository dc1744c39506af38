"""A trainer that is killed takes the processes that prepare its batches with it."""

import inspect
from pathlib import Path

import pipeline_helpers
import pytest
from orphans import left_behind

KILLED = """
import sys, time
sys.path.insert(0, {folder!r})
from pipeline_helpers import data_config, small_split
from sir_jax.data.pipeline import train_batches

if __name__ == "__main__":
    options = dict(seed=0, start=0, num_threads=1, num_workers=2)
    batches = train_batches(small_split(), data_config(), **options)
    print(next(batches)["caption_ids"], flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_a_killed_trainer_leaves_no_process_behind(tmp_path):
    folder = str(Path(inspect.getfile(pipeline_helpers)).parent)
    (tmp_path / "killed.py").write_text(KILLED.format(folder=folder))
    # The resource tracker, and two workers.
    before, after = left_behind(tmp_path / "killed.py", 3)
    assert len(before) >= 4 and not after
