"""The real `sir-jax train` as jobs of several processes on this machine."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

from tiny_models import tiny_config

from sir_jax.config.compare import to_json
from sir_jax.training.metrics import JSONL, read_records

# Compiled cheaply, and each program kept for the next job; a job's programs are its own.
PROGRAM = """
import resource, sys
import jax
devices, most_bytes, *argv = sys.argv[1:]
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", int(devices))
jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
if int(most_bytes):
    import signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(most_bytes), int(most_bytes)))
from sir_jax.cli.main import main
status = main(argv)
# Training needs no torch, whose import takes seconds.
assert "torch" not in sys.modules
sys.exit(status)
"""
CONFIG = """
import json
from sir_jax.config.compare import from_json

def get_config(arg=""):
    return from_json(json.loads('''{}'''))
"""


class Process:
    """One process of a job, its output in a file."""

    def __init__(self, log, devices, argv, most_bytes=0):
        self.log = log
        with open(log, "w") as out:
            self.popen = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(devices), str(most_bytes), *map(str, argv)],
                stdout=out,
                stderr=subprocess.STDOUT,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )

    def wait(self, timeout=600):
        """Return its exit status and its output."""
        try:
            status = self.popen.wait(timeout)
        finally:
            self.popen.kill()
        return status, self.log.read_text()

    def send(self, signum):
        self.popen.send_signal(signum)


class Job:
    """`count` processes with `devices` each, that train `root`'s config in `workdir`."""

    def __init__(self, root, workdir, count, devices, *options, own=None, most_bytes=0):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        argv = ["train", f"--config={root}/tiny.py", f"--workdir={workdir}", *options]
        self.workdir, self.processes = workdir, []
        for number in range(count):
            at = [f"--distributed=127.0.0.1:{port},{number},{count}"] if count > 1 else []
            log = root / f"{workdir.name}-{len(list(root.glob('*.log')))}-{number}.log"
            more = (own or {}).get(number, [])
            self.processes.append(Process(log, devices, [*argv, *at, *more], most_bytes))

    def wait(self, timeout=600):
        """Return the processes' exit statuses and outputs."""
        ends = [process.wait(timeout) for process in self.processes]
        return [status for status, _ in ends], [out for _, out in ends]

    def finish(self):
        """See that all goes well; return the outputs."""
        statuses, outs = self.wait()
        assert statuses == [0] * len(statuses), "\n".join(outs)
        return outs

    def stop_at(self, step):
        """Stop the job by a signal, at a step or soon after."""
        self.await_step(step)
        self.processes[0].send(signal.SIGTERM)
        statuses, outs = self.wait()
        assert statuses == [128 + signal.SIGTERM] * len(statuses), "\n".join(outs)

    def await_step(self, step):
        """Return once a step is written down."""
        while all(process.popen.poll() is None for process in self.processes):
            records = read_records(self.workdir / JSONL)
            if records and records[-1]["step"] >= step:
                return
            time.sleep(0.01)
        raise AssertionError("\n".join(self.wait()[1]))


def sequence(workdir):
    """Return every record without what depends on the clock."""
    return [
        {name: value for name, value in record.items() if not name.startswith("perf/")}
        for record in read_records(workdir / JSONL)
    ]


def make_setting(root, images=16, val_images=7, captions=3, **fields):
    """Put a corpus and `tiny.py`, a config that trains on it, into a folder."""
    out = root / "corpus.log"
    status, made = Process(
        out,
        1,
        [
            "data",
            "spoken_scenes",
            "--engines=espeak",
            "--level=one",
            f"--train_images={images}",
            f"--val_images={val_images}",
            "--test_images=4",
            f"--captions={captions}",
            "--image_size=32",
            f"--data_dir={root}/data",
        ],
    ).wait()
    assert status == 0, made
    (corpus,) = (path.name for path in (root / "data" / "spoken_scenes").glob("one-*"))
    cfg = tiny_config(
        **{
            "data.corpus": f"spoken_scenes/{corpus}",
            "data.data_dir": f"{root}/data",
            "data.buckets": (16_000,),
            "train.compile_cache": f"{root}/compiled",
        }
        | fields
    )
    (root / "tiny.py").write_text(CONFIG.format(json.dumps(to_json(cfg))))
    return root
