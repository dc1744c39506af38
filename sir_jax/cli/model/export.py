"""The `export` verb: make a release of a training run, or StableHLO of a model's encoders."""

import argparse
import shlex
from pathlib import Path

from sir_jax.cli.options import make_parser
from sir_jax.errors import UserError


def main(argv: list[str]) -> int:
    """Run `sir-jax export`.

    Args:
      argv: the arguments after the verb.

    Raises:
      UserError: no such model or checkpoint, or the folder cannot be written.
    """
    args = parse(argv)
    from sir_jax.evaluation.card import make_release
    from sir_jax.inference import release
    from sir_jax.runtime.workdir import as_path

    if args.name and not release.is_name(args.name):
        raise UserError(f"--name {args.name!r}: use letters, digits, dots, dashes, underscores")
    out = Path(args.out)
    if out.exists():
        raise UserError(f"--out {out} exists already; give another folder or remove it")
    if args.stablehlo:
        return export_stablehlo(args.workdir or args.model, args.which, out)
    if not args.workdir:
        raise UserError(f"--model {args.model} is a release already; a --workdir is exported")
    workdir = as_path(args.workdir)
    fit_score(workdir, args.which)
    name = args.name or workdir.name
    command = f"sir-jax export {shlex.join(argv)}"
    about = args.which, args.dtype, args.licence, _read(args.notes), args.probabilities
    mark = make_release(workdir, out, name, command, *about)
    size = sum(path.stat().st_size for path in out.iterdir())
    print(f"{out}: {size / 1e6:.1f} MB, {args.dtype}, fingerprint {mark}")
    return 0


def _read(notes: str) -> str:
    try:
        return Path(notes).read_text(encoding="utf-8") if notes else ""
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--notes {notes}: cannot be read ({error})") from None


def fit_score(workdir: Path, which: str) -> None:
    """Fit the score of a run that was never fitted, where the corpus that it takes is here."""
    from sir_jax.data.corpus import open_pictures
    from sir_jax.evaluation.score.fit import fit_workdir
    from sir_jax.inference import release
    from sir_jax.models import tasks_of_params

    found = release.find(workdir, which)
    if found.score.fitted or not tasks_of_params(found.params):
        return
    try:
        corpus = open_pictures(found.cfg.data.corpus, found.cfg.data.data_dir or None)
        score = fit_workdir(workdir, corpus, which)
        why = f"corpus {corpus.name} has no validation split" if score is None else ""
    except UserError as error:
        why = str(error)
    if why:
        print(f"the score was not fitted ({why}): weights are 1, no probability will be shown")


def export_stablehlo(source: str, which: str, out: Path) -> int:
    """Write both encoders as StableHLO, and see that they give the model's numbers."""
    from sir_jax.inference.retriever import Retriever
    from sir_jax.interop.stablehlo import check_export, export_encoders

    model = Retriever.load(source, which)
    for path in export_encoders(model, out):
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    for difference in check_export(model, out):
        print(difference)
    return 0


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the options of `sir-jax export`."""
    parser = make_parser("export", __doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--workdir", default="", help="where `sir-jax train` wrote")
    source.add_argument("--model", default="", help="a release, of which --stablehlo is made")
    parser.add_argument("--out", required=True, help="a folder that is not there yet")
    parser.add_argument("--which", default="best", choices=("best", "last"), help="checkpoint")
    parser.add_argument("--name", default="", help="of the model; the default is the workdir's")
    parser.add_argument(
        "--dtype",
        default="float32",
        choices=("float32", "bfloat16", "float16"),
        help="that the weights are stored in",
    )
    parser.add_argument("--licence", default="", help="of the weights, for the model card")
    parser.add_argument("--notes", default="", help="Markdown file that goes into the model card")
    parser.add_argument(
        "--probabilities",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether people are told how probable a match is, where that was fitted; it holds for "
        "galleries like the validation split",
    )
    parser.add_argument(
        "--stablehlo", action="store_true", help="write the encoders as StableHLO instead"
    )
    return parser.parse_args(argv)
