"""Jobs of several real processes on this machine, undisturbed and disturbed."""

import contextlib
import http.server
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from job_helpers import Job, make_setting, sequence

from sir_jax.errors import UserError
from sir_jax.runtime import distributed
from sir_jax.runtime.peers import LOST, TRY_AGAIN
from sir_jax.training import fingerprint

STEPS, EVERY = 12, 4

# A job without a model: it passes a point every tenth of a second.
SMALL = """
import sys, time
import jax
jax.config.update("jax_platforms", "cpu")
from sir_jax.errors import UserError
from sir_jax.runtime import distributed

number, spec, fails = int(sys.argv[1]), sys.argv[2], sys.argv[3] == sys.argv[1]
with distributed.job(spec):
    assert distributed.from_first("x", {"from": number}) == {"from": 0}
    print("begun", flush=True)
    if fails:
        raise UserError("picture 7 is broken; mend it")
    for point in range(1, 1200):
        if distributed.tick():
            print("stopped at", point, distributed.agreed_signal(), flush=True)
            break
        if sys.argv[4] == sys.argv[1] and point == 10 + number:
            distributed.notify(15)
        time.sleep(0.05 + 0.05 * number)
"""


# The last process compiles longer than Gloo waits for it, which is 30 s; each then says the sum
# over all devices, and how often it compiled.
LATE = """
import sys, time
import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
from sir_jax.runtime import distributed

number, count = int(sys.argv[1]), int(sys.argv[2].split(",")[2])
with distributed.job(sys.argv[2]):
    mesh = jax.make_mesh((2 * count,), ("data",))
    split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
    traced = []

    def total(x):
        traced.append(x.shape)
        time.sleep(32 if number == count - 1 and len(traced) == 1 else 0)
        return x.sum()

    jitted = jax.jit(total, out_shardings=whole)
    for rows in (8, 8, 16):
        x = distributed.place(np.arange(rows, dtype=np.float32), split)
        print(float(distributed.run_together(jitted, x)), len(traced), flush=True)
"""


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """Return a folder with a corpus whose 7 pictures and 21 clips no batch divides."""
    return make_setting(
        tmp_path_factory.mktemp("distributed"),
        **{
            "train.steps": STEPS,
            "train.eval_every": EVERY,
            "train.checkpoint_every": EVERY,
            "mesh.data": 4,
            "data.groups": 2,  # the second half of the steps; each process deals by itself
            "optim.learning_rate": 1e-2,
        },
    )


@pytest.fixture(scope="module")
def whole(setting):
    """Return the workdir of one process with four devices, and see that it went to the end."""
    Job(setting, setting / "whole", 1, 4).finish()
    assert len(sequence(setting / "whole")) == STEPS + STEPS // EVERY
    return setting / "whole"


def losses(workdir):
    return [(r["step"], r["train/loss"]) for r in sequence(workdir) if "train/loss" in r]


def assert_same_run(workdir, whole):
    """Compare losses and evaluations, number by number."""
    ours, theirs = losses(workdir), losses(whole)
    assert [step for step, _ in ours] == list(range(1, STEPS + 1))
    # To the bit: whoever holds the devices, sums are cut and added in one order.
    assert ours == theirs
    ours, theirs = ([r for r in sequence(d) if "train/loss" not in r] for d in (workdir, whole))
    assert len(ours) == STEPS // EVERY
    assert ours == theirs


# Of what four could break two break already, in the next test.
@pytest.mark.release
def test_four_processes_give_the_run_of_one(setting, whole):
    outs = Job(setting, setting / "four", 4, 1).finish()
    assert_same_run(setting / "four", whole)
    assert "mesh: data 4 x fsdp 1 x tensor 1 on 4 of 4 cpu devices" in outs[0]
    # One process tells and writes.
    for out in outs[1:]:
        assert "mesh:" not in out and "step" not in out and "data.batch_size" not in out


