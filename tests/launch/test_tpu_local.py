"""launch/tpu.sh with real processes on this machine."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from launch_helpers import ROOT, script, wait_for

# A fake sir-jax: it prints its process id, saves on SIGTERM, and executes the arguments that begin
# with its process id or `all`.
PROGRAM = r"""#!/usr/bin/env bash
for word; do
  case $word in
    --distributed=*) IFS=, read -r _ id count <<<"${word#*=}" ;;
    --workdir=*) workdir=${word#*=} ;;
  esac
done
save() { echo "$id saved"; exit 143; }
trap save TERM
echo "process $id of $count"
for word; do
  case $word in "$id":* | all:*) eval "${word#*:}" ;; esac
done
"""


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "program"
    path.write_text(PROGRAM)
    path.chmod(0o755)
    return path


def local(verb, workdir, program, *words, processes=3):
    """Return the arguments of a verb for `processes` processes of the program."""
    options = [f"--workdir={workdir}", "--backend=local"]
    if verb in ("run", "babysit"):
        options += ["--config=none", f"--program={program}", f"--processes={processes}"]
    return [verb, *options, *words]


def test_all_processes_run_and_process_0_prints_to_the_terminal(tmp_path, program):
    result = script(
        *local("run", tmp_path / "w", program, "--port=23456", "--devices-per-process=2"),
        "--",
        'all:echo "$JAX_PLATFORMS $XLA_FLAGS"',
        'all:echo "$@"',
    )
    assert result.returncode == 0, result.stderr
    logs = [(tmp_path / f"w/logs/process-{i}.log").read_text() for i in range(3)]
    for i, log in enumerate(logs):
        assert log.startswith(f"process {i} of 3\n")
        assert "\ncpu --xla_force_host_platform_device_count=2\n" in log
        words = f"train --config=none --workdir={tmp_path}/w --distributed=127.0.0.1:23456,{i},3 "
        assert f"\n{words}" in log
    assert result.stdout == logs[0]
    # With the same workdir again, logs are kept and the terminal shows only the new lines.
    again = script(*local("run", tmp_path / "w", program))
    assert again.stdout == "process 0 of 3\n"
    assert (tmp_path / "w/logs/process-0.log").read_text() == logs[0] + again.stdout


def test_one_process_on_gpus_is_not_distributed(tmp_path, program):
    words = local("run", tmp_path, program, "--platform=cuda", processes=1)
    words += ["--", ":echo $JAX_PLATFORMS,${XLA_FLAGS:-none}", ':echo "$4"']
    # Without the flags that conftest.py sets for the tests.
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    result = script(*words, env=env)
    assert result.stdout.splitlines() == ["process  of ", "cuda,none", "--distributed=off"]


def test_if_one_fails_the_others_are_ended_and_its_status_is_returned(tmp_path, program):
    result = script(
        *local("run", tmp_path, program, "--grace=1"),
        "--",
        "2:trap '' TERM",
        "all:touch $workdir/up-$id",
        "1:until [ -f $workdir/up-0 ] && [ -f $workdir/up-2 ]; do sleep 0.1; done; exit 7",
        "all:sleep 500 & wait",
    )
    assert result.returncode == 7
    assert "process 1 of 3 ended with 7" in result.stderr
    assert result.stdout == "process 0 of 3\n0 saved\n"
    # The third process ignores SIGTERM and is killed.
    assert (tmp_path / "logs/process-2.log").read_text() == "process 2 of 3\n"
    assert not (tmp_path / "logs/pids").exists()
    assert not of_group(tmp_path)


def of_group(workdir):
    """Return the processes whose command line names the workdir."""
    pids = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(workdir).encode() in path.read_bytes():
                pids.append(int(path.parent.name))
        except OSError:
            pass
    return [pid for pid in pids if pid != os.getpid()]


# If the tests run in the background, SIGINT is ignored, which a shell script cannot undo itself.
UNIGNORED = """import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execvp("bash", ["bash", *sys.argv[1:]])"""


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_script_reaches_every_process_once(tmp_path, program, signum):
    words = local("babysit", tmp_path, program)
    # In its own process group, to which a terminal sends Ctrl-C.
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            UNIGNORED,
            str(ROOT / "launch/tpu.sh"),
            *words,
            "--",
            "all:save() { echo $id saved; trap - TERM; sleep 0.5; exit 143; }",
            "all:touch $workdir/up-$id; sleep 50 & wait",
        ],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for(lambda: len(list(tmp_path.glob("up-*"))) == 3)
    os.killpg(process.pid, signum)
    # All processes saved, and `babysit` did not restart them.
    assert process.wait(timeout=60) == 143
    for i in range(3):
        log = (tmp_path / f"logs/process-{i}.log").read_text()
        assert log == f"process {i} of 3\n{i} saved\n"
    assert not of_group(tmp_path)


def test_stop_ends_only_the_run_of_its_workdir(tmp_path, program):
    running = []
    for name in ("mine", "other"):
        words = local("babysit", tmp_path / name, program)
        words += ["--", "all:touch $workdir/up-$id; sleep 50 & wait"]
        running.append(
            subprocess.Popen(
                ["bash", str(ROOT / "launch/tpu.sh"), *words],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
    mine, other = running
    wait_for(lambda: len(list(tmp_path.glob("*/up-*"))) == 6)
    assert "a run lives there" in script(*local("run", tmp_path / "mine", program)).stderr
    status = script(*local("status", tmp_path / "mine", program)).stdout
    assert status == "running: 3 processes, checkpoint -1\n"
    assert script(*local("stop", tmp_path / "mine", program)).returncode == 0
    assert mine.wait(timeout=60) == 143
    for i in range(3):
        assert f"{i} saved" in (tmp_path / f"mine/logs/process-{i}.log").read_text()
    assert other.poll() is None
    assert script(*local("status", tmp_path / "other", program)).stdout.startswith("running: 3")
    # If the launcher was killed, `stop` ends the processes itself.
    other.kill()
    other.wait()
    assert script(*local("status", tmp_path / "other", program)).stdout.startswith("running: 3")
    script(*local("stop", tmp_path / "other", program))
    assert "2 saved" in (tmp_path / "other/logs/process-2.log").read_text()
    status = script(*local("status", tmp_path / "other", program)).stdout
    assert status == "not running, checkpoint -1\n"


def test_stop_ignores_a_later_process_with_the_same_number(tmp_path, program):
    with subprocess.Popen(["sleep", "50"]) as bystander:
        (tmp_path / "logs").mkdir()
        (tmp_path / "logs/pids").write_text(f"launcher {bystander.pid} 1\n0 {bystander.pid} 1\n")
        result = script(*local("stop", tmp_path, program))
        assert "no run lives there" in result.stderr
        assert bystander.poll() is None
        bystander.kill()


def test_babysit_restarts_after_preemptions_until_training_is_complete(tmp_path, program):
    # Each run but the last makes a checkpoint and is preempted, more often than --retries allows
    # without progress.
    act = (
        "n=$(ls $workdir/checkpoints | wc -l); [ $n = 4 ] && exit 0; "
        "mkdir $workdir/checkpoints/$((n * 10)); exit 143"
    )
    (tmp_path / "checkpoints").mkdir()
    words = local("babysit", tmp_path, program, "--retries=1", processes=2)
    result = script(*words, "--", f"0:{act}", "1:exit 0")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("process 0 of 2") == 5
    assert "newest checkpoint: 30; restarts without progress: 0 of 1" in result.stderr


def test_babysit_gives_up_without_progress(tmp_path, program):
    # A checkpoint that is still being written, which has a longer name, is no progress.
    act = "mkdir -p $workdir/checkpoints/9.orbax-checkpoint-tmp; exit 143"
    result = script(*local("babysit", tmp_path, program, "--retries=2"), "--", f"0:{act}")
    assert result.returncode == 143
    assert result.stdout.count("process 0 of 3") == 3
    assert "gave up: 2 restarts in a row without a newer checkpoint than none" in result.stderr


def test_babysit_restarts_after_a_lost_process(tmp_path, program):
    act = "[ -e $workdir/second ] && exit 0; touch $workdir/second; exit 75"
    result = script(*local("babysit", tmp_path, program), "--", f"1:{act}")
    assert result.returncode == 0, result.stderr
    assert "ended with 75; starts again" in result.stderr


def test_the_status_of_the_failed_process_replaces_that_of_a_lost_peer(tmp_path, program):
    words = local("babysit", tmp_path, program)
    result = script(*words, "--", "0:exit 75", "1:exit 75", "2:sleep 2; exit 2")
    assert result.returncode == 2, result.stderr
    assert result.stdout.count("process 0 of 3") == 1


def test_babysit_does_not_repeat_a_mistake(tmp_path, program):
    result = script(*local("babysit", tmp_path, program), "--", "2:exit 2")
    assert result.returncode == 2
    assert result.stdout.count("process 0 of 3") == 1
