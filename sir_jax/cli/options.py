"""Options that verbs share."""

import argparse

# What is loaded where nothing is said.
MODEL = "spoken-scenes"


def add_model(parser: argparse._ActionsContainer) -> None:
    """Add `--model`."""
    parser.add_argument(
        "--model",
        default=MODEL,
        help=f"a release, a workdir, or the name of one that ships (default {MODEL})",
    )


def add_batch_size(parser: argparse._ActionsContainer, what: str) -> None:
    """Add `--batch_size`, of files or clips."""
    parser.add_argument("--batch_size", type=int, default=32, help=f"most {what} at once")
