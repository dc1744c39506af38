"""Locks: who comes second is told at once by whom, and a dead process holds nothing."""

import os
import re
import signal
import socket
import subprocess
import sys

import pytest

from sir_jax.errors import UserError
from sir_jax.runtime.locks import LOCK, Taken, locked, only_one, owner_name

# Loads no JAX, so that it starts at once.
HOLDER = """
import os, sys, time
from pathlib import Path
from sir_jax.runtime.locks import locked
with locked(Path(sys.argv[1])):
    if not os.fork():
        print(os.getpid(), flush=True)  # by the worker, once it has let go
    time.sleep(60)
"""


def test_second_holder_is_refused_and_told_who_has_it(tmp_path):
    path = tmp_path / LOCK
    with locked(path):
        for _ in range(2):  # the one that is refused must not wipe out the name
            with pytest.raises(Taken) as taken, locked(path):
                pass
            assert taken.value.owner == owner_name()
    with locked(path):
        pass
    assert owner_name() == f"process {os.getpid()} on {socket.gethostname()}"


def test_lock_of_a_killed_process_is_free_though_its_worker_lives(tmp_path):
    path = tmp_path / LOCK
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, path], stdout=subprocess.PIPE)
    worker = int(holder.stdout.readline())
    try:
        with pytest.raises(Taken, match=f"process {holder.pid} on "), locked(path):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with locked(path):
            pass
    finally:
        os.kill(worker, signal.SIGKILL)
        holder.communicate()


def test_an_error_inside_lets_go_and_is_no_error_of_the_lock(tmp_path):
    with pytest.raises(OSError, match="disk is full"), only_one(tmp_path):
        raise OSError("disk is full")
    with only_one(tmp_path):
        pass


def test_only_one_makes_a_folder(tmp_path):
    folder = tmp_path / "corpora" / "mine"
    with only_one(folder):
        wanted = f"another process is making 'mine' ({owner_name()}); wait for it or choose another"
        with pytest.raises(UserError, match=re.escape(f"{wanted} data_dir")), only_one(folder):
            pass
        with (
            pytest.raises(UserError, match=re.escape(f"{wanted} out")),
            only_one(folder, "out"),
        ):
            pass
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write there: .*file.*; choose another data_dir"):
        with only_one(tmp_path / "file" / "below"):
            pass
