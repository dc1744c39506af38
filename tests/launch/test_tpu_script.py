"""launch/tpu.sh: what it prints for the clouds, and what it does with real processes here.

Snapshots are transcripts: a `$` line is a command line, to which --dry-run is added, and what
follows is all it prints.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SNAPSHOTS = Path(__file__).parent / "snapshots"
VERBS = ("create", "wait", "sync", "setup", "run", "logs", "status", "babysit", "stop", "delete")
BACKENDS = ("tpu-vm", "queued-resources", "gke", "local")

# A stand-in for sir-jax: says who it is, saves on SIGTERM, and does what the words say that begin
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


def script(*words, root=ROOT, **kwargs):
    """Return the result of launch/tpu.sh with these words."""
    command = ["bash", str(root / "launch/tpu.sh"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **kwargs)


def local(verb, workdir, program, *words, processes=3):
    """Return the words that run `processes` of the program on this machine."""
    options = [f"--workdir={workdir}", "--backend=local"]
    if verb in ("run", "babysit"):
        options += ["--config=none", f"--program={program}", f"--processes={processes}"]
    return [verb, *options, *words]


def wait_for(condition):
    """Wait until a function returns something true, and return it."""
    for _ in range(1200):
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError("did not come true in a minute")


def transcripts():
    """Return a dict of (back end, verb) -> (command line, output)."""
    cases = {}
    for path in sorted(SNAPSHOTS.glob("*.txt")):
        for section in ("\n" + path.read_text()).split("\n$ launch/tpu.sh ")[1:]:
            line, _, output = section.partition("\n")
            cases[path.stem, line.split()[0]] = line, output.strip("\n")
    return cases


TRANSCRIPTS = transcripts()


def test_every_verb_of_every_backend_has_a_transcript():
    assert set(TRANSCRIPTS) == {(backend, verb) for backend in BACKENDS for verb in VERBS}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("verb", VERBS)
def test_dry_run_prints_the_transcript(backend, verb, tmp_path):
    line, output = TRANSCRIPTS[backend, verb]
    # Nothing else is there: no cloud tool, no git, not even mkdir.
    for tool in ("bash", "dirname"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    words = shlex.split(line)
    result = script(words[0], "--dry-run", *words[1:], env={"PATH": str(tmp_path)})
    assert result.stderr == ""
    assert result.stdout.strip("\n") == output
    assert result.returncode == 0


def test_a_printed_command_hands_every_word_on_through_both_shells():
    override = """--config.note=it's "50 %" of $HOME & `id`; *\t#"""
    result = script(
        "run", "--dry-run", "--backend=tpu-vm", "--name=pod", "--zone=z", "--config=c",
        "--workdir=gs://b/w", "--", override, "--config.empty=", "",
    )  # fmt: skip
    # What a person pastes: gcloud gets one word that is the command of the host's shell ..
    shown = 'gcloud() { printf "%s\\0" "$@"; }; ' + result.stdout
    words = subprocess.run(["bash", "-c", shown], capture_output=True, text=True).stdout.split("\0")
    (remote,) = [w.removeprefix("--command=") for w in words if w.startswith("--command=")]
    # .. and that shell gives sir-jax the words as they were.
    inner = remote.replace("bash sir_jax/launch/tpu/host.sh", 'printf "%s\\0"')
    words = subprocess.run(["bash", "-c", inner], capture_output=True, text=True).stdout.split("\0")
    assert words[-4:-1] == [override, "--config.empty=", ""]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fly"], "no verb 'fly'; choose one of create wait"),
        (["run"], "--backend is missing: choose one of tpu-vm"),
        (["run", "--backend=cloud"], "--backend=cloud: choose one of tpu-vm"),
        (["run", "--backend=local", "--wrkdir=x"], "--wrkdir: no such option; choose one of "),
        (["run", "--backend=local", "--config=c"], "--workdir is missing: run with --backend"),
        (["run", "--backend"], "--backend needs a value"),
        (["run", "--backend="], "--backend is empty: give a value"),
        (["run", "--backend=local", "x=1"], "'x=1' is no option"),
        (["run", "--backend=local", "--processes=0"], "--processes=0: give a number from 1 on"),
        (["run", "--backend=local", "--grace=-1"], "--grace=-1: give a number from 0 on"),
        (["run", "--backend=local", "--dirty=maybe"], "--dirty=maybe: give true or false"),
        (
            ["run", "--backend=local", "--config=c", "--workdir=gs://b/w"],
            "--workdir=gs://b/w: --backend=local keeps its logs there; give a folder",
        ),
        (["create", "--backend=local", "--spot"], "--spot: --backend=local has no such thing"),
        (
            ["run", "--backend=local", "--config=c", "--workdir=w", "--program=/no/program"],
            "--program=/no/program: not there; run launch/tpu.sh setup",
        ),
        (
            ["create", "--backend=tpu-vm", "--name=a", "--zone=z", "--type=v5e-16"],
            "--type=v5e-16: no such slice; give v4-N, v5litepod-N",
        ),
        (
            ["create", "--backend=tpu-vm", "--name=a", "--zone=z", "--type=v4-33"],
            "--type=v4-33: v4 has no such size; give one of 8 16 32",
        ),
        (
            ["create", "--backend=tpu-vm", "--name=a", "--zone=z", "--type=v4-x"],
            "--type=v4-x: no such slice",
        ),
        (
            ["create", "--backend=tpu-vm", "--name=a", "--zone=z", "--type=v4-8", "--slices=2"],
            "--slices=2: tpu-vm makes one; use --backend=queued-resources",
        ),
        (
            ["babysit", "--backend=tpu-vm", "--name=a", "--zone=z", "--type=v4-32", "--config=c",
             "--workdir=runs/x"],
            "--workdir=runs/x: several hosts must reach it; give gs://",
        ),
        (["wait", "--backend=tpu-vm", "--name=A_b", "--zone=z"], "--name=A_b: give at most 40 of"),
        (["setup", "--backend=tpu-vm", "--data=/d"], "--data=/d: give a folder in gs://"),
        (
            ["run", "--backend=gke", "--name=a", "--type=v4-8", "--image=i", "--config=c",
             "--workdir=/w"],
            "--workdir=/w: a pod's own folders end with it; give gs://",
        ),
        (["wait", "--backend=local", "--env=/no/file"], "--env=/no/file: no such file"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_with_the_remedy(words, message):
    result = script(*words)
    assert result.returncode == 2
    assert result.stderr.startswith(f"launch/tpu.sh: {message}")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_a_missing_tool_is_told(tmp_path):
    for tool in ("bash", "dirname", "git"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    words = ["create", "--backend=tpu-vm", "--name=a", "--zone=z", "--type=v4-8"]
    result = script(*words, env={"PATH": str(tmp_path)})
    assert result.returncode == 2
    assert result.stderr.startswith("launch/tpu.sh: gcloud is not on PATH: install it")


def test_options_come_from_a_file_and_flags_win(tmp_path):
    file = tmp_path / "pod.env"
    file.write_text('# mine\nbackend=tpu-vm\nname="pod"\nzone=file-a\n\ntype=v4-32\nspot=true')
    words = ["create", "--dry-run", f"--env={file}"]
    assert script(*words).stdout == (
        "gcloud compute tpus tpu-vm create pod --zone=file-a --accelerator-type=v4-32 "
        "--version=tpu-ubuntu2204-base --labels=launcher=sir-jax --spot\n"
    )
    overridden = script(*words, "--zone", "flag-b", "--spot=false", "--version=other").stdout
    assert overridden == (
        "gcloud compute tpus tpu-vm create pod --zone=flag-b --accelerator-type=v4-32 "
        "--version=other --labels=launcher=sir-jax\n"
    )
    file.write_text("backend=tpu-vm\nzone\n")
    assert f"--env={file}, line 2: 'zone' is not option=value" in script(*words).stderr
    file.write_text("zoen=x\n")
    assert f"--env={file}: zoen: no such option" in script(*words).stderr


# Jobs


def manifest(*words):
    """Return the JobSet that `run` would apply, and its job."""
    result = script(
        "run", "--dry-run", "--backend=gke", "--name=pod", "--image=images/sir_jax:v1",
        "--config=c", "--workdir=gs://b/w", *words,
    )  # fmt: skip
    text = result.stdout.split("<<'EOF'\n")[1].split("\nEOF\n")[0]
    jobset = yaml.safe_load(text)
    (job,) = jobset["spec"]["replicatedJobs"]
    return jobset, job


@pytest.mark.parametrize(
    ("words", "slices", "hosts", "chips", "accelerator", "topology"),
    [
        (["--type=v5litepod-16"], 1, 4, 4, "tpu-v5-lite-podslice", "4x4"),
        (["--type=v5litepod-8"], 1, 1, 8, "tpu-v5-lite-podslice", "2x4"),
        (["--type=v4-32"], 1, 4, 4, "tpu-v4-podslice", "2x2x4"),
        (["--type=v4-32", "--slices=2"], 2, 4, 4, "tpu-v4-podslice", "2x2x4"),
        (["--type=v4-8"], 1, 1, 4, "tpu-v4-podslice", "2x2x1"),
        (["--type=v5p-16"], 1, 2, 4, "tpu-v5p-slice", "2x2x2"),
        (["--type=v6e-256"], 1, 64, 4, "tpu-v6e-slice", "16x16"),
        (["--type=v6e-1"], 1, 1, 1, "tpu-v6e-slice", "1x1"),
    ],
)
def test_a_jobset_asks_for_the_hosts_and_chips_of_its_slices(
    words, slices, hosts, chips, accelerator, topology
):
    jobset, job = manifest(*words)
    pod = job["template"]["spec"]["template"]["spec"]
    assert job["replicas"] == slices
    assert job["template"]["spec"]["completions"] == hosts
    assert job["template"]["spec"]["parallelism"] == hosts
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": accelerator,
        "cloud.google.com/gke-tpu-topology": topology,
    }
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == {"google.com/tpu": chips}
    assert container["resources"]["requests"] == {"google.com/tpu": chips}
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] == 3
    assert "__" not in yaml.dump(jobset)


