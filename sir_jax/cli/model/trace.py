"""sir-jax bench trace DIR [--json=FILE]

Says who takes the time of a trace: each module and each term of the objective, by the named scopes
of the train step. DIR is what `train.profile` wrote (WORKDIR/profile), or `sir-jax bench step
--trace`. XProf and TensorBoard open the same folder.
"""

import json
from pathlib import Path

from sir_jax.cli.options import make_parser


def main(argv: list[str]) -> int:
    """Run `sir-jax bench trace`.

    Raises:
      UserError: the folder holds no trace.
    """
    parser = make_parser("bench trace", __doc__, keep_lines=True)
    parser.add_argument("folder", metavar="DIR")
    parser.add_argument("--json", default="", help="write the shares to this file, too")
    args = parser.parse_args(argv)
    from sir_jax.benchmarks.device.trace import MODULES, TERMS, describe, part_of, read_trace

    trace = read_trace(Path(args.folder))
    print("\n".join(describe(trace)))
    if args.json:
        shares = {
            "steps": trace.steps,
            "ms a step": trace.total / trace.steps / 1e3,
            "modules": trace.shares(lambda path: part_of(path, MODULES)),
            "terms": trace.shares(lambda path: part_of(path, TERMS)),
        }
        Path(args.json).write_text(json.dumps(shares, indent=2) + "\n")
    return 0
