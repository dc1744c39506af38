"""launch/tpu.sh on hosts. A fake gcloud has folders as machines; everything else is real."""

import os
import shutil
import subprocess

import pytest
from launch_helpers import ROOT, script, wait_for

GCLOUD = r"""#!/usr/bin/env bash
# $CLOUD holds the file `state` and a home folder for each of two workers.
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
    """Return (repository of the scripts, the cloud's folder, environment with the fake gcloud)."""
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
        **os.environ,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "CLOUD": str(folder),
        "PROGRAM": str(tmp_path / "program"),
    }
    return root, folder, env


def git(root, *words):
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    return subprocess.run(["git", *identity, *words], cwd=root, check=True, capture_output=True)


def pod(verb, folder):
    """Return the arguments of a verb for the TPU of the fake gcloud."""
    return [
        verb,
        "--backend=tpu-vm",
        "--name=pod",
        "--zone=z",
        "--type=v4-16",
        "--poll=0",
        "--config=c",
        f"--workdir={folder}/w",
        "--grace=1",
    ]


def test_hosts_run_the_committed_code_detached_and_stop_their_own_run(cloud):
    root, folder, env = cloud
    for verb in ("create", "wait", "sync", "setup"):
        result = script(*pod(verb, folder), root=root, env=env)
        assert result.returncode == 0, result.stderr
    run = [*pod("run", folder), "--", "--config.note=it's $HOME"]
    result = script(*run, root=root, env=env)
    assert result.stdout.count("pod started") == 2
    log = (folder / "0/.sir_jax/runs/pod/log").read_text()
    assert f"train --config=c --workdir={folder}/w --config.note=it's $HOME\n" in log
    # A second `run`, as after a broken connection, starts nothing; another command is refused.
    assert script(*run, root=root, env=env).stdout.count("pod runs already") == 2
    assert "pod runs another command" in script(*pod("run", folder), root=root, env=env).stderr
    # The code is not replaced while it runs.
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
    # A deleted file is removed from the hosts; files that were made there stay.
    git(root, "rm", "-q", "launch/demo.sh")
    assert "not committed" in script(*pod("sync", folder), root=root, env=env).stderr
    assert (folder / "0/sir_jax/launch/demo.sh").exists()
    result = script(*pod("sync", folder), "--dirty", root=root, env=env)
    assert result.returncode == 0, result.stderr
    assert not (folder / "0/sir_jax/launch/demo.sh").exists()
    assert (folder / "0/sir_jax/.venv/bin/sir-jax").exists()
    # --dirty does not change the index.
    assert git(root, "diff", "--cached", "--name-only").stdout == b"launch/demo.sh\n"


def test_babysit_makes_a_preempted_tpu_again_and_continues(cloud):
    root, folder, env = cloud
    (folder / "stockout").touch()
    (folder / "act").write_text(
        "mkdir -p $CLOUD/w/checkpoints; n=$(ls $CLOUD/w/checkpoints | wc -l)\n"
        "case $PWD in */0/sir_jax)\n"
        "  case $n in\n"
        "    0) mkdir $CLOUD/w/checkpoints/10; exit 143 ;;\n"
        "    1) mkdir $CLOUD/w/checkpoints/20; echo PREEMPTED >$CLOUD/state ;;\n"
        "    *) exit 0 ;;\n"
        "  esac ;;\n"
        "esac\n"
        '[ "$n" -ge 2 ] || { sleep 50 & wait; }\n'
    )
    result = script(*pod("babysit", folder), "--retries=1", root=root, env=env)
    assert result.returncode == 0, result.stderr
    calls = (folder / "calls").read_text().split()
    assert "pod could not be made ready; starts again, newest checkpoint: none" in result.stderr
    assert calls.count("create") == 3
    assert calls.count("delete") == 1
    # The first preemption only ended the process, so the code was not shipped again.
    assert calls.count("scp") == 2
    assert "pod ended with 143; starts again, newest checkpoint: 10" in result.stderr
    assert "pod was lost; starts again, newest checkpoint: " in result.stderr
    assert "pod: training is done" in result.stderr


def test_babysit_does_not_restart_after_a_mistake_or_a_stop(cloud):
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
