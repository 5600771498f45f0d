"""The oracle and the scenarios, put to the proof: each planted bug is caught (L7, L8).

A bug is a line of the projection, changed. Each scenario passes as the code is, and fails with the
bug: by a difference that the oracle finds, by views that never catch up, or by what it asserts.
"""

import asyncio
import inspect
import re
import textwrap
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any, NamedTuple

import pytest

from domain.errors import CasebookError
from eventstore.database import Database
from eventstore.log import EventStore
from projections.projector import batch, projector
from projections.projector.batch import BatchWriter
from projections.projector.checkpoints import Checkpoints, Fenced
from projections.projector.log_count import LogCountCheck
from projections.projector.parked import ParkedTickets
from projections.projector.projector import Projector
from projections.replay import audit
from projections.replay.rebuild import Rebuild
from projections.views import agents, dashboard, sums, tickets
from projections.views.saved_views import SavedViews, TicketFilter
from scripts.testbed.patience import patience
from tests.oracle import assert_views_equal_the_log
from tests.projecting import (
    LEASE_SECONDS,
    add,
    all_live,
    by_utc,
    caught_up,
    hasty,
    open_some,
    owning_all,
    rebuilt,
    running,
    stored_events,
    until,
    writer,
)
from tests.spec import NOW
from tests.streams import leaving_out

Scenario = Callable[[Database, EventStore], Awaitable[None]]
DAY = timedelta(days=1)
PATIENCE_SECONDS = 4


async def lives(store, tickets_: int = 3):
    """Write some tickets' lives, with states, times and days that differ."""
    ids = await open_some(store, tickets_, versions=1, group="print")
    for n, ticket in enumerate(ids):
        at = NOW + n * DAY
        await add(store, ticket, "TicketAssigned", at, assignee="carol")
        await add(store, ticket, "AgentReplied", at + DAY, body="one")
        await add(store, ticket, "AgentReplied", at + 2 * DAY, body="two")
        await add(store, ticket, "TicketMovedToGroup", at + 2 * DAY, group="network")
        await add(store, ticket, "TicketResolved", at + 40 * DAY, resolution="x")
        await add(store, ticket, "TicketReopened", at + 39 * DAY, reason="no")
        await add(store, ticket, "TicketRated", at + 41 * DAY, score=3, comment=None)
        if n:
            await add(store, ticket, "TicketResolved", at + 41 * DAY, resolution="y")
    return ids


async def redelivered(database, store):
    """Parts of the log come twice, in other orders, in batches of any size."""
    await lives(store)
    events = await stored_events(store)
    owned = await owning_all(database)
    for part in (events[:7], events[:7], events[3:20], events[::-1], events):
        await writer(database, store).write(owned, part)
    await assert_views_equal_the_log(database)


async def with_gaps(database, store):
    """Events come out of order, some not at all until the end."""
    [ticket, _] = await lives(store, 2)
    events = [event for event in await stored_events(store) if event["ticket_id"] == ticket]
    await SavedViews(database).save("open", TicketFilter(status="open"))
    owned = await owning_all(database)
    for part in (events[2:3], events[:1], events[6:7], await stored_events(store)):
        await writer(database, store).write(owned, part)
    await assert_views_equal_the_log(database)


async def a_zombie_writes(database, store):
    """Replaced by another, it has a batch in its hands."""
    await lives(store)
    events = await stored_events(store)
    zombie = await owning_all(database, "zombie")
    await owning_all(database, "owner")
    with suppress(Fenced):
        await writer(database, store).write(zombie, events)
    assert await database.collection("ticket_reads").find_one() is None
    owned = await owning_all(database, "owner")
    await writer(database, store).write(owned, events)
    await assert_views_equal_the_log(database)


class Crash(BaseException):
    """As by kill -9: nobody catches it, and nothing is tidied up."""


STEPS: tuple[tuple[type, str], ...] = (
    (BatchWriter, "_read"),
    (BatchWriter, "_store_all"),
    (Database, "write"),
    (Database, "write"),
    (BatchWriter, "write"),
)


