"""Load, decide, append: what becomes of a command.

The ticket is folded from its stream, `decide` says which events follow, and the store appends them
behind the version they were decided on. If another writer was first, all of it is done again from
the new state, a bounded number of times. Nothing is locked in the database.

A command that is sent again with its idempotency key is found in the stream itself, because every
event remembers the command it came of (law L5).

An append whose outcome is unknown is settled before anything is decided anew, by sending the same
events again (`EventStore.append`): what was sent may still arrive, so that a refusal made meanwhile
would not be true (L12). If nothing answers in time, the answer says so. The events are kept, and
are what is sent first when the command comes again with its key.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Literal, NamedTuple, Protocol
from uuid import UUID, uuid5

from cachetools import LRUCache
from prometheus_client import Counter
from uuid_utils.compat import uuid7

from api.commands.ticket_cache import Done, EventRef, Stream, TicketCache
from api.ticket_links import leads_to, walk
from domain.actors import Actor
from domain.codec import EventData
from domain.desk import EMPTY_DESK, Desk
from domain.errors import CasebookError, Refusal, TicketNotFound
from domain.tickets import CODEC, encode, is_public
from domain.tickets.command import (
    MOST,
    Command,
    Context,
    Decision,
    EventPlace,
    Said,
    Size,
    decide,
)
from domain.tickets.conversation import Reply
from domain.tickets.opening import OpenTicket
from domain.tickets.relations import LinkTicket, MergeTicket, UnlinkTicket
from domain.tickets.ticket import Ticket
from domain.values import ERASED, REDACTED, one_spelling
from eventstore import failures
from eventstore.event_document import CommandRef, Envelope, Metadata, fingerprint
from eventstore.failures import (
    OutcomeUnknown,
    StoreBusy,
    StoreError,
    StoreUnavailable,
    VersionConflict,
)
from eventstore.log import EventStore
from eventstore.mongo.errors import DriverError, time_limit
from eventstore.personal.sealing import whose_command

_ROUNDS = 10  # of deciding again because another writer was first
_PAUSE_SECONDS = 0.2
COMMANDS_AT_ONCE = 10_000
"""How many commands may be under way in a process; one more is turned away, nothing written."""
_UNSETTLED = 1000  # how many appends of unknown outcome are kept, the last ones
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
    """The client decided on an old version: read it again, decide again, send the new one."""

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
    that the client decided on, if it says so; where `sees_public`, as requesters count them.
    `require` raises a Refusal for a ticket that the sender may not see.
    """

    command: Command
    actor: Actor
    key: str | None = None
    occurred_at: datetime | None = None
    expected_version: int | None = None
    sees_public: bool = False
    correlation_id: str | None = None
    causation_id: str | None = None
    require: Callable[[Ticket], None] | None = None

    def ref(self) -> CommandRef:
        """Return what the log calls the command: its key, or an id of its own each time."""
        # Without defaults: a field that a later version adds does not make it another command.
        content = self.command.model_dump(mode="json", exclude_defaults=True)
        said = fingerprint({"command": self.command.verb, "content": content})
        return CommandRef(self.key or str(uuid7()), said)


Redaction = Literal["destroyed", "hidden", "pending"]
"""What became of words that were redacted: nobody can read them again; or they are shown to nobody,
and stay sealed in the log, being older than keys for single messages; or the keys did not answer,
and it is seen to in the background.
"""


class Outcome(NamedTuple):
    """What came of a command: the ticket's version behind it, and what that is to requesters; no
    events if it changed nothing.
    """

    ticket_id: UUID
    version: int
    public_version: int
    events: tuple[EventRef, ...]
    follow_up: UUID | None = None
    """The ticket in which a reply to a closed one stands."""
    follow_up_version: int = 1
    replayed: bool = False
    """The command had been done before: this is what came of it then."""
    redaction: Redaction | None = None


class DeskSource(Protocol):
    """Knows the desk's set-up, as of some moments ago, or as of now if one must be sure."""

    async def current(self, *, sure: bool = False) -> Desk: ...


