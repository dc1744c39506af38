"""Work in threads, in order."""

import collections
import concurrent.futures
import itertools
from collections.abc import Callable, Iterable, Iterator

THREADS = 4  # decoders; they release the GIL
AHEAD = 8  # groups of results that may wait
GROUP = 8  # where results are small


def ordered_map(function: Callable, items: Iterable, group: int = 1) -> Iterator:
    """Apply a function in threads, in order, holding at most `AHEAD` groups of results.

    Args:
      function: called with one item.
      items: may be endless; read from the caller's thread only.
      group: items that one thread takes at a time: handing over a small picture costs as much as
        decoding it. 1 where a result is large (a decoded picture can be 75 MB), `GROUP` where not.

    Yields:
      The results in the order of the items; a raised error where its item's result would be.
    """

    def each(part: list) -> tuple[list, Exception | None]:
        results = []
        for item in part:
            try:
                results.append(function(item))
            except Exception as error:
                return results, error
        return results, None

    source = iter(items)
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        waiting: collections.deque = collections.deque()
        while part := list(itertools.islice(source, group)):
            waiting.append(pool.submit(each, part))
            if len(waiting) == AHEAD:
                yield from _results(waiting.popleft())
        while waiting:
            yield from _results(waiting.popleft())


def _results(future: concurrent.futures.Future) -> Iterator:
    results, error = future.result()
    yield from results
    if error is not None:
        raise error