async def crashes(database, store):
    """It dies before or after each step of a batch; another goes on from the checkpoints.

    (Each step before and after, by kill -9: tests/scripts/test_soak.py.)
    """
    async with running(hasty(database, store)):
        await caught_up(database, store)
        await all_live(database)
    for n, (owner, name) in enumerate(STEPS):
        await _crash(database, store, owner, name, after=n % 2 == 0)
        async with running(hasty(database, store)):
            await caught_up(database, store, PATIENCE_SECONDS)
    await assert_views_equal_the_log(database)


def _is_of_batch(writes=(), session=None):
    """Whether something is written in a transaction that brings tickets or counters."""
    brings = [w for w in writes if re.search("ticket_reads|dashboard_counters", w._namespace)]
    return session is not None and bool(brings)


async def _crash(database, store, owner, name, *, after):
    step = getattr(owner, name)

    async def dies(*args, **more):
        if owner is Database and not _is_of_batch(*args[1:]):  # like a sign of life
            return await step(*args, **more)
        if after:
            await step(*args, **more)
        raise Crash

    async def stays(*_):
        """Leave the lease as it is."""

    dying = asyncio.create_task(hasty(database, store).run())
    try:
        # Until it has what it died with before, and what comes again of the stream is behind it.
        await open_some(store, 1, versions=1)
        await caught_up(database, store, PATIENCE_SECONDS)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(owner, name, dies)
            patch.setattr(Checkpoints, "leave", stays)
            await open_some(store, 2, versions=1)  # nothing comes behind them that would show a gap
            with pytest.raises(Crash):
                await asyncio.wait_for(dying, 3 * PATIENCE_SECONDS)
    finally:
        dying.cancel()
        await asyncio.gather(dying, return_exceptions=True)


async def a_stream_brings_nothing(database, store):
    """Whole tickets are missing, and no later event shows it."""
    async with running(
        by_utc(database, leaving_out(database, lambda _event: True), lease_seconds=LEASE_SECONDS)
    ):
        await all_live(database)
        await open_some(store, 3)
        await caught_up(database, store, PATIENCE_SECONDS)
    await assert_views_equal_the_log(database)


async def partitions_change_hands(database, store):
    """One is far behind when another, which is not, takes its partitions."""
    async with running(hasty(database, store)):
        await caught_up(database, store)
        await all_live(database)
    async with running(hasty(database, store)) as [late]:
        await until(lambda: _has(database, 64))
        late.cancel()
    await open_some(store, 40)
    state = await Checkpoints(database).read()
    token = await store.position()
    collection = database.collection("projections")
    for partition in state.partitions[:32]:
        own = [e for e in await stored_events(store) if e["ticket_id"].int % 64 == partition.number]
        owned = await owning_all(database)
        if own:
            await writer(database, store).write(owned, own)
        await collection.update_one({"_id": partition.number}, {"$set": {"token": token}})
    # Until the lease of who wrote that has lapsed: then all are taken at once.
    await asyncio.sleep(LEASE_SECONDS + 0.1)
    async with running(hasty(database, store)):
        await caught_up(database, store, PATIENCE_SECONDS)
    await assert_views_equal_the_log(database)


async def _has(database, n):
    state = await Checkpoints(database).read()
    return sum(p.owner is not None for p in state.partitions) == n


async def written_while_it_scans(database, store):
    """What comes during the scan is in the stream alone."""
    await open_some(store, 3)

    class Growing(EventStore):
        async def of_range(self, tickets):
            found = await super().of_range(tickets)
            await open_some(store, 3)
            return found

    async with running(hasty(database, Growing(database))):
        await all_live(database)
        await caught_up(database, store, PATIENCE_SECONDS)
    await assert_views_equal_the_log(database)


async def poisoned(database, store):
    """An event that cannot be folded, then others of the same ticket; then the log is mended."""
    ids = await open_some(store, 3)
    async with running(hasty(database, store)):
        await add(store, ids[0], "AgentReplied", body="before")
        await add(store, ids[0], "NobodyKnows")
        await caught_up(database, store, PATIENCE_SECONDS)
        await add(store, ids[0], "AgentReplied", body="behind")
        await add(store, ids[1], "AgentReplied", body="others go on")
        await caught_up(database, store, PATIENCE_SECONDS)
        await assert_views_equal_the_log(database, parked=[ids[0]])
        await database.collection("ticket_events").update_one(
            {"type": "NobodyKnows"}, {"$set": {"type": "NoteAdded", "data": {"body": "x"}}}
        )
        await ParkedTickets(database).ask(ids[0])
        async with asyncio.timeout(PATIENCE_SECONDS):
            await until(lambda: _none_parked(database))
    await assert_views_equal_the_log(database)