def test_a_jobset_holds_the_command_word_for_word_and_the_data():
    words = ['it\'s "so"', "\\n & 100%", "$(HOME)", "#: {x}", "two\nlines", "__NAME__"]
    jobset, job = manifest("--type=v4-8", "--data=gs://bucket/a/b", "--", *words)
    pod = job["template"]["spec"]["template"]["spec"]
    # `$$(` is how Kubernetes is told to leave `$(` alone.
    words[2] = "$$(HOME)"
    assert pod["containers"][0]["command"] == [
        "sir-jax", "train", "--config=c", "--workdir=/gcs/b/w", *words,
    ]  # fmt: skip
    workdir, data = pod["volumes"]
    assert workdir["csi"]["volumeAttributes"]["bucketName"] == "b"
    attributes = data["csi"]["volumeAttributes"]
    assert attributes == {"bucketName": "bucket", "mountOptions": "implicit-dirs,only-dir=a/b"}
    mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    assert mounts == {"workdir": "/gcs/b", "data": "/sir_jax/data"}
    _, job = manifest("--type=v4-8", "--data=gs://bucket")
    _, data = job["template"]["spec"]["template"]["spec"]["volumes"]
    assert data["csi"]["volumeAttributes"] == {
        "bucketName": "bucket", "mountOptions": "implicit-dirs",
    }  # fmt: skip
    _, job = manifest("--type=v4-8")
    (workdir,) = job["template"]["spec"]["template"]["spec"]["volumes"]
    assert workdir["name"] == "workdir"


