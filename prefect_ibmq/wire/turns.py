"""Whose turn it is to be posted: the parts of a set one after another, in their order.

A job's request can have 50 MB, and with a full queue the next POST may be hours away. So a part is encoded when it is
next, while the one before it is being posted, and no earlier: two requests are in memory, however many parts there are.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from heapq import heappop, heappush
from itertools import count

__all__ = ["Turn", "Turns"]


class Turns:
    """The turns of one set, on one event loop.

    Attributes:
        posting: Held by whoever posts.
    """

    def __init__(self) -> None:
        self.posting = asyncio.Lock()
        self._coming: list[Turn] = []
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._taken = False
        self._number = count()

    @contextmanager
    def of(self, first: int) -> Iterator[Turn]:
        """The turn of the part that begins at place `first`; those behind it wait until it is known to need none.

        Parts that begin at once keep their order if each calls this before it awaits anything.
        """
        turn = Turn(self, first)
        self._coming.append(turn)
        try:
            yield turn
        finally:
            turn.leave()

    def _leave(self, turn: Turn) -> None:
        if turn in self._coming:
            self._coming.remove(turn)
            self._call()

    async def _wait(self, turn: Turn) -> None:
        waiter = asyncio.get_running_loop().create_future()
        heappush(self._waiting, (turn.first, next(self._number), waiter))
        self._leave(turn)
        self._call()
        try:
            await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled():
                self._free()  # it was called in the same moment
            raise

    def _free(self) -> None:
        self._taken = False
        self._call()

    def _call(self) -> None:
        """Call the next one, if nobody before it may still come."""
        while self._waiting and self._waiting[0][2].done():
            heappop(self._waiting)
        if self._taken or not self._waiting:
            return
        first, _, waiter = self._waiting[0]
        if all(turn.first >= first for turn in self._coming):
            heappop(self._waiting)
            self._taken = True
            waiter.set_result(None)


class Turn:
    """One part's way to its POST.

    Attributes:
        first: Its first place.
    """

    def __init__(self, turns: Turns, first: int) -> None:
        self._turns, self.first = turns, first

    def leave(self) -> None:
        """Nobody needs to wait for this part any more: it has its job, or something has to be found out first."""
        self._turns._leave(self)

    @asynccontextmanager
    async def next_to_post(self) -> AsyncIterator[asyncio.Lock]:
        """Wait until it is this part's turn to be encoded.

        Yields:
            What must be held while posting: acquire it inside, so that nobody comes between, and release it afterwards.
        """
        await self._turns._wait(self)
        try:
            yield self._turns.posting
        finally:
            self._turns._free()