async def _none_parked(database):
    parked = ParkedTickets(database)
    return not (await parked.asked() or await parked.all())


async def repairs(database, store):
    """A ticket folded again, twice."""
    ids = await lives(store)
    async with running(hasty(database, store)):
        await caught_up(database, store)
        for _ in range(2):
            await ParkedTickets(database).ask(ids[0])
            await until(lambda: _none_parked(database))
    await assert_views_equal_the_log(database)


async def rebuilds(database, store):
    """While others write; and some of it is written between the scan and the tail."""
    await lives(store)
    scanned = False

    def tell(progress):
        nonlocal scanned
        scanned = scanned or progress.phase == "tail"

    async def write():
        while not scanned:
            await open_some(store, 1, versions=1)

    async with asyncio.timeout(3 * PATIENCE_SECONDS), running(database):
        await caught_up(database, store)
        async with asyncio.TaskGroup() as both:
            both.create_task(write())
            await rebuilt(database, tell)
        await caught_up(database, store)
    await assert_views_equal_the_log(database)


async def a_view_is_saved(database, store):
    """In the middle of a history."""
    ids = await lives(store)
    async with running(hasty(database, store)):
        await caught_up(database, store)
        await SavedViews(database).save("network", TicketFilter(group="network"))
        await SavedViews(database).save("low", TicketFilter(priority="low"))
        async with asyncio.timeout(PATIENCE_SECONDS):
            await until(lambda: _all_counted(database))
        for ticket in ids[:2]:
            await add(store, ticket, "TicketMovedToGroup", NOW + 50 * DAY, group="print")
            await add(store, ticket, "PriorityChanged", NOW + 50 * DAY, priority="low")
        await caught_up(database, store)
    await assert_views_equal_the_log(database)


async def _all_counted(database):
    views = await SavedViews(database).all()
    state = await Checkpoints(database).read()
    return all(view.id in p.views for view in views for p in state.partitions)


SCENARIOS: tuple[Scenario, ...] = (
    redelivered,
    with_gaps,
    a_zombie_writes,
    crashes,
    a_stream_brings_nothing,
    partitions_change_hands,
    written_while_it_scans,
    poisoned,
    repairs,
    rebuilds,
    a_view_is_saved,
)


class Line(NamedTuple):
    """A line of a function, and what is planted in its place."""

    owner: Any
    function: str
    old: str
    new: str


def outside(collection: str) -> Line:
    """What is written to one collection is written first, and not in the transaction."""
    its, others = (
        f"[w for w in writes if '{collection}' {whether} w._namespace]"
        for whether in ("in", "not in")
    )
    return Line(
        BatchWriter,
        "_write",
        "self._database.write(writes, session)",
        f"self._database.write({its}) + await self._database.write({others}, session)",
    )


NO_VERSION_CHECK = Line(tickets, "apply", "if envelope.version != expected:", "if False:")
# What a token leaves out is found by looking for it, unless nobody does.
BLIND = Line(Projector, "_not_shown", "if not events:", "if True:")


