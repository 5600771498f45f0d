"""The demo: a desk that looks as if people had worked at it until yesterday, loaded once."""

import asyncio
import os
import re
import signal
import sys
from collections import Counter
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import httpx

from api.commands.handler import Handler, Submission
from api.desk.store import Desks
from api.timekeeper.timekeeper import Timekeeper
from domain.desk import Desk
from domain.tickets.assignment import AssignTicket, MoveToGroup
from domain.tickets.conversation import AddNote, Reply
from domain.tickets.opening import OpenTicket
from eventstore.log import EventStore
from projections.generations import Generations
from scripts.catch_up import caught_up, projecting
from scripts.demo import PEOPLE, STORY, load, sample, set_up
from scripts.demo_story import desk_of
from scripts.testbed.harness import READY_SECONDS, free_port, until
from tests.oracle import assert_views_equal_the_log
from tests.processes import ROOT, environment, script
from tests.spec import ALICE

NOW = datetime(2026, 11, 30, 9, 30, tzinfo=UTC)
YESTERDAY = datetime(2026, 11, 29, tzinfo=UTC)
LIVES = sample()
DESK = desk_of(LIVES.values())


async def loaded(database, now=NOW, lives=LIVES):
    store = EventStore(database)
    await store.prepare()
    await Generations(database).prepare()
    async with projecting(database, store):
        result = await load(store, lives, DESK, now)
        await caught_up(database, store, "projecting")
    return result


async def tickets_of(database):
    shown = await Generations(database).shown()
    return await shown.collection("ticket_reads").find({}).to_list()


# --- what is told ---------------------------------------------------------------------------------


def test_the_log_is_told_in_words_and_persons_are_roles_and_numbers():
    for act in (act for acts in LIVES.values() for act in acts):
        said = act.command.model_dump_json()
        assert not re.search(r'Category|Symptom|Resolver|Caller|Updated by|Group \d|"\?"', said)
        assert re.fullmatch(r"(Agent|Operator|Requester) [1-9]\d?", act.actor.id)


def test_the_log_is_told_the_same_each_time():
    assert sample() == LIVES


def test_acts_come_in_the_order_of_their_times_with_replies_and_notes_among_them():
    for acts in LIVES.values():
        assert isinstance(acts[0].command, OpenTicket)
        assert all(a.at <= b.at for a, b in pairwise(acts))
    kinds = Counter(type(act.command) for acts in LIVES.values() for act in acts)
    assert min(kinds[kind] for kind in (Reply, AddNote, AssignTicket, MoveToGroup)) > 40


# --- what it looks like ---------------------------------------------------------------------------


async def test_the_desk_ends_yesterday_and_looks_worked_at(database):
    """L7."""
    result = await loaded(database)
    assert (result.added, result.there) == (47, 0)
    assert result.shift % timedelta(days=1) == timedelta()
    tickets = await tickets_of(database)
    by_opening = sorted(tickets, key=lambda ticket: ticket["opened_at"])
    assert [ticket["number"] for ticket in by_opening] == [f"C-{n}" for n in range(1, 48)]
    statuses = Counter(ticket["status"] for ticket in tickets)
    assert statuses == {"closed": 29, "resolved": 7, "open": 7, "pending": 3, "new": 1}
    waiting = [ticket for ticket in tickets if ticket["status"] in ("new", "open", "pending")]
    assert Counter(bool(ticket["sla_breached"]) for ticket in waiting) == {True: 6, False: 5}
    assert {ticket["priority"] for ticket in waiting} == {"low", "normal", "high"}
    assert len({ticket["opened_at"].date() for ticket in tickets}) > 25
    last = [event.occurred_at async for event in EventStore(database).scan()]
    assert YESTERDAY < max(last) < YESTERDAY + timedelta(days=1)
    await assert_views_equal_the_log(database)


async def test_a_timekeeper_finds_nothing_to_make_up_for(database):
    assert await set_up(Desks(database), DESK)
    await loaded(database)
    store = EventStore(database)

    async def clock():
        return YESTERDAY + timedelta(days=1, milliseconds=-1)

    assert await Timekeeper(database, store, Desks(database), clock=clock).look() == 0


async def test_who_can_sign_in_has_something_to_see(database):
    await loaded(database)
    _, agent, requester = PEOPLE
    tickets = await tickets_of(database)
    waiting = [ticket for ticket in tickets if ticket["status"] in ("new", "open", "pending")]
    assert Counter(ticket["assignee"] for ticket in waiting)[agent.principal] == 4
    assert Counter(ticket["requester"] for ticket in waiting)[requester.principal] == 3
    assert any(agent.principal in members for members in DESK.groups.values())
    [story] = [ticket for ticket in tickets if ticket["_id"] == STORY]
    assert story["requester"] == requester.principal
    assert story["version"] > 20


# --- once -----------------------------------------------------------------------------------------


async def test_a_second_run_adds_nothing_on_whichever_day(database):
    """L5."""
    await loaded(database)
    count = await EventStore(database).count(exact=True)
    again = await loaded(database, NOW + timedelta(days=3))
    assert (again.added, again.there) == (0, 47)
    assert await EventStore(database).count(exact=True) == count