def test_the_skypilot_file_runs_the_same_command_on_tpu_and_gpu(tmp_path):
    task = yaml.safe_load((ROOT / "launch/skypilot.yaml").read_text())
    assert task["resources"]["accelerators"] == "tpu-v5litepod-16"
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [130, 143]
    program = tmp_path / ".venv/bin/sir-jax"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    # What SkyPilot sets on the second of two hosts.
    env = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "CONFIG": "c", "RUN": "r",
        "ARGS": "--config.note='a b'", "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
        "SKYPILOT_NODE_RANK": "1", "SKYPILOT_NUM_NODES": "2",
    }  # fmt: skip
    run = ["bash", "-c", task["run"]]
    common = ["train", "--config=c", "--workdir=/bucket/r"]
    if shutil.which("nvidia-smi") is None:
        out = subprocess.run(run, cwd=tmp_path, env=env, capture_output=True, text=True).stdout
        assert out.splitlines() == [*common, "--distributed=auto", "--config.note=a b"]
    (tmp_path / "nvidia-smi").symlink_to("/bin/true")
    out = subprocess.run(run, cwd=tmp_path, env=env, capture_output=True, text=True).stdout
    assert out.splitlines() == [*common, "--distributed=10.0.0.1:8476,1,2", "--config.note=a b"]


