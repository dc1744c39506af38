"""Make the small encoders that ship with sir_jax; neither tower meets the other.

Speech learns to spell in phones what it hears, in every language and by every voice of the corpora,
and to hear it as a teacher does that has heard people; it hears augmented clips. Images learn which
words, and which pairs of neighbouring words, their captions hold. No speech is paired with an image
here; that is what `sir-jax train` does. A run with --workdir goes on where it was killed.
"""

import argparse
import json
from pathlib import Path

from sir_jax.cli.options import make_parser


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the options."""
    parser = make_parser("pretrain", __doc__)
    parser.add_argument("--tower", choices=("speech", "image"), required=True)
    parser.add_argument(
        "--corpora", required=True, help="comma-separated names, each NAME or NAME:SPLIT"
    )
    parser.add_argument(
        "--held_out", default="", help="likewise, to count phone errors on (speech)"
    )
    parser.add_argument("--data_dir", default="")
    parser.add_argument("--variant", default="", help="the encoder's shape; speech: small or tiny")
    parser.add_argument("--teacher", default="", help="folder of the teacher's networks (speech)")
    parser.add_argument("--workdir", default="", help="folder of a run that can go on (speech)")
    parser.add_argument("--init", default="", help="an encoder to start from, as config.init has")
    parser.add_argument("--out", required=True, help="directory for TOWER/model.safetensors")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--until", type=int, default=0, help="stop here in the schedule of --steps")
    parser.add_argument("--batch_size", type=int, default=32, help="pictures in a batch")
    parser.add_argument("--batch_seconds", type=float, default=120.0, help="of sound in a batch")
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log_every", type=int, default=50)
    parser.add_argument("--save_every", type=int, default=500)
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Run `sir-jax pretrain`.

    Args:
      argv: the arguments after the verb.

    Raises:
      UserError: there is no such corpus, no such encoder to start from, or no teacher.
    """
    args = parse(argv)
    print(json.dumps(vars(args)))
    if args.tower == "speech":
        _speech(args)
    else:
        _image(args)
    return 0


def _options(args):
    from sir_jax.training.pretraining.run import Options

    return Options(
        out=args.out,
        init=args.init,
        steps=args.steps,
        until=args.until,
        learning_rate=args.learning_rate,
        seed=args.seed,
        log_every=args.log_every,
        save_every=args.save_every,
    )


def _splits(names: str, data_dir: str) -> list:
    from sir_jax.data.corpus import open_corpus

    chosen = [name.partition(":") for name in filter(None, names.split(","))]
    return [open_corpus(name, data_dir).split(split or "train") for name, _, split in chosen]


def _speech(args) -> None:
    from sir_jax.config.presets import base_config
    from sir_jax.data.media.augment import AugmentSpec
    from sir_jax.data.media.synthesis import espeak
    from sir_jax.errors import UserError
    from sir_jax.models import HubertSpec
    from sir_jax.training.pretraining.clips import Buckets
    from sir_jax.training.pretraining.make_speech import SpeechOptions, pretrain_speech

    for option in ("teacher", "workdir"):
        if not getattr(args, option):
            raise UserError(f"--{option} is missing; the speech encoder needs it")
    cfg = base_config(args.variant or "small", "tiny")
    speech = SpeechOptions(
        Path(args.workdir),
        Path(args.teacher),
        augment=AugmentSpec.preset("people"),
        buckets=Buckets(seconds=args.batch_seconds),
    )
    pretrain_speech(
        HubertSpec(**cfg.model.speech),
        _splits(args.corpora, args.data_dir),
        _splits(args.held_out, args.data_dir),
        lambda text, language: "".join(espeak().phonemes(text, language)),
        _options(args),
        speech,
    )


def _image(args) -> None:
    from sir_jax.config.presets import base_config
    from sir_jax.data.builders.spoken_scenes import vocabulary
    from sir_jax.models import VitSpec
    from sir_jax.training.pretraining.image import pretrain_image

    cfg = base_config("tiny", args.variant or "tiny")
    cfg.data.update(batch_size=args.batch_size, buckets=(40_000, 56_000, 72_000, 112_000))
    pretrain_image(
        VitSpec(**cfg.model.image),
        _splits(args.corpora, args.data_dir),
        sorted(vocabulary()),
        cfg.data,
        _options(args),
    )
