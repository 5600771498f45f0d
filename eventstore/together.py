"""Questions to the database that many ask: put to it together, or once for all.

The idea is `commit.py`'s, for reading: while one question is under way, whoever asks next waits;
when it is answered, all that have gathered meanwhile are asked as one. A lone reader waits for
nobody; the more there are, the less each costs. Every question is put to the database after it was
asked here, so an answer is never older than its question.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextvars import Context
from itertools import islice
from typing import Generic, TypeVar

from pymongo.errors import PyMongoError

from eventstore import failures
from eventstore.failures import StoreUnavailable

K = TypeVar("K")
V = TypeVar("V")

MOST_AT_ONCE = 200


class Together(Generic[K, V]):
    """Looks values up by their keys, for many tasks of one event loop."""

    def __init__(self, ask: Callable[[Collection[K]], Awaitable[Mapping[K, V]]]) -> None:
        """`ask` gives the values of some keys; what is not there is left out."""
        self._ask = ask
        self._waiting: dict[K, list[asyncio.Future[V | None]]] = {}
        self._asking: asyncio.Task[None] | None = None

    @property
    def is_idle(self) -> bool:
        """Say whether nobody waits."""
        return self._asking is None

    async def get(self, key: K) -> V | None:
        """Give a value, or None if there is none.

        Raises what `ask` raises, and TimeoutError if it takes longer than clients are kept waiting.
        """
        answer: asyncio.Future[V | None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append(answer)
        if self._asking is None:
            # In no request's context: it asks for many.
            self._asking = asyncio.create_task(self._ask_on(), context=Context())
        return await answer

    async def _ask_on(self) -> None:
        """Ask again and again until nobody waits."""
        try:
            while self._waiting:
                some = {
                    key: self._waiting.pop(key) for key in [*islice(self._waiting, MOST_AT_ONCE)]
                }
                try:
                    await self._answer(some)
                finally:  # only if we were cancelled is any left: the process is ending
                    _tell(some, StoreUnavailable())
        finally:
            self._asking = None
            _tell(self._waiting, StoreUnavailable())
            self._waiting.clear()

    async def _answer(self, some: Mapping[K, list[asyncio.Future[V | None]]]) -> None:
        try:
            async with asyncio.timeout(failures.PATIENCE_SECONDS):
                found = await self._ask(some.keys())
        except (PyMongoError, TimeoutError) as error:
            _tell(some, error)
            return
        except Exception as error:  # noqa: BLE001 it is raised where it was asked
            if len(some) == 1:
                _tell(some, error)
            else:  # what one of them is about cannot be read: it is to fail nobody else
                for key, waiting in some.items():
                    await self._answer({key: waiting})
            return
        for key, waiting in some.items():
            for answer in waiting:
                if not answer.done():  # who asked may have gone
                    answer.set_result(found.get(key))


class Shared(Generic[K, V]):
    """Has the same question of many asked once for all who wait. Others do not wait for it."""

    def __init__(self) -> None:
        self._asked: dict[K, Together[None, tuple[V]]] = {}

    async def get(self, key: K, ask: Callable[[], Awaitable[V]]) -> V:
        """Give what `ask` gives, or that of whoever asks the same; `key` says what is the same.

        Raises as `Together.get` does.
        """
        same = self._asked.get(key)
        if same is None:

            async def once(_: Collection[None]) -> dict[None, tuple[V]]:
                return {None: (await ask(),)}

            same = self._asked[key] = Together(once)
        try:
            found = await same.get(None)
        finally:
            if same.is_idle and self._asked.get(key) is same:
                del self._asked[key]
        if found is None:
            raise AssertionError("it is always answered")
        return found[0]


def _tell(some: Mapping[K, list[asyncio.Future[V | None]]], error: Exception) -> None:
    for waiting in some.values():
        for answer in waiting:
            if not answer.done():
                answer.set_exception(error)