# Processes on this machine


def test_all_processes_run_and_process_0_is_on_the_terminal(tmp_path, program):
    result = script(
        *local("run", tmp_path / "w", program, "--port=23456", "--devices-per-process=2"),
        "--", 'all:echo "$JAX_PLATFORMS $XLA_FLAGS"', 'all:echo "$@"',
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    logs = [(tmp_path / f"w/logs/process-{i}.log").read_text() for i in range(3)]
    for i, log in enumerate(logs):
        assert log.startswith(f"process {i} of 3\n")
        assert "\ncpu --xla_force_host_platform_device_count=2\n" in log
        words = f"train --config=none --workdir={tmp_path}/w --distributed=127.0.0.1:23456,{i},3 "
        assert f"\n{words}" in log
    assert result.stdout == logs[0]
    # The same workdir again: logs are kept, and the terminal shows the new lines alone.
    again = script(*local("run", tmp_path / "w", program))
    assert again.stdout == "process 0 of 3\n"
    assert (tmp_path / "w/logs/process-0.log").read_text() == logs[0] + again.stdout


def test_one_process_on_gpus_is_not_distributed(tmp_path, program):
    words = local("run", tmp_path, program, "--platform=cuda", processes=1)
    result = script(*words, "--", ":echo $JAX_PLATFORMS,${XLA_FLAGS:-none}", ':echo "$4"')
    assert result.stdout.splitlines() == ["process  of ", "cuda,none", "--distributed=off"]


def test_when_one_fails_the_others_end_within_the_grace_and_its_status_is_told(tmp_path, program):
    result = script(
        *local("run", tmp_path, program, "--grace=1"),
        "--", "2:trap '' TERM", "all:touch $workdir/up-$id",
        "1:until [ -f $workdir/up-0 ] && [ -f $workdir/up-2 ]; do sleep 0.1; done; exit 7",
        "all:sleep 500 & wait",
    )  # fmt: skip
    assert result.returncode == 7
    assert "process 1 of 3 ended with 7" in result.stderr
    assert result.stdout == "process 0 of 3\n0 saved\n"
    # The third would not listen.
    assert (tmp_path / "logs/process-2.log").read_text() == "process 2 of 3\n"
    assert not (tmp_path / "logs/pids").exists()
    assert not of_group(tmp_path)


def of_group(workdir):
    """Return the processes whose command line names the workdir."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(workdir).encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            pass
    return [pid for pid in found if pid != os.getpid()]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_script_reaches_every_process_once(tmp_path, program, signum):
    words = local("babysit", tmp_path, program)
    # A group of its own, as a terminal gives: Ctrl-C goes to all of it.
    process = subprocess.Popen(
        ["bash", "-c", 'trap - INT; exec bash "$@"', "-", str(ROOT / "launch/tpu.sh"), *words,
         "--", "all:save() { echo $id saved; trap - TERM; sleep 0.5; exit 143; }",
         "all:touch $workdir/up-$id; sleep 50 & wait"],
        start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for(lambda: len(list(tmp_path.glob("up-*"))) == 3)
    os.killpg(process.pid, signum)
    # Saved, and not begun again: it was a person who stopped it.
    assert process.wait(timeout=60) == 143
    for i in range(3):
        log = (tmp_path / f"logs/process-{i}.log").read_text()
        assert log == f"process {i} of 3\n{i} saved\n"
    assert not of_group(tmp_path)


def test_stop_ends_its_own_and_nothing_else(tmp_path, program):
    running = []
    for name in ("mine", "other"):
        words = local("babysit", tmp_path / name, program)
        words += ["--", "all:touch $workdir/up-$id; sleep 50 & wait"]
        running.append(
            subprocess.Popen(
                ["bash", str(ROOT / "launch/tpu.sh"), *words],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )
        )  # fmt: skip
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
    # A launcher that was killed leaves its processes to `stop`.
    other.kill()
    other.wait()
    assert script(*local("status", tmp_path / "other", program)).stdout.startswith("running: 3")
    script(*local("stop", tmp_path / "other", program))
    assert "2 saved" in (tmp_path / "other/logs/process-2.log").read_text()
    status = script(*local("status", tmp_path / "other", program)).stdout
    assert status == "not running, checkpoint -1\n"


def test_stop_spares_a_later_process_with_the_same_number(tmp_path, program):
    with subprocess.Popen(["sleep", "50"]) as bystander:
        (tmp_path / "logs").mkdir()
        (tmp_path / "logs/pids").write_text(f"launcher {bystander.pid} 1\n0 {bystander.pid} 1\n")
        result = script(*local("stop", tmp_path, program))
        assert "no run lives there" in result.stderr
        assert bystander.poll() is None
        bystander.kill()


def test_babysit_goes_on_after_a_preemption_until_training_is_complete(tmp_path, program):
    # Each run but the last makes a checkpoint and is preempted: more often than --retries.
    act = (
        'n=$(ls $workdir/checkpoints | wc -l); [ $n = 4 ] && exit 0; '
        "mkdir $workdir/checkpoints/$((n * 10)); exit 143"
    )  # fmt: skip
    (tmp_path / "checkpoints").mkdir()
    words = local("babysit", tmp_path, program, "--retries=1", processes=2)
    result = script(*words, "--", f"0:{act}", "1:exit 0")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("process 0 of 2") == 5
    assert "newest checkpoint: 30; restarts without progress: 0 of 1" in result.stderr


def test_babysit_gives_up_without_progress(tmp_path, program):
    # What is being written has a longer name, and is no progress.
    act = "mkdir -p $workdir/checkpoints/9.orbax-checkpoint-tmp; exit 143"
    result = script(*local("babysit", tmp_path, program, "--retries=2"), "--", f"0:{act}")
    assert result.returncode == 143
    assert result.stdout.count("process 0 of 3") == 3
    assert "gave up: 2 restarts in a row without a newer checkpoint than none" in result.stderr


def test_babysit_goes_on_where_a_peer_was_lost(tmp_path, program):
    act = "[ -e $workdir/second ] && exit 0; touch $workdir/second; exit 75"
    result = script(*local("babysit", tmp_path, program), "--", f"1:{act}")
    assert result.returncode == 0, result.stderr
    assert "ended with 75; starts again" in result.stderr


def test_who_lost_a_peer_waits_for_the_peer_that_failed(tmp_path, program):
    words = local("babysit", tmp_path, program)
    result = script(*words, "--", "0:exit 75", "1:exit 75", "2:sleep 2; exit 2")
    assert result.returncode == 2, result.stderr
    assert result.stdout.count("process 0 of 3") == 1


def test_babysit_does_not_repeat_a_mistake(tmp_path, program):
    result = script(*local("babysit", tmp_path, program), "--", "2:exit 2")
    assert result.returncode == 2
    assert result.stdout.count("process 0 of 3") == 1


# Hosts: gcloud is replaced by one whose machines are folders here; all else is real.

GCLOUD = r"""#!/usr/bin/env bash
# State in $CLOUD: `state`, and a home for each of two workers.
verb=$4
for word; do
  case $word in --command=*) command=${word#*=} ;; --worker=*) worker=${word#*=} ;; esac
done
echo "$verb" >>"$CLOUD/calls"
case $verb in
  describe)
    [ -f "$CLOUD/state" ] || { echo "NOT_FOUND: no such TPU" >&2; exit 1; }
    case "$*" in *labels*) cat "$CLOUD/owner" ;; *) cat "$CLOUD/state" ;; esac
    ;;
  create)
    ! rm "$CLOUD/stockout" 2>/dev/null || { echo "no more capacity" >&2; exit 1; }
    echo READY >"$CLOUD/state"
    echo sir-jax >"$CLOUD/owner"
    for i in 0 1; do
      mkdir -p "$CLOUD/$i/sir_jax/.venv/bin"
      for tool in python pip; do ln -sf /bin/true "$CLOUD/$i/sir_jax/.venv/bin/$tool"; done
      echo 'PATH=$PWD/.venv/bin:$PATH' >"$CLOUD/$i/sir_jax/.venv/bin/activate"
      cp "$PROGRAM" "$CLOUD/$i/sir_jax/.venv/bin/sir-jax"
    done
    ;;
  delete)
    for i in 0 1; do
      read -r _ _ group <"$CLOUD/$i/.sir_jax/runs/pod/pid" && kill -KILL -- "-$group"
    done 2>/dev/null
    rm -rf "$CLOUD"/{state,0,1}
    ;;
  scp) for i in 0 1; do cp "$5" "$CLOUD/$i/${6#*:}"; done ;;
  ssh)
    [ "$worker" = all ] && worker="0 1"
    for i in $worker; do
      (cd "$CLOUD/$i" && HOME=$CLOUD/$i bash -c "$command" 3>&-) || failed=1
    done
    exit ${failed:-0}
    ;;
