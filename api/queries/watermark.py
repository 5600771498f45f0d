"""How new what is shown is, and waiting until it is new enough (law L9).

A command is answered once the views show it if it says `Prefer: wait=2`; that never makes it fail:
it has been done, and when time is up its answer does not say that it was waited for. A list or
dashboard with `after=<ticket>@<version>` shows that version, or is refused; and each says in the
header `Casebook-Views-Age` how many seconds old it is. With `as_of_view=<name>` it shows views that
were built as of a time instead, which the header `Casebook-Views-As-Of` then tells.

All who wait in a process share one question: while anyone does, the versions of all awaited tickets
are asked for together, some times a second.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass
from datetime import date
from typing import Annotated, NamedTuple, TypeVar, cast
from uuid import UUID

from fastapi import Header
from pydantic import BaseModel, ConfigDict, Field

from domain.errors import Refusal, Unacceptable
from domain.values import at_most
from eventstore.failures import StoreError, answering
from eventstore.mongo.driver import Database
from eventstore.mongo.request_batcher import Together
from projections.projector import health
from projections.projector.checkpoints import Checkpoints
from projections.replay.generations import Generation, Generations
from projections.views import tickets
from projections.views.saved_views import ViewName

T = TypeVar("T")

AGE_HEADER = "Casebook-Views-Age"
AS_OF_HEADER = "Casebook-Views-As-Of"
WAIT_SECONDS = 30
"""The longest that can be waited; who asks for more waits so long."""
_WAIT_UNASKED_SECONDS = 2
_LOOK_SECONDS = 0.02
_AGE_KEPT_SECONDS = 0.25
_MOST_AWAITED = 20

Prefer = Annotated[
    str | None,
    Header(
        alias="Prefer",
        max_length=200,
        description="`wait=2`: how many seconds to wait for what is asked for with `after` "
        f"({_WAIT_UNASKED_SECONDS} unless given, at most {WAIT_SECONDS}).",
    ),
]


class AtLeast(BaseModel):
    """How new the answer must be. To be extended by what is asked."""

    model_config = ConfigDict(extra="forbid")

    after: Annotated[
        list[str],
        Field(
            default_factory=list,
            max_length=_MOST_AWAITED,
            description="`<ticket_id>@<version>`, of a command's answer: show at least that "
            "version. 412 if the views do not get there in time. May be repeated.",
        ),
        at_most(_MOST_AWAITED),
    ]

    as_of_view: Annotated[
        ViewName | None,
        Field(
            default=None,
            description="Views that were built as of a time, under this name "
            "(`scripts.replay --until`), instead of those of now.",
        ),
    ]

    def awaited(self) -> dict[UUID, int]:
        """Give the tickets of `after`, and the version of each. Raises Unacceptable."""
        awaited: dict[UUID, int] = {}
        for ticket_id, version in map(_ticket_and_version, self.after):
            awaited[ticket_id] = max(version, awaited.get(ticket_id, 0))
        return awaited


class ViewsBehind(Refusal):
    """A list was asked to show a command that the views do not show in time."""

    kind = "precondition_failed"
    retry_after_seconds = 1

    def __init__(self) -> None:
        super().__init__(
            "views_behind", "the views do not show what was asked for with `after` yet; try again"
        )


class _Awaited(NamedTuple):
    ticket_id: UUID
    version: int
    seen: asyncio.Future[None]


@dataclass(frozen=True, slots=True)
class Shown:
    """Views to be asked, the headers that say of when they are, and which UTC day that is.

    `kept`: which views, if they are as of a time; None for those of now, whichever they are.
    """

    headers: Mapping[str, str]
    today: date
    kept: Generation | None
    _ask: Callable[[Callable[[Database], Awaitable[object]]], Awaitable[object]]

    async def ask(self, question: Callable[[Database], Awaitable[T]]) -> T:
        """Ask the database as it is with these views. Raises StoreUnavailable."""
        async with answering():
            return cast("T", await self._ask(question))


class Views:
    """What the views of one database show, for those who ask, or wait for it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._generations = Generations(database)
        self._reads = Together(self._any_tickets)
        self._awaited: set[_Awaited] = set()
        self._looking: asyncio.Task[None] | None = None
        self._age: tuple[float, str] | None = None

    async def ask(self, question: Callable[[Database], Awaitable[T]]) -> T:
        """Ask the database as it is with the views of now. Raises StoreUnavailable."""
        async with answering():
            return await self._generations.ask(question)

    async def any_ticket(self, ticket_id: UUID) -> Mapping[str, object] | None:
        """Give a ticket's read document, of whichever views: the log has what it does not show."""
        async with answering():
            return await self._reads.get(ticket_id)

    async def _any_tickets(self, ids: Collection[UUID]) -> dict[UUID, Mapping[str, object]]:
        shown = (await self._generations.known()).of(self._database)
        found = shown.collection(tickets.COLLECTION).find({"_id": {"$in": [*ids]}})
        return {cast("UUID", document["_id"]): document for document in await found.to_list()}

    async def open(self, asked: AtLeast, prefer: str | None) -> Shown:
        """Open the views that are asked for, once they show what is asked for.

        Raises ViewsBehind, UnknownAsOf, Unacceptable, StoreUnavailable.
        """
        if asked.as_of_view is not None:
            return await self._open_as_of(asked.as_of_view, asked.after)
        seconds = wait_seconds(prefer)
        if not await self.show(
            asked.awaited(), _WAIT_UNASKED_SECONDS if seconds is None else seconds
        ):
            raise ViewsBehind
        headers = {AGE_HEADER: await self._age_told()}
        return Shown(headers, self._database.clock.now().date(), None, self._generations.ask)

    async def _open_as_of(self, name: str, after: Sequence[str]) -> Shown:
        if after:
            raise Unacceptable(
                "bad_after", "after is about the views of now, not those as of a time"
            )
        async with answering():
            built = await self._generations.as_of(name)

        def ask(question: Callable[[Database], Awaitable[T]]) -> Awaitable[T]:
            return question(built.generation.of(self._database))

        headers = {AS_OF_HEADER: built.until.isoformat()}
        return Shown(headers, built.until.date(), built.generation, ask)

    async def _age_told(self) -> str:
        """Give the age in seconds, or `unknown`; told again for a moment without looking."""
        clock = asyncio.get_running_loop().time
        if self._age is None or clock() - self._age[0] > _AGE_KEPT_SECONDS:
            state = await self.ask(lambda shown: Checkpoints(shown).read())
            age = health.age_seconds(state)
            self._age = (clock(), "unknown" if age is None else f"{age:.1f}")
        return self._age[1]

    async def show(self, versions: Mapping[UUID, int], seconds: float) -> bool:
        """Wait until the tickets are shown at these versions or later; False if time is up."""
        if not versions or await self._shows(versions):
            return True
        loop = asyncio.get_running_loop()
        mine = {_Awaited(*wanted, loop.create_future()) for wanted in versions.items()}
        self._awaited |= mine
        if self._looking is None:
            # In no request's context: it looks for many.
            self._looking = asyncio.create_task(self._look(), context=Context())
        try:
            async with asyncio.timeout(seconds):
                for awaited in mine:
                    await awaited.seen
        except TimeoutError:
            return False
        finally:
            self._awaited -= mine
        return True

    async def _shows(self, versions: Mapping[UUID, int]) -> bool:
        with suppress(StoreError):
            shown = await self._versions(list(versions))
            return all(shown.get(t, 0) >= version for t, version in versions.items())
        return False

    async def _versions(self, ids: Sequence[UUID]) -> dict[UUID, int]:
        async def question(shown: Database) -> dict[UUID, int]:
            reads = shown.collection(tickets.COLLECTION)
            found = reads.find({"_id": {"$in": ids}}, {"version": 1})
            return {cast("UUID", d["_id"]): cast("int", d["version"]) async for d in found}

        async with answering():
            return await self._generations.ask(question)

    async def _look(self) -> None:
        """Ask again and again until nobody waits."""
        try:
            while self._awaited:
                with suppress(StoreError):
                    await self._tell_those_who_can_see()
                await asyncio.sleep(_LOOK_SECONDS)
        finally:
            self._looking = None

    async def _tell_those_who_can_see(self) -> None:
        shown = await self._versions(list({awaited.ticket_id for awaited in self._awaited}))
        for awaited in self._awaited:
            if shown.get(awaited.ticket_id, 0) >= awaited.version and not awaited.seen.done():
                awaited.seen.set_result(None)


