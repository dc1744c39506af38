"""Parts of `gpu_check` that look at single layers and encoders; see there.

Each part yields rows: a dict with `case` and, beside it, numbers, or `error` with what went wrong.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sir_jax.benchmarks.encoders import CASES, gemm_rate, make_input
from sir_jax.benchmarks.timing import interleave
from sir_jax.models import HubertSpec, VitSpec, build_encoder
from sir_jax.models.attention import attend
from sir_jax.models.convolution import grouped_matmul, strided_matmul
from sir_jax.runtime.trees import map_with_path

Row = dict[str, Any]

# The smallest cosine of a token in bfloat16 with the same one in float32 that passes.
LEAST_COSINE = 0.99

# queries x keys, heads, width of a head; items.
ATTENTION = {
    "ViT-B/32, 50": (50, 12, 64, 256),
    "ViT-L/14, 257": (257, 16, 64, 128),
    "ViT-g/14, 257": (257, 16, 88, 128),
    "HuBERT 5 s, 249": (249, 16, 64, 64),
    "HuBERT 10 s, 499": (499, 16, 64, 64),
    "HuBERT 15 s, 749": (749, 16, 64, 64),
}
# channels in and out, taps, stride, samples or frames; items: the first three of HuBERT's seven.
STRIDED = {
    "front end, k 10, s 5": (1, 512, 10, 5, 80_000, 16),
    "front end, k 3, s 2": (512, 512, 3, 2, 15_999, 16),
    "front end, k 2, s 2": (512, 512, 2, 2, 999, 16),
}
# width, taps, groups, frames; items.
GROUPED = {
    "positional, base": (768, 128, 16, 499, 32),
    "positional, large": (1024, 128, 16, 499, 32),
}
SMALL_SPECS = {
    "hubert-tiny": HubertSpec(
        width=32, layers=1, heads=2, mlp_width=48, conv_width=(16,) * 7, pos_kernel=16, pos_groups=4
    ),
    "clip-tiny": VitSpec(image_size=16, patch=8, width=32, layers=1, heads=2, mlp_width=48),
}


def seconds(functions: Mapping[str, Callable[[], Any]], rounds: int, calls: int) -> dict:
    """Return the median seconds of one call by name; the calls of a round follow each other."""

    def run(fn) -> None:
        for _ in range(calls):
            out = fn()
        jax.block_until_ready(out)

    times = interleave({n: functools.partial(run, fn) for n, fn in functions.items()}, rounds)
    return {name: time.median / calls for name, time in times.items()}


def attempt(case: str, measure: Callable[..., Row], *args) -> Row:
    """Return a row of what `measure` finds; of an error its first line, so that others go on."""
    try:
        return {"case": case, **measure(*args)}
    except Exception as error:  # noqa: BLE001 - XLA and cuDNN raise one type for everything
        return {"case": case, "error": f"{type(error).__name__}: {str(error).splitlines()[0]}"}


def device(small: bool) -> Iterator[Row]:
    """Say what the device is, and measure its rates of large products and of copies."""
    del small
    one = jax.devices()[0]
    limit = (one.memory_stats() or {}).get("bytes_limit", 0)
    yield {"case": one.device_kind, "jax": jax.__version__, "GiB": limit / 2**30}
    for dtype in ("bfloat16", "float32"):
        name = f"product of {dtype}"
        yield attempt(name, lambda dtype: {"TFLOP/s": gemm_rate(dtype) / 1e12}, dtype)
    x = jnp.ones((64 if one.platform == "cpu" else 1024, 2**20), jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    spent = seconds({"copy": lambda: copy(x)}, 5, 5)["copy"]
    yield {"case": "read and write", "GB/s": 2 * x.nbytes / spent / 1e9}


def parity(small: bool) -> Iterator[Row]:
    """Compare both encoders in bfloat16 with float32, and float32 with that of the CPU."""
    names = ("hubert-base", "hubert-large", "clip-L/14")
    specs = SMALL_SPECS if small else {name: CASES[name][0] for name in names}
    for name, spec in specs.items():
        x = make_input(spec, 2, 0.2 if small else 5.0)
        lengths = np.array([x.shape[1], 2 * x.shape[1] // 3], np.int32)
        args = (x, lengths) if isinstance(spec, HubertSpec) else (x,)
        run = functools.partial(_tokens, spec, random_params(spec, args), args)
        with jax.default_matmul_precision("highest"):
            exact = run("float32", "xla")
            by_cpu = attempt(f"{name}, float32 by the CPU", _compare_cpu, run, exact)
        yield by_cpu
        for form in ("xla", "cudnn"):
            yield attempt(f"{name}, bfloat16, {form}", _compare_form, run, form, exact)


def _tokens(spec, params: dict, args: tuple, dtype: str, attention: str) -> np.ndarray:
    """Return the valid tokens of an encoder, float32 [n, D]."""
    module = build_encoder(spec, jnp.dtype(dtype), attention)
    found = jax.jit(lambda params, *args: module.apply({"params": params}, *args))(params, *args)
    tokens = np.asarray(found.tokens, np.float32)
    return tokens[np.asarray(found.mask)] if len(args) > 1 else tokens.reshape(-1, tokens.shape[-1])


def _compare_cpu(run: Callable, exact: np.ndarray) -> Row:
    with jax.default_device(jax.devices("cpu")[0]):
        return _compare(run("float32", "xla"), exact)


def _compare_form(run: Callable, form: str, exact: np.ndarray) -> Row:
    return _compare(run("bfloat16", form), exact)


def random_params(spec, args) -> dict:
    """Return an encoder's parameters by NumPy: kernels that keep a token's size, scales of 1."""
    abstract = jax.eval_shape(build_encoder(spec).init, jax.random.key(0), *args)["params"]
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        if path.endswith(("scale", "/g")):
            return np.ones(leaf.shape, np.float32)
        fan_in = int(np.prod(leaf.shape[:-1])) if leaf.ndim > 1 else 2_500
        return rng.normal(0, fan_in**-0.5, leaf.shape).astype(np.float32)

    return map_with_path(fill, abstract)


def _compare(found: np.ndarray, exact: np.ndarray) -> Row:
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(exact, axis=1)
    cosine = float(((found * exact).sum(1) / norms).min())
    largest = float(np.abs(found - exact).max() / np.abs(exact).max())
    row = {"least cosine": cosine, "largest error": largest}
    # Not `cosine <`, which is false for NaN.
    if not cosine >= LEAST_COSINE:
        row["error"] = f"a token differs from float32: its cosine is below {LEAST_COSINE}"
    return row


def attention(small: bool) -> Iterator[Row]:
    """Time attention by cuDNN and by XLA, by length; of the keys of each row some are padding."""
    cases = {"small, 9": (9, 2, 8, 2)} if small else ATTENTION
    for case, (t, heads, width, items) in cases.items():
        rng = np.random.default_rng(0)
        q, k, v = (
            jnp.asarray(rng.normal(size=(items, t, heads, width)), jnp.bfloat16) for _ in range(3)
        )
        mask = jnp.arange(t)[None] < jnp.linspace(max(1, t // 2), t, items)[:, None]
        for which, flops in (("forward", 4), ("fwd+bwd", 14)):
            row, outs = {}, []
            programs = {}
            for name in ("xla", "cudnn"):
                programs[name] = functools.partial(_attention_program(name, which), q, k, v, mask)
                ran = attempt(name, lambda program: {"out": program()}, programs[name])
                if "error" in ran:
                    row[f"{name} failed"] = ran["error"]
                    del programs[name]
                else:
                    outs.append(jax.tree.leaves(ran["out"]))
            found = seconds(programs, 2 if small else 5, 1 if small else 10)
            row |= {f"{name} ms": 1e3 * spent for name, spent in found.items()}
            if found:
                row["TFLOP/s"] = flops * items * heads * t * t * width / min(found.values()) / 1e12
            if len(outs) == 2:
                row["difference"] = max(map(_difference, *outs))
            yield {"case": f"{case}, {which}", **row}


def _attention_program(name: str, which: str) -> Callable:
    def forward(q, k, v, mask):
        return attend(q, k, v, mask, name)

    def loss(q, k, v, mask):
        return jnp.square(forward(q, k, v, mask).astype(jnp.float32)).mean()

    return jax.jit(forward if which == "forward" else jax.grad(loss, (0, 1, 2)))


def _difference(a, b) -> float:
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    return float(np.abs(a - b).max() / np.abs(b).max())


def convolutions(small: bool) -> Iterator[Row]:
    """Time the formulations of HuBERT's convolutions; cuDNN's may not work at all in bfloat16."""
    strided, grouped = STRIDED, GROUPED
    if small:
        strided, grouped = {"small": (2, 4, 3, 2, 33, 2)}, {"small, grouped": (8, 4, 2, 9, 2)}
    for case, (c, d, taps, stride, n, items) in strided.items():
        forms = {"products": functools.partial(strided_matmul, stride=stride)}
        forms["cuDNN"] = functools.partial(_library_conv, stride=stride, groups=1)
        yield from _formulations(case, forms, (items, n, c), (taps, c, d), small)
    for case, (width, taps, groups, frames, items) in grouped.items():
        forms = {"two-level products": functools.partial(grouped_matmul, groups=groups)}
        forms["cuDNN, grouped"] = functools.partial(_library_conv, stride=1, groups=groups)
        shape = items, frames + taps - 1, width
        yield from _formulations(case, forms, shape, (taps, width // groups, width), small)


def _library_conv(x, kernel, *, stride: int, groups: int):
    layout = ("NWC", "WIO", "NWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (stride,), "VALID", dimension_numbers=layout, feature_group_count=groups
    )


def _formulations(case: str, forms: dict, shape, kernel_shape, small: bool) -> Iterator[Row]:
    rng = np.random.default_rng(0)
    values = rng.normal(size=shape)
    weights = rng.normal(size=kernel_shape) * np.prod(kernel_shape[:2]) ** -0.5
    for dtype in ("bfloat16", "float32"):
        x, kernel = jnp.asarray(values, dtype), jnp.asarray(weights, dtype)
        for which in ("forward", "fwd+bwd"):
            first = None  # what the first form gives
            for name, form in forms.items():
                run = functools.partial(_conv_program(form, which), x, kernel)
                row = attempt(f"{case}, {dtype}, {which}, {name}", _timed_form, run, first, small)
                first = row.pop("_out", first)
                yield row


def _timed_form(run: Callable, first, small: bool) -> Row:
    out = jax.tree.leaves(run())
    row = {"ms": 1e3 * seconds({"": run}, *((1, 1) if small else (3, 5)))[""], "_out": out}
    if first is not None:
        row["difference"] = max(map(_difference, out, first))
    return row


def _conv_program(form: Callable, which: str) -> Callable:
    def loss(x, kernel):
        return jnp.square(form(x, kernel).astype(jnp.float32)).mean()

    return jax.jit(form if which == "forward" else jax.grad(loss, (0, 1)))
