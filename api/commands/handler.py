"""Load, decide, append: what becomes of a command.

The ticket is folded from its stream, `decide` says which events follow, and the store appends them
behind the version they were decided on. If another writer was first, all of it is done again from
the new state, a bounded number of times. Nothing is locked in the database.

A command that is sent again with its idempotency key is found in the stream itself, because every
event remembers the command it came of (law L5).

An append whose outcome is unknown is settled before anything is decided anew, by sending the same
events again (`EventStore.append`): what was sent may still arrive, so that a refusal made meanwhile
would not be true (L12). If nothing answers in time, the client is told so. The events are kept, and
are what is sent first when the command comes again with its key.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from typing import NamedTuple, Protocol
from uuid import UUID, uuid5

from cachetools import LRUCache
from prometheus_client import Counter
from uuid_utils.compat import uuid7

from api.commands.ticket_cache import EventRef, Stream, Streams
from domain.actors import Actor
from domain.codec import EventData
from domain.desk import EMPTY_DESK, Desk
from domain.errors import CasebookError, Refusal, TicketNotFound
from domain.tickets import encode
from domain.tickets.command import MOST, Command, Context, Size, decide
from domain.tickets.conversation import Reply
from domain.tickets.opening import OpenTicket
from domain.tickets.relations import TicketLinked
from domain.tickets.ticket import Ticket, TicketEvent
from domain.values import ERASED
from eventstore import failures
from eventstore.event_document import CommandRef, Envelope, Metadata, fingerprint
from eventstore.failures import (
    OutcomeUnknown,
    StoreBusy,
    StoreError,
    StoreUnavailable,
    VersionConflict,
    answering,
)
from eventstore.log import EventStore

_ROUNDS = 10  # of deciding again because another writer was first
_PAUSE_SECONDS = 0.2
COMMANDS_AT_ONCE = 10_000
"""How many commands may be under way in a process; one more is turned away, nothing written."""
_UNSETTLED = 1000  # of the last appends of which nobody knows, how many are kept
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

    kind = "unacceptable"

    def __init__(self) -> None:
        super().__init__(
            "idempotency_key_reused", "this idempotency key was used for another command"
        )


class VersionMismatch(CasebookError):
    """The client decided on a version that is not the current one."""

    kind = "precondition_failed"

    def __init__(self, what: str, current: int) -> None:
        super().__init__("version_mismatch", f"the {what} is at version {current}")


class TooContended(CasebookError):
    """Other writers were first too many times in a row. Nothing was written."""

    kind = "conflict"

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


def id_of_follow_up(ticket_id: UUID, actor: Actor, key: str) -> UUID:
    """Return the id of the ticket that a reply to a closed one opens: one for each reply."""
    return uuid5(_TICKETS, f"{ticket_id}\n{actor.id}\n{key}")


class _Decided(NamedTuple):
    """What is to be appended, and what is known once it is."""

    sealed: list[Envelope]
    """The events of both tickets."""
    said: list[Envelope]
    other: Stream | None
    said_elsewhere: list[Envelope]
    outcome: Outcome


_CommandKey = tuple[UUID, str, str]
"""A ticket, an actor's id, and the id of a command of theirs."""


class _Unsettled(NamedTuple):
    """An append of which nobody knows."""

    fingerprint: str
    events: list[Envelope]


