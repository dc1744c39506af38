"""Saves that are disturbed by a signal, a full disk, a truncated file or a second job."""

import os
import shutil
import signal
import time

import fsspec
import jax
import numpy as np
import pytest
from etils.epath import backend
from fsspec.implementations.memory import MemoryFileSystem
from job_helpers import Job, make_setting, sequence
from shared_runs import shared_programs
from tiny_models import tiny_config
from training_helpers import memory_corpus

from sir_jax.config.compare import compare_workdir
from sir_jax.errors import UserError
from sir_jax.inference.integrity import find_fault, stored_ends
from sir_jax.inference.workdirs import restore_params
from sir_jax.runtime import distributed, workdir
from sir_jax.runtime.interrupt import Interrupt, Interrupted
from sir_jax.runtime.watchdog import Watchdog
from sir_jax.runtime.workdir import CHECKPOINTS, claim_workdir
from sir_jax.training import loop
from sir_jax.training.checkpoint import Checkpoints
from sir_jax.training.metrics import JSONL, MetricWriter, read_records

RUN = {"data.buckets": (6_400,), "train.checkpoint_every": 2}


@pytest.fixture(autouse=True, scope="module")
def programs():
    with shared_programs(init=False):
        yield


@pytest.fixture(scope="module")
def corpus():
    return memory_corpus()


@pytest.fixture(scope="module")
def whole(tmp_path_factory, corpus):
    """Return the workdir of an uninterrupted run of six steps."""
    folder = tmp_path_factory.mktemp("whole")
    loop.train(tiny_config(**RUN), folder, None, corpus)
    return folder


def assert_same_run(folder, whole):
    assert sequence(folder) == sequence(whole)
    ours, theirs = (restore_params(d, "last")[1] for d in (folder, whole))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, b)


def data_files(step):
    """Return the files with a checkpoint's arrays, and the end of the bytes in use in each."""
    return {
        step / item / name: end
        for item in ("params", "train")
        for name, end in stored_ends(step / item).items()
    }


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, corpus):
    """Return the workdir of a run whose SIGTERM came while checkpoint 4 was being written."""
    folder, save = tmp_path_factory.mktemp("stopped"), Checkpoints.save

    def save_and_signal(self, state, step, *rest):
        save(self, state, step, *rest)
        if step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_and_signal)
        with pytest.raises(Interrupted, match="stopped by SIGTERM at step 5 of 6"):
            loop.train(tiny_config(**RUN), folder, None, corpus)
    return folder


def test_truncated_checkpoint_is_ignored(whole, stopped, corpus, tmp_path, capsys):
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    steps = sorted(int(p.name) for p in (tmp_path / CHECKPOINTS).iterdir() if p.is_dir())
    assert steps == [4, 5]  # two are kept for this case
    newest = tmp_path / CHECKPOINTS / "5"
    # Half of the file with the most bytes in use is certainly not enough.
    file, end = max(data_files(newest).items(), key=lambda item: item[1])
    os.truncate(file, end // 2)
    capsys.readouterr()
    loop.train(tiny_config(**RUN), tmp_path, None, corpus)
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if "is not whole" in line]
    assert line.startswith(f"checkpoint 5 of {tmp_path / CHECKPOINTS} is not whole: ")
    assert line.endswith("; goes on at checkpoint 4")
    assert f"resumes {tmp_path} at step 4" in out
    assert_same_run(tmp_path, whole)


def test_every_file_that_a_restore_reads_is_checked(whole, tmp_path):
    step = whole / CHECKPOINTS / "6"
    assert find_fault(step) is None
    ends = data_files(step)
    assert len(ends) >= 4
    names = (
        "_METADATA",
        "_CHECKPOINT_METADATA",
        "_sharding",
        "metadata",
        "manifest.ocdbt",
        "array_metadatas/process_0",
    )
    top = [
        path
        for at in (".", "meta", "params", "train")
        for name in names
        if (path := step / at / name).is_file()
    ]
    assert len(top) == 10
    for path in (*ends, *top):
        content = path.read_bytes()
        for changed in (content[: ends.get(path, len(content)) - 1], None):
            if changed is None:
                path.unlink()
            else:
                path.write_bytes(changed)
            try:
                optional = changed is None and path.name in ("_sharding", "process_0")
                assert optional or find_fault(step), path
            finally:
                path.write_bytes(content)
    assert find_fault(step) is None


def test_run_without_a_complete_checkpoint_does_not_start_again(whole, corpus, tmp_path):
    cfg = tiny_config(**RUN)
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / CHECKPOINTS / "4")
    (tmp_path / CHECKPOINTS / "6" / "params" / "manifest.ocdbt").write_bytes(b"")
    with pytest.raises(UserError) as error:
        loop.train(cfg, tmp_path, None, corpus)
    assert "\n" not in str(error.value)
    folder = tmp_path / CHECKPOINTS
    assert str(error.value).startswith(f"checkpoint 6 of {folder} is not whole: params")
    assert str(error.value).endswith("there is no other; choose another workdir to begin anew")


def test_sigterm_during_a_save_waits_for_it(whole, stopped, corpus, tmp_path):
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    assert find_fault(tmp_path / CHECKPOINTS / "4") is None
    assert find_fault(tmp_path / CHECKPOINTS / "5") is None
    loop.train(tiny_config(**RUN), tmp_path, None, corpus)
    assert_same_run(tmp_path, whole)


