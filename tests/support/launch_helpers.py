"""launch/tpu.sh as its tests start it."""

import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


def script(*words, root=ROOT, **kwargs):
    """Return the result of launch/tpu.sh with these words."""
    command = ["bash", str(root / "launch/tpu.sh"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **kwargs)


def wait_for(condition):
    """Wait until a function returns something true, and return it."""
    for _ in range(1200):
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError("did not come true in a minute")
