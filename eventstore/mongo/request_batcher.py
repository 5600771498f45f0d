"""Questions to the database that many ask: put to it together, or once for all.

The idea is `group_commit.py`'s, for reading: while one question is under way, those that come
next wait; when it is answered, all that have gathered meanwhile are asked as one. A lone reader
waits for nobody; the more there are, the less each costs. Every question is put to the database
after it was asked here, so an answer is never older than its question.

What cannot be answered together, for whatever reason, or not soon, is asked one by one and all at
once: a value that cannot be read, or a shard that is silent, is to hold up nobody else.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextvars import Context
from itertools import islice
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

from eventstore import failures
from eventstore.failures import StoreUnavailable

K = TypeVar("K")
V = TypeVar("V")

MOST_AT_ONCE = 200
SOON_SECONDS = 1.0


class RequestBatcher(Generic[K, V]):
    """Looks values up by their keys, for many tasks of one event loop."""

    def __init__(self, ask: Callable[[Collection[K]], Awaitable[Mapping[K, V]]]) -> None:
        """`ask` gives the values of some keys; what is not there is left out."""
        self._ask = ask
        self._waiting: dict[K, list[asyncio.Future[V | None]]] = {}
        self._turns: asyncio.Task[None] | None = None
        self._asked: set[asyncio.Task[None]] = set()

    async def get(self, key: K) -> V | None:
        """Return a value, or None if there is none.

        Raises what `ask` raises, and StoreUnavailable if it takes too long.
        """
        answer: asyncio.Future[V | None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append(answer)
        if self._turns is None:
            # In no request's context: it asks for many.
            self._turns = asyncio.create_task(self._take_turns(), context=Context())
        return await answer

    async def _take_turns(self) -> None:
        """Ask until nobody waits: the next question once one is answered, or soon."""
        try:
            while self._waiting:
                keys = [*islice(self._waiting, MOST_AT_ONCE)]
                asked = self._begin({key: self._waiting.pop(key) for key in keys})
                await asyncio.wait({asked}, timeout=SOON_SECONDS)
        finally:
            self._turns = None
            _tell(self._waiting, StoreUnavailable())  # only if we were cancelled: it is the end
            self._waiting.clear()

    def _begin(self, some: Mapping[K, list[asyncio.Future[V | None]]]) -> asyncio.Task[None]:
        asked = asyncio.create_task(self._answer(some))
        self._asked.add(asked)
        asked.add_done_callback(self._asked.discard)
        return asked

    async def _answer(self, some: Mapping[K, list[asyncio.Future[V | None]]]) -> None:
        seconds = failures.PATIENCE_SECONDS
        try:
            async with asyncio.timeout(seconds if len(some) == 1 else min(seconds, SOON_SECONDS)):
                found = await self._ask(some.keys())
        except Exception as error:  # noqa: BLE001 it is raised where it was asked
            if len(some) == 1:
                _tell(some, StoreUnavailable() if isinstance(error, TimeoutError) else error)
                return
            for key, waiting in some.items():
                if not all(answer.done() for answer in waiting):
                    self._begin({key: waiting})
            return
        except asyncio.CancelledError:
            _tell(some, StoreUnavailable())
            raise
        for key, waiting in some.items():
            for answer in waiting:
                if not answer.done():  # who asked may have gone
                    answer.set_result(found.get(key))


class SingleFlight(Generic[K, V]):
    """Asks a question once for all callers that wait for the same. Others do not wait for it."""

    def __init__(self) -> None:
        # The waiting callers, and the task that asks, keep it there.
        self._asked: WeakValueDictionary[K, RequestBatcher[None, tuple[V]]] = WeakValueDictionary()

    async def get(self, key: K, ask: Callable[[], Awaitable[V]]) -> V:
        """Return what `ask` gives, or what the same question gives another caller.

        `key` says which questions are the same.

        Raises as `RequestBatcher.get` does.
        """
        same = self._asked.get(key)
        if same is None:

            async def once(_: Collection[None]) -> dict[None, tuple[V]]:
                return {None: (await ask(),)}

            same = self._asked[key] = RequestBatcher(once)
        found = await same.get(None)
        if found is None:
            raise AssertionError("it is always answered")
        return found[0]


def _tell(some: Mapping[K, list[asyncio.Future[V | None]]], error: Exception) -> None:
    for waiting in some.values():
        for answer in waiting:
            if not answer.done():
                answer.set_exception(error)