esac
"""


@pytest.fixture
def cloud(tmp_path):
    """Return (a repository with the scripts, an environment whose gcloud is the stand-in)."""
    root, folder, tools = tmp_path / "repository", tmp_path / "cloud", tmp_path / "bin"
    for path in (root, folder, tools):
        path.mkdir()
    shutil.copytree(ROOT / "launch", root / "launch")
    shutil.copy(ROOT / "setup.cfg", root)
    (root / ".gitignore").write_text("/build/\n")
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "code"]):
        git(root, *words)
    (tools / "gcloud").write_text(GCLOUD)
    (tools / "gcloud").chmod(0o755)
    (tmp_path / "program").write_text(
        '#!/bin/bash\necho "$0 $*"\ntrap "echo saved; exit 143" TERM\n. "$CLOUD/act"\n'
    )
    (tmp_path / "program").chmod(0o755)
    (folder / "act").write_text("sleep 50 & wait\n")
    env = {
        **os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "CLOUD": str(folder),
        "PROGRAM": str(tmp_path / "program"),
    }  # fmt: skip
    return root, folder, env


def git(root, *words):
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    return subprocess.run(["git", *identity, *words], cwd=root, check=True, capture_output=True)


def pod(verb, folder):
    """Return the words for the stand-in's TPU."""
    return [verb, "--backend=tpu-vm", "--name=pod", "--zone=z", "--type=v4-16", "--poll=0",
            "--config=c", f"--workdir={folder}/w", "--grace=1"]  # fmt: skip