def wait_seconds(prefer: str | None) -> int | None:
    """Read `wait` from a `Prefer` header (RFC 7240), at most WAIT_SECONDS.

    None if it is not there or makes no sense: preferences that are not understood are ignored.
    """
    wait = _preference(prefer, "wait", "[0-9]{1,9}")
    return None if wait is None else min(int(wait), WAIT_SECONDS)


def return_preference(prefer: str | None) -> str | None:
    """Read `return`: minimal, representation, or None."""
    return _preference(prefer, "return", "minimal|representation")


def _preference(prefer: str | None, name: str, values: str) -> str | None:
    if prefer is None:
        return None
    written = re.compile(rf'\s*{name}\s*=\s*("?)({values})\1\s*(?:;.*)?', re.IGNORECASE | re.ASCII)
    for preference in prefer.split(","):
        found = written.fullmatch(preference)
        if found is not None:
            return found[2].lower()
    return None


def _ticket_and_version(after: str) -> tuple[UUID, int]:
    named = re.fullmatch(r"([0-9a-fA-F-]{32,36})@([1-9][0-9]{0,9})", after)
    with suppress(ValueError):
        if named is not None:
            return UUID(named[1]), int(named[2])
    raise Unacceptable(
        "bad_after", "after must be <ticket_id>@<version>, as a command's answer tells them"
    )