BUGS: dict[str, tuple[Scenario, tuple[Line, ...]]] = {
    "what is there already is folded again": (
        redelivered,
        (
            Line(
                BatchWriter, "_fold", "have = 0 if before is None else before.version", "have = 0"
            ),
            Line(batch, "_is_next", "return all(", "return True or all("),
            NO_VERSION_CHECK,
        ),
    ),
    "a gap is not filled, and parks the ticket": (
        with_gaps,
        (Line(batch, "_is_next", "return all(", "return True or all("),),
    ),
    "a gap is skipped": (
        with_gaps,
        (Line(batch, "_is_next", "return all(", "return True or all("), NO_VERSION_CHECK),
    ),
    "a lost epoch is no reason to stop": (
        a_zombie_writes,
        (Line(BatchWriter, "_write", "!= len(writes)", "> len(writes)"),),
    ),
    "the epoch is not asked for": (
        a_zombie_writes,
        (
            Line(
                Checkpoints,
                "moves",
                '{"_id": number, "epoch": epochs[number]}',
                '{"_id": number}',
            ),
        ),
    ),
    "the checkpoint moves before the batch is written": (
        crashes,
        (
            Line(
                Projector,
                "_follow",
                "if events := batch.events:",
                "events = batch.events if not await self._checkpoints.beat("
                "self._me, batch.position.token) else []\n            if events:",
            ),
            BLIND,
        ),
    ),
    "a batch is no transaction": (
        a_zombie_writes,
        (Line(BatchWriter, "_write", "(writes, session) !=", "(writes) !="),),
    ),
    "the checkpoint is not in the transaction": (crashes, (outside("projections"),)),
    "the documents are not in the transaction": (crashes, (outside("ticket_reads"),)),
    "the counters are not in the transaction": (crashes, (outside("dashboard_counters"),)),
    "the delta is from nothing": (
        redelivered,
        (Line(BatchWriter, "_writes", "sums.add(added, before.added, -1)", "pass"),),
    ),
    "the delta is from the wrong state": (
        redelivered,
        (
            Line(
                BatchWriter,
                "_writes",
                "added, before.added, -1",
                "added, sums.contributed(after) if after else {}, -1",
            ),
        ),
    ),
    "the events of a batch are counted, not the new ones": (
        redelivered,
        (Line(batch, "_applied", "if before is not None:", "if False:"),),
    ),
    "nobody counts the log": (
        a_stream_brings_nothing,
        (
            Line(
                Projector,
                "_sweep",
                "if 0 not in self._mine or not self._log_count.is_due:",
                "if True:",
            ),
            BLIND,
        ),
    ),
    "who takes partitions starts from the latest token": (
        partitions_change_hands,
        (
            Line(
                Projector,
                "_subscribe",
                "min(tokens, key=stream_order)",
                "max(tokens, key=stream_order)",
            ),
            BLIND,
        ),
    ),
    "the token is taken after the scan": (
        written_while_it_scans,
        (
            Line(
                Projector,
                "_scan",
                "await self._checkpoints.follow(epochs, token)",
                "await self._checkpoints.follow(epochs, await self._store.position())",
            ),
            BLIND,
        ),
    ),
    "the end of a scan is not written": (
        written_while_it_scans,
        (
            Line(
                Projector,
                "_scan",
                "if events := batch.events:",
                "if (events := batch.events) and not position.is_followed:",
            ),
            BLIND,
        ),
    ),
    "what cannot be folded is passed over": (
        poisoned,
        (
            Line(
                batch,
                "fold_ticket",
                " error = describe_error(caught)",
                " error = ''",
            ),
        ),
    ),
    "what waits is not counted": (
        poisoned,
        (
            Line(
                ParkedTickets,
                "waiting_events",
                "version >= stopped[ticket_id]",
                "version == stopped[ticket_id]",
            ),
        ),
    ),
    "a repaired ticket stays parked": (
        poisoned,
        (Line(BatchWriter, "refold", "await self._parked.free(ticket_id, session)", "pass"),),
    ),
    "a rebuild does not write the sums": (
        rebuilds,
        (
            Line(
                Rebuild,
                "_scan",
                "await views.write(writes[start : start + _WRITES_AT_ONCE])",
                "pass",
            ),
        ),
    ),
    "a rebuild does not write the sums, and proves nothing": (
        rebuilds,
        (
            Line(
                Rebuild,
                "_scan",
                "await views.write(writes[start : start + _WRITES_AT_ONCE])",
                "pass",
            ),
            Line(Rebuild, "_prove", "await auditor.compare()", "pass"),
        ),
    ),
    "the token of a rebuild is taken after its scan": (
        rebuilds,
        (
            Line(
                Rebuild,
                "_fold_log",
                "(applied, token, began, saved)",
                "(applied, await self._store.position(), began, saved)",
            ),
            BLIND,
        ),
    ),
    "a rebuild shows views without a fence": (
        rebuilds,
        (Line(Checkpoints, "fence", "await self._database.in_transaction(work)", "pass"),),
    ),
    "a repair counts its ticket once more": (
        repairs,
        (Line(sums, "stored", "entries or {}", "{}"),),
    ),
    "an agent's answers are counted for whoever has the ticket": (
        redelivered,
        (
            Line(
                agents,
                "_work",
                "yield writer, 'replies', 1",
                "yield after.assignee, 'replies', 1",
            ),
        ),
    ),
    "a new view counts only what changes": (
        a_view_is_saved,
        (Line(BatchWriter, "recount", "changes.append(change)", "pass"),),
    ),
    "a ticket that leaves a view is still counted": (
        a_view_is_saved,
        (
            Line(
                BatchWriter,
                "_writes",
                "sums.add(added, before.added, -1)",
                "sums.add(added, {**before.added, 'in_views': {}}, -1)",
            ),
        ),
    ),
    "days run backwards with the clock": (
        redelivered,
        (Line(tickets, "apply", "now = max(at, read.updated_at)", "now = at"),),
    ),
    "a solved ticket stays in the backlog": (
        redelivered,
        (Line(dashboard, "_states", "if status in UNSOLVED:", "if True:"),),
    ),
    "every answer is a first response": (
        redelivered,
        (Line(dashboard, "_happened", "not before.answered", "True"),),
    ),
    "a ticket leaves the group it goes to": (
        redelivered,
        (
            Line(
                dashboard,
                "entries",
                "was = () if stood is None else _states(stood, opened_on)",
                "was = () if stood is None else tuple("
                "s.replace('|print|', f'|{group}|') for s in _states(stood, opened_on))",
            ),
        ),
    ),
    "months are not added up": (
        redelivered,
        (Line(dashboard, "_places", "for length in SPANS", "for length in (10, 4)"),),
    ),
}