def test_hosts_run_what_is_committed_detached_and_stop_their_own(cloud):
    root, folder, env = cloud
    for verb in ("create", "wait", "sync", "setup"):
        result = script(*pod(verb, folder), root=root, env=env)
        assert result.returncode == 0, result.stderr
    run = [*pod("run", folder), "--", "--config.note=it's $HOME"]
    result = script(*run, root=root, env=env)
    assert result.stdout.count("pod started") == 2
    log = (folder / "0/.sir_jax/runs/pod/log").read_text()
    assert f"train --config=c --workdir={folder}/w --config.note=it's $HOME\n" in log
    # A second `run` after a connection broke starts nothing twice; another command is refused.
    assert script(*run, root=root, env=env).stdout.count("pod runs already") == 2
    assert "pod runs another command" in script(*pod("run", folder), root=root, env=env).stderr
    # The code is not pulled from under it.
    refused = script(*pod("sync", folder), root=root, env=env)
    assert refused.returncode != 0 and "pod runs (process" in refused.stderr
    (folder / "w/checkpoints/120").mkdir(parents=True)
    (folder / "w/metrics.jsonl").write_text('{"step": 119}\n{"step": 120}\n')
    status = script(*pod("status", folder), root=root, env=env).stdout.splitlines()
    assert status[0] == "pod: READY"
    assert [line.rsplit(" ", 1)[0] for line in status[1:3]] == [
        "state=running exit= checkpoint=120"
    ] * 2
    assert status[3] == '{"step": 120}'
    assert script(*pod("stop", folder), root=root, env=env).stdout.count("pod stopped") == 2
    assert (folder / "1/.sir_jax/runs/pod/log").read_text().endswith("saved\n")
    status = script(*pod("status", folder), root=root, env=env).stdout
    assert status.count("state=stopped") == 2
    # A deleted file goes from the hosts as well; what was made there stays.
    git(root, "rm", "-q", "launch/demo.sh")
    assert "not committed" in script(*pod("sync", folder), root=root, env=env).stderr
    assert (folder / "0/sir_jax/launch/demo.sh").exists()
    result = script(*pod("sync", folder), "--dirty", root=root, env=env)
    assert result.returncode == 0, result.stderr
    assert not (folder / "0/sir_jax/launch/demo.sh").exists()
    assert (folder / "0/sir_jax/.venv/bin/sir-jax").exists()
    # --dirty left the index as it was.
    assert git(root, "diff", "--cached", "--name-only").stdout == b"launch/demo.sh\n"