class Handler:
    """Takes commands to the store."""

    def __init__(
        self,
        store: EventStore,
        desks: DeskSource | None = None,
        *,
        most: Size = MOST,
    ) -> None:
        """Without `desks`, the desk is an empty one. `most`: what a ticket may hold."""
        self._store = store
        self._most = most
        self._desks = desks or EmptyDesk()
        self._streams = Streams(store)
        store.vault.on_erasure(self._streams)
        self._under_way = 0
        self._unsettled: LRUCache[_CommandKey, _Unsettled] = LRUCache(_UNSETTLED)

    async def handle(self, ticket_id: UUID, submission: Submission) -> Outcome:
        """Do what `submission` asks for, once, and say what came of it.

        Raises Refusal if the domain refuses, KeyReused, VersionMismatch, TooContended, TicketBusy,
        StoreBusy and StoreUnavailable: nothing was written then; and OutcomeUnknown if nobody knows
        that. The command may then be repeated with its key, and will have one effect.
        """
        # Without defaults: a field that a later version adds does not make it another command.
        command = CommandRef(
            submission.key or str(uuid7()),
            fingerprint(
                {
                    "command": submission.command.verb,
                    "content": submission.command.model_dump(mode="json", exclude_defaults=True),
                }
            ),
        )
        if self._under_way >= COMMANDS_AT_ONCE:
            raise StoreBusy
        self._under_way += 1
        became = "failed"
        try:
            other_id = submission.command.other_ticket()
            turns = self._streams.turns(ticket_id, other_id, 2 * failures.PATIENCE_SECONDS)
            async with turns as (stream, other):
                outcome = await self._settle(stream, other, submission, command)
            became = "repeated" if outcome.replayed else "done" if outcome.events else "unchanged"
        except CasebookError as error:
            became = error.code
            raise
        else:
            return outcome
        finally:
            self._under_way -= 1
            _became(submission.command.verb, became).inc()

    async def _settle(
        self, stream: Stream, other: Stream | None, submission: Submission, command: CommandRef
    ) -> Outcome:
        """Attempt until there is an outcome, others were first too often, or time is up."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + failures.PATIENCE_SECONDS
        conflicts = 0
        is_current = await self._settle_earlier((stream.ticket_id, submission.actor.id), command)
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
                async with answering():
                    decided = await self._decide(
                        stream, other, submission, command, sure=is_current
                    )
            except StoreUnavailable:
                # Nothing has been sent, so this may go on to be tried.
                if clock() > deadline:
                    raise
                await asyncio.sleep(_PAUSE_SECONDS)
            else:
                if isinstance(decided, Outcome):
                    return decided
                if decided is not None:
                    try:
                        await self._append(stream, decided, submission, command)
                    except VersionConflict:
                        conflicts += 1
                        _CONFLICTS.inc()
                    else:
                        return decided.outcome
            is_current = True

    async def _settle_earlier(self, of: tuple[UUID, str], command: CommandRef) -> bool:
        """See an append through that the same command has left behind, of which nobody knows; say
        whether there was one. Raises OutcomeUnknown.
        """
        key = (*of, command.id)
        earlier = self._unsettled.get(key)
        if earlier is None or earlier.fingerprint != command.fingerprint:
            return False
        try:
            await self._store.append(earlier.events, sent_before=True)
        except VersionConflict:
            pass  # it never will be written
        except StoreError as error:  # which says nothing of what was sent before
            raise OutcomeUnknown from error
        self._unsettled.pop(key, None)
        return True

    async def _append(
        self, stream: Stream, decided: _Decided, submission: Submission, command: CommandRef
    ) -> None:
        """Append what was decided, and keep it if nobody knows what has become of it.

        Raises VersionConflict, StoreBusy, StoreFailed: nothing was written. OutcomeUnknown.
        """
        try:
            await self._store.append(decided.sealed)
        except (OutcomeUnknown, asyncio.CancelledError):
            if submission.key is not None:  # or nobody can come back to it
                key = (stream.ticket_id, submission.actor.id, command.id)
                self._unsettled[key] = _Unsettled(command.fingerprint, decided.sealed)
            raise
        stream.extend(decided.said)
        if decided.other is not None:
            decided.other.extend(decided.said_elsewhere)

    async def _decide(
        self,
        stream: Stream,
        other: Stream | None,
        submission: Submission,
        command: CommandRef,
        *,
        sure: bool,
    ) -> _Decided | Outcome | None:
        """Decide from what is known of the ticket.

        What is known may be old. An append finds that out by itself; a refusal or "no change" does
        not, so unless all was just read (`sure`), give None instead of either.
        """
        await self._store.check_log()  # what is kept of the ticket would be of another log
        ticket_id, actor = stream.ticket_id, submission.actor
        follow_up_id = None
        if isinstance(submission.command, Reply):
            follow_up_id = id_of_follow_up(ticket_id, actor, command.id)
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
        now = await self._store.clock.time()
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
            size=stream.size,
            other_size=Size() if other is None else other.size,
            most=self._most,
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
        refs = tuple(EventRef(event.version, event.type) for event in sealed)
        outcome = _outcome(ticket_id, refs, follow_up_id)
        return _Decided([*sealed, *sealed_elsewhere], said, other, said_elsewhere, outcome)


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