def new_ticket_id(actor: Actor, key: str | None) -> UUID:
    """Return the id for a ticket to open: from the key, so that a repeat means the same ticket."""
    return uuid7() if key is None else uuid5(_TICKETS, f"{actor.id}\n{key}")


def id_of_follow_up(ticket_id: UUID, actor: Actor, key: str) -> UUID:
    """Return the id of the ticket that a reply to a closed one opens, if none is open."""
    return uuid5(_TICKETS, f"{ticket_id}\n{actor.id}\n{key}")


_CommandKey = tuple[UUID, str, CommandRef]
"""A ticket, an actor's id, and a command of theirs."""


class _Job(NamedTuple):
    """A command that is under way: what the log will call it, and the streams that it has locked.

    `other`: the stream of the command's other ticket, if it names one.
    """

    submission: Submission
    ref: CommandRef
    stream: Stream
    other: Stream | None

    @property
    def done(self) -> Done | None:
        """What came of the command, if it has been done before."""
        return self.stream.done(self.submission.actor.id, self.ref.id)

    @property
    def key(self) -> _CommandKey:
        """What tells the command from all others."""
        return self.stream.ticket_id, self.submission.actor.id, self.ref


class _OtherTicket(Exception):
    """The command is about another ticket than the one that is locked: about this one, or none."""

    def __init__(self, ticket_id: UUID | None) -> None:
        super().__init__()
        self.ticket_id = ticket_id


class _Part(NamedTuple):
    """What is to be appended to one ticket's stream, and how it is read back, not sealed."""

    stream: Stream
    sealed: list[Envelope]
    readable: list[Envelope]


