"""Run launch/tpu.sh, and wait for its effects."""

import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


def script(*words, root=ROOT, **kwargs):
    """Run launch/tpu.sh with these arguments and return the result."""
    command = ["bash", str(root / "launch/tpu.sh"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **kwargs)


def wait_for(condition):
    """Wait until a function returns a true value, and return the value."""
    for _ in range(1200):
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError("did not come true in a minute")
