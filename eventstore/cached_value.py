"""A value that is expensive to read: cached for some seconds, and read once for all callers."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from eventstore.mongo.errors import time_limit

T = TypeVar("T")


class CachedValue(Generic[T]):
    """The last value that was read. Bound to the event loop in which it is used."""

    def __init__(self, read: Callable[[], Awaitable[T]]) -> None:
        """`read` reads the value anew; what it raises is raised by `get`, and nothing is kept."""
        self._read = read
        self._reading = asyncio.Lock()
        self._last: tuple[float, T] | None = None  # when its reading began, by the loop's clock

    async def get(self, seconds: float) -> T:
        """Return a value that was read so many seconds ago at most; 0: not before it was asked for.

        Callers that wait for another's reading, begun before they asked, read once more for all.
        Raises StoreUnavailable if that takes too long, and what `read` raises.
        """
        since = asyncio.get_running_loop().time() - seconds
        if (last := self._last) is not None and last[0] >= since:
            return last[1]
        # The limit is of each caller: those that wait for a reading which fails try one by one.
        async with time_limit(), self._reading:
            if self._last is None or self._last[0] < since:
                began = asyncio.get_running_loop().time()
                value = await self._read()
                if self._last is None or self._last[0] <= began:  # else something newer was put
                    self._last = began, value
            return self._last[1]

    def put(self, value: T) -> None:
        """Keep a value that is known to be the newest."""
        self._last = asyncio.get_running_loop().time(), value
