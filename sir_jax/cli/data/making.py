"""What every verb that makes a corpus does around it: stop, fail and report in the same words."""

import sys
import time
from collections.abc import Callable

from sir_jax.errors import UserError


def make_and_report(make: Callable, summary: Callable) -> int:
    """Make a corpus and print what it holds.

    Args:
      make: returns the corpus; the same call again goes on where it was stopped.
      summary: of the corpus, as text.

    Returns:
      0, or 130 after Ctrl-C.

    Raises:
      UserError: the disk refuses, or as `make` does.
    """
    start = time.monotonic()
    try:
        corpus = make()
    except KeyboardInterrupt:
        print("\nstopped; run the same command again to go on where it was", file=sys.stderr)
        return 130
    except OSError as error:
        raise UserError(f"{error}; mend that and run the same command again to go on") from error
    print(summary(corpus))
    print(f"{corpus.name} is ready after {time.monotonic() - start:.0f} s in {corpus.directory}")
    return 0
