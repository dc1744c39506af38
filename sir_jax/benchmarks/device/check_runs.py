"""Parts of `gpu_check` that run whole programs: encoders beside PyTorch, train steps, search.

Each part yields rows as those of `check_layers`.
"""

import argparse
import math
import time
from collections.abc import Iterator

import jax
import numpy as np

from sir_jax.benchmarks import encoders as peers
from sir_jax.benchmarks.device.check_layers import Row, attempt
from sir_jax.benchmarks.step import build_step, variants
from sir_jax.benchmarks.timing import interleave
from sir_jax.config.command_line import load_config
from sir_jax.index.engines.exact import exact_search
from sir_jax.index.engines.exact_device import DeviceGallery
from sir_jax.runtime import sharding
from sir_jax.training.instruments.flops import step_flops
from sir_jax.training.setup import prepare

CONFIG, SMALL_CONFIG = "configs/unified.py:gpu=80GB", "configs/unified.py:runlocal"
# Layers of each encoder, where a program is to compile soon and has the kernels of the whole.
FEW = {"model.speech.layers": 2, "model.image.layers": 2, "model.fusion.layers": 1}


def encoders(small: bool) -> Iterator[Row]:
    """Time encoders beside eager, SDPA and compiled PyTorch in the same run."""
    try:
        import torch
        import transformers
    except ImportError as error:
        yield {"case": "beside PyTorch", "skipped": str(error)}
        return
    if not small and not torch.cuda.is_available():
        yield {
            "case": "beside PyTorch",
            "skipped": f"torch {torch.__version__} sees no CUDA device",
        }
        return
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    args = argparse.Namespace(attention="cudnn", backward=True, compile=not small)
    args.rounds, args.dtype = (1, "float32") if small else (5, "bfloat16")
    args.seconds = 0.2 if small else 10.0
    # Small enough for both libraries on a card of 80 GB.
    batches = {"hubert-base": 64, "clip-L/14": 256, "hubert-large": 32}
    if small:
        batches = {"hubert-base": 1}
    for case, args.batch in batches.items():
        try:
            rows = peers.bench_case(case, args)
        except Exception as error:  # noqa: BLE001 - torch, dynamo and XLA have many
            yield {"case": case, "error": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
            continue
        for row in rows:
            times = {f"{name} ms": 1e3 * t.median for name, t in row.seconds.items()}
            rate = row.flops / row.seconds["ours"].median / 1e12
            found = {"ours / best": row.ratio("median"), "TFLOP/s": rate}
            yield {"case": f"{case} {row.shape}, {row.which}", **times, **found}


def step(small: bool) -> Iterator[Row]:
    """Time the train step of the GPU's config: memory, rate, share of a large product's rate."""
    ceiling = peers.gemm_rate("float32" if small else "bfloat16")
    for attention in ("cudnn", "xla"):
        cfg = load_config(SMALL_CONFIG if small else CONFIG)
        # As a loop the layers compile in a fraction of the time.
        cfg.model.update(scan=True, attention=attention)
        if small:
            cfg.model.update(dtype="bfloat16")
        yield attempt(f"unified, {attention}", _timed_step, cfg, ceiling, small)


def _timed_step(cfg, ceiling: float, small: bool) -> Row:
    samples = cfg.data.buckets[-1]
    began = time.perf_counter()
    run, finish = build_step(cfg, samples)
    compiled = time.perf_counter() - began
    cost = finish(interleave({"": run}, 1 if small else 5)[""])
    rate = step_flops(prepare(cfg, sharding.make_mesh(cfg.mesh)), samples) / cost.seconds.median
    used = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", math.nan)
    return {
        "ms": 1e3 * cost.seconds.median,
        "pairs/s": cfg.data.batch_size / cost.seconds.median,
        "TFLOP/s": rate / 1e12,
        "% of product": 100 * rate / ceiling,
        "GiB planned": cost.peak_bytes / 2**30,
        "GiB used": used / 2**30,
        "compiled in s": compiled,
        **_finite(run),
    }


def _finite(run) -> Row:
    found = {name: float(x) for name, x in run.metrics.items() if name == "train/loss"}
    if not all(map(math.isfinite, found.values())):
        return found | {"error": "the loss is not finite"}
    return found


def terms(small: bool) -> Iterator[Row]:
    """Make one step of each variant of the objective, with few layers of the whole width."""
    whole = load_config(SMALL_CONFIG if small else CONFIG)
    whole.update_from_flattened_dict(FEW)
    if not small:
        whole.model.attention = "cudnn"
    for name, fields in variants(whole.loss).items():
        cfg = whole.copy_and_resolve_references()
        cfg.update_from_flattened_dict(fields)
        yield attempt(name, _one_step, cfg)


def _one_step(cfg) -> Row:
    run, _ = build_step(cfg, cfg.data.buckets[0])
    return {"ms": 1e3 * interleave({"": run}, 1)[""].median, **_finite(run)}


def search(small: bool) -> Iterator[Row]:
    """Search exactly on the device, and compare the rows with those that the CPU finds."""
    count, width = (2_000, 32) if small else (1_000_000, 256)
    rng = np.random.default_rng(0)
    gallery = rng.standard_normal((count, width), np.float32)
    gallery /= np.linalg.norm(gallery, axis=1, keepdims=True)
    on_device = DeviceGallery(gallery)
    for n in (1, 100, 1_000):
        queries = gallery[rng.integers(0, count, n)] + rng.standard_normal((n, width), np.float32)

        case = f"{n:,} queries of {count:,} x {width}"
        yield attempt(case, _timed_search, queries, gallery, on_device, 1 if small else 5)


def _timed_search(queries, gallery, on_device: DeviceGallery, rounds: int, k: int = 10) -> Row:
    def run():
        return exact_search(queries, gallery, k, device="accelerator", device_gallery=on_device)

    spent = interleave({"": run}, rounds)[""].median
    few = queries[:8]
    same = np.array_equal(run().rows[: len(few)], exact_search(few, gallery, k, device="cpu").rows)
    row = {"ms": 1e3 * spent, "TFLOP/s": 2 * len(queries) * gallery.size / spent / 1e12}
    return row if same else row | {"error": "other rows than on the CPU"}
