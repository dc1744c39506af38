"""The `data prepare` verb: a corpus as its publisher ships it, to records that train."""

import argparse
from pathlib import Path

from sir_jax.cli.data.making import make_and_report
from sir_jax.cli.data.people import PEOPLE, add_people, choose_people, refuse_people
from sir_jax.cli.options import add_data_dir, make_parser
from sir_jax.data.builders.recordings import LAYOUTS, load_layout
from sir_jax.data.preparation.prepare import Options
from sir_jax.errors import UserError


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the options."""
    parser = make_parser(
        "data prepare",
        "Read a corpus as its publisher ships it; anything that cannot be used is listed. Or read "
        "your own, from a list of pictures and recordings.",
    )
    published = [f"{name}[/{'|'.join(load_layout(name).configs)}]" for name in LAYOUTS]
    parser.add_argument(
        "name", help=f"one of {', '.join(published)}, manifest, {', '.join(PEOPLE)}"
    )
    parser.add_argument("--archives", help="the archives' folder, here or gs://..., or unpacked")
    parser.add_argument("--manifest", help="of `manifest`: a .jsonl or .csv file")
    parser.add_argument("--name", dest="corpus", help="of `manifest`: what to call the corpus")
    parser.add_argument("--root", help="of `manifest`: what its paths are relative to")
    parser.add_argument(
        "--tolerance",
        type=float,
        help="share of a split that may be missing (default 0.01; 0.1 of people's recordings)",
    )
    parser.add_argument(
        "--allow-leaks",
        "--allow_leaks",
        action="store_true",
        help="of `manifest`: keep what is in more than one split",
    )
    parser.add_argument(
        "--max-seconds",
        "--max_seconds",
        type=float,
        default=Options.max_seconds,
        help="that a recording may last (default %(default)s)",
    )
    add_people(parser)
    parser.add_argument("--workers", type=int, default=0, help="processes; 0: every CPU core")
    add_data_dir(parser)
    return parser.parse_args(argv)


def choose(args: argparse.Namespace) -> tuple:
    """Return the `Layout`, the config, and the `Source` of its files.

    Raises:
      UserError: an option is missing, of no use here, or wrong.
    """
    from sir_jax.data.builders.archives import Source
    from sir_jax.data.builders.manifest.layout import check_name, manifest_layout

    name, _, config = args.name.partition("/")
    if name in PEOPLE:
        return choose_people(args, name, config)
    refuse_people(args)
    of_manifest = {"--manifest": args.manifest, "--name": args.corpus, "--root": args.root}
    if name != "manifest":
        layout = load_layout(name)
        config = config or next(iter(layout.configs))
        if config not in layout.configs:
            known = ", ".join(layout.configs)
            raise UserError(f"{name} has no config {config!r}; choose one of {known}")
        for option, value in of_manifest.items():
            if value is not None:
                raise UserError(f"{option} is for `prepare manifest`; give --archives")
        if args.allow_leaks:
            raise UserError("--allow_leaks is for `prepare manifest`; a published corpus is kept")
        if not args.archives:
            raise UserError("--archives is missing: give the folder of the archives, here or gs://")
        return layout, config, Source(args.archives)
    if args.archives:
        raise UserError("--archives is for published corpora; give --manifest")
    config = config or args.corpus or ""
    if not args.manifest or not config:
        raise UserError("--manifest and --name are both needed: a .jsonl or .csv file, and a name")
    manifest = Path(args.manifest).expanduser()
    root = Path(args.root).expanduser() if args.root else manifest.parent
    return manifest_layout(manifest, check_name(config), root), config, Source(str(root))


def main(argv: list[str]) -> int:
    """Run `sir-jax data prepare`.

    Args:
      argv: arguments after the words.

    Returns:
      0, or 130 after Ctrl-C.

    Raises:
      UserError: on anything the user can mend.
    """
    args = parse(argv)
    from sir_jax.data.preparation.prepare import prepare, summary
    from sir_jax.data.preparation.report import read_report

    layout, config, source = choose(args)
    options = Options(args.tolerance, args.max_seconds, args.workers, args.allow_leaks)
    return make_and_report(
        lambda: prepare(layout, config, source, args.data_dir, options),
        lambda corpus: summary(corpus, read_report(corpus.directory.parent)),
    )
