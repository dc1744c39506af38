"""Options that verbs share, and the help of verbs whose options are fields of a config.

Nothing here, and nothing at the top of a verb's module, imports JAX: help is there at once.
"""

import argparse

from sir_jax.errors import UserError

# What is loaded where nothing is said.
MODEL = "spoken-scenes"


def make_parser(
    verb: str, description: str | None, keep_lines: bool = False
) -> argparse.ArgumentParser:
    """Return a parser that takes no abbreviated options.

    Args:
      verb: as it is typed.
      description: of the help.
      keep_lines: whether the description's line breaks are kept.
    """
    form = argparse.RawDescriptionHelpFormatter if keep_lines else argparse.HelpFormatter
    return argparse.ArgumentParser(
        prog=f"sir-jax {verb}",
        description=description,
        allow_abbrev=False,
        formatter_class=form,
    )


def add_model(parser: argparse._ActionsContainer) -> None:
    """Add `--model`."""
    parser.add_argument(
        "--model",
        default=MODEL,
        help=f"a release, a workdir, or the name of one that ships (default {MODEL})",
    )


def add_batch_size(parser: argparse._ActionsContainer, items: str) -> None:
    """Add `--batch_size`, of files or clips."""
    parser.add_argument("--batch_size", type=int, default=32, help=f"most {items} at once")


def add_data_dir(parser: argparse._ActionsContainer) -> None:
    """Add `--data_dir`, of corpora."""
    parser.add_argument(
        "--data-dir",
        "--data_dir",
        default="",
        help="where corpora live; empty: $SIR_JAX_DATA, else ./data",
    )


def require_least(args: argparse.Namespace, **least: int) -> None:
    """Refuse numbers that are too small; None is not compared.

    Args:
      args: that were read.
      **least: the smallest value of each option, by its name.

    Raises:
      UserError: naming the option.
    """
    for name, smallest in least.items():
        value = getattr(args, name)
        if value is not None and value < smallest:
            option = f"--{name}" if len(name) > 1 else f"-{name}"
            raise UserError(f"{option} is {value}; give {smallest} or more")


def asks_for_help(argv: list[str]) -> bool:
    """Tell whether a verb without a parser of its own is to print its help."""
    return not argv or "--help" in argv or "-h" in argv


def print_help(argv: list[str], usage: str, fields: bool = False) -> int:
    """Print the usage, and every field of the config where one is given.

    Args:
      argv: arguments after the verb.
      usage: the text before the fields.
      fields: print them without a config, too, with their defaults.

    Returns:
      The exit status: 0, or 2 where nothing was typed.

    Raises:
      UserError: the config cannot be loaded.
    """
    print(usage.strip())
    specs = [arg.partition("=")[2] for arg in argv if arg.startswith("--config=")]
    if specs or (fields and argv):
        from sir_jax.config.command_line import load_config
        from sir_jax.config.help import describe_fields

        print(f"\n{describe_fields(load_config(specs[-1]) if specs else None)}")
    return 0 if argv else 2
