"""sir-jax data featurize --config=FILE[:arg] --out=DIR [--config.any.field=value ...]

Writes what the frozen encoders of a config give for every clip and picture of a split, once:
`--config.data.features=DIR` then trains from it. Speech: the last hidden states, or all of them
where `model.head.weigh_layers` is on; images: the tokens and the pooled vector; all in bfloat16.
Stopped at any moment, the same command goes on where it was.

A clip longer than the longest of `data.buckets` is cut to its first so many samples; training from
the waveform takes a random part there.

Options:
  --split=train      which split of the corpus
  --batch_size=32    clips or pictures that are encoded at once
"""

from pathlib import Path

from sir_jax.cli.model.train import keep_programs
from sir_jax.cli.options import asks_for_help, print_help
from sir_jax.errors import UserError


def main(argv: list[str]) -> int:
    """Run `sir-jax data featurize`.

    Args:
      argv: arguments after the words.

    Returns:
      0, or 2 without arguments.

    Raises:
      UserError: on anything the user can mend.
    """
    if asks_for_help(argv):
        return print_help(argv, __doc__)
    from sir_jax.config.command_line import parse_options
    from sir_jax.data.corpus import open_pictures
    from sir_jax.training.featurize import featurize

    cfg, options = parse_options(argv, {"out": "", "split": "train", "batch_size": "32"})
    if not options["out"]:
        raise UserError("give --out=DIR, the folder that gets the features")
    if not options["batch_size"].isdecimal() or not int(options["batch_size"]):
        raise UserError(f"--batch_size={options['batch_size']}; give 1 or more")
    keep_programs(cfg)
    corpus = open_pictures(cfg.data.corpus, cfg.data.data_dir or None)
    featurize(cfg, corpus, options["split"], Path(options["out"]), int(options["batch_size"]))
    return 0
