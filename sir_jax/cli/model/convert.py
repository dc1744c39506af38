"""Convert a released checkpoint to the safetensors that sir_jax and transformers load."""

import argparse
from pathlib import Path

from sir_jax.cli.options import make_parser

# Those of `pretrained.convert.DTYPES`.
DTYPES = ("float32", "float16", "bfloat16")


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the options."""
    parser = make_parser("convert", __doc__)
    parser.add_argument(
        "--source", required=True, help="directory, or hub id in the local cache; nothing downloads"
    )
    parser.add_argument("--out", required=True, help="folder to write; appears only when finished")
    parser.add_argument(
        "--dtype", default="float32", choices=DTYPES, help="of the weights (default: float32)"
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="compare with PyTorch on the source; exit with 2 where they differ",
    )
    return parser.parse_args(argv)


def report(differences: list, dtype: str, bound: float) -> None:
    """Print how far a conversion is from PyTorch."""
    rounded = "" if dtype == "float32" else f", wider because the weights are rounded to {dtype}"
    print(f"PyTorch on the source against Flax on the result; bound {bound:g} relative{rounded}")
    print(f"{'output':<20}{'max abs error':>15}{'relative':>12}")
    for name, absolute, relative in differences:
        print(f"{name:<20}{absolute:>15.2e}{relative:>12.2e}")


def main(argv: list[str]) -> int:
    """Run `sir-jax convert`.

    Args:
      argv: the arguments after the verb.

    Raises:
      UserError: on a source that cannot be converted, a taken --out, and a failed --verify.
    """
    args = parse(argv)
    from sir_jax.pretrained import convert
    from sir_jax.pretrained.verify import BOUNDS

    with convert.new_folder(Path(args.out)) as folder:
        done = convert.convert(args.source, folder, args.dtype)
        print(convert.summary(args.source, done))
        if args.verify:
            differences = convert.compare_with_pytorch(args.source, folder)
            report(differences, args.dtype, BOUNDS[args.dtype])
            convert.check_equal(args.source, differences, BOUNDS[args.dtype])
    print(f"wrote {done.parameters:,} parameters as {args.dtype} to {args.out}")
    return 0
