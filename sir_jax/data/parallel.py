"""Work in threads, in order."""

import collections
import concurrent.futures
from collections.abc import Callable, Iterable, Iterator

THREADS = 4  # decoders; they release the GIL
AHEAD = 8  # results that may wait; a picture can be 75 MB


def ordered_map(function: Callable, items: Iterable) -> Iterator:
    """Apply a function in threads, in order, holding at most `AHEAD` results.

    Args:
      function: called with one item.
      items: may be endless; read from the caller's thread only.

    Yields:
      The results in the order of the items; a raised error where its item's result would be.
    """
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        waiting: collections.deque = collections.deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) == AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
