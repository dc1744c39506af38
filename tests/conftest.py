"""Test-wide settings, made before JAX starts its backend.

The tests wait for compilers, not for arithmetic. Programs are therefore compiled without LLVM's
optimisations and without XLA's fusion emitters, which together take five times as long, and kept
for the whole session: a program that two files or two processes need is compiled once.
"""

import atexit
import gc
import os
import shutil
import tempfile

# The programs that tests start inherit all of it.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "true"
FASTER_COMPILING = "--xla_cpu_use_fusion_emitters=false"
if FASTER_COMPILING not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FASTER_COMPILING}".strip()
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="sir_jax-programs-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax  # noqa: E402
import pytest  # noqa: E402
from absl import flags  # noqa: E402

pytest_plugins = ("retriever_fixtures", "split_fixtures")

# Eight virtual devices, so that every mesh from 1 to 8 runs on one CPU.
jax.config.update("jax_num_cpu_devices", 8)

# Grain's worker processes read absl flags, which no absl app has parsed here.
flags.FLAGS.mark_as_parsed()


@pytest.fixture(autouse=True, scope="module")
def programs_of_one_module():
    """Let go of compiled programs after each file: of all files together they take many GB."""
    yield
    jax.clear_caches()
    gc.collect()
