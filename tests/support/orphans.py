"""Kill a process without warning, and see what it leaves behind."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def members(session: int) -> dict[int, str]:
    """Return the command line of each process of a session that still runs, by its id."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                state, _, _, number = (
                    Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[:4]
                )
                if int(number) == session and state != "Z":
                    words = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
                    found[int(entry)] = b" ".join(words).decode()[:200]
    return found


def left_behind(
    script: Path, more: int, *argv: str, seconds: float = 10.0
) -> tuple[dict[int, str], dict[int, str]]:
    """Run a script until it says that it is ready, and kill it, it alone.

    Args:
      script: prints a line when it is ready, and goes on.
      more: processes that it must have started by then.
      *argv: its arguments.
      seconds: that the others have to end.

    Returns:
      The processes before the kill, and those that are left after it; these are killed, too.
    """
    process = subprocess.Popen(
        [sys.executable, str(script), *argv], stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert process.stdout.readline()
        until = time.monotonic() + 60
        while len(before := members(process.pid)) <= more and time.monotonic() < until:
            time.sleep(0.05)
        process.kill()
        process.wait()
        until = time.monotonic() + seconds
        while (after := members(process.pid)) and time.monotonic() < until:
            time.sleep(0.05)
        return before, after
    finally:
        process.stdout.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
