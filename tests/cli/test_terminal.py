"""What a terminal does to a command: it goes away, it knows few letters, it sends Ctrl-C."""

import os
import subprocess
import sys
import time

import pytest

from sir_jax.runtime import console

# A verb that stands in for those that print much, fail, or work for long.
PROGRAM = """
import atexit, os, signal, sys, time, types
from sir_jax.cli import main
from sir_jax.errors import UserError
from sir_jax.runtime.console import Progress

def run(argv):
    {body}

# A shell starts what runs in its background with Ctrl-C ignored.
if "HEED_CTRL_C" in os.environ:
    signal.signal(signal.SIGINT, signal.default_int_handler)
sys.modules["fake"] = types.SimpleNamespace(main=run)
main.VERBS["fake"] = ("fake", "a verb of this test")
atexit.register(lambda: print("an ordinary end", file=sys.stderr))
sys.exit(main.entry())
"""


def start(body: str, *argv: str, shell: str = "", **options) -> subprocess.Popen:
    """Start the console script with the verb `fake`, or with other words.

    `shell` is what a shell does before: a fork of this process would run JAX's hooks.
    """
    code = PROGRAM.format(body=body)
    env = {**os.environ, "PYTHONUNBUFFERED": "", **options.pop("env", {})}
    return subprocess.Popen(
        ["bash", "-c", f'{shell}; exec "$@"' if shell else 'exec "$@"', "bash"]
        + [sys.executable, "-c", code, *(argv or ["fake"])],
        env=env,
        stdout=options.pop("stdout", subprocess.PIPE),
        stderr=subprocess.PIPE,
        **options,
    )


def result(process: subprocess.Popen) -> tuple[int, bytes, bytes]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


LITTLE, MUCH = 'print("few words")', 'for n in range(99_999): print("a line", n)'
HANDLED = """
    try: print("x" * 99_999, flush=True)
    finally: print("tidied", file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (LITTLE, []),
        (MUCH, []),
        (HANDLED, []),
        ("pass", ["--help"]),
        ("pass", ["data"]),
        ("pass", ["data", "show", "--help"]),
        ("pass", ["train", "--help"]),
    ],
)
def test_a_closed_pipe_ends_a_verb_without_a_word(body, words):
    read, write = os.pipe()
    os.close(read)
    process = start(body, *words, stdout=write)
    os.close(write)
    status, _, err = result(process)
    assert status == 141 and err == (b"tidied\n" if body == HANDLED else b"")


def test_another_broken_pipe_is_no_closed_output():
    status, _, err = result(start("raise BrokenPipeError('of a worker')"))
    assert status == 1 and err.splitlines()[-2] == b"BrokenPipeError: of a worker"


def test_a_full_disk_and_no_output_at_all():
    with open("/dev/full", "wb") as full:
        status, _, err = result(start(LITTLE, stdout=full))
    assert status == 1 and b"No space left on device; make room there" in err
    assert b"Traceback" not in err
    status, _, err = result(start(LITTLE, shell="exec 1>&-"))
    assert status == 0 and err == b"an ordinary end\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_name_can_be_written_on_any_terminal(encoding):
    name = os.fsdecode("é日 ".encode() + b"\xff.png")
    body = "print(argv[0]); raise UserError(argv[0] + ': no such file')"
    env = {"PYTHONIOENCODING": encoding, "LC_ALL": "C"}
    status, out, err = result(start(body, "fake", name, env=env))
    expected = {
        "ascii": b"\\xe9\\u65e5 \xff.png",
        "latin-1": b"\xe9\\u65e5 \xff.png",
        "utf-8": "é日 ".encode() + b"\xff.png",
    }[encoding]
    assert status == 2 and out == expected + b"\n"
    assert err.splitlines()[0] == b"sir-jax fake: " + expected + b": no such file"


INTERRUPT = "os.kill(os.getpid(), signal.SIGINT)"
SLEEP = f"{INTERRUPT}; time.sleep(30)"
LOST = f"""
    try: {SLEEP}
    except KeyboardInterrupt: pass
    with Progress(9, "files", show=False) as bar:
        bar.update()
        time.sleep(30)
"""
NOTED = f"""
    try: {SLEEP}
    except KeyboardInterrupt: print("goes on from there"); return 130
"""


@pytest.mark.parametrize("body", [SLEEP, LOST, NOTED])
def test_ctrl_c_ends_a_verb_at_once_and_touches_nothing_more(body):
    begun = time.monotonic()
    status, out, err = result(start(body, env={"HEED_CTRL_C": "1"}))
    assert status == 130 and time.monotonic() - begun < 20
    # What compiles in a thread must not find its memory freed: Python does not end in its own way.
    assert b"an ordinary end" not in err and b"Traceback" not in err
    assert out == (b"goes on from there\n" if body == NOTED else b"")
    assert (b"sir-jax: interrupted" in err) == (body != NOTED)


def test_sigterm_ends_what_is_terminable_in_the_same_way():
    body = """
    from sir_jax.runtime.console import Terminated, terminable
    with terminable():
        try: os.kill(os.getpid(), signal.SIGTERM); time.sleep(30)
        except Terminated: print("goes on from there")
    print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
    return 143
    """
    status, out, err = result(start(body))
    assert (status, out, err) == (143, b"goes on from there\nTrue\n", b"")


def test_an_ignored_ctrl_c_stays_ignored():
    body = f"{INTERRUPT}; print('done')"
    status, out, err = result(start(body, shell="trap '' INT"))
    assert (status, out, err) == (0, b"done\n", b"an ordinary end\n")


def test_no_interrupt_in_this_process():
    assert not console.interrupted()