def test_babysit_makes_a_preempted_tpu_anew_and_goes_on(cloud):
    root, folder, env = cloud
    (folder / "stockout").touch()
    (folder / "act").write_text(
        'mkdir -p $CLOUD/w/checkpoints; n=$(ls $CLOUD/w/checkpoints | wc -l)\n'
        'case $PWD in */0/sir_jax)\n'
        '  case $n in\n'
        '    0) mkdir $CLOUD/w/checkpoints/10; exit 143 ;;\n'
        '    1) mkdir $CLOUD/w/checkpoints/20; echo PREEMPTED >$CLOUD/state ;;\n'
        '    *) exit 0 ;;\n'
        '  esac ;;\n'
        'esac\n'
        '[ "$n" -ge 2 ] || { sleep 50 & wait; }\n'
    )  # fmt: skip
    result = script(*pod("babysit", folder), "--retries=1", root=root, env=env)
    assert result.returncode == 0, result.stderr
    calls = (folder / "calls").read_text().split()
    assert "pod could not be made ready; starts again, newest checkpoint: none" in result.stderr
    assert calls.count("create") == 3
    assert calls.count("delete") == 1
    # After the first preemption, of the process alone, the code was there already.
    assert calls.count("scp") == 2
    assert "pod ended with 143; starts again, newest checkpoint: 10" in result.stderr
    assert "pod was lost; starts again, newest checkpoint: " in result.stderr
    assert "pod: training is done" in result.stderr


def test_babysit_leaves_a_mistake_and_a_run_stopped_by_hand(cloud):
    root, folder, env = cloud
    (folder / "act").write_text("[[ $PWD = */1/sir_jax ]] && exit 2\nsleep 50 & wait\n")
    result = script(*pod("babysit", folder), root=root, env=env)
    assert result.returncode == 2
    assert "pod: sir-jax train failed with 2; see logs" in result.stderr
    assert (folder / "calls").read_text().split().count("create") == 1
    assert (folder / "0/.sir_jax/runs/pod/log").read_text().endswith("saved\n")
    (folder / "act").write_text('touch "$CLOUD/up-${PWD//\\//_}"; sleep 50 & wait\n')
    words = ["bash", str(root / "launch/tpu.sh"), *pod("babysit", folder)]
    with subprocess.Popen(words, env=env, stderr=subprocess.PIPE, text=True) as babysitter:
        wait_for(lambda: len(list(folder.glob("up-*"))) == 2)
        script(*pod("stop", folder), root=root, env=env)
        _, stderr = babysitter.communicate(timeout=60)
    assert babysitter.returncode == 143
    assert "pod: stopped by hand" in stderr


def test_delete_refuses_a_tpu_that_somebody_else_made(cloud):
    root, folder, env = cloud
    script(*pod("create", folder), root=root, env=env)
    (folder / "owner").write_text("colleague\n")
    result = script(*pod("delete", folder), root=root, env=env)
    assert result.returncode == 2
    assert "--name=pod: has no label launcher=sir-jax, so this script did not make" in result.stderr
    assert (folder / "state").exists()
    (folder / "owner").write_text("sir-jax\n")
    assert script(*pod("delete", folder), root=root, env=env).returncode == 0
    assert not (folder / "state").exists()


def test_shellcheck_finds_nothing():
    files = sorted((ROOT / "launch").glob("**/*.sh"))
    assert len(files) > 4
    shellcheck = Path(sys.executable).with_name("shellcheck")
    result = subprocess.run([shellcheck, *files], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout == ""
    assert result.returncode == 0
