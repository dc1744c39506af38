"""Time each encoder family and its `transformers` version in PyTorch, and print ratios.

Both load the same random weights from disk, and their outputs are compared before anything is
timed. PyTorch runs eager attention, SDPA, and SDPA with torch.compile. "ours / best" is our time
divided by the shortest of these, so below 1 we are faster. The backward pass computes the gradient
of the output's mean square with respect to every parameter.
"""

import argparse
import functools
import gc
import json
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sir_jax import pretrained
from sir_jax.benchmarks.encoder_flops import hubert_flops, vit_flops
from sir_jax.benchmarks.timing import OtherLoad, Times, interleave
from sir_jax.config.specs import IMPLEMENTATIONS
from sir_jax.errors import UserError
from sir_jax.models import HUBERT_VARIANTS, VIT_VARIANTS, HubertSpec, VitSpec, build_encoder
from sir_jax.pretrained.load import family_of

# name -> (spec, batch on CPU, batch on an accelerator)
CASES: dict[str, tuple[HubertSpec | VitSpec, int, int]] = {
    **{
        f"hubert-{v}": (HubertSpec(**HUBERT_VARIANTS[v]), 2, 64)
        for v in ("base", "large", "xlarge")
    },
    "clip-B/32": (VitSpec(**VIT_VARIANTS["B/32"]), 16, 256),
    "clip-B/16": (VitSpec(**VIT_VARIANTS["B/16"]), 8, 256),
    "clip-L/14": (VitSpec(**VIT_VARIANTS["L/14"]), 4, 256),
    "clip-L/14-336": (VitSpec(**VIT_VARIANTS["L/14-336"]), 2, 128),
    "blip2-g/14": (VitSpec(**VIT_VARIANTS["g/14"]), 2, 128),
}
DEFAULT_CASES = "hubert-base,hubert-large,clip-B/32,clip-L/14"
_TOLERANCE = {"float32": 1e-3, "bfloat16": 1e-1}


class Row(NamedTuple):
    """One line of the table."""

    case: str
    shape: str
    which: str  # 'forward' or 'forward+backward'
    seconds: dict[str, Times]  # by implementation; 'ours' is one
    flops: float

    def ratio(self, field: str) -> float:
        """Return our time divided by the fastest peer's; `field` is 'median' or 'best'."""
        peers = [getattr(t, field) for name, t in self.seconds.items() if name != "ours"]
        return getattr(self.seconds["ours"], field) / min(peers)


def make_input(spec: HubertSpec | VitSpec, batch: int, seconds: float) -> np.ndarray:
    """Return noise as input: [B, N] samples at 16 kHz or [B, h, w, 3] pixels."""
    rng = np.random.default_rng(0)
    if isinstance(spec, HubertSpec):
        return rng.normal(size=(batch, int(16_000 * seconds))).astype(np.float32)
    return rng.normal(size=(batch, spec.image_size, spec.image_size, 3)).astype(np.float32)