@pytest.fixture(autouse=True)
def quick(request, monkeypatch):
    """Make the projector's patience short; only where it is meant to be found does it count."""
    counts = "nothing" in request.node.name or "nobody" in request.node.name
    monkeypatch.setattr(projector, "SWEEP_SECONDS", 0.1)
    if not counts:
        monkeypatch.setattr(LogCountCheck, "compare", asyncio.Event().wait)
    monkeypatch.setattr(projector, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(audit, "_BEHIND_SECONDS", 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.__name__)
async def test_each_scenario_passes_as_the_code_is(database, store, scenario, monkeypatch):
    """L7, L8"""
    monkeypatch.setattr(f"{__name__}.PATIENCE_SECONDS", patience(20))  # a slow machine is no bug
    await scenario(database, store)


CAUGHT = (AssertionError, TimeoutError, asyncio.CancelledError, CasebookError, ExceptionGroup)


NEVER_CATCHES_UP = {
    "the checkpoint moves before the batch is written",
    "nobody counts the log",
    "the checkpoint is not in the transaction",
    "who takes partitions starts from the latest token",
    "the token is taken after the scan",
    "the end of a scan is not written",
    "the documents are not in the transaction",
    "what cannot be folded is passed over",
    "a repaired ticket stays parked",
    "what waits is not counted",
}
"""Where something never comes because of the bug. Anywhere else a timeout has caught nothing."""


@pytest.mark.slow
@pytest.mark.parametrize("bug", BUGS)
async def test_each_planted_bug_is_caught(database, store, monkeypatch, bug):
    """L7, L8"""
    never = bug in NEVER_CATCHES_UP
    monkeypatch.setattr(f"{__name__}.PATIENCE_SECONDS", patience(4 if never else 20))
    scenario, lines = BUGS[bug]
    for line in lines:
        plant(monkeypatch, line)
    with pytest.raises(CAUGHT) as caught:
        await scenario(database, store)
    assert never or not is_timeout(caught.value)


def is_timeout(error: BaseException) -> bool:
    inner = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    return isinstance(error, TimeoutError) or any(is_timeout(each) for each in inner)


def plant(monkeypatch, line: Line) -> None:
    """Change one line of a function of the projection."""
    function = getattr(line.owner, line.function)
    source = textwrap.dedent(inspect.getsource(function)).replace('"', "'")
    old = line.old.replace('"', "'")
    assert source.count(old) == 1, f"{line.function} has no line {line.old!r}"
    changed = compile(source.replace(old, line.new), f"<{line.function}, changed>", "exec")
    made: dict[str, Any] = {}
    exec(changed, inspect.unwrap(function).__globals__, made)  # noqa: S102 our own text
    new = made[line.function]
    is_static = isinstance(inspect.getattr_static(line.owner, line.function), staticmethod)
    monkeypatch.setattr(line.owner, line.function, staticmethod(new) if is_static else new)
