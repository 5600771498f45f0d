"""Clients that send commands to a server at random, and judge it by what they were told.

A client that gets no answer, or a 503, sends the command again with its key until it knows what
came of it. What clients know is kept outside of the server, and survives it: in the end the events
of each command are in the log once, where its answer says, or not at all (L3, L4, L5). Meanwhile no
answer is a 5xx but a 503 that says when to come again (L12), and reading a ticket shows what was
acknowledged (L9).
"""

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from uuid import UUID, uuid4

from pydantic import BaseModel

from eventstore.background import background, run_all
from eventstore.database import Database
from eventstore.log import EventStore
from scripts.testbed.harness import (
    HEADERS,
    READY_SECONDS,
    PromiseBroken,
    accepted,
    connected,
    require,
    until,
)
from scripts.testbed.judging import Check, caught_up, streams
from scripts.testbed.load import Answer, Connection
from scripts.testbed.patience import patience
from scripts.testbed.wire import RAW

# A transaction whose process was killed holds its ticket until the database ends it, which takes a
# minute by default; until then that ticket's commands are answered 503.
_RETRY_SECONDS = 180
_SLOWEST_SECONDS = 0.5  # of a command, when all goes on
_LOST_PAUSE_SECONDS = 0.05
_READS = 0.2  # of all requests
_RAW = (RAW.encode(), b"timeoutMS", b"Traceback", b"pymongo")  # it is for the log
OPENING = {"subject": "Soak", "requester": "soak", "body": "It jams."}


class Accepted(BaseModel):
    """What a client is told of a command that was accepted."""

    ticket_id: UUID
    version: int
    events: list[object]


@dataclass(slots=True)
class Sent:
    """A command as it was sent, and its answer: None while nobody knows what came of it."""

    path: str
    content: Mapping[str, str]
    headers: Mapping[str, str]
    answer: Answer | None = None

    @property
    def ticket(self) -> str:
        """The id of the ticket that it was sent to; of an opening there is none."""
        return self.path.split("/")[2]

    def accepted(self) -> Accepted | None:
        """Return what was told if it was accepted."""
        if self.answer is None or self.answer.status not in (200, 201):
            return None
        return Accepted.model_validate_json(self.answer.body)

    def places(self) -> list[tuple[UUID, int]]:
        """Return the ticket and the version of each event that the log must have of it."""
        if (told := self.accepted()) is None:
            return []
        return [(told.ticket_id, told.version - n) for n in reversed(range(len(told.events)))]


def random_command(tickets: Sequence[UUID], caller: Mapping[str, str]) -> Sent:
    """Make a command: of one event, of two, of two tickets, or of none because it must be
    refused.
    """
    key = uuid4().hex
    kinds: tuple[tuple[int, str, Mapping[str, str]], ...] = (
        (5, "add_note", {"body": key}),
        (2, "reply", {"body": "Please try the other tray."}),
        (5, "assign", {"assignee": random.choice(["alice", "bob", key])}),
        # It takes the assignee off as well: two events, all or none (L4).
        (6, "move_to_group", {"group": random.choice(["print", "net.work", key])}),
        (1, "change_priority", {"priority": random.choice(["low", "urgent"])}),
        (1, "resolve", {"resolution": "toner"}),
        (1, "reopen", {"reason": "no"}),
        (1, "add_note", {"body": ""}),
        (1, "open", OPENING),
        # Its opposite goes to the other ticket: both or neither (L4).
        (2, "link", {"relation": "relates", "ticket": str(random.choice(tickets))}),
    )
    [(_, verb, content)] = random.choices(kinds, [weight for weight, _, _ in kinds])
    headers = {**caller, "Idempotency-Key": key}
    if verb == "open":
        return Sent("/tickets", content, headers)
    if random.random() < 0.05:
        headers["If-Match"] = '"999999999"'
    return Sent(f"/tickets/{random.choice(tickets)}/{verb}", content, headers)


