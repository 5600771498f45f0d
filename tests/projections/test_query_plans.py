"""No list that is asked for often reads all tickets: the database says how it would be read."""

from typing import Any

import pytest

from api.queries.lists.listing import Listing
from api.queries.lists.routes import ListQuery
from projections.replay.generations import Generations
from tests.projecting import caught_up, open_some, running

HOT: list[dict[str, Any]] = [
    {},
    {"status": ["open"]},
    {"status": ["open", "pending"]},
    {"solved": False},
    {"priority": ["urgent"]},
    {"group": "print"},
    {"group": ""},
    {"assignee": "alice"},
    {"assignee": "", "solved": False},
    {"requester": "bob"},
    {"tag": ["vip"]},
    {"tag": ["vip", "paper"], "status": ["open"]},
    {"field": ["floor:3"]},
    {"opened_from": "2026-03-01", "opened_before": "2026-03-02"},
    {"updated_from": "2026-03-01"},
    {"resolved_from": "2026-03-01"},
    {"breached": True},
    {"due_before": "2026-03-01"},
    {"q": "printer jam"},
    {"q": "print*"},
    {"q": "status:open priority>=high assignee:none printer jam"},
    {"q": "-status:closed assignee:alice"},
    {"status": ["open"], "group": "print", "assignee": "alice"},
]


def stages(plan):
    """Every stage of a plan, as MongoDB and the embedded server tell it."""
    yield plan
    inner = plan.get("queryPlan"), plan.get("inputStage"), *plan.get("inputStages", [])
    for stage in inner:
        if stage:
            yield from stages(stage)


@pytest.mark.parametrize("sort", ["-opened_at", "updated_at", "-resolved_at"])
async def test_no_hot_list_scans_all_tickets(database, store, sort):
    await open_some(store, 20)
    async with running(database):
        await caught_up(database, store)
        reads = (await Generations(database).shown()).collection("ticket_reads")
        for parameters in HOT:
            asked = ListQuery.model_validate({**parameters, "sort": sort})
            listing = Listing(asked.conditions(), asked.sort)
            found = reads.find(listing.filter()).sort([(listing.by, -1), ("_id", -1)])
            plan: dict[str, Any] = await found.hint(listing.hint).limit(50).explain()
            winning = plan["queryPlanner"]["winningPlan"]
            used = [stage["stage"] for stage in stages(winning) if "stage" in stage]
            assert "COLLSCAN" not in used, (parameters, plan)
            assert "IXSCAN" in used, (parameters, plan)


async def test_a_filter_is_what_bounds_the_reading(database, store):
    """Not only an index walked from end to end: what does not match is not looked at."""
    await open_some(store, 200, group="print")
    [other] = await open_some(store, 1, group="network", subject="Réseau", fields={"floor": 3})
    async with running(database):
        await caught_up(database, store)
        reads = (await Generations(database).shown()).collection("ticket_reads")
        for parameters in (
            {"group": "network"},
            {"field": ["floor:3"], "solved": False},
            {"q": "reseau status:new"},
            {"q": "rese*"},
        ):
            asked = ListQuery.model_validate(parameters)
            listing = Listing(asked.conditions(), asked.sort)
            assert [d["_id"] async for d in reads.find(listing.filter())] == [other]
            told: dict[str, Any] = await reads.find(listing.filter()).hint(listing.hint).explain()
            examined = told["executionStats"]["totalDocsExamined"]
            assert examined <= 2, (parameters, told)
