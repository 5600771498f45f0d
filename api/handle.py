"""Load, decide, append: what becomes of a command.

The ticket is folded from its stream, `decide` says which events follow, and the store appends them
behind the version they were decided on. If another writer was first, all of it is done again from
the new state, a bounded number of times. Nothing is locked in the database.

A command that is sent again with its idempotency key is found in the stream itself, because every
event remembers the command it came of (law L5). The same search settles an append whose outcome is
unknown: read the stream, and the command's events are there or they are not.
"""

import asyncio
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID, uuid5

from uuid_utils.compat import uuid7

from api.streams import EventRef, Stream, Streams
from domain.errors import CasebookError, Refusal
from domain.events import Actor, encode
from domain.ticket import Command, Context, decide, verb
from eventstore.envelope import CommandRef, Metadata, fingerprint, seal, utc_now
from eventstore.failures import StoreBusy, StoreUnavailable, VersionConflict, answering
from eventstore.store import EventStore

_ROUNDS = 10  # of deciding again because another writer was first
_PATIENCE_SECONDS = 10.0  # with a database that does not answer
_PAUSE_SECONDS = 0.2
COMMANDS_AT_ONCE = 10_000
"""How many commands may be under way in a process; one more is turned away, nothing written."""
_TICKETS = UUID("6f1d6e0e-5b0c-5a55-9c3c-6b1f4f3f6a10")  # name space of ids made from keys


class KeyReused(CasebookError):
    """A key was sent before with another command: for example by a counter that restarted."""

    def __init__(self) -> None:
        super().__init__(
            "idempotency_key_reused", "this idempotency key was used for another command"
        )


class VersionMismatch(CasebookError):
    """The client decided on a version that is not the current one."""

    def __init__(self, current: int) -> None:
        super().__init__("version_mismatch", f"the ticket is at version {current}")


class TooContended(CasebookError):
    """Other writers were first too many times in a row. Nothing was written."""

    def __init__(self) -> None:
        super().__init__("too_contended", "others keep changing this ticket; try again")


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A command and what came with it.

    `key` is the idempotency key; a ticket that is opened with one gets its id from it.
    `occurred_at` is when it happened in the world, if not now. `expected_version` is the version
    that the client decided on, if it says so.
    """

    command: Command
    actor: Actor
    key: str | None = None
    occurred_at: datetime | None = None
    expected_version: int | None = None
    correlation_id: str | None = None
    causation_id: str | None = None


class Outcome(NamedTuple):
    """What came of a command: the ticket's version behind it, no events if it changed nothing."""

    ticket_id: UUID
    version: int
    events: tuple[EventRef, ...]
    replayed: bool = False
    """The command had been done before: this is what came of it then."""


def new_ticket_id(actor: Actor, key: str | None) -> UUID:
    """Give the id for a ticket to open: from the key, so that a repeat means the same ticket."""
    return uuid7() if key is None else uuid5(_TICKETS, f"{actor.id}\n{key}")


class Handler:
    """Takes commands to the store."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._streams = Streams(store)
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
        try:
            async with answering(2 * _PATIENCE_SECONDS), self._streams.turn(ticket_id) as stream:
                return await self._settle(stream, submission, command)
        finally:
            self._under_way -= 1

    async def _settle(self, stream: Stream, submission: Submission, command: CommandRef) -> Outcome:
        """Attempt until there is an outcome, others were first too often, or time is up."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + _PATIENCE_SECONDS
        conflicts = 0
        is_current = False
        while True:
            try:
                if is_current:
                    await self._streams.refresh(stream)
                # Said only after a last look: what stood in the way may have been this command.
                found = stream.done(submission.actor.id, command.id)
                if conflicts == _ROUNDS and found is None:
                    raise TooContended
                outcome = await self._attempt(stream, submission, command, sure=is_current)
                if outcome is not None:
                    return outcome
            except VersionConflict:
                conflicts += 1
            except StoreUnavailable:
                # An append may have come through: the next round reads, and finds its events by
                # the command's id. Only time ends this, and then it is said that nobody knows.
                if clock() > deadline:
                    raise
                await asyncio.sleep(_PAUSE_SECONDS)
            is_current = True

    async def _attempt(
        self, stream: Stream, submission: Submission, command: CommandRef, *, sure: bool
    ) -> Outcome | None:
        """Decide from what is known of the ticket, and append.

        What is known may be old. An append finds that out by itself; a refusal or "no change" does
        not, so unless the stream was just read (`sure`), give None instead of either.
        """
        done = stream.done(submission.actor.id, command.id)
        if done is not None:
            if done.fingerprint != command.fingerprint:
                raise KeyReused
            version = done.events[-1].version
            return Outcome(stream.ticket_id, version, done.events, replayed=True)
        now = utc_now()
        occurred_at = submission.occurred_at or now
        if submission.expected_version not in (None, stream.head.version):
            if sure:
                raise VersionMismatch(stream.head.version)
            return None
        try:
            events = decide(
                stream.ticket, submission.command, Context(occurred_at, submission.actor)
            )
        except Refusal:
            if sure:
                raise
            return None
        if not events:
            return Outcome(stream.ticket_id, stream.head.version, ()) if sure else None
        about = Metadata(
            submission.actor, command, submission.correlation_id, submission.causation_id
        )
        sealed = seal(stream.ticket_id, stream.head, map(encode, events), about, occurred_at, now)
        await self._store.append(sealed)
        stream.extend(sealed)
        return Outcome(
            stream.ticket_id,
            stream.head.version,
            tuple(EventRef(event.version, event.type) for event in sealed),
        )
