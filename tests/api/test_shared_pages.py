"""Those who ask for the same page at once share one answer, and nobody gets another's."""

import asyncio

import pytest

from eventstore.mongo.sorted_pages import Pager
from projections.generations import VIEWS, AsOf, Generation, Generations
from tests.api.test_api import OPEN, serving
from tests.callers import ADMIN, AGENT, AUDITOR, REQUESTER, as_
from tests.projecting import caught_up, until
from tests.spec import NOW


def told(answer):
    """What a client sees of an answer, but for what differs from one request to the next."""
    passing = ("correlation-id", "casebook-views-age")
    headers = {name: value for name, value in answer.headers.items() if name not in passing}
    return answer.status_code, headers, answer.content


@pytest.fixture
async def desk(database, store):
    """A client, and the path of a ticket that is shown."""
    async with serving(database) as client:
        opening = {**OPEN, "tags": ["paper"], "fields": {"floor": 3}, "group": "print"}
        path = (await client.post("/tickets", json=opening)).headers["location"]
        await client.post(f"{path}/assign", json={"assignee": "alice"}, headers=AGENT)
        await caught_up(database, store)
        yield client, path


async def test_who_asks_for_a_page_at_once_gets_their_own(desk, monkeypatch):
    """Pages are shared by those alone who ask for the very same."""
    client, _ = desk
    carla, nora = as_("requester", "carla"), as_("agent", "nora")
    await client.put("/desk", json={"groups": {"print": ["alice"], "net": ["nora"]}}, headers=ADMIN)
    opened = {}
    for who, group in (("carla", "net"), ("bob", "net"), ("carla", "print"), ("bob", None)):
        opening = {**OPEN, "requester": who, "subject": f"{who}'s", "group": group}
        opened[who, group] = (await client.post("/tickets", json=opening)).json()["ticket_id"]
    after = "&".join(f"after={ticket}@1" for ticket in opened.values())
    await client.get(f"/tickets?{after}", headers={"Prefer": "wait=10"})
    first = (await client.get("/tickets?limit=2", headers=AGENT)).json()
    asked = [
        (query, who)
        for query in (
            "",
            "?limit=1",
            "?sort=opened_at",
            "?limit=1&sort=opened_at",
            "?requester=bob",
            "?status=new",
            "?count=true",
            f"?limit=2&cursor={first['next']}",
        )
        for who in (AGENT, nora, REQUESTER, carla, AUDITOR)
    ]
    alone = [told(await client.get(f"/tickets{query}", headers=who)) for query, who in asked]
    assert len({content for _, _, content in alone}) > 15

    real, may_go_on = Pager.page, asyncio.Event()

    async def held(*about):
        await may_go_on.wait()
        return await real(*about)

    monkeypatch.setattr(Pager, "page", held)
    tasks = []
    for _ in range(3):
        tasks += [
            asyncio.create_task(client.get(f"/tickets{query}", headers=who)) for query, who in asked
        ]
        await asyncio.sleep(0.05)  # the first ones are asked, the others join or wait
    may_go_on.set()
    together = await asyncio.gather(*tasks)
    for n, answer in enumerate(together):
        assert told(answer) == alone[n % len(asked)], asked[n % len(asked)]


async def test_a_page_of_views_as_of_a_time_is_of_those_that_are_kept_now(
    desk, database, monkeypatch
):
    """They may be built anew under the same name while the former ones are still asked."""
    client, path = desk
    built = iter(Generation(dict.fromkeys(VIEWS, number)) for number in (71, 72, 72))
    shown = await database.collection("ticket_reads").find_one({})
    await (
        Generation(dict.fromkeys(VIEWS, 72))
        .of(database)
        .collection("ticket_reads")
        .insert_one(shown)
    )

    asked = 0

    async def as_of(_, name):
        nonlocal asked
        asked += 1
        return AsOf(name, NOW, "occurred", NOW, next(built))

    real, may_go_on = Pager.page, asyncio.Event()

    async def held(*about):
        await may_go_on.wait()
        return await real(*about)

    monkeypatch.setattr(Generations, "as_of", as_of)
    monkeypatch.setattr(Pager, "page", held)
    tasks = []
    for _ in range(3):
        tasks.append(asyncio.create_task(client.get("/tickets?as_of_view=early")))
        await until(lambda: asyncio.sleep(0, asked == len(tasks)))
    may_go_on.set()
    former, *now = await asyncio.gather(*tasks)
    assert former.json()["tickets"] == []
    for answer in now:
        assert [f"/tickets/{ticket['id']}" for ticket in answer.json()["tickets"]] == [path]
