"""How far running searches are, and their end when the one who asked is gone."""

import asyncio
import collections
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request

MOST = 64  # searches that are followed at once
MOST_LETTERS = 64  # of the name that a page gives its search

Answer = TypeVar("Answer")


class Follower:
    """Take the stages of one search; called from any thread."""

    def __init__(self, note: Callable[[str], None]):
        """Hold where stages are noted."""
        self._note, self.gone = note, False

    def __call__(self, stage: str) -> None:
        """Note that a stage begins.

        Args:
          stage: 'decode', 'speak', 'wait', 'encode', 'search' or 'rerank'.

        Raises:
          ClientDisconnect: nobody waits for the answer any more.
        """
        if self.gone:
            raise ClientDisconnect
        self._note(stage)


class Progress:
    """The stages of running searches, by the names that their pages gave them."""

    def __init__(self):
        """Hold nothing yet."""
        self._stages: collections.OrderedDict[str, str] = collections.OrderedDict()

    @contextlib.contextmanager
    def follow(self, name: str) -> Iterator[Follower]:
        """Follow a search while it runs.

        Args:
          name: that `stage` is asked with; searches without one, or with a long one, are not told.
        """
        told = 0 < len(name) <= MOST_LETTERS

        def note(stage: str) -> None:
            if told and (name in self._stages or len(self._stages) < MOST):
                self._stages[name] = stage

        try:
            yield Follower(note)
        finally:
            self._stages.pop(name, None)

    def stage(self, name: str) -> str:
        """Return the stage of a search; '' if none of that name runs."""
        return self._stages.get(name, "")


async def while_awaited(request: Request, work: Awaitable[Answer], follower: Follower) -> Answer:
    """Do some work, and leave it when the request's client goes away.

    Args:
      request: whose body has been read.
      work: what its answer takes; what a thread does of it ends at its next stage.
      follower: of the work.

    Raises:
      ClientDisconnect: the client is gone.
    """
    doing = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait({doing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise ClientDisconnect
        return doing.result()
    finally:
        follower.gone = not doing.done()
        leaving.cancel()
        doing.cancel()


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
