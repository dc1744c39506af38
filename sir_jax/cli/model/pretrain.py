"""Make the small encoders that ship with sir_jax: each learns from text, neither meets the other.

Speech learns to spell the words it hears (CTC, Graves et al. 2006), images learn which words, and
which pairs of neighbouring words, their captions hold (sigmoid cross-entropy over both): the pairs
tell a red circle and a blue star from a blue circle and a red star. No speech is ever paired with
an image here; that is what `sir-jax train` does.
"""

import argparse
import json

from sir_jax.cli.options import make_parser


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the options."""
    parser = make_parser("pretrain", __doc__)
    parser.add_argument("--tower", choices=("speech", "image"), required=True)
    parser.add_argument("--corpora", required=True, help="comma-separated corpus names")
    parser.add_argument("--data_dir", default="")
    parser.add_argument("--init", default="", help="an encoder to start from, as config.init has")
    parser.add_argument("--out", required=True, help="directory for TOWER/model.safetensors")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--until", type=int, default=0, help="stop here in the schedule of --steps")
    parser.add_argument("--batch_size", type=int, default=32)
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
      UserError: there is no such corpus, or no such encoder to start from.
    """
    args = parse(argv)
    from sir_jax.config.presets import base_config
    from sir_jax.data.builders.spoken_scenes import vocabulary
    from sir_jax.data.corpus import open_corpus
    from sir_jax.models import HubertSpec, VitSpec
    from sir_jax.training.pretrain import Options, pretrain

    cfg = base_config("tiny", "tiny")
    cfg.data.update(batch_size=args.batch_size, buckets=(40_000, 56_000, 72_000, 112_000))
    corpora = [open_corpus(name, args.data_dir) for name in args.corpora.split(",")]
    splits = [corpus.splits["train"] for corpus in corpora]
    spec = {"speech": HubertSpec, "image": VitSpec}[args.tower](**cfg.model[args.tower])
    words = sorted(vocabulary())
    print(json.dumps({**vars(args), "words": len(words)}))
    options = Options(
        out=args.out,
        init=args.init,
        steps=args.steps,
        until=args.until,
        learning_rate=args.learning_rate,
        seed=args.seed,
        log_every=args.log_every,
        save_every=args.save_every,
    )
    pretrain(args.tower, spec, splits, words, cfg.data, options)
    return 0
