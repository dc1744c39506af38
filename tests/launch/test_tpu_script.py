"""launch/tpu.sh: the commands that it prints, the options that it refuses, and its manifests.

Snapshots are transcripts. A line that begins with `$` is a command line, to which --dry-run is
added; the lines after it are its output.
"""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from launch_helpers import ROOT, script

SNAPSHOTS = Path(__file__).parent / "snapshots"
VERBS = ("create", "wait", "sync", "setup", "run", "logs", "status", "babysit", "stop", "delete")
BACKENDS = ("tpu-vm", "queued-resources", "gke", "local")


def transcripts():
    """Return (back end, verb) -> (command line, output)."""
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
    # A dry run needs no other program: no cloud tool, no git, not even mkdir.
    for tool in ("bash", "dirname"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    words = shlex.split(line)
    result = script(words[0], "--dry-run", *words[1:], env={"PATH": str(tmp_path)})
    assert result.stderr == ""
    assert result.stdout.strip("\n") == output
    assert result.returncode == 0


def test_a_printed_command_passes_every_word_through_both_shells():
    override = """--config.note=it's "50 %" of $HOME & `id`; *\t#"""
    result = script(
        "run",
        "--dry-run",
        "--backend=tpu-vm",
        "--name=pod",
        "--zone=z",
        "--config=c",
        "--workdir=gs://b/w",
        "--",
        override,
        "--config.empty=",
        "",
    )
    # The local shell gives gcloud one word that is the command for the host's shell ..
    shown = 'gcloud() { printf "%s\\0" "$@"; }; ' + result.stdout
    words = subprocess.run(["bash", "-c", shown], capture_output=True, text=True).stdout.split("\0")
    (remote,) = [w.removeprefix("--command=") for w in words if w.startswith("--command=")]
    # .. and the host's shell gives sir-jax the original words.
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
            [
                "babysit",
                "--backend=tpu-vm",
                "--name=a",
                "--zone=z",
                "--type=v4-32",
                "--config=c",
                "--workdir=runs/x",
            ],
            "--workdir=runs/x: several hosts must reach it; give gs://",
        ),
        (["wait", "--backend=tpu-vm", "--name=A_b", "--zone=z"], "--name=A_b: give at most 40 of"),
        (["setup", "--backend=tpu-vm", "--data=/d"], "--data=/d: give a folder in gs://"),
        (
            [
                "run",
                "--backend=gke",
                "--name=a",
                "--type=v4-8",
                "--image=i",
                "--config=c",
                "--workdir=/w",
            ],
            "--workdir=/w: a pod's own folders end with it; give gs://",
        ),
        (["wait", "--backend=local", "--env=/no/file"], "--env=/no/file: no such file"),
    ],
)
def test_a_mistake_is_one_line_with_the_remedy(words, message):
    result = script(*words)
    assert result.returncode == 2
    assert result.stderr.startswith(f"launch/tpu.sh: {message}")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_a_missing_tool_is_named(tmp_path):
    for tool in ("bash", "dirname", "git"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    words = ["create", "--backend=tpu-vm", "--name=a", "--zone=z", "--type=v4-8"]
    result = script(*words, env={"PATH": str(tmp_path)})
    assert result.returncode == 2
    assert result.stderr.startswith("launch/tpu.sh: gcloud is not on PATH: install it")


def test_options_from_a_file_are_overridden_by_flags(tmp_path):
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
    """Return the JobSet that `run` would apply, and its replicated job."""
    result = script(
        "run",
        "--dry-run",
        "--backend=gke",
        "--name=pod",
        "--image=images/sir_jax:v1",
        "--config=c",
        "--workdir=gs://b/w",
        *words,
    )
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
def test_a_jobset_requests_the_hosts_and_chips_of_its_slices(
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
    # Kubernetes expands `$(`, unless it is written as `$$(`.
    words[2] = "$$(HOME)"
    assert pod["containers"][0]["command"] == [
        "sir-jax",
        "train",
        "--config=c",
        "--workdir=/gcs/b/w",
        *words,
    ]
    workdir, data = pod["volumes"]
    assert workdir["csi"]["volumeAttributes"]["bucketName"] == "b"
    attributes = data["csi"]["volumeAttributes"]
    assert attributes == {"bucketName": "bucket", "mountOptions": "implicit-dirs,only-dir=a/b"}
    mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    assert mounts == {"workdir": "/gcs/b", "data": "/sir_jax/data"}
    _, job = manifest("--type=v4-8", "--data=gs://bucket")
    _, data = job["template"]["spec"]["template"]["spec"]["volumes"]
    assert data["csi"]["volumeAttributes"] == {
        "bucketName": "bucket",
        "mountOptions": "implicit-dirs",
    }
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
    # The variables that SkyPilot sets on the second of two hosts.
    env = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "CONFIG": "c",
        "RUN": "r",
        "ARGS": "--config.note='a b'",
        "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
        "SKYPILOT_NODE_RANK": "1",
        "SKYPILOT_NUM_NODES": "2",
    }
    run = ["bash", "-c", task["run"]]
    common = ["train", "--config=c", "--workdir=/bucket/r"]
    if shutil.which("nvidia-smi") is None:
        out = subprocess.run(run, cwd=tmp_path, env=env, capture_output=True, text=True).stdout
        assert out.splitlines() == [*common, "--distributed=auto", "--config.note=a b"]
    (tmp_path / "nvidia-smi").symlink_to("/bin/true")
    out = subprocess.run(run, cwd=tmp_path, env=env, capture_output=True, text=True).stdout
    assert out.splitlines() == [*common, "--distributed=10.0.0.1:8476,1,2", "--config.note=a b"]


def test_shellcheck_finds_nothing():
    files = sorted((ROOT / "launch").glob("**/*.sh"))
    assert len(files) > 4
    shellcheck = Path(sys.executable).with_name("shellcheck")
    result = subprocess.run([shellcheck, *files], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout == ""
    assert result.returncode == 0
