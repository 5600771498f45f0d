"""The timekeeper: what happens to tickets without anyone's command, at its time.

A ticket that waits is opened again at its `resume_at`; a missed SLA target is put on record; a
resolved ticket is closed after as many days as the desk says. Tickets that use what the desk has
retired are changed as it says: looked for ever more seldom while there are none, for as long as the
desk says it, since one may come late (from an import, or a client whose answer was lost).

The idea: the views say which tickets have something due, quickly and perhaps a moment late; what is
done is then decided from the ticket's own events, by ordinary commands of the actor `timekeeper`.
Each is sent for exactly the version it was decided on, under a key that is made from it. So any
number of timekeepers may run, be killed and start again: what one has done, another finds done.

An act happens at the time it was due, or at the ticket's last event if that was later; the log also
says when it was recorded. After a downtime all that has become due is done, what has waited longest
first. A ticket that nothing can be done about is set aside for a while, and keeps nobody waiting
(up to 100,000 of them).

Whether it is time is asked of the database's clock, which all processes share. A process whose own
clock is far from it does nothing: one of the two is wrong, and what is written is there for good.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from datetime import datetime, timedelta
from functools import partial
from typing import NamedTuple
from uuid import UUID

from cachetools import TLRUCache

from api.access.principals import TIMEKEEPER
from api.commands.handler import Handler, Submission, TooContended, VersionMismatch
from api.desk.in_use import to_be_changed
from api.desk.store import Desks, SetUp
from domain.codec import Event
from domain.desk import Desk
from domain.tickets.command import Command
from domain.tickets.conversation import RequesterReplied
from domain.tickets.lifecycle import CloseTicket, StatusUpdated, TicketResolved, UpdateStatus
from domain.tickets.opening import TicketOpened
from domain.tickets.promises import MarkSlaBreach, PriorityChanged, SlaChanged
from domain.tickets.retirement import next_step
from domain.values import JsonObject
from eventstore import failures
from eventstore.background import run_all
from eventstore.database import Database
from eventstore.documents import uuid_of
from eventstore.event_document import Envelope, from_document
from eventstore.failures import StoreBusy, StoreUnavailable
from eventstore.log import EventStore
from eventstore.mongo.coalesced_reads import CAN_WAIT_SECONDS
from eventstore.mongo.errors import time_limit
from eventstore.mongo.sorted_pages import listed_along
from eventstore.reading import read_events
from projections.generations import Generations
from projections.views import tickets
from projections.views.indexes import OF_LISTS
from projections.views.tickets import TicketRead

_log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
_STALE_SECONDS = 1.0  # for how long a ticket is set aside: until the view has caught up
_BUSY_SECONDS = 10.0
_UNDOABLE_SECONDS = 300.0
_MOST_ASIDE = 100_000
TICKETS_AT_ONCE = 32
_PAGE_TICKETS = 1000
_SOON_SECONDS = 0.1
_SELDOM_SECONDS = 600.0

Clock = Callable[[], Awaitable[datetime]]


class Act(NamedTuple):
    """Something due: when, which command does it, and which kinds of events brought it about; or
    which other cause did.
    """

    at: datetime
    command: Command
    causes: tuple[type[Event], ...] = ()
    cause: str = ""


_PROMISED = (TicketOpened, PriorityChanged, SlaChanged)
_ASKED = (RequesterReplied,)


def due(read: TicketRead, set_up: SetUp, now: datetime) -> Act | None:
    """Return what a ticket has had due for the longest, if anything."""
    ticket = read.ticket
    acts: list[Act] = []
    if ticket.resume_at is not None:
        acts.append(Act(ticket.resume_at, UpdateStatus(status="open"), (StatusUpdated,)))
    if (promised := ticket.sla.next_due()) is not None:
        at, target = promised
        causes = _ASKED if target == "next_response" else _PROMISED
        acts.append(Act(at, MarkSlaBreach(target=target), causes))
    days = set_up.desk.close_resolved_after_days
    if ticket.status == "resolved" and read.resolved_at is not None and days is not None:
        # Compared this way round: there is a first and a last day of the calendar.
        wait = timedelta(days=days)
        if read.resolved_at <= now - wait:
            at = max(read.resolved_at + wait, set_up.closing_since)
            acts.append(Act(at, CloseTicket(), (TicketResolved,)))
    if (step := next_step(ticket, set_up.desk)) is not None:
        acts.append(Act(set_up.changed_at, step, cause=f"desk@{set_up.version}"))
    first = min(acts, key=lambda act: act.at, default=None)
    return first if first is not None and first.at <= now else None


_CAUSES = frozenset(kind.__name__ for kind in (*_PROMISED, *_ASKED, StatusUpdated, TicketResolved))
"""The kinds of events that bring about what `due` finds."""


class Timekeeper:
    """Does what is due in one database for as long as `run` runs."""

    def __init__(
        self,
        database: Database,
        store: EventStore,
        desks: Desks,
        *,
        clock: Clock | None = None,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._database_clock = database.clock
        self._supervisor = database.supervisor
        self._generations = Generations(database)
        self._store = store
        self._desks = desks
        self._handler = Handler(store, desks)
        self._clock = clock or database.clock.time
        self._look_seconds = look_seconds
        # For how many seconds each is left alone.
        self._aside: TLRUCache[UUID, float] = TLRUCache(_MOST_ASIDE, _aside_until)
        self._retired = _Backoff()

    async def run(self) -> None:
        """Look again and again until cancelled. A failure is logged, and tried again."""
        await self._supervisor.keep(self._step, "timekeeping", self._look_seconds)

    async def _step(self) -> None:
        can_wait = min(CAN_WAIT_SECONDS, self._look_seconds)
        while await self.look(can_wait):  # noqa: ASYNC110 no event tells when it is time
            # The views need a moment to show what was done; then there may be more.
            await asyncio.sleep(min(_SOON_SECONDS, self._look_seconds))

    async def look(self, within_seconds: float = 0.0) -> int:
        """Do what the views show as due, one thing for each ticket; return how many that were. None
        are done while the process's clock is far from the database's. `within_seconds`: how long
        the question for the desk can wait for others.

        Raises StoreUnavailable.
        """
        async with time_limit():
            now = await self._clock()
        if self._database_clock.is_far_off:  # logged already: see eventstore/mongo/clock.py
            return 0
        set_up = await self._desks.read(within_seconds=within_seconds)
        is_asked = self._retired.is_time(set_up.version)
        waiting = iter(await self._find_due(set_up.desk, now, retired=is_asked))
        done: list[int] = []

        async def work() -> None:
            done.extend([await self._tend(ticket_id, set_up, now) for ticket_id in waiting])

        await run_all(*(work() for _ in range(TICKETS_AT_ONCE)))
        if is_asked:
            self._retired.looked(found=any(done))
        return sum(done)

    async def _find_due(self, desk: Desk, now: datetime, *, retired: bool) -> list[UUID]:
        """Return a page of tickets that the views show as due. `retired`: also of those that use
        what the desk has retired.
        """
        questions: dict[str, JsonObject] = {"next_due_at": {"next_due_at": {"$lte": now}}}
        if retired and (gone := to_be_changed(desk)) is not None:
            questions["status"] = gone.condition()
        if (days := desk.close_resolved_after_days) is not None:
            before = {"$lte": now - timedelta(days=days)}
            questions["resolved_at"] = {"status": "resolved", "resolved_at": before}
        found: dict[UUID, None] = {}
        for time, question in questions.items():
            async with time_limit():
                page = await self._generations.ask(partial(self._matches, question, time))
            found |= dict.fromkeys(uuid_of(document) for document in page)
        return [ticket_id for ticket_id in found if ticket_id not in self._aside]

    async def _matches(self, question: JsonObject, time: str, shown: Database) -> list[JsonObject]:
        matches = shown.collection(tickets.COLLECTION).find(question, {"_id": 1}).sort(time, 1)
        matches = matches.limit(_PAGE_TICKETS + len(self._aside))
        # No other index is of those that are not closed.
        return await (
            listed_along(OF_LISTS[time], matches) if time == "status" else matches.to_list()
        )

    async def _tend(self, ticket_id: UUID, set_up: SetUp, now: datetime) -> int:
        """Do what one ticket has had due for the longest; return how much was done. The next look
        finds what else the ticket has due.
        """
        try:
            read, causes = None, list[Envelope]()
            async with aclosing(read_events(self._store, ticket_id)) as events:
                async for _, event in events:
                    envelope = from_document(event)
                    read = tickets.apply(read, envelope)
                    if envelope.type in _CAUSES:
                        causes.append(envelope)
            act = None if read is None else due(read, set_up, now)
            if read is None or act is None:  # the view is behind
                self._aside[ticket_id] = _STALE_SECONDS
                return 0
            # Or all would wait for one. What is read of a long ticket until then is kept.
            async with time_limit(2 * failures.PATIENCE_SECONDS):
                outcome = await self._handler.handle(ticket_id, submission(act, read, causes))
        except (VersionMismatch, TooContended):
            return 0  # someone is at work on it, or another timekeeper: look again
        except (StoreBusy, StoreUnavailable) as error:
            _log.warning("ticket %s: %s", ticket_id, error.detail)
            self._aside[ticket_id] = _BUSY_SECONDS
            return 0
        except Exception as error:  # noqa: BLE001 one ticket never keeps the others waiting
            _log.error("ticket %s: what is due cannot be done: %r", ticket_id, error)
            self._aside[ticket_id] = _UNDOABLE_SECONDS
            return 0
        return 0 if outcome.replayed else 1


def _aside_until(_: UUID, seconds: float, now: float) -> float:
    return now + seconds


class _Backoff:
    """When to look again for what is rarely there: at once where there was some, or the desk has
    changed; else after twice the time, up to ten minutes.
    """

    def __init__(self) -> None:
        self._version: int | None = None
        self._at = self._pause = 0.0

    def is_time(self, version: int) -> bool:
        """Say whether to look, with this version of the desk."""
        if version != self._version:
            self._version, self._at, self._pause = version, 0.0, LOOK_SECONDS
        return asyncio.get_running_loop().time() >= self._at

    def looked(self, *, found: bool) -> None:
        """Note that one has looked."""
        self._at = 0.0 if found else asyncio.get_running_loop().time() + self._pause
        self._pause = LOOK_SECONDS if found else min(2 * self._pause, _SELDOM_SECONDS)


def submission(act: Act, read: TicketRead, some: Sequence[Envelope]) -> Submission:
    """Return the command for an act; `some`: at least those of the ticket's events that may be
    its cause.
    """
    cause = act.cause
    if act.causes:
        kinds = {kind.__name__ for kind in act.causes}
        causes = [event for event in some if event.type in kinds]
        before = [event for event in causes if event.occurred_at <= act.at]
        cause = str((before or causes)[-1].id)
    return Submission(
        command=act.command,
        actor=TIMEKEEPER,
        key=f"{act.command.verb}:{read.version}",
        occurred_at=max(act.at, read.updated_at),
        expected_version=read.version,
        causation_id=cause,
    )