@dataclass(slots=True)
class Clients:
    """Any number of clients, of one server after the other, and all that they know."""

    sent: list[Sent] = field(default_factory=list)
    acknowledged: dict[UUID, tuple[int, float]] = field(default_factory=dict)
    """The last version of each ticket that was acknowledged, and when."""
    counted: Counter[str] = field(default_factory=Counter)

    @asynccontextmanager
    async def sending(
        self,
        port: int,
        count: int,
        tickets: int,
        pause_seconds: float = 0.0,
        callers: Sequence[Mapping[str, str]] = (HEADERS,),
    ) -> AsyncIterator[None]:
        """Have so many clients send while the block runs, at first to so many new tickets.

        Raises PromiseBroken.
        """
        known = await open_tickets(port, tickets)

        async def client(caller: Mapping[str, str]) -> None:
            async with Connection(port, caller) as connection:
                while True:
                    if random.random() < _READS:
                        await self._read(connection, random.choice(known))
                    else:
                        self.sent.append(random_command(known, caller))
                        told = (await self._insist(connection, self.sent[-1])).accepted()
                        if told and told.version == 1:
                            known.append(told.ticket_id)
                    await asyncio.sleep(pause_seconds)

        clients = (client(callers[n % len(callers)]) for n in range(count))
        async with background(run_all(*clients)):
            yield

    async def answered(self, more: int) -> None:
        """Wait until so many commands more are answered, however quick the machine is."""
        wanted = self.counted["answers"] + more
        seconds = READY_SECONDS + _SLOWEST_SECONDS * more
        await until(lambda: self.counted["answers"] >= wanted, seconds, f"{more} answers more")

    async def _read(self, connection: Connection, ticket: UUID) -> None:
        version, _ = self.acknowledged.get(ticket, (0, 0.0))
        answer = await self._answer(connection.get(f"/tickets/{ticket}"))
        if answer is not None:
            shown = accepted(answer).json()["version"]
            require(int(str(shown)) >= version, f"{ticket}: {shown} is shown after {version}")

    async def _insist(self, connection: Connection, sent: Sent) -> Sent:
        """Send a command until it is known what came of it."""
        while sent.answer is None:
            sent.answer = await self._answer(connection.post(sent.path, sent.content, sent.headers))
        if told := sent.accepted():
            now = (told.version, time.perf_counter())
            self.acknowledged[told.ticket_id] = max(now, self.acknowledged.get(told.ticket_id, now))
        self.counted["answers"] += 1
        return sent

    async def _answer(self, asked: Awaitable[Answer]) -> Answer | None:
        """Return an answer; None, after a pause, if it says no more than a lost connection does."""
        try:
            answer = await asked
        except ConnectionError:
            self.counted["unanswered"] += 1
            await asyncio.sleep(_LOST_PAUSE_SECONDS)
            return None
        self.note(answer.status, answer.body)
        if answer.status != 503:
            return answer
        require(answer.retry_after, f"no Retry-After: {answer.body[:300]!r}")
        await asyncio.sleep(answer.retry_after)
        return None

    def note(self, status: int, body: bytes) -> None:
        """Count an answer by its status. Raises PromiseBroken for a 5xx other than 503, and for
        what the database itself has said (L12).
        """
        self.counted[f"answered_{status}"] += 1
        require(status < 500 or status == 503, f"{status}: {body[:300]!r}")
        for raw in _RAW:
            require(raw not in body, f"what database or driver say is told: {body[:300]!r}")

    async def retry(self, port: int) -> None:
        """Send again what is unknown, and some of what is known: that is answered as before."""
        unknown = [sent for sent in self.sent if sent.answer is None]
        known = [sent for sent in self.sent if sent.places()]
        async with Connection(port) as connection, asyncio.timeout(patience(_RETRY_SECONDS)):
            for sent in unknown:
                await self._insist(connection, sent)
            for sent in random.sample(known, min(5, len(known))):
                again = await self._insist(connection, replace(sent, answer=None))
                require(again.answer == sent.answer, f"{sent}: answered otherwise: {again.answer}")
                self.counted["known_and_repeated"] += 1
        self.counted["unknown_then_retried"] += len(unknown)

    async def check(self, database: Database) -> None:
        """Compare the log with what was answered. Raises PromiseBroken."""
        logged: dict[str, list[tuple[UUID, int]]] = {}
        for events in (await streams(EventStore(database))).values():
            for event in events:
                place = (event.ticket_id, event.version)
                logged.setdefault(event.metadata.command.id, []).append(place)
        for sent in self.sent:
            found = logged.get(sent.headers["Idempotency-Key"], [])
            require(sent.answer is None or found == sent.places(), f"{sent}: {found} in the log")
            if other := sent.content.get("ticket"):
                # The other ticket knows it by a name that says where the command was sent.
                opposite = logged.get(f"{sent.ticket}:{sent.headers['Idempotency-Key']}", [])
                on = [str(ticket) for ticket, _ in opposite]
                require(on == [other] * len(found), f"{sent}: {found}, {opposite} in the log")

    async def judge(self, port: int, url: str, check: Check | None = None) -> Counter[str]:
        """Have all commands answered, and compare the log with the answers; if `check` is given,
        also the views with the log once they have caught up (L7). Return what was counted.
        """
        await self.retry(port)
        async with connected(url) as database:
            await self.check(database)
            if check is not None:
                await caught_up(database)
                await check(database)
        for sent in self.sent:
            kind = {0: "without_events", 1: "ok"}.get(len(sent.places()), "ok_of_several_events")
            self.counted[kind] += 1
        return self.counted


async def open_tickets(port: int, count: int) -> list[UUID]:
    async with Connection(port, HEADERS) as connection:
        answers = [accepted(await connection.post("/tickets", OPENING)) for _ in range(count)]
    return [Accepted.model_validate_json(answer.body).ticket_id for answer in answers]


async def until_well(port: int, seconds: float, shown_seconds: float = 2.0) -> None:
    """Wait until a command is taken and shown within `shown_seconds`, and the server is ready.

    Raises PromiseBroken, and says what is not so. Both are seconds of an idle machine.
    """
    lacking: Exception | None = None
    try:
        async with asyncio.timeout(patience(seconds)):
            while True:
                try:
                    return await _require_well(port, patience(shown_seconds))
                except (PromiseBroken, ConnectionError) as error:
                    lacking = error
                await asyncio.sleep(_LOST_PAUSE_SECONDS)
    except TimeoutError:
        raise PromiseBroken(f"not well after {seconds} s: {lacking}") from None


async def _require_well(port: int, shown_seconds: float) -> None:
    began = time.perf_counter()
    async with Connection(port, HEADERS) as connection:
        wait = {"Prefer": f"wait={math.ceil(shown_seconds)}"}
        answer = accepted(await connection.post("/tickets", OPENING, wait))
        if not answer.applied or time.perf_counter() - began > shown_seconds:
            views = await connection.get("/projections")
            raise PromiseBroken(f"not shown in {shown_seconds:.1f} s: {views.body[:1000]!r}")
        ticket = answer.json()["ticket_id"]
        for path in (f"/tickets?after={ticket}@1", "/dashboard", "/readyz"):
            accepted(await connection.get(path))
