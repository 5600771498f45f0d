"""What a desk expects of its days, over the API: each test is a sentence that one would say."""

from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from api.commands.handler import Handler, Submission
from domain.tickets.opening import OpenTicket
from tests.api.test_api import is_problem, serving
from tests.callers import ADMIN, SUPERVISOR
from tests.oracle import assert_views_equal_the_log
from tests.projecting import caught_up, running, until
from tests.spec import BOB

EVENING = datetime(2026, 3, 28, 23, 30, tzinfo=UTC)
"""Half past midnight in Berlin, of the day on which the clock goes forward; morning in Tokyo."""


@asynccontextmanager
async def desk(database):
    """The API, and what keeps its views current and counts days anew."""
    async with serving(database, project=False) as client, running(database):
        yield client


async def opened_at(store, *times):
    """Open a ticket at each time, as an import does."""
    for at in times:
        command = OpenTicket(subject="Printer jam", requester="bob")
        submission = Submission(command=command, actor=BOB, occurred_at=at)
        await Handler(store).handle(uuid4(), submission)


async def set_up(client, **zones):
    """Set the desk up, and wait until days are counted so."""
    shown = (await client.get("/desk", headers=ADMIN)).json()["desk"]
    answer = await client.put("/desk", json={**shown, **zones}, headers=ADMIN)
    assert answer.status_code == 200, answer.text
    own = answer.json()["desk"]["time_zone"]
    others = answer.json()["desk"]["other_time_zones"]

    async def counted():
        told = [await asked(client, tz=tz) for tz in others]
        default = (await asked(client)).json()["covers"]["time_zone"]
        return default == own and all(one.status_code == 200 for one in told)

    await until(counted)


async def asked(client, path="/dashboard", **parameters):
    return await client.get(path, params=parameters, headers=SUPERVISOR)


async def on(client, day, **parameters):
    answer = await asked(client, date=day, **parameters)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_ticket_at_half_past_midnight_here_counts_for_today(database, store):
    async with desk(database) as client:
        await opened_at(store, EVENING, EVENING + timedelta(hours=23))
        await caught_up(database, store)
        assert (await on(client, "2026-03-28"))["on_date"]["created"] == 1  # the desk's are UTC's
        await set_up(client, time_zone="Europe/Berlin")
        shown = await on(client, "2026-03-29")
        assert shown["covers"] == {  # 23 hours
            "time_zone": "Europe/Berlin",
            "from": "2026-03-28T23:00:00+00:00",
            "until": "2026-03-29T22:00:00+00:00",
        }
        assert shown["on_date"]["created"] == 1
        assert shown["backlog"]["opened_on"] == {"2026-03-29": 1}
        assert [
            (await on(client, day))["on_date"]["created"] for day in ("2026-03-28", "2026-03-30")
        ] == [0, 1]
        await assert_views_equal_the_log(database)


async def test_my_colleagues_in_tokyo_see_their_own_days_and_weeks(database, store):
    async with desk(database) as client:
        await set_up(client, time_zone="Europe/Berlin", other_time_zones=["Asia/Tokyo", "UTC"])
        saturday, sunday = EVENING - timedelta(hours=9), EVENING
        await opened_at(store, saturday, sunday)
        await caught_up(database, store)

        async def created(tz):
            answer = await asked(
                client,
                "/dashboard/series",
                metric="created",
                tz=tz,
                **{"from": "2026-03-28", "to": "2026-03-29"},
            )
            return [day["value"] for day in answer.json()["days"]]

        assert await created("Asia/Tokyo") == [1, 1]
        assert await created("UTC") == [2, 0]
        assert await created("Europe/Berlin") == [1, 1]
        week = (await asked(client, "/agents", week="2026-03-29", tz="Asia/Tokyo")).json()
        assert week["covers"] == {
            "time_zone": "Asia/Tokyo",
            "from": "2026-03-22T15:00:00+00:00",
            "until": "2026-03-29T15:00:00+00:00",
        }


async def test_a_zone_that_my_desk_does_not_list_says_which_it_lists(database):
    async with desk(database) as client:
        await set_up(client, time_zone="Europe/Berlin", other_time_zones=["Asia/Tokyo"])
        problem = is_problem(await asked(client, tz="Asia/Kolkata"), 422, "time_zone_not_counted")
        assert "Europe/Berlin, Asia/Tokyo;" in problem["detail"]


async def test_my_desk_takes_no_time_zone_that_there_is_not_and_no_seven(database):
    """L12"""
    six = ["Asia/Tokyo", "UTC", "Asia/Kolkata", "Africa/Cairo", "America/Lima", "Pacific/Apia"]
    async with serving(database, project=False) as client:
        for wrong, where in (
            ({"time_zone": "Berlin"}, "/time_zone"),
            ({"time_zone": ""}, "/time_zone"),
            ({"time_zone": None}, "/time_zone"),
            ({"time_zone": "../UTC"}, "/time_zone"),
            ({"other_time_zones": ["Mars/Olympus"]}, "/other_time_zones/0"),
            ({"other_time_zones": six}, "/other_time_zones"),
        ):
            answer = await client.put("/desk", json=wrong, headers=ADMIN)
            assert answer.status_code == 422, answer.text
            assert answer.json()["errors"][0]["pointer"] == where
        assert (await client.get("/desk", headers=ADMIN)).json()["version"] == 0


async def test_when_i_search_for_a_day_i_mean_a_day_here(database, store):
    async with desk(database) as client:
        await opened_at(store, EVENING)
        await caught_up(database, store)

        async def found(**parameters):
            answer = await asked(client, "/tickets", **parameters)
            assert answer.status_code == 200, answer.text
            return len(answer.json()["tickets"])

        def days(day):
            following = f"2026-03-{int(day[-2:]) + 1}"
            return {"opened_from": day, "opened_before": following}

        assert await found(q="opened:2026-03-28") == await found(**days("2026-03-28")) == 1
        await set_up(client, time_zone="Europe/Berlin")
        assert await found(q="opened:2026-03-28") == await found(**days("2026-03-28")) == 0
        assert await found(q="opened:2026-03-29") == await found(**days("2026-03-29")) == 1
        assert await found(q="opened<=2026-03-29") == await found(q="opened>2026-03-28") == 1
        assert await found(q="opened>=2026-03-28T23:30:00Z") == 1  # a time says its own zone