async def test_what_an_interrupted_run_has_left_out_ends_on_the_same_day(database):
    part = dict([*LIVES.items()][:20])
    first = await loaded(database, lives=part)
    second = await loaded(database, NOW + timedelta(days=1))
    assert (first.added, second.added, second.there) == (20, 27, 20)
    assert second.shift == first.shift


async def test_two_runs_at_once_come_out_as_one(database):
    """L2."""
    store = EventStore(database)
    await store.prepare()
    results = await asyncio.gather(*(load(store, LIVES, DESK, NOW) for _ in range(2)))
    assert sum(result.added for result in results) == 47
    versions = {event.ticket_id: event.version async for event in store.scan()}
    assert set(versions) == set(LIVES)


async def test_a_desk_that_is_set_up_stays_and_other_tickets_too(database):
    desks = Desks(database)
    ours = Desk(groups={"print": ("alice",)})
    await desks.replace(ours, ALICE, None)
    assert not await set_up(desks, DESK)
    assert (await desks.read()).desk == ours
    store = EventStore(database)
    opening = OpenTicket(subject="ours", requester="bob")
    await store.prepare()
    other = (await Handler(store).handle(STORY, Submission(command=opening, actor=ALICE))).ticket_id
    result = await loaded(database)
    assert (result.added, result.there) == (46, 1)  # even one of the demo's own id
    assert len(await store.load(other)) == 1


async def test_a_desk_that_the_demo_has_set_up_is_its_own(database):
    assert await set_up(Desks(database), DESK)
    assert await set_up(Desks(database), DESK)
    assert (await Desks(database).read()).version == 1


# --- as a command ---------------------------------------------------------------------------------


@asynccontextmanager
async def served(tmp_path):
    env = environment(tmp_path, free_port())
    server = await script("scripts.serve", env=env)
    try:
        url = f"http://127.0.0.1:{env['CASEBOOK_PORT']}"
        each_anew = httpx.Limits(max_keepalive_connections=0)  # one may be closed when it is reused
        async with httpx.AsyncClient(base_url=url, limits=each_anew) as client:

            async def answers():
                try:
                    return (await client.get("/readyz")).status_code == 200
                except httpx.TransportError:
                    return False

            await until(answers, READY_SECONDS, "the server answers")
            yield env, client
    finally:
        server.terminate()
        await server.communicate()


async def demo(env):
    process = await script("scripts.demo", env=env)
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


def bearer(file):
    return {"Authorization": f"Bearer {file.read_text().strip()}"}


async def typed(command):
    shell = await asyncio.create_subprocess_exec(
        "bash", "-c", command, stdout=asyncio.subprocess.PIPE
    )
    return (await shell.communicate())[0].decode()


async def test_what_it_prints_works_when_it_is_pasted_beside_a_server(tmp_path):
    async with served(tmp_path) as (env, client):
        interrupted = await script("scripts.demo", env=env)
        admin = bearer(tmp_path / "data" / "admin-key")

        async def is_set_up():
            return bool((await client.get("/desk", headers=admin)).json()["version"] == 1)

        await until(is_set_up, READY_SECONDS, "the demo is at work")
        interrupted.send_signal(signal.SIGINT)
        _, err = await interrupted.communicate()
        assert b"Traceback" not in err
        first, second = await demo(env), await demo(env)
        assert first.index(str(client.base_url)) < first.index("curl")
        commands = [line.strip() for line in second.splitlines() if line.startswith("  curl ")]
        waiting, story = [await typed(command) for command in commands]
        assert waiting.count('"subject"') == 11
        assert '"TicketOpened"' in story
        files = re.findall(r"^  (.+?) +(/\S+-key)$", second, re.MULTILINE)
        assert len(files) == 3
        for (name, file), person in zip(files, PEOPLE, strict=True):
            assert name == person.principal
            asked = await client.get("/tickets", headers=bearer(Path(file)))
            assert asked.status_code == 200
            assert asked.json()["tickets"]
        assert "0 tickets were loaded, 47 were there" in second


async def test_at_a_terminal_it_prints_links_that_sign_in_once(tmp_path):
    async with served(tmp_path) as (env, client):
        ours, its = os.openpty()
        shown = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "scripts.demo"), stdout=its, stderr=its, cwd=ROOT, env=env
        )
        os.close(its)
        text = b""
        with suppress(OSError):  # the other end is closed
            while part := await asyncio.to_thread(os.read, ours, 2**16):
                text += part
        os.close(ours)
        assert await shown.wait() == 0, text.decode()
        codes = re.findall(r"/#(sign-in_\S+)", text.decode())
        for code, person in zip(codes, PEOPLE, strict=True):
            by = {"Authorization": f"Bearer {code}"}
            made = (await client.post("/sign_in", headers=by)).json()
            me = await client.get("/me", headers={"Authorization": f"Bearer {made['key']}"})
            assert (me.json()["id"], me.json()["role"]) == person
            assert (await client.post("/sign_in", headers=by)).status_code == 401


async def test_without_a_server_it_says_how_to_start_one(tmp_path):
    env = environment(tmp_path, free_port())
    assert "start it with `make run`" in await demo(env)
