"""The `demo` verb: a page on this machine that searches by voice and shows why."""

import argparse

from sir_jax.cli.options import add_model, make_parser


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the options."""
    parser = make_parser("demo", __doc__)
    parser.add_argument("--index", required=True, help="a folder that `sir-jax index` wrote")
    add_model(parser)
    parser.add_argument("--port", type=int, default=8765, help="default 8765; 0: any that is free")
    parser.add_argument("--host", default="127.0.0.1", help="an address of this machine alone")
    parser.add_argument("--browser", action="store_true", help="open the page in a browser")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Run `sir-jax demo`.

    Args:
      argv: the arguments after the verb.

    Raises:
      UserError: the index, the model or the address cannot be used.
    """
    args = parse(argv)
    from sir_jax.page.serve import listen, prepare, serve

    with listen(args.host, args.port) as taken:
        try:
            serve(prepare(args.index, args.model), taken, args.browser)
        except KeyboardInterrupt:
            print()
    return 0
