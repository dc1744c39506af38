"""An ordered map over threads."""

import collections
import concurrent.futures
import itertools
from collections.abc import Callable, Iterable, Iterator

THREADS = 4  # for decoders, which release the GIL
AHEAD = 8  # most groups of results that wait to be consumed
GROUP = 8  # items per group where results are small


def ordered_map(function: Callable, items: Iterable, group: int = 1) -> Iterator:
    """Apply a function in threads and yield the results in order.

    At most `AHEAD` groups of results wait to be consumed.

    Args:
      function: called with one item.
      items: may be endless; iterated in the caller's thread only.
      group: number of items that a thread takes at a time. Use `GROUP` for small results: passing
        a small image between threads costs as much as decoding it. Use 1 for large results: a
        decoded image can take 75 MB.

    Yields:
      The results in the order of the items. An error is raised when its item's turn comes.

    Example:
      >>> list(ordered_map(str.upper, ["a", "b"]))
      ['A', 'B']
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
