"""Lines on the terminal, printed by the first process alone."""

import sys

import jax


def say(line: str) -> None:
    """Print a line on the first process, above the progress bar where there is one."""
    if jax.process_index() == 0:
        try:
            from tqdm import tqdm
        except ModuleNotFoundError:  # a part of [train]; without it there is no bar
            print(line)
        else:
            tqdm.write(line)
        sys.stdout.flush()
