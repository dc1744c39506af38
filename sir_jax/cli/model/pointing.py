"""Do attention maps point at what was named? Scenes of spoken_scenes know where each object is.

`sir-jax bench pointing --model=NAME|DIR [--corpus=spoken_scenes/one-..|among-..] [--clips=N]`

Asked of maps of cross-attention, and of how much the match depends on each patch:

peak    is the patch with the largest weight on the object that the recording names? By chance: the
        share of the patches that are.
choice  where there are several objects: is the most weight on the named one, for each patch that an
        object covers? By chance: one in as many as there are.

Each in pictures that show the object alone, and in pictures that show others beside it: those of
level `among`; or, for level `one`, with the object of another picture drawn into its own.
"""

import argparse

from sir_jax.cli.options import add_model, make_parser
from sir_jax.errors import UserError

CORPUS = "spoken_scenes/one-i3000-d250-t500-c4-v64-p128-s0"


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the options."""
    parser = make_parser("bench pointing", __doc__, keep_lines=True)
    add_model(parser)
    parser.add_argument("--corpus", default=CORPUS)
    parser.add_argument("--split", default="test")
    parser.add_argument("--clips", type=int, default=500, help="recordings, one a picture")
    parser.add_argument("--data_dir", default="")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Run `sir-jax bench pointing`.

    Args:
      argv: the arguments after the words.

    Raises:
      UserError: the model cannot match, or the corpus is no spoken_scenes of a level of `LEVELS`.
    """
    args = parse(argv)
    from sir_jax.data.builders.spoken_scenes.config import SceneConfig
    from sir_jax.data.builders.spoken_scenes.plan import plan_corpus
    from sir_jax.data.corpus import open_pictures
    from sir_jax.evaluation.pointing import LEVELS, measure
    from sir_jax.inference.retriever import Retriever

    builder, _, name = args.corpus.partition("/")
    config = SceneConfig.from_name(name) if builder == "spoken_scenes" else None
    if config is None or config.level not in LEVELS:
        raise UserError(
            f"--corpus {args.corpus}: give a spoken_scenes corpus of level {' or '.join(LEVELS)}"
        )
    model = Retriever.load(args.model)
    split = open_pictures(args.corpus, args.data_dir).split(args.split)
    planned = [image for image in plan_corpus(config) if image.split == args.split]
    print(f"{args.corpus}, split {args.split}, model {model.name}")
    for question, tally in measure(model, split, planned, args.clips).items():
        print(f"{question:<24} {tally.line}", flush=True)
    return 0
