"""The real command in processes of its own."""

import os
import subprocess
import sys

PROGRAM = "import sys; from sir_jax.cli.main import main; sys.exit(main(sys.argv[1:]))"


def start(*argv, **kwargs):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", PROGRAM, *map(str, argv)]
    return subprocess.Popen(
        command,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        **kwargs,
    )


def finish(process):
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    return out
