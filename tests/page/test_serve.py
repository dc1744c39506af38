"""The `demo` verb: its address, and a run from start to Ctrl-C."""

import os
import signal
import subprocess
import sys
import time

import httpx
import pytest

from sir_jax.cli import main as cli
from sir_jax.errors import UserError
from sir_jax.page.guard import is_loopback
from sir_jax.page.serve import listen, url_of


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.com", ""])
def test_only_loopback_addresses_are_accepted(host):
    assert not is_loopback(host)
    with pytest.raises(UserError, match="this machine alone"):
        listen(host, 0)


def test_ports(capsys):
    with listen("localhost", 0) as taken:
        port = taken.getsockname()[1]
        assert url_of(taken) == f"http://127.0.0.1:{port}/"
        assert cli.main(["demo", "--index=none", f"--port={port}"]) == 2
        message = capsys.readouterr().err
        assert f"port {port} of 127.0.0.1 cannot be had" in message and message.count("\n") == 1
    with pytest.raises(UserError, match="^port 70000"):
        listen("127.0.0.1", 70_000)


def test_the_verb_from_start_to_control_c(page_engine, page_root, matching_workdir, tmp_path):
    page_engine.index.save(tmp_path / "index")
    verb = "import sys; from sir_jax.cli.main import entry; sys.exit(entry())"
    options = [f"--index={tmp_path / 'index'}", f"--model={matching_workdir}", "--port=0"]
    process = subprocess.Popen(
        [sys.executable, "-c", verb, "demo", *options],
        text=True,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        lines = [process.stdout.readline() for _ in range(3)]
        assert "9 pictures and 5 recordings" in lines[0] and "compiling" in lines[1]
        url = lines[2].split()[0]
        picture = (page_root / "pictures" / "1.png").read_bytes()
        answer = httpx.post(
            f"{url}api/search", files={"picture": ("a.png", picture)}, timeout=180, trust_env=False
        )
        assert len(answer.json()["results"]) == 5
        started = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)  # a terminal signals the decoder processes, too
        out, err = process.communicate(timeout=180)
        assert time.monotonic() - started < 60
    finally:
        process.kill()
    assert (process.returncode, err) == (0, "")
    # The decoder processes have ended, too.
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_a_folder_without_an_index(capsys, tmp_path, matching_workdir):
    options = [f"--index={tmp_path}", f"--model={matching_workdir}", "--port=0"]
    assert cli.main(["demo", *options]) == 2
    assert "holds no index" in capsys.readouterr().err