def make_peer(spec: HubertSpec | VitSpec, dtype: str, folder: str) -> Any:
    """Build the PyTorch encoder with random weights and save it as `transformers` does."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = family_of(spec).config_from_spec(spec)
    model_class = getattr(transformers, config.pop("architectures")[0])
    config.pop("model_type")
    # With BLIP-2's own default all weights would be about 1e-10.
    model = model_class(model_class.config_class(**config, initializer_range=0.02)).eval()
    model.save_pretrained(folder)
    return model.to(_device(), getattr(torch, dtype))


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def peer_functions(model, x: np.ndarray, compiled: bool) -> dict[str, Callable[[], Any]]:
    """Return functions that compute the output of each PyTorch variant, by name."""
    import torch

    image = x.ndim == 4
    x = torch.from_numpy(x.transpose(0, 3, 1, 2).copy() if image else x)
    x = x.to(_device(), next(model.parameters()).dtype)

    def run(model, attention):
        model.set_attn_implementation(attention)
        return model(x).last_hidden_state

    functions = {name: functools.partial(run, model, name) for name in ("eager", "sdpa")}
    if compiled:
        # Dynamo warns about code of transformers.
        warnings.filterwarnings("ignore", module="torch._dynamo")
        fast = torch.compile(model)
        functions["compile"] = lambda: fast(x).last_hidden_state
    return functions


def our_function(spec, params, x: np.ndarray, dtype: str, attention: str) -> Callable:
    """Return a function that takes a transform of (params, *inputs) -> tokens and compiles it.

    The compiled function takes no arguments: parameters and inputs are bound to it.
    """
    module = build_encoder(spec, jnp.dtype(dtype), attention)
    args = (jnp.asarray(x),)
    if isinstance(spec, HubertSpec):
        args += (jnp.full((x.shape[0],), x.shape[1], jnp.int32),)

    def tokens(params, *args):
        out = module.apply({"params": params}, *args)
        return out.tokens

    return lambda transform: functools.partial(jax.jit(transform(tokens)), params, *args)


def _mean_square_grad(tokens: Callable) -> Callable:
    def loss(params, *args):
        return jnp.square(tokens(params, *args).astype(jnp.float32)).mean()

    return jax.grad(loss)


def _sync() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def bench_case(case: str, args: argparse.Namespace) -> list[Row]:
    """Time one encoder: the forward pass and, unless `--no-backward`, both passes."""
    import torch

    spec, on_cpu, on_accelerator = CASES[case]
    batch = args.batch or (on_cpu if jax.default_backend() == "cpu" else on_accelerator)
    x = make_input(spec, batch, args.seconds)
    with tempfile.TemporaryDirectory() as folder:
        model = make_peer(spec, args.dtype, folder)
        spec, params = pretrained.load(folder)
    params = jax.tree.map(lambda p: jnp.asarray(p, args.dtype), params)
    ours = our_function(spec, params, x, args.dtype, args.attention)
    peers = peer_functions(model, x, args.compile)
    _check_equal(ours(lambda f: f)(), peers["sdpa"], args.dtype, case)

    def forward(peer):
        with torch.inference_mode():
            peer()
        _sync()

    def both(peer):
        model.zero_grad(set_to_none=True)
        peer().float().square().mean().backward()
        _sync()

    rows = []
    passes = [("forward", forward, lambda f: f, 1), ("fwd+bwd", both, _mean_square_grad, 3)]
    for which, peer_pass, transform, factor in passes[: 2 if args.backward else 1]:
        run = ours(transform)
        functions = {"ours": lambda run=run: jax.block_until_ready(run())}
        for name, peer in peers.items():
            functions[name] = functools.partial(peer_pass, peer)
        seconds = interleave(functions, args.rounds)
        per_item = hubert_flops(spec, x.shape[1]) if x.ndim == 2 else vit_flops(spec)
        shape = f"{batch}x{args.seconds:g}s" if x.ndim == 2 else f"{batch}x{x.shape[1]}px"
        rows.append(Row(case, shape, which, seconds, factor * batch * per_item))
        print(format_row(rows[-1]), flush=True)
    return rows


def _check_equal(ours, peer: Callable, dtype: str, case: str) -> None:
    import torch

    with torch.inference_mode():
        theirs = peer().float().cpu().numpy()
    error = np.abs(np.asarray(ours, np.float32) - theirs).max() / np.abs(theirs).max()
    # Not `error >`, which is false for NaN.
    if not error <= _TOLERANCE[dtype]:
        raise UserError(f"{case}: outputs differ by {error:.2g} of the largest; not timed")


def gemm_rate(dtype: str) -> float:
    """Return the operations per second of a large matrix product on this machine."""
    size = 2048 if jax.default_backend() == "cpu" else 8192
    a = jnp.ones((size, size), dtype)
    product = jax.jit(lambda a: a @ a)
    times = interleave({"gemm": lambda: jax.block_until_ready(product(a))}, 7)
    return 2 * size**3 / times["gemm"].best


def format_header() -> str:
    """Return the table's head."""
    names = "".join(f"{name:>9}" for name in ("ours", "eager", "sdpa", "compile"))
    return f"{'encoder':<14}{'input':<12}{'pass':<9}{names}  ours/best  (of minima)  GFLOP/s"


