"""The command `scripts.replay`, what it makes as served, and the agents' weeks."""

import json
from datetime import timedelta
from uuid import uuid4

import pytest

from api.desk.store import Desks
from domain.actors import Actor
from domain.codec import EventData
from domain.desk import Desk
from eventstore.event_document import CommandRef, Head, Metadata, chained, utc_now
from projections.generations import Generations
from projections.replay.audit import Auditor
from projections.replay.comparing import Difference
from projections.replay.rebuild import Rebuild
from projections.views.saved_views import SavedViews, TicketFilter
from projections.workers import workers
from scripts.replay import _verify
from scripts.replay_report import reporting
from tests.api.test_api import serving
from tests.oracle import assert_views_equal_the_log
from tests.processes import script
from tests.projecting import add, caught_up, open_some, running
from tests.spec import ALICE, NOW

DAY = timedelta(days=1)


@pytest.fixture
def env(database):
    return {"CASEBOOK_MONGODB_URL": database.url}


async def told(*words, env):
    process = await script("scripts.replay", *words, env=env)
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_everything_is_told_to_machines(database, store, env):
    """One document a line: how far it is, and what came of it."""
    await open_some(store, 4)
    code, out, err = await told("--json", "--workers", "1", env=env)
    assert (code, err) == (0, "")
    lines = [json.loads(line) for line in out.splitlines()]
    assert {line["phase"] for line in lines[:-1]} >= {"scan", "tail", "prove", "switch"}
    scanned = [line for line in lines[:-1] if line["phase"] == "scan"][-1]
    assert (scanned["done"], scanned["total"]) == (12, 12)
    summary = lines[-1]["summary"]
    assert (summary["tickets"], summary["events"], summary["checked_documents"]) == (4, 12, 4)
    await assert_views_equal_the_log(database)
    code, out, _ = await told("--verify", "--json", env=env)
    assert code == 0
    assert json.loads(out.splitlines()[-1])["differences"] == 0
    reads = (await Generations(database).shown()).collection("ticket_reads")
    await reads.update_one({}, {"$set": {"status": "closed"}})
    code, out, _ = await told("--verify", "--json", env=env)
    found = [json.loads(line).get("difference") for line in out.splitlines()]
    [difference] = filter(None, found)
    assert (code, difference["field"], difference["found"]) == (1, "status", "closed")


async def test_views_that_were_replaced_while_they_were_compared_are_no_damage(
    database, store, monkeypatch, capsys
):
    """L7: what is shown by then is compared."""
    await open_some(store, 2)
    compare, replaced = Auditor.compare, False

    async def slowly(self):
        nonlocal replaced
        await compare(self)
        if not replaced:
            replaced = True
            self._tell(Difference("ticket x", "version", 2, 1))
            async with workers(database, 0) as here:
                await Rebuild(database, here).everything()

    monkeypatch.setattr(Auditor, "compare", slowly)
    async with running(database):
        await caught_up(database, store)
        async with workers(database, 0) as here:
            with reporting(json=True) as report:
                assert await _verify(database, here, report, 50) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (replaced, last["differences"]) == (True, 0)


async def test_views_as_of_a_time_are_made_listed_and_dropped(database, store, env):
    await open_some(store, 2)
    code, out, err = await told("--until", "2026-03-01", "--name", "march", env=env)
    assert (code, err, "?as_of_view=march" in out) == (0, "", True)
    assert await told("--list", env=env) == (
        0,
        "march: as of 2026-03-01T23:59:59.999000+00:00, by occurred_at\n",
        "",
    )
    assert (await told("--drop", "march", env=env))[:2] == (0, "march dropped\n")
    await Desks(database).replace(Desk(time_zone="Asia/Tokyo"), ALICE, None)
    await told("--until", "2026-03-01", "--name", "tokyo", env=env)
    assert "tokyo: as of 2026-03-01T14:59:59.999000+00:00" in (await told("--list", env=env))[1]
    assert (await told("--drop", "tokyo", env=env))[0] == 0
    assert (await told("--list", env=env))[1] == ""


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--rollback",), "there is no former generation to go back to"),
        (("--drop", "x"), "there are no views as of a time named 'x'"),
        (("--until", "2026-01-01T00:00"), "has no zone"),
        (("--until", "yesterday"), "is no time: write 2026-03-31"),
        (("--until", "0001-01-01T00:00:00+14:00"), "is no time"),
        (("--until", "9999-12-31"), "has not come yet"),
        (("--until", "2026-01-01", "--name", "A B"), "must be letters a-z"),
        (("--name", "x"), "go with --until"),
        (("--verify", "--keep-old"), "go with building all views"),
        (("--verify", "--rollback"), "not allowed with"),
        (("--workers", "65"), "is no number from 0 to 64"),
        (("--most", "x"), "invalid int value"),
        (("--ticket", "7"), "invalid"),
    ],
)
async def test_what_makes_no_sense_is_refused_in_words(database, store, env, words, says):
    code, out, err = await told(*words, env=env)
    assert code != 0
    assert out == ""
    assert says in err
    assert "Traceback" not in err


async def test_nothing_but_an_empty_log_is_replayed_as_well(database, store, env):
    code, out, err = await told(env=env)
    assert (code, err) == (0, "")
    assert out.endswith("the new views are shown\n")
    await assert_views_equal_the_log(database)


