#!/usr/bin/env bash
# Ask one rented GPU (H100, H200) all that is open about it: at most eight minutes, one table, and
# build/gpu_check/check.json. Options: see sir_jax/benchmarks/device/gpu_check.py; `--small` runs all
# of it at small sizes on a machine without a GPU. It has not been run on a GPU yet.
#
# It needs Python 3.11 or later with jax and its CUDA plugin (0.10 to 0.12), flax, optax, numpy,
# absl-py, etils, filelock, pillow and safetensors, and nothing from outside while it runs. Images for
# machine learning often lack four small packages; fetch their wheels on another machine, for the
# Python of the image, and lay them into ./wheels (2 MB), from where they are installed for this alone:
#   pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
#     --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 --dest wheels \
#     ml_collections soundfile cffi pycparser soxr
# With torch (CUDA) and transformers encoders are timed beside PyTorch; without, that part says so.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3}
if compgen -G "wheels/*.whl" >/dev/null; then
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --upgrade \
    --target build/gpu_check/packages wheels/*.whl
  PYTHONPATH="$PWD/build/gpu_check/packages:${PYTHONPATH:-}"
fi
export PYTHONPATH="$PWD:${PYTHONPATH:-}"
# The CPU beside the GPU: results are compared with its own. PyTorch shares the GPU's memory.
if [[ " $* " != *" --small "* ]]; then
  if ! command -v nvidia-smi >/dev/null; then
    echo "gpu_check: no NVIDIA driver here; --small runs it on a CPU" >&2
    exit 1
  fi
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
  export JAX_PLATFORMS=${JAX_PLATFORMS:-cuda,cpu}
fi
export XLA_PYTHON_CLIENT_PREALLOCATE=false
# A second run begins where the first one had compiled.
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$PWD/build/gpu_check/programs}
exec "$python" -m sir_jax.benchmarks.device.gpu_check "$@"