class Handler:
    """Takes commands to the store."""

    def __init__(
        self, store: EventStore, desks: DeskSource | None = None, *, most: Size = MOST
    ) -> None:
        """Without `desks`, the desk is an empty one. `most`: what a ticket may hold."""
        self._store = store
        self._most = most
        self._desks = desks
        self._cache = TicketCache(store)
        store.vault.news.on_news(self._cache)
        self._under_way = 0
        self._unsettled: LRUCache[_CommandKey, list[Envelope]] = LRUCache(_UNSETTLED)

    async def handle(self, ticket_id: UUID, submission: Submission) -> Outcome:
        """Do what `submission` asks for, once, and return what came of it.

        Raises Refusal if the domain refuses, KeyReused, VersionMismatch, TooContended, TicketBusy,
        StoreBusy and StoreUnavailable: nothing was written then; and OutcomeUnknown if nobody knows
        that. The command may then be repeated with its key, and will have one effect.
        """
        command, ref = submission.command, submission.ref()
        if self._under_way >= COMMANDS_AT_ONCE:
            raise StoreBusy
        self._under_way += 1
        became = "failed"
        try:
            outcome = await self._with_other(ticket_id, submission, ref, command.other_ticket())
            became = "repeated" if outcome.replayed else "done" if outcome.events else "unchanged"
            if (version := command.about()) is not None:
                outcome = outcome._replace(redaction=await self._destroy(ticket_id, version))
        except CasebookError as error:
            became = error.code
            raise
        else:
            return outcome
        finally:
            self._under_way -= 1
            _became(command.verb, became).inc()

    async def _destroy(self, ticket_id: UUID, version: int) -> Redaction:
        """Destroy the keys of what was just redacted, as far as it has any of its own."""
        with suppress(DriverError, CasebookError):  # it is on record, and done in any case
            async with time_limit():
                said = await self._said(ticket_id, version)
                places = (EventPlace(ticket_id, version), *(said.same_command if said else ()))
                destroy = self._store.destroy_redacted
                gone = [await destroy(each.ticket, each.version) for each in places]
                return "destroyed" if all(gone) else "hidden"
        return "pending"

    async def _with_other(
        self, ticket_id: UUID, submission: Submission, ref: CommandRef, other_id: UUID | None
    ) -> Outcome:
        """Do it with the ticket and the other one locked, which may be known only by the first."""
        for _ in range(_ROUNDS):
            locked = self._cache.locked(ticket_id, other_id, 2 * failures.PATIENCE_SECONDS)
            async with locked as (stream, other):
                try:
                    return await self._settle(_Job(submission, ref, stream, other))
                except _OtherTicket as found:
                    other_id = found.ticket_id
        raise TooContended

    async def _settle(self, job: _Job) -> Outcome:
        """Attempt until there is an outcome, others were first too often, or time is up.

        What is known of the tickets may be old. An append finds that out by itself; a refusal or
        "no change" does not, so these are taken only if all was just read. Nor does an append that
        leaves the other ticket as it is.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + failures.PATIENCE_SECONDS
        conflicts = 0
        is_current = await self._settle_earlier(job)
        while True:
            try:
                if is_current:
                    for stream in filter(None, (job.stream, job.other)):
                        await self._cache.refresh(stream)
                # Said only after a last look: what stood in the way may have been this command.
                if conflicts == _ROUNDS and job.done is None:
                    raise TooContended
                outcome, parts = await self._decide(job, sure=is_current)
                is_of_both = len(parts) > 1 or (len(parts) == 1 and job.other is None)
                if is_current or outcome.replayed or is_of_both:
                    if parts:
                        await self._append(job, parts)
                    return outcome
            except (Refusal, VersionMismatch):
                if is_current:
                    raise
            except VersionConflict:
                conflicts += 1
                _CONFLICTS.inc()
            except OutcomeUnknown:
                raise
            except StoreUnavailable:
                # Nothing has been sent, so this may go on to be tried.
                if clock() > deadline:
                    raise
                await asyncio.sleep(_PAUSE_SECONDS)
            is_current = True

    async def _settle_earlier(self, job: _Job) -> bool:
        """See an append through that the same command has left behind with unknown outcome; say
        whether there was one. Raises OutcomeUnknown.
        """
        earlier = self._unsettled.get(job.key)
        if earlier is None:
            return False
        try:
            await self._store.append(earlier, sent_before=True)
        except VersionConflict:
            pass  # it never will be written
        except StoreError as error:  # which says nothing of what was sent before
            raise OutcomeUnknown from error
        self._unsettled.pop(job.key, None)
        return True

    async def _append(self, job: _Job, parts: Sequence[_Part]) -> None:
        """Append what was decided, and keep it if its outcome is unknown.

        Raises VersionConflict, StoreBusy, StoreFailed: nothing was written. OutcomeUnknown.
        """
        events = [event for part in parts for event in part.sealed]
        try:
            await self._store.append(events)
        except (OutcomeUnknown, asyncio.CancelledError):
            if job.submission.key is not None:  # without a key it cannot be sent again
                self._unsettled[job.key] = events
            raise
        for part in parts:
            part.stream.extend(part.readable)

    async def _decide(self, job: _Job, *, sure: bool) -> tuple[Outcome, list[_Part]]:
        """Decide from what is known of the tickets; `sure`: they were just read.

        Returns the outcome once the parts, if there are any, have been appended. Raises Refusal,
        KeyReused, VersionMismatch.
        """
        await self._store.check_log()  # what is kept of the ticket would be of another log
        submission, stream = job.submission, job.stream
        if (done := job.done) is not None:
            return await self._repeated(job, done), []
        second = _check_visibility(job, sure=sure)
        now = await self._store.clock.time()
        version = stream.public_version if submission.sees_public else stream.head.version
        if submission.expected_version not in (None, version):
            raise VersionMismatch("ticket", version)
        context = await self._context(job, second, submission.occurred_at or now, sure=sure)
        decision = decide(stream.ticket, submission.command, context)
        if not decision.events:
            return Outcome(stream.ticket_id, stream.head.version, stream.public_version, ()), []
        parts = await self._parts(job, decision, context, now)
        follow_up = next(filter(None, (event.goes_on_in() for event in decision.events)), None)
        outcome = _outcome(stream.ticket_id, tuple(stream.refs(parts[0].sealed)), follow_up)
        if follow_up is not None:
            outcome = outcome._replace(follow_up_version=parts[-1].sealed[-1].version)
        return outcome, parts

    async def _repeated(self, job: _Job, done: Done) -> Outcome:
        """Return what came of a command when it was done. Raises KeyReused."""
        if done.fingerprint not in (job.ref.fingerprint, ERASED, REDACTED):
            raise KeyReused
        outcome = _outcome(job.stream.ticket_id, done.events, done.follow_up)
        if outcome.follow_up is not None:
            there = await self._read(outcome.follow_up)
            outcome = outcome._replace(follow_up_version=there.head.version)
        return outcome._replace(replayed=True)

    async def _context(
        self, job: _Job, second: Ticket | None, occurred_at: datetime, *, sure: bool
    ) -> Context:
        """Return what the command is decided by. `second`: the other ticket as the sender sees it.

        Raises _OtherTicket if the command is about another ticket than is locked.
        """
        submission, ref, stream, other = job
        ticket_id, actor, command = stream.ticket_id, submission.actor, submission.command
        follow_up_id = None
        if isinstance(command, Reply):
            follow_up_id = id_of_follow_up(ticket_id, actor, ref.id)
            wanted = await self._last_of(stream.ticket)
        elif isinstance(command, UnlinkTicket):
            wanted = await self._goes_on(command.ticket, job)
        else:
            wanted = command.other_ticket(stream.ticket)
        if wanted not in (ticket_id, None if other is None else other.ticket_id):
            raise _OtherTicket(wanted)
        chain, start = command.chain(), None if other is None else other.ticket
        closes_ring = False
        if chain is not None and start is not None:
            closes_ring = await leads_to(ticket_id, start, chain, self._ticket)
        needs_number = command.needs_number(stream.ticket, second)
        return Context(
            now=occurred_at,
            actor=Actor(one_spelling(actor.id), actor.role),
            ticket_id=ticket_id,
            desk=EMPTY_DESK if self._desks is None else await self._desks.current(sure=sure),
            other=second,
            other_id=None if other is None else other.ticket_id,
            closes_ring=closes_ring,
            merged=await self._merged(command, stream.ticket),
            other_merged=await self._merged(command, second),
            follow_up_id=follow_up_id,
            said=await self._said(ticket_id, command.about()),
            number=await self._store.numbers.take() if needs_number else None,
            size=stream.size,
            other_size=Size() if other is None else other.size,
            most=self._most,
        )

    async def _parts(
        self, job: _Job, decision: Decision, context: Context, now: datetime
    ) -> list[_Part]:
        """Chain what was decided: the part of the command's own ticket is the first."""
        submission, ref, stream, other = job
        # What a requester says is theirs, also where they follow another one's ticket; what a merge
        # takes along stays with whom it came from.
        whose = None if stream.ticket is None else stream.ticket.requester
        if submission.actor.role == "requester":
            whose = submission.actor.id

        own, elsewhere, follow_up = ([encode(each, whose) for each in part] for part in decision)
        said_by = whose_command([*own, *elsewhere, *follow_up])

        async def part(of: Stream, data: Sequence[EventData], about: Metadata) -> _Part:
            sealed = await self._store.chain(
                of.ticket_id, of.head, data, about, context.now, now, said_by
            )
            readable = [
                envelope._replace(data=event.data, metadata=about, sealed=())
                for envelope, event in zip(sealed, data, strict=True)
            ]
            return _Part(of, sealed, readable)

        about = Metadata(submission.actor, ref, submission.correlation_id, submission.causation_id)
        parts = [await part(stream, own, about)]
        new = context.follow_up_id
        for also, data in ((other, elsewhere), (new, follow_up)):
            if also is not None and data:
                # It remembers the command under a name of its own: a key belongs to one ticket.
                there = CommandRef(f"{stream.ticket_id}:{ref.id}", ref.fingerprint)
                cause = str(parts[0].sealed[0].id)
                of = also if isinstance(also, Stream) else Stream(also)
                parts.append(
                    await part(of, data, about._replace(command=there, causation_id=cause))
                )
        return parts

    async def _last_of(self, ticket: Ticket | None) -> UUID | None:
        """Return the ticket in which the conversation of a closed one goes on, or has ended: past
        merges and follow-ups, however many. None if it is the ticket itself.
        """
        if ticket is None:
            return None
        ended = None
        async with aclosing(walk(ticket, Ticket.continuations, self._ticket)) as ways:
            async for way, found in ways:
                if found.status != "closed":
                    return way
                if ended is None and not found.continuations():
                    ended = way
        return ended

    async def _merged(self, command: Command, ticket: Ticket | None) -> frozenset[UUID]:
        """Return all tickets that were merged into one, and into those, for who asks for that."""
        if ticket is None or not isinstance(command, (LinkTicket, MergeTicket, UnlinkTicket)):
            return frozenset()
        ways = walk(ticket, lambda each: each.linked("merged_from"), self._ticket)
        return frozenset([way async for way, _ in ways])

    async def _goes_on(self, ticket_id: UUID, job: _Job) -> UUID:
        """Return the ticket that goes on for another, past merges, however many: the last one that
        is not the command's own.
        """
        while True:
            known = job.other if job.other and job.other.ticket_id == ticket_id else None
            ticket = known.ticket if known else await self._ticket(ticket_id)
            into = None if ticket is None else ticket.merged_into
            if into is None or into == job.stream.ticket_id:
                return ticket_id
            ticket_id = into

    async def _said(self, ticket_id: UUID, version: int | None) -> Said | None:
        """Return what an event says, as it is read now; None if there is none of that version."""
        if version is None:
            return None
        found = await self._store.load(ticket_id, after=version - 1, limit=1)
        if not found or found[0].version != version:
            return None
        type_, _, data, _ = found[0].readable
        words = {name: data[name] for name in CODEC.words.get(type_, ()) if data.get(name)}
        return Said(is_public(type_, data), words, await self._same_command(found[0]))

    async def _same_command(self, event: Envelope) -> tuple[EventPlace, ...]:
        """Return the other events of the command that an event came of, also of the ticket that the
        command was sent to, if this one only took its words (`_parts`).
        """
        actor, command = event.metadata.actor.id, event.metadata.command.id
        commands = {event.ticket_id: command}
        sent_to, _, own = command.partition(":")
        with suppress(ValueError):
            commands[UUID(sent_to)] = own
        found: list[EventPlace] = []
        for ticket_id, key in commands.items():
            done = None if key == ERASED else (await self._read(ticket_id)).done(actor, key)
            if done is None:
                continue
            if ticket_id != event.ticket_id:
                # A client may give a key that only looks as if that ticket had passed it on.
                first = await self._store.load(ticket_id, after=done.events[0].version - 1, limit=1)
                if event.metadata.causation_id not in [str(each.id) for each in first]:
                    continue
            found += [EventPlace(ticket_id, ref.version) for ref in done.events]
        return tuple(each for each in found if each != EventPlace(event.ticket_id, event.version))

    async def _ticket(self, ticket_id: UUID) -> Ticket | None:
        return (await self._read(ticket_id)).ticket

    async def _read(self, ticket_id: UUID) -> Stream:
        """Return a ticket as it is, which others may be changing."""
        stream = Stream(ticket_id)
        await self._cache.refresh(stream)
        return stream


def _check_visibility(job: _Job, *, sure: bool) -> Ticket | None:
    """Check that the sender may see the ticket; return the other one as the sender sees it.

    `sure`: both were just read. Raises Refusal if the sender may not see the ticket, or if what is
    known of the other is old.
    """
    require, first = job.submission.require, job.stream.ticket
    other = None if job.other is None else job.other.ticket
    if require is None:
        return other
    if first is not None:
        require(first)
    elif not isinstance(job.submission.command, OpenTicket):
        # Here, and not by the decision, which a ticket that the caller may not see does not come
        # to: the time that it takes must not tell one from the other.
        raise TicketNotFound
    if other is not None and not isinstance(job.submission.command, (Reply, UnlinkTicket)):
        try:
            require(other)
        except Refusal:
            if not sure:
                raise
            return None  # as if it were not there
    return other


def _outcome(ticket_id: UUID, events: Sequence[EventRef], follow_up: UUID | None) -> Outcome:
    last = events[-1]
    return Outcome(ticket_id, last.version, last.public_version, tuple(events), follow_up)