# No other test fills the disk of a training; `--all` alone sees this.
@pytest.mark.release
def test_full_disk_stops_in_one_line_soon_and_loses_nothing(tmp_path):
    every, steps = 100, 400
    root = make_setting(tmp_path, **{"train.steps": steps, "train.checkpoint_every": every})
    Job(root, root / "run", 1, 1, "--config.train.checkpoint_every=4").stop_at(5)
    before = sequence(root / "run")
    # A limit on the size of files: records take 20 kB, the list of a checkpoint's arrays 74 kB.
    # (The arrays take more, but TensorStore cuts those into files by the clock.)
    few = "--config.train.log_every=10"
    (status,), (out,) = Job(root, root / "run", 1, 1, few, most_bytes=50_000).wait()
    assert status == 2, out
    (line,) = [line for line in out.splitlines() if line.startswith("sir-jax train:")]
    folder = f"{root}/run/{CHECKPOINTS}"
    assert f"the checkpoint of step {every} could not be written to {folder} (" in line
    kept = before[-1]["step"]
    assert f"; the checkpoint of step {kept} is whole; make room or mend what it says" in line
    assert "Traceback" not in out
    # The error was reported before the next save.
    assert every <= sequence(root / "run")[-1]["step"] < 2 * every
    opened = Checkpoints(root / "run", read_only=True)
    assert opened.last == kept
    opened.close()


def test_second_job_in_a_workdir_is_refused_and_disturbs_nothing(whole, corpus, tmp_path):
    errors, take_step = [], loop.take_step

    def second_job(run, *rest):
        if run.step == 3:
            with pytest.raises(UserError) as error:
                loop.train(tiny_config(**RUN), tmp_path, None, corpus)
            errors.append(str(error.value))
        return take_step(run, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "take_step", second_job)
        loop.train(tiny_config(**RUN), tmp_path, None, corpus)
    assert len(errors) == 1 and "\n" not in errors[0]
    assert errors[0].startswith(f"workdir {tmp_path} is in use by another job (process ")
    assert_same_run(tmp_path, whole)


def test_workdir_in_a_bucket_is_locked_by_a_file_that_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(workdir, "BEAT", 0.05)
    monkeypatch.setattr(workdir, "DEAD", 20.0)  # a busy machine holds a beat up for seconds
    with workdir._beating(tmp_path):
        with pytest.raises(UserError, match="in use by another job"), workdir._beating(tmp_path):
            pass
    assert not (tmp_path / workdir.JOB).exists()
    # The file of a killed job does not change any more.
    monkeypatch.setattr(workdir, "DEAD", 0.3)
    (tmp_path / workdir.JOB).write_text('{"owner": "process 1 on a", "beat": 7}\n')
    with workdir._beating(tmp_path):
        pass
    assert not (tmp_path / workdir.JOB).exists()


def test_everything_but_arrays_goes_into_a_bucket(monkeypatch):
    """The bucket is in memory, behind `etils.epath`; it has no locks and cannot append."""
    cache = type(backend.fsspec_backend)._get_filesystem
    cache.cache_clear()
    monkeypatch.setattr(fsspec, "filesystem", lambda scheme, **_: MemoryFileSystem())
    folder = workdir.as_path("gs://bucket/run")
    cfg = tiny_config()
    assert compare_workdir(cfg, folder) == []
    workdir.make_folder(folder)
    with workdir.Hold(folder) as hold:
        hold.take()
        claim_workdir(cfg, folder)
        writer = MetricWriter(folder, 0)
        for step in (1, 2, 3):
            writer.write(step, {"train/loss": step / 2})
        assert read_records(folder / JSONL) == []
        writer.sync()
        assert [r["step"] for r in read_records(folder / JSONL)] == [1, 2, 3]
    MetricWriter(folder, 2).close()
    assert [r["step"] for r in read_records(folder / JSONL)] == [1, 2]
    with pytest.raises(UserError, match="workdir gs://bucket/run holds a run with another config"):
        compare_workdir(tiny_config(seed=5), folder)
    assert not (folder / workdir.JOB).exists()
    cache.cache_clear()


def test_watchdog_shows_each_stall_once_and_ignores_pauses(capfd):
    with Watchdog(0.3, 7) as watchdog:
        with watchdog.paused():
            time.sleep(0.8)
        assert capfd.readouterr().err == ""
        time.sleep(1.0)
        err = capfd.readouterr().err
        assert err.count("no step has finished for") == 1 and "the last was step 7" in err
        assert "test_watchdog_shows_each_stall_once" in err  # in this thread's stack
        watchdog.finished(8)
        time.sleep(1.0)
        assert "the last was step 8" in capfd.readouterr().err
    with Watchdog(0, 0):
        pass


@pytest.mark.parametrize("several", [False, True])
def test_a_signal_waits_while_a_process_finds_out_which_peer_is_lost(monkeypatch, several):
    """When one process is lost, launchers end the others by SIGTERM; they must report it first."""
    noted, before = [], signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(distributed, "several", lambda: several)
    monkeypatch.setattr(distributed, "notify", noted.append)
    with pytest.raises(jax.errors.JaxRuntimeError), Interrupt():
        raise jax.errors.JaxRuntimeError("connection closed by peer")
    assert (signal.getsignal(signal.SIGTERM) == before) is not several
    if several:
        os.kill(os.getpid(), signal.SIGTERM)
        assert noted == [signal.SIGTERM]
    # The second signal ends the process.
    assert signal.getsignal(signal.SIGTERM) == before
