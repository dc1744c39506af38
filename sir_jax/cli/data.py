"""The `data` verb: a table of actions on corpora, each imported only when it is called."""

import importlib

from sir_jax.errors import UserError

# name -> (module whose main(argv) runs it, one line of help)
ACTIONS = {
    "spoken_scenes": ("sir_jax.data.preparation.scenes", "render a corpus that needs no download"),
    "prepare": ("sir_jax.data.preparation.prepare", "read a corpus as its publisher ships it"),
    "verify": ("sir_jax.data.preparation.verify", "see that a prepared corpus is whole"),
    "show": ("sir_jax.data.preparation.sheet", "draw pictures, spectrograms and captions"),
    "featurize": ("sir_jax.training.featurize", "write frozen encoders' tokens once"),
}


def main(argv: list[str]) -> int:
    """Run `sir-jax data ACTION`.

    Args:
      argv: the arguments after the verb.

    Raises:
      UserError: no such action, or what the action itself raises.
    """
    if not argv or argv[0] in ("-h", "--help"):
        lines = [f"  {name:<15}{text}" for name, (_, text) in ACTIONS.items()]
        print("\n".join(["usage: sir-jax data ACTION [options]", "", *lines]))
        return 0 if argv else 2
    name, *rest = argv
    if name not in ACTIONS:
        raise UserError(f"no action {name!r} of `sir-jax data`; choose one of {', '.join(ACTIONS)}")
    return importlib.import_module(ACTIONS[name][0]).main(rest)