def format_row(row: Row) -> str:
    """Return a row of the table: median seconds, ratios, our rate."""
    cells = "".join(
        f"{row.seconds[name].median:9.3f}" if name in row.seconds else f"{'-':>9}"
        for name in ("ours", "eager", "sdpa", "compile")
    )
    rate = row.flops / row.seconds["ours"].median / 1e9
    return (
        f"{row.case:<14}{row.shape:<12}{row.which:<9}{cells}"
        f"{row.ratio('median'):11.2f}{row.ratio('best'):13.2f}{rate:9.0f}"
    )


def parse_args(argv: list[str]) -> argparse.Namespace:
    """Read the options.

    Raises:
      UserError: an unknown case, or a number below 1.
    """
    parser = argparse.ArgumentParser(
        prog="sir-jax bench encoders",
        allow_abbrev=False,
        description="Time our encoders against transformers on PyTorch in the same run.",
    )
    parser.add_argument("--cases", default=DEFAULT_CASES, help=f"of {', '.join(CASES)}")
    parser.add_argument("--rounds", type=int, default=5, help="timed calls of each")
    parser.add_argument("--batch", type=int, default=0, help="0: by machine")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each clip")
    parser.add_argument("--dtype", default="float32", choices=sorted(_TOLERANCE))
    parser.add_argument(
        "--attention",
        default="xla",
        choices=IMPLEMENTATIONS,
        help="ours; cudnn needs an NVIDIA GPU and --dtype=bfloat16, flash a TPU",
    )
    parser.add_argument("--backward", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also time torch.compile, which compiles for minutes",
    )
    parser.add_argument("--json", default="", help="write the table to this file, too")
    args = parser.parse_args(argv)
    args.cases = args.cases.split(",")
    unknown = [case for case in args.cases if case not in CASES]
    if unknown:
        raise UserError(f"no case {unknown[0]!r}; choose among {', '.join(CASES)}")
    if args.rounds < 1 or args.batch < 0 or args.seconds <= 0:
        raise UserError("--rounds and --seconds must be above 0, --batch at least 0")
    return args


def main(argv: list[str]) -> int:
    """Run `sir-jax bench encoders`.

    Raises:
      UserError: where PyTorch and transformers are not installed, or an option is wrong.
    """
    args = parse_args(argv)
    # JAX and PyTorch share the accelerator, so JAX must not allocate all of its memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if args.attention == "cudnn" and (jax.default_backend() != "gpu" or args.dtype != "bfloat16"):
        raise UserError(
            f"--attention=cudnn on {jax.default_backend()} in {args.dtype}: it needs an NVIDIA GPU "
            "and --dtype=bfloat16"
        )
    if args.attention == "flash" and jax.default_backend() != "tpu":
        raise UserError(f"--attention=flash on {jax.default_backend()}: it needs a TPU")
    try:
        import torch
        import transformers
    except ImportError as error:
        raise UserError(f"{error}; pip install 'sir_jax[convert]'") from None
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if _device() == "cpu":
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    print(
        f"jax {jax.__version__} and torch {torch.__version__} on {jax.devices()[0].device_kind}, "
        f"{len(os.sched_getaffinity(0))} cores, {args.dtype}, "
        f"our attention by {args.attention}; "
        f"a large matrix product runs at {gemm_rate(args.dtype) / 1e9:.0f} GFLOP/s"
    )
    print("median seconds; ours/best below 1: we are faster than PyTorch's fastest variant")
    print(format_header(), flush=True)
    load, rows = OtherLoad(), []
    for case in args.cases:
        rows += bench_case(case, args)
        gc.collect()
    share = load.share()
    if share is not None:
        print(f"other processes took {100 * share:.0f} % of the machine meanwhile")
    if args.json:
        content = [row._asdict() | {"ratio": row.ratio("median")} for row in rows]
        Path(args.json).write_text(json.dumps(content, indent=2) + "\n")
    return 0