@pytest.mark.slow
def test_two_processes_killed_and_gone_on_with_as_one(setting, whole):
    workdir = setting / "two"
    job = Job(setting, workdir, 2, 2)
    job.await_step(7)
    job.processes[1].send(signal.SIGKILL)
    killed = time.monotonic()
    statuses, outs = job.wait()
    assert time.monotonic() - killed < 60
    assert statuses == [TRY_AGAIN, -signal.SIGKILL], "\n".join(outs)
    assert "process 0: process 1 is gone; once that is mended, run the same command" in outs[0]
    assert losses(workdir)[-1][0] >= 7  # all of them made by two processes

    (out,) = Job(setting, workdir, 1, 4).finish()
    (line,) = [line for line in out.splitlines() if line.startswith(f"resumes {workdir} at step ")]
    assert 4 <= int(line.split()[-1]) < STEPS
    assert_same_run(workdir, whole)


@pytest.mark.slow
def test_processes_that_differ_do_not_start(setting):
    own = {1: ["--config.optim.learning_rate=0.5", "--config.train.num_threads=2"]}
    statuses, outs = Job(setting, setting / "differs", 2, 2, own=own).wait()
    assert statuses[0] == 2 and statuses[1] in (2, TRY_AGAIN), "\n".join(outs)
    (line,) = [line for line in outs[0].splitlines() if line.startswith("sir-jax train:")]
    assert line == (
        "sir-jax train: process 0: process 0 (there) and process 1 (here) differ: "
        "optim.learning_rate is 0.01 there and 0.5 here; start the same command with the same code "
        "and corpus on every machine"
    )
    assert not (setting / "differs").exists()


def run_small(count, fails=-1, notifies=-1, kill=None):
    """Return statuses and outputs of a small job, and how long it went on after a kill."""
    return run_jobs(SMALL, count, str(fails), str(notifies), kill=kill)


def run_jobs(program, count, *options, kill=None):
    """Run a program as processes of one job; see `run_small`."""
    port = free_port()
    running = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                program,
                str(number),
                f"127.0.0.1:{port},{number},{count}",
                *options,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]
    began = time.monotonic()
    if kill is not None:
        for process in running:
            assert process.stdout.readline() == "begun\n"
        began = time.monotonic()
        running[kill].send_signal(signal.SIGKILL)
    ends = [process.communicate(timeout=120) for process in running]
    return [process.returncode for process in running], ends, time.monotonic() - began


def free_port():
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module", autouse=True)
def waiting():
    """Return jobs under way that wait for half a minute, which the other tests need not."""
    with ThreadPoolExecutor() as pool:
        yield {
            "late": pool.submit(run_jobs, LATE, 2),
            2: pool.submit(run_small, 3, kill=2),
        }


# The last one has run since the first test.
@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 2])
def test_any_process_that_is_gone_is_named_within_a_minute(victim, waiting):
    """Process 0 holds the service through which the others talk, and JAX aborts without it."""
    statuses, ends, seconds = waiting[2].result() if victim == 2 else run_small(3, kill=victim)
    assert seconds < 60
    for number, (status, (_, err)) in enumerate(zip(statuses, ends, strict=True)):
        if number != victim:
            assert status == TRY_AGAIN, err
            assert f"process {number}: process {victim} is gone; once that is mended" in err


@pytest.mark.slow
def test_who_compiles_longest_is_waited_for(waiting):
    statuses, ends, _ = waiting["late"].result()
    assert statuses == [0, 0], ends
    for out, _ in ends:
        lines = [line for line in out.splitlines() if "Gloo" not in line]
        assert lines == ["28.0 1", "28.0 1", "120.0 2"]


@pytest.mark.slow
def test_error_of_one_process_ends_all_and_is_told_by_all():
    statuses, ends, seconds = run_small(3, fails=1)
    assert seconds < LOST
    assert statuses == [TRY_AGAIN, 2, TRY_AGAIN], ends
    assert "sir-jax train: process 1: picture 7 is broken; mend it\n" in ends[1][1]
    for number in (0, 2):
        assert (
            f"process {number}: process 1 has failed: picture 7 is broken; mend it;"
            in ends[number][1]
        )


