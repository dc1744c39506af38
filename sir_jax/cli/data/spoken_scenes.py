"""The `data spoken_scenes` verb: render scenes and have them described aloud."""

import argparse
import dataclasses
import sys

from sir_jax.cli.data.making import make_and_report
from sir_jax.cli.options import add_data_dir
from sir_jax.data.builders.spoken_scenes.config import LEVELS, SPLITS, SceneConfig
from sir_jax.data.media.synthesis.engines import ENGINES, missing_engines


def parse(argv: list[str]) -> tuple[SceneConfig, argparse.Namespace]:
    """Return the corpus' config and the other options.

    Raises:
      UserError: see `SceneConfig`.
    """
    parser = argparse.ArgumentParser(
        prog="sir-jax data spoken_scenes",
        description="Rendered scenes described by synthetic voices; needs no download.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    texts = {
        "level": f"difficulty: {', '.join(LEVELS)}",
        **{f"{split}_images": f"distinct scenes of split {split}" for split in SPLITS},
        "captions": "spoken captions per image",
        "voices": "voices, all splits together",
        "image_size": "side of the pictures in pixels",
        "seed": "of scenes, words and voices",
        "engines": f"synthesisers, joined by commas: {', '.join(ENGINES)}; "
        "all: those that are installed",
    }
    fields = dataclasses.fields(SceneConfig)
    for field in fields:
        default = "all" if field.name == "engines" else field.default
        parser.add_argument(
            f"--{field.name}", type=field.type, default=default, help=texts[field.name]
        )
    parser.add_argument("--workers", type=int, default=0, help="processes; 0: every CPU core")
    add_data_dir(parser)
    args = parser.parse_args(argv)
    if args.engines in ("all", ""):
        args.engines = _installed()
    return SceneConfig(**{field.name: getattr(args, field.name) for field in fields}), args


def _installed() -> str:
    """Return the engines that are installed, and say in a line how to get the others."""
    missing = missing_engines()
    if "espeak" not in missing:
        lines = [f"without {engine}: {why}" for engine, why in missing.items()]
        print("; ".join(lines), file=sys.stderr, end="\n" if lines else "")
    # Without eSpeak NG nothing can be made, which its own message says.
    return ",".join(engine for engine in ENGINES if engine == "espeak" or engine not in missing)


def main(argv: list[str]) -> int:
    """Run `sir-jax data spoken_scenes`.

    Args:
      argv: arguments after the words.

    Returns:
      0, or 130 after Ctrl-C.

    Raises:
      UserError: on anything the user can mend.
    """
    config, args = parse(argv)
    from sir_jax.data.preparation.scenes import make_spoken_scenes, summary

    return make_and_report(
        lambda: make_spoken_scenes(config, args.data_dir, args.workers),
        lambda corpus: summary(corpus, config),
    )
