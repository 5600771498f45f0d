"""Load, decide, append: what becomes of a command.

The stream is read and folded, `decide` says which events follow, and the store appends them behind
the version that was read. If another writer was first, all of it is done again from the new state,
a bounded number of times. Nothing is locked.

A command that is sent again with its idempotency key is found in the stream itself, because every
event remembers the command it came of (law L5). The same search settles an append whose outcome is
unknown: read the stream, and the command's events are there or they are not.
"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple
from uuid import UUID, uuid5

from uuid_utils.compat import uuid7

from domain.errors import CasebookError
from domain.events import Actor, decode, encode
from domain.ticket import Command, Context, Ticket, decide, evolve, verb
from eventstore.envelope import (
    EMPTY,
    CommandRef,
    Envelope,
    Head,
    Metadata,
    fingerprint,
    seal,
    utc_now,
)
from eventstore.store import EventStore, StoreUnavailable, VersionConflict

_ROUNDS = 10  # of deciding again because another writer was first
_PATIENCE_SECONDS = 10.0  # with a database that does not answer
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


class Done(NamedTuple):
    """What an earlier command did: its events' versions and what it said."""

    events: tuple[Envelope, ...]
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Stream:
    """A ticket's events, folded: its state, its head, and the commands that led there."""

    ticket: Ticket | None = None
    head: Head = EMPTY
    commands: Mapping[tuple[str, str], Done] = field(default_factory=dict)

    def after(self, events: Iterable[Envelope]) -> "Stream":
        """Fold the events that come next. Raises HistoryError."""
        ticket, head, commands = self.ticket, self.head, dict(self.commands)
        for envelope in events:
            ticket = evolve(ticket, decode(envelope.type, envelope.schema, envelope.data))
            head = Head(envelope.version, envelope.hash)
            command = envelope.metadata.command
            key = (envelope.metadata.actor.id, command.id)
            done = commands.get(key)
            commands[key] = Done(
                (*done.events, envelope) if done else (envelope,), command.fingerprint
            )
        return Stream(ticket, head, commands)


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
    """What came of a command: no events if it changed nothing; `stream` is the new state."""

    ticket_id: UUID
    version: int
    events: tuple[Envelope, ...]
    stream: Stream


def new_ticket_id(actor: Actor, key: str | None) -> UUID:
    """Give the id for a ticket to open: from the key, so that a repeat means the same ticket."""
    return uuid7() if key is None else uuid5(_TICKETS, f"{actor.id}\n{key}")


class Handler:
    """Takes commands to the store."""

    def __init__(self, store: EventStore) -> None:
        self._store = store

    async def load(self, ticket_id: UUID) -> Stream:
        """Read and fold a ticket's stream; an empty one if there is no such ticket."""
        return Stream().after(await self._store.load(ticket_id))

    async def handle(self, ticket_id: UUID, submission: Submission) -> Outcome:
        """Do what `submission` asks for, once, and say what came of it.

        Raises Refusal if the domain refuses, KeyReused, VersionMismatch, TooContended, and
        StoreUnavailable if the database stays silent: the command may then be repeated with its
        key, and will have one effect.
        """
        command = CommandRef(
            submission.key or str(uuid7()),
            fingerprint(
                {
                    "command": verb(type(submission.command)),
                    "content": submission.command.model_dump(mode="json"),
                }
            ),
        )
        clock = asyncio.get_running_loop().time
        deadline = clock() + _PATIENCE_SECONDS
        rounds = 0
        while rounds < _ROUNDS:
            try:
                return await self._attempt(ticket_id, submission, command)
            except VersionConflict:
                rounds += 1
            except StoreUnavailable:
                # An append may have come through: the next attempt finds its events by the
                # command's id, in the stream.
                if clock() > deadline:
                    raise
                await asyncio.sleep(0.2)
        raise TooContended

    async def _attempt(
        self, ticket_id: UUID, submission: Submission, command: CommandRef
    ) -> Outcome:
        stream = await self.load(ticket_id)
        done = stream.commands.get((submission.actor.id, command.id))
        if done is not None:
            if done.fingerprint != command.fingerprint:
                raise KeyReused
            return Outcome(ticket_id, done.events[-1].version, done.events, stream)
        version = stream.head.version
        if submission.expected_version not in (None, version):
            raise VersionMismatch(version)
        now = utc_now()
        occurred_at = submission.occurred_at or now
        events = decide(stream.ticket, submission.command, Context(occurred_at, submission.actor))
        if not events:
            return Outcome(ticket_id, version, (), stream)
        sealed = tuple(
            seal(
                ticket_id,
                stream.head,
                map(encode, events),
                Metadata(
                    submission.actor, command, submission.correlation_id, submission.causation_id
                ),
                occurred_at,
                now,
            )
        )
        after = stream.after(sealed)
        await self._store.append(sealed)
        return Outcome(ticket_id, after.head.version, sealed, after)
