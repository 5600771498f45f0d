"""Load, decide, append: what becomes of a command.

The ticket is folded from its stream, `decide` says which events follow, and the store appends them
behind the version they were decided on. If another writer was first, all of it is done again from
the new state, a bounded number of times. Nothing is locked in the database.

A command that is sent again with its idempotency key is found in the stream itself, because every
event remembers the command it came of (law L5). The same search settles an append whose outcome is
unknown: read the stream, and the command's events are there or they are not.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from typing import NamedTuple, Protocol
from uuid import UUID, uuid5

from prometheus_client import Counter
from uuid_utils.compat import uuid7

from api.streams import EventRef, Stream, Streams
from domain.commands import Command, OpenTicket, Reply, other_ticket, verb
from domain.decisions import Context, decide
from domain.desk import EMPTY_DESK, Desk
from domain.errors import CasebookError, Refusal, TicketNotFound
from domain.events import (
    ERASED,
    Actor,
    EventData,
    TicketEvent,
    TicketLinked,
    encode,
)
from domain.ticket import Ticket
from eventstore import failures
from eventstore.envelope import CommandRef, Envelope, Metadata, fingerprint, utc_now
from eventstore.failures import StoreBusy, StoreUnavailable, VersionConflict, answering
from eventstore.store import EventStore

_ROUNDS = 10  # of deciding again because another writer was first
_PAUSE_SECONDS = 0.2
COMMANDS_AT_ONCE = 10_000
"""How many commands may be under way in a process; one more is turned away, nothing written."""
_TICKETS = UUID("6f1d6e0e-5b0c-5a55-9c3c-6b1f4f3f6a10")  # name space of ids made from keys


_COMMANDS = Counter(
    "casebook_commands",
    "What became of commands: done, unchanged, repeated, or the code of a problem.",
    ["verb", "outcome"],
)
_CONFLICTS = Counter("casebook_command_conflicts", "Times that another writer was first.")
_became = cache(_COMMANDS.labels)


class KeyReused(CasebookError):
    """A key was sent before with another command: for example by a counter that restarted."""

    def __init__(self) -> None:
        super().__init__(
            "idempotency_key_reused", "this idempotency key was used for another command"
        )


class VersionMismatch(CasebookError):
    """The client decided on a version that is not the current one."""

    def __init__(self, what: str, current: int) -> None:
        super().__init__("version_mismatch", f"the {what} is at version {current}")


class TooContended(CasebookError):
    """Other writers were first too many times in a row. Nothing was written."""

    def __init__(self) -> None:
        super().__init__("too_contended", "others keep changing this ticket; try again")


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A command and what came with it.

    `key` is the idempotency key; a ticket that is opened with one gets its id from it.
    `occurred_at` is when it happened in the world, if not now. `expected_version` is the version
    that the client decided on, if it says so. `require` raises a Refusal for a ticket that is not
    for who sends it.
    """

    command: Command
    actor: Actor
    key: str | None = None
    occurred_at: datetime | None = None
    expected_version: int | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    require: Callable[[Ticket], None] | None = None


class Outcome(NamedTuple):
    """What came of a command: the ticket's version behind it, no events if it changed nothing."""

    ticket_id: UUID
    version: int
    events: tuple[EventRef, ...]
    follow_up: UUID | None = None
    """The ticket that a reply to a closed one has opened."""
    replayed: bool = False
    """The command had been done before: this is what came of it then."""


class DeskSource(Protocol):
    """Knows the desk's set-up, as of some moments ago, or as of now if one must be sure."""

    async def current(self, *, sure: bool = False) -> Desk: ...


class EmptyDesk:
    """Knows of no set-up."""

    async def current(self, *, sure: bool = False) -> Desk:  # noqa: ARG002
        return EMPTY_DESK


def new_ticket_id(actor: Actor, key: str | None) -> UUID:
    """Give the id for a ticket to open: from the key, so that a repeat means the same ticket."""
    return uuid7() if key is None else uuid5(_TICKETS, f"{actor.id}\n{key}")


