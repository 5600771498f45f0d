"""How far each partition is, and whose it is: the checkpoints and leases as they are kept.

A partition has one document in `projections`, and every process that projects one in `projectors`:

    {_id: 7, epoch, owner, phase, token, applied, last, as_of, views}
    {_id: "log", events, drift, difference}
    {_id: "host:123:ab", seen_at, progressed_at, as_of, session, failure, leaving,
                         fencing, slot}

A process shows life by `seen_at`, which every batch and every heartbeat sets to the database's own
time. Taking a partition raises its epoch. Every batch names the epochs of its partitions in the
condition of its checkpoint, in its own transaction. So a process that was frozen, and wakes up with
a batch in its hands, writes nothing (law L7).

Who takes the partitions of a dead process also ends its database `session`: a transaction that it
has left open would lock their documents for a minute.

`token` resumes the log's stream behind all that has been applied to the partition; `applied` counts
its events. `as_of`: what was written before this is shown, give or take how clocks differ. It
stands in the owner's document, and in the partition's while nobody owns it. `views` are the saved
views that count all of the partition's tickets. One more document, `log`, says how the log was
counted last (`log_count.py`).
"""

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from itertools import count
from typing import NamedTuple

from domain.errors import CasebookError
from domain.values import JsonObject
from eventstore.database import Database
from eventstore.documents import Reader, as_document, strict_decoder
from eventstore.event_document import Envelope
from eventstore.lease import LEASE_SECONDS, is_alive
from eventstore.log import Recorded
from eventstore.mongo.driver import ReplaceOne, Session, UpdateMany, UpdateOne, Write
from eventstore.mongo.errors import BulkWriteError, DuplicateKeyError
from eventstore.mongo.limits import Index, make_indexes
from eventstore.mongo.resume_tokens import ResumeToken
from eventstore.partition import PARTITIONS
from eventstore.subscription import Position
from projections.projector.partitions import LogCount, Member, Partition, State

COLLECTION = "projections"
MEMBERS = "projectors"
_COUNTED = "log"


class Fenced(CasebookError):
    """Another projector has taken a partition: for example after this one was frozen."""

    def __init__(self) -> None:
        super().__init__("fenced", "another projector has taken over")


class Applied(NamedTuple):
    """What events do to one partition: how many are new, and which was recorded last."""

    events: int = 0
    last: Recorded | None = None

    def and_more(self, events: int, last: Recorded | Envelope | None) -> "Applied":
        """Return the same with more events."""
        if last is None or (self.last is not None and self.last.recorded_at > last.recorded_at):
            return Applied(self.events + events, self.last)
        last = Recorded(last.ticket_id, last.version, last.recorded_at)
        return Applied(self.events + events, last)