@pytest.mark.slow
def test_all_stop_at_one_point_whichever_process_was_signalled():
    statuses, ends, _ = run_small(3, notifies=2)
    assert statuses == [0, 0, 0], ends
    said = {out.splitlines()[-1] for out, _ in ends}
    assert len(said) == 1 and said.pop().endswith(" 15")


@pytest.mark.parametrize(
    ("environ", "several"),
    [
        ({}, False),
        ({"JAX_COORDINATOR_ADDRESS": "10.0.0.1:1234"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a.svc,b.svc"}, True),
        ({"TPU_WORKER_HOSTNAMES": "WARNING: no hosts, please set it"}, False),
        ({"MEGASCALE_NUM_SLICES": "1"}, False),
        ({"MEGASCALE_NUM_SLICES": "2", "TPU_WORKER_HOSTNAMES": "a.svc"}, True),
        ({"SLURM_NTASKS": "4", "SLURM_JOB_ID": "1"}, False),  # salloc
        ({name: "1" for name in distributed._SLURM}, False),
        ({name: "1" for name in distributed._SLURM} | {"SLURM_NTASKS": "2"}, True),
        (
            {name: "1" for name in distributed._SLURM}
            | {"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "1"},
            False,
        ),
    ],
)
def test_environment_tells_of_several_processes(environ, several):
    assert distributed.several_processes(environ) is several


@contextlib.contextmanager
def metadata_server(hosts):
    """Answer as the metadata of a Cloud TPU VM does."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            right = self.path.endswith("/attributes/worker-network-endpoints")
            self.send_response(200 if right and self.headers["Metadata-Flavor"] else 404)
            self.end_headers()
            self.wfile.write(hosts.encode())

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(("hosts", "several"), [("x:1:10.0.0.1", False), ("a:1:x,b:2:y", True)])
def test_metadata_of_a_tpu_machine_tells_of_its_slice(hosts, several, tmp_path, monkeypatch):
    (tmp_path / "accel0").touch()
    monkeypatch.setattr(distributed, "_TPU_CHIPS", (f"{tmp_path}/accel[0-9]*",))
    with metadata_server(hosts) as address:
        environ = {"GCE_METADATA_IP": address}
        assert distributed.several_processes(environ) is several
        assert not distributed.several_processes(environ | {"JAX_PLATFORMS": "cpu"})
        assert not distributed.several_processes(environ | {"TPU_SKIP_MDS_QUERY": "1"})
    assert not distributed.several_processes({"GCE_METADATA_IP": "127.0.0.1:1"})


def test_option_is_read_or_refused():
    assert distributed.parse_spec("10.0.0.1:1234,3,4") == {
        "coordinator_address": "10.0.0.1:1234",
        "process_id": 3,
        "num_processes": 4,
    }
    for spec in (
        "on",
        "host,0,2",
        "host:1,2,2",
        "host:1,-1,2",
        ":1,0,2",
        "host:99999,0,2",
        "h:1,0",
    ):
        with pytest.raises(UserError, match=f"distributed={spec}: give auto, off or HOST:PORT"):
            distributed.parse_spec(spec)


def test_fingerprints_name_what_differs(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\n")
    before = fingerprint.code_hash(tmp_path)
    (tmp_path / "note.txt").write_text("no code")
    assert fingerprint.code_hash(tmp_path) == before
    (tmp_path / "a.py").write_text("x = 2\n")
    assert fingerprint.code_hash(tmp_path) != before
    there = {"config": {"train": {"num_threads": 1, "steps": 3}}, "the version of jax": "0.10.2"}
    here = {"config": {"train": {"num_threads": 2, "steps": 3}}, "the version of jax": "0.10.2"}
    assert fingerprint.differences(there, here) == []
    here["the version of jax"] = "0.11.0"
    assert fingerprint.differences(there, here) == [
        "the version of jax is 0.10.2 there and 0.11.0 here"
    ]