class Handler:
    """Takes commands to the store."""

    def __init__(self, store: EventStore, desks: DeskSource | None = None) -> None:
        """Without `desks`, the desk is an empty one."""
        self._store = store
        self._desks = desks or EmptyDesk()
        self._streams = Streams(store)
        store.vault.on_erasure(self._streams)
        self._under_way = 0

    async def handle(self, ticket_id: UUID, submission: Submission) -> Outcome:
        """Do what `submission` asks for, once, and say what came of it.

        Raises Refusal if the domain refuses, KeyReused, VersionMismatch, TooContended, StoreBusy,
        and StoreUnavailable if the database stays silent: the command may then be repeated with
        its key, and will have one effect.
        """
        # Without defaults: a field that a later version adds does not make it another command.
        command = CommandRef(
            submission.key or str(uuid7()),
            fingerprint(
                {
                    "command": verb(type(submission.command)),
                    "content": submission.command.model_dump(mode="json", exclude_defaults=True),
                }
            ),
        )
        if self._under_way >= COMMANDS_AT_ONCE:
            raise StoreBusy
        self._under_way += 1
        became = "failed"
        try:
            other_id = other_ticket(submission.command)
            async with (
                answering(2 * failures.PATIENCE_SECONDS),
                self._streams.turns(ticket_id, other_id) as (stream, other),
            ):
                outcome = await self._settle(stream, other, submission, command)
            became = "repeated" if outcome.replayed else "done" if outcome.events else "unchanged"
        except CasebookError as error:
            became = error.code
            raise
        else:
            return outcome
        finally:
            self._under_way -= 1
            _became(verb(type(submission.command)), became).inc()

    async def _settle(
        self, stream: Stream, other: Stream | None, submission: Submission, command: CommandRef
    ) -> Outcome:
        """Attempt until there is an outcome, others were first too often, or time is up."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + failures.PATIENCE_SECONDS
        conflicts = 0
        is_current = False
        while True:
            try:
                if is_current:
                    await self._streams.refresh(stream)
                    if other is not None:
                        await self._streams.refresh(other)
                # Said only after a last look: what stood in the way may have been this command.
                found = stream.done(submission.actor.id, command.id)
                if conflicts == _ROUNDS and found is None:
                    raise TooContended
                outcome = await self._attempt(stream, other, submission, command, sure=is_current)
                if outcome is not None:
                    return outcome
            except VersionConflict:
                conflicts += 1
                _CONFLICTS.inc()
            except StoreUnavailable:
                # An append may have come through: the next round reads, and finds its events by
                # the command's id. Only time ends this, and then it is said that nobody knows.
                if clock() > deadline:
                    raise
                await asyncio.sleep(_PAUSE_SECONDS)
            is_current = True

    async def _attempt(
        self,
        stream: Stream,
        other: Stream | None,
        submission: Submission,
        command: CommandRef,
        *,
        sure: bool,
    ) -> Outcome | None:
        """Decide from what is known of the ticket, and append.

        What is known may be old. An append finds that out by itself; a refusal or "no change" does
        not, so unless all was just read (`sure`), give None instead of either.
        """
        ticket_id, actor = stream.ticket_id, submission.actor
        follow_up_id = None
        if isinstance(submission.command, Reply):
            follow_up_id = uuid5(_TICKETS, f"{ticket_id}\n{actor.id}\n{command.id}")
        done = stream.done(actor.id, command.id)
        if done is not None:
            if done.fingerprint not in (command.fingerprint, ERASED):
                raise KeyReused
            return _outcome(ticket_id, done.events, follow_up_id, replayed=True)
        second = None if other is None else other.ticket
        if submission.require is not None:
            try:
                if stream.ticket is not None:
                    submission.require(stream.ticket)
                elif sure and not isinstance(submission.command, OpenTicket):
                    # Here, and not by the decision, which a ticket that is not for who asks does
                    # not come to: nobody is to tell one from the other by the work that it makes.
                    raise TicketNotFound
            except Refusal:
                if not sure:
                    return None
                raise
            try:
                if second is not None:
                    submission.require(second)
            except Refusal:
                if not sure:
                    return None
                second = None  # as if it were not there
        now = utc_now()
        occurred_at = submission.occurred_at or now
        if submission.expected_version not in (None, stream.head.version):
            if sure:
                raise VersionMismatch("ticket", stream.head.version)
            return None
        context = Context(
            now=occurred_at,
            actor=actor,
            ticket_id=ticket_id,
            desk=await self._desks.current(),
            other=second,
            follow_up_id=follow_up_id,
        )
        try:
            decision = decide(stream.ticket, submission.command, context)
        except Refusal:
            if not sure:
                return None
            context = replace(context, desk=await self._desks.current(sure=True))
            decision = decide(stream.ticket, submission.command, context)
        if not decision.events:
            return Outcome(ticket_id, stream.head.version, ()) if sure else None
        about = Metadata(actor, command, submission.correlation_id, submission.causation_id)
        events = _encoded(decision.events, stream)
        sealed = await self._store.chain(ticket_id, stream.head, events, about, occurred_at, now)
        said = _as_said(sealed, events, about)
        sealed_elsewhere: list[Envelope] = []
        said_elsewhere: list[Envelope] = []
        if decision.elsewhere:
            if other is None:
                other = Stream(follow_up_id or uuid7())
            # Its stream remembers it under a name of its own: a key belongs to one ticket.
            about_elsewhere = about._replace(
                command=CommandRef(f"{ticket_id}:{command.id}", command.fingerprint),
                causation_id=str(sealed[0].id),
            )
            events = _encoded(decision.elsewhere, other)
            sealed_elsewhere = await self._store.chain(
                other.ticket_id, other.head, events, about_elsewhere, occurred_at, now
            )
            said_elsewhere = _as_said(sealed_elsewhere, events, about_elsewhere)
        await self._store.append([*sealed, *sealed_elsewhere])
        stream.extend(said)
        if other is not None:
            other.extend(said_elsewhere)
        refs = tuple(EventRef(event.version, event.type) for event in sealed)
        return _outcome(ticket_id, refs, follow_up_id)


def _encoded(events: Sequence[TicketEvent], stream: Stream) -> list[EventData]:
    """Give the stored form of events, and whose they are: the ticket's requester's."""
    requester = None if stream.ticket is None else stream.ticket.requester
    return [encode(event, requester) for event in events]


def _as_said(
    sealed: Sequence[Envelope], events: Sequence[EventData], about: Metadata
) -> list[Envelope]:
    """Give events as they were before they were sealed, which is what opening them would give."""
    return [
        envelope._replace(data=event.data, metadata=about, sealed=())
        for envelope, event in zip(sealed, events, strict=True)
    ]


def _outcome(
    ticket_id: UUID,
    events: Sequence[EventRef],
    follow_up_id: UUID | None,
    *,
    replayed: bool = False,
) -> Outcome:
    # A reply that has linked its ticket has opened the other one.
    opened = any(event.type == TicketLinked.__name__ for event in events)
    return Outcome(
        ticket_id,
        events[-1].version,
        tuple(events),
        follow_up=follow_up_id if opened else None,
        replayed=replayed,
    )