async def test_each_route_shows_views_as_of_a_time(database, store):
    """And says of which; what is not there is 404, and `after` makes no sense with it."""
    ids = await open_some(store, 3, group="print")
    await add(store, ids[0], "TicketAssigned", NOW + DAY, assignee="alice")
    await SavedViews(database).save("alices", TicketFilter(assignee="alice"))
    async with running(database), workers(database, 0) as here, serving(database) as client:
        await caught_up(database, store)
        await Rebuild(database, here).as_of("before", NOW, "occurred")
        at = {"as_of_view": "before"}
        now = (await client.get("/tickets", params={"assignee": "alice"})).json()
        assert len(now["tickets"]) == 1
        then = await client.get("/tickets", params={"assignee": "alice", **at})
        assert (then.status_code, then.json()["tickets"]) == (200, [])
        assert then.headers["Casebook-Views-As-Of"] == NOW.isoformat()
        shown = (await client.get("/dashboard", params=at)).json()
        assert (shown["date"], shown["on_date"]["created"]) == (NOW.date().isoformat(), 3)
        assert shown["backlog"]["age"] == {"today": 3}
        assert shown["backlog"]["assignee"] == {"": 3}
        series = {"metric": "backlog", "from": NOW.date(), "to": NOW.date(), **at}
        days = (await client.get("/dashboard/series", params=series)).json()["days"]
        assert [day["value"] for day in days] == [3]
        assert (await client.get("/views/alices", params=at)).json()["count"] == 0
        week = {"week": NOW.date(), **at}
        assert (await client.get("/agents", params=week)).json()["agents"]["alice"]["assigned"] == 0
        for path in ("/tickets", "/dashboard", "/views", "/agents"):
            gone = await client.get(path, params={"as_of_view": "nothing"})
            assert (gone.status_code, gone.json()["code"]) == (404, "as_of_view_not_found")
            both = await client.get(path, params={"after": f"{uuid4()}@1", **at})
            assert (both.status_code, both.json()["code"]) == (422, "bad_after")


async def reply(store, ticket_id, agent, at):
    """Write an agent's answer."""
    last = (await store.load(ticket_id))[-1]
    about = Metadata(Actor(agent, "agent"), CommandRef(uuid4().hex, "f"))
    head = Head(last.version, last.hash)
    event = EventData("AgentReplied", 1, {"body": "x"})
    await store.append(chained(ticket_id, head, [event], about, at, utc_now()))


async def test_what_agents_do_is_told_week_by_week(database, store):
    """L7: by whoever did it; a resolution is that of whoever had the ticket."""
    monday = NOW - timedelta(days=NOW.weekday())
    one, other = await open_some(store, 2, versions=1)
    await add(store, one, "TicketAssigned", NOW, assignee="a.b|c")
    await reply(store, one, "bob", NOW + timedelta(hours=1))
    await reply(store, one, "bob", NOW + timedelta(hours=2))
    await add(store, one, "TicketResolved", NOW + timedelta(hours=4), resolution="x")
    await add(store, one, "TicketReopened", NOW + 7 * DAY, reason="no")
    await add(store, other, "TicketAssigned", NOW + 7 * DAY, assignee="bob")
    async with running(database), serving(database) as client:
        await caught_up(database, store)
        shown = (await client.get("/agents", params={"week": NOW.date()})).json()
        assert shown["week"] == f"{monday:%Y-%m-%d}"
        assert shown["agents"].keys() == {"a.b|c", "bob"}
        bob, owner = shown["agents"]["bob"], shown["agents"]["a.b|c"]
        assert (bob["replies"], bob["assigned"], bob["backlog"]) == (2, 0, 0)
        assert (bob["first_response"]["count"], bob["first_response"]["mean_seconds"]) == (1, 3600)
        assert (owner["assigned"], owner["resolved"], owner["backlog"]) == (1, 1, 0)
        assert owner["resolution"]["mean_seconds"] == 4 * 3600
        later = (NOW + 7 * DAY).date()
        shown = (await client.get("/agents", params={"week": later})).json()
        assert shown["agents"]["a.b|c"]["reopened"] == 1
        assert [a["backlog"] for a in shown["agents"].values()] == [1, 1]
        asked = {"agent": "bob", "from": NOW.date(), "to": later}
        series = (await client.get("/agents/series", params=asked)).json()
        assert [(w["replies"], w["assigned"]) for w in series["weeks"]] == [(2, 0), (0, 1)]
        for wrong in (
            {"agent": "bob", "from": "2026-02-01", "to": "2026-01-01"},
            {"agent": "bob", "from": "0001-01-01", "to": "2026-01-01"},
            {"agent": "bob", "from": "0001-01-01", "to": "0001-01-01"},
            {"agent": "bob", "to": "0001-01-01"},
            {},
            {"agent": ""},
        ):
            answer = await client.get("/agents/series", params=wrong)
            assert answer.status_code == (
                200 if wrong.get("to") == wrong.get("from", "0001-01-01") else 422
            )
        for day in ("0001-01-01", "9999-12-31"):
            assert (await client.get("/agents", params={"week": day})).status_code == 200


def test_lines_are_not_told_more_often_than_anyone_reads(capsys):
    from projections.replay.rebuild import Progress  # noqa: PLC0415

    with reporting(json=False) as report:
        for done in range(1000):
            report.progress(Progress("scan", done, 1000))
        report.progress(Progress("scan", 1000, 1000))
        report.progress(Progress("tail", lag_seconds=1.5))
        report.progress(Progress("wait"))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[1].startswith("scan: 1000 of 1000 events (100 %)")
    assert lines[2:] == [
        "tail 1.5 s behind",
        "waiting: another replay is at work, or was killed a moment ago",
    ]