class Checkpoints:
    """The checkpoints and leases of one database."""

    def __init__(self, database: Database, lease_seconds: float = LEASE_SECONDS) -> None:
        self._database = database
        self._partitions = database.collection(COLLECTION)
        self._members = database.collection(MEMBERS)
        self._lease_seconds = lease_seconds
        self._partition = Reader(database.unreadable, COLLECTION, partition_from)
        self._member = Reader(database.unreadable, MEMBERS, member_from)
        self._counted = Reader(database.unreadable, COLLECTION, _LOG_COUNT)

    async def prepare(self) -> None:
        """Make the documents that are not there. Safe to repeat."""
        # For conditions on the epoch; the embedded server would look at all 64 each time.
        await make_indexes(self._partitions, Index([("_id", 1), ("epoch", 1)]))
        await make_indexes(self._members, Index([("slot", 1)], unique=True, sparse=True))
        there = {document["_id"] async for document in self._partitions.find({}, {"_id": 1})}
        missing = [as_document(Partition(n), "number") for n in range(PARTITIONS) if n not in there]
        if missing:
            with suppress(BulkWriteError):  # another process was quicker
                await self._partitions.insert_many(missing, ordered=False)

    async def read(self, me: str | None = None) -> State:
        """Return all partitions and members, and the time from before they were read.

        A partition whose document cannot be read is one that nobody has, and nobody can take; a
        member, one that is not there.

        For a member that has just shown life, that is the time. It comes from the same clock as the
        signs of life of the others; on a sharded cluster another server would be asked for it.
        """
        now = await self._database.server_time() if me is None else None
        partitions, members = await asyncio.gather(
            self._database.small(COLLECTION), self._database.small(MEMBERS)
        )
        # What else is kept here, or was by a former version, has a name for an id.
        numbered, _ = self._partition.all_apart(d for d in partitions if isinstance(d["_id"], int))
        counted = self._counted.each(d for d in partitions if d["_id"] == _COUNTED)
        alive, _ = self._member.all_apart(members)
        found = {partition.number: partition for partition in numbered}
        known = {member.id: member for member in alive}
        if now is None and me in known:
            now = known[me].seen_at
        if now is None:  # another process has removed it
            return await self.read()
        return State(
            now,
            [found.get(n, Partition(n)) for n in range(PARTITIONS)],
            known,
            self._lease_seconds,
            *counted,
        )

    async def beat(
        self,
        me: str,
        behind: Position | None = None,
        *,
        progressed: bool = False,
    ) -> None:
        """Show life; keep a position, before which everything is shown, for all live partitions.

        Its time holds whatever was said before: a clock may have been put back since.
        """
        values: JsonObject = {"session": await self._database.session_id()}
        if behind is None:
            await self._show_life(me, values)
            return
        values["as_of"] = behind.at
        if progressed:
            values["failure"] = None
        followed = UpdateMany(
            {"owner": me, "phase": "live"},
            {"$set": {"token": behind.token}},
            namespace=self._partitions.full_name,
        )
        now = ["progressed_at"] if progressed else []
        await self._database.write([followed, self._life(me, values, *now)])

    async def get_on(self, me: str) -> None:
        """Show life, and that one gets on, as in a scan over what is there already."""
        await self._show_life(me, {}, "progressed_at")

    async def hand_over(self, me: str) -> None:
        """Have others take what one has, which one goes on with until they do."""
        await self._show_life(me, {"leaving": True})

    async def fail(self, me: str, failure: str) -> None:
        """Say why one does not get on."""
        await self._show_life(me, {"failure": failure})

    async def set_as_of(self, me: str, as_of: datetime | None) -> None:
        """Say what is shown: less than before, for one who takes partitions that are behind."""
        await self._show_life(me, {"as_of": as_of}, "progressed_at")

    async def _show_life(
        self, me: str, values: JsonObject, *now: str, session: Session | None = None
    ) -> None:
        await self._database.write([self._life(me, values, *now)], session)

    def _life(
        self, me: str, values: JsonObject, *now: str, as_of: datetime | None = None
    ) -> UpdateOne:
        """Return the write by which a member shows life and sets values.

        `now`: which other times become the present. `as_of` is only ever moved on.
        """
        change: dict[str, JsonObject] = {
            "$set": values,
            "$currentDate": dict.fromkeys(("seen_at", *now), True),
            "$max": {} if as_of is None else {"as_of": as_of},
        }
        change = {operator: fields for operator, fields in change.items() if fields}
        return UpdateOne({"_id": me}, change, upsert=True, namespace=self._members.full_name)

    async def take(self, me: str, state: State, wanted: Sequence[Partition]) -> bool:
        """Take partitions that no other has taken since `state`; return whether there are any.

        First one says that what one shows may be as old as what one takes.
        """
        if not wanted:
            return False
        as_of = [state.as_of(p) for p in wanted if p.phase == "live"]
        as_of += [m.as_of for m in (state.members.get(me),) if m is not None and state.of(me)]
        known = [time for time in as_of if time is not None]
        await self.set_as_of(me, min(known) if known and len(known) == len(as_of) else None)
        for owner in {p.owner for p in wanted if p.owner and not state.is_alive(p.owner)}:
            former = state.members.get(owner)
            if former is not None and former.session is not None:
                await self._database.kill_session(former.session)
        taking = [
            UpdateOne(
                {"_id": p.number, "epoch": p.epoch}, {"$set": {"owner": me}, "$inc": {"epoch": 1}}
            )
            for p in wanted
        ]
        taken = await self._partitions.bulk_write(taking, ordered=False)
        return taken.modified_count > 0

    async def slot(self, me: str, state: State) -> int:
        """Return the number that no other member has, for as long as one shows life: the first that
        is free. Who is dead and has no partitions can write nothing, and needs none.
        """
        own = state.members.get(me)
        if own is not None and own.slot is not None:
            return own.slot
        taken: set[int | None] = set()
        for member in state.members.values():
            if state.is_alive(member.id) or state.of(member.id):
                taken.add(member.slot)
            elif member.slot is not None:  # unless it shows life after all
                dead = {"_id": member.id, "seen_at": member.seen_at}
                await self._members.update_one(dead, {"$unset": {"slot": ""}})
        for slot in (n for n in count() if n not in taken):
            having: JsonObject = {"$set": {"slot": slot}, "$currentDate": {"seen_at": True}}
            with suppress(DuplicateKeyError):  # another was quicker
                await self._members.update_one({"_id": me}, having, upsert=True)
                return slot
        raise AssertionError("there is always another number")

    async def leave(self, me: str) -> None:
        """Give back all that one still has, and go: others need not wait."""
        state = await self.read()
        as_of = state.members[me].as_of if me in state.members else None
        releasing = [
            UpdateOne(
                {"_id": p.number, "epoch": p.epoch},
                {"$set": {"owner": None, "as_of": as_of}},
            )
            for p in state.of(me)
        ]
        if releasing:
            await self._partitions.bulk_write(releasing, ordered=False)
        await self._members.delete_one({"_id": me})

    async def remove_expired(self, state: State) -> None:
        """Remove members that are long gone and own nothing."""
        gone = {
            member.id: member.seen_at
            for member in state.members.values()
            if not is_alive(member.seen_at, state.now, 10 * self._lease_seconds)
            and not state.of(member.id)
        }
        if gone:  # unless they have shown life since
            seen_at = {"$in": [*gone.values()]}
            await self._members.delete_many({"_id": {"$in": [*gone]}, "seen_at": seen_at})

    def moves(
        self,
        me: str,
        epochs: Mapping[int, int],
        applied: Mapping[int, Applied],
        *,
        behind: Position | None = None,
    ) -> list[Write]:
        """Return the writes that move the checkpoints of some partitions on, behind a position.

        Each is on condition of its epoch: where one finds no document, `require_held` says why.
        """
        as_of = None if behind is None else behind.at
        life = self._life(me, {}, as_of=as_of)
        if any(a.events for a in applied.values()):
            life = self._life(me, {"failure": None}, "progressed_at", as_of=as_of)
        writes: list[Write] = [life]
        for number, (events, latest) in sorted(applied.items()):
            change: dict[str, JsonObject] = {"$inc": {"applied": events}}
            kept: JsonObject = {} if behind is None else {"token": behind.token}
            if latest is not None:
                kept["last"] = latest._asdict()
            if kept:
                change["$set"] = kept
            held = {"_id": number, "epoch": epochs[number]}
            writes.append(UpdateOne(held, change, namespace=self._partitions.full_name))
        return writes

    async def require_held(self, epochs: Mapping[int, int], session: Session) -> None:
        """Raise Fenced if another has taken a partition."""
        wanted = {"_id": {"$in": list(epochs)}}
        found = self._partitions.find(wanted, {"epoch": 1}, session=session)
        if {d["_id"]: d["epoch"] async for d in found} != dict(epochs):
            raise Fenced

    async def follow(self, epochs: Mapping[int, int], token: ResumeToken) -> None:
        """Let partitions whose log has been scanned follow the stream. Raises Fenced."""
        await self._change(epochs, {"$set": {"phase": "live", "token": token}})

    async def count(self, epochs: Mapping[int, int], view: str) -> None:
        """Say that partitions count all their tickets for a saved view. Raises Fenced."""
        await self._change(epochs, {"$addToSet": {"views": view}})

    async def uncount(self, epochs: Mapping[int, int], views: Collection[str]) -> None:
        """Say that partitions no longer count all their tickets for some saved views.

        Raises Fenced.
        """
        await self._change(epochs, {"$pullAll": {"views": sorted(views)}})

    async def forget(self, views: Sequence[str]) -> None:
        """Forget saved views that are gone."""
        await self._partitions.update_many({}, {"$pullAll": {"views": list(views)}})

    async def scan(self, epochs: Mapping[int, int]) -> None:
        """Have partitions folded from the whole log by their owner. Raises Fenced."""
        await self._change(epochs, {"$set": {"phase": "scan"}})

    async def scan_all(self) -> None:
        """Have all live partitions folded from the whole log, each by its owner."""
        await self._partitions.update_many({"phase": "live"}, {"$set": {"phase": "scan"}})

    async def fence(self, me: str) -> None:
        """Take all partitions from their owners: nothing that those hold is written any more.

        For as long as one shows life.
        """
        state = await self.read()
        known = [time for time in map(state.as_of, state.partitions) if time is not None]
        as_of = min(known) if len(known) == len(state.partitions) else None

        async def work(session: Session) -> None:
            await self._partitions.update_many(
                {"_id": {"$in": [*range(PARTITIONS)]}},
                {"$set": {"owner": me}, "$inc": {"epoch": 1}},
                session=session,
            )
            values: JsonObject = {"fencing": True, "as_of": as_of}
            await self._show_life(me, values, "progressed_at", session=session)

        await self._database.in_transaction(work)

    async def hold_all(self, me: str, session: Session) -> bool:
        """Return whether one still has all partitions, and have nobody else take them meanwhile."""
        found = await self._partitions.update_many(
            {"owner": me}, {"$inc": {"epoch": 1}}, session=session
        )
        return found.matched_count == PARTITIONS

    async def write(self, partitions: Iterable[Partition]) -> None:
        """Set the checkpoints of views that nobody projects yet."""
        writes = [
            ReplaceOne({"_id": p.number}, as_document(p, "number"), upsert=True) for p in partitions
        ]
        await self._partitions.bulk_write(writes, ordered=False)

    async def keep_count(self, counted: LogCount) -> None:
        """Say how the log was counted."""
        change = {"$set": asdict(counted)}
        await self._partitions.update_one({"_id": _COUNTED}, change, upsert=True)

    async def _change(self, epochs: Mapping[int, int], change: JsonObject) -> None:
        writes = [UpdateOne({"_id": n, "epoch": epoch}, change) for n, epoch in epochs.items()]
        if writes:
            done = await self._partitions.bulk_write(writes, ordered=False)
            if done.matched_count != len(writes):
                raise Fenced


partition_from = strict_decoder(Partition, id_field="number", complete=True)
member_from = strict_decoder(Member)
_LOG_COUNT = strict_decoder(LogCount, id_field=None)
