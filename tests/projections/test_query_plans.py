"""Which index serves which list, by MongoDB's rules: a filter's bounds and the order asked for.

An index bounds what is read if the filter says something of its first field: of the next field too
where it says one value of the first. It gives the order if what follows the fields with one value
is what the list is sorted by. The embedded server's plans prove nothing about MongoDB's.
"""

from typing import Any, get_args

import pytest

from api.access.principals import Principal
from api.queries.lists.listing import Sort, TimeSort, parts
from api.queries.lists.routes import ListQuery
from api.queries.visibility import Visibility
from eventstore.mongo.sorted_pages import Query
from projections.generations import Generations
from projections.views import indexes
from projections.views.filter import without_spam
from tests.mongodb_rules import bounded, gives_order

LISTS: list[tuple[dict[str, Any], str, bool]] = [
    # what is asked for, the index by `opened_at`, whether another sort has it as well
    ({}, "opened_at", False),
    ({"status": ["open"]}, "status", False),
    ({"status": ["open", "pending"]}, "status", False),
    ({"solved": False}, "status", False),
    ({"priority": ["urgent"]}, "priority", False),
    ({"status": ["open"], "priority": ["urgent"]}, "status", False),
    ({"group": "print"}, "group", True),
    ({"number": "C-1042"}, "number", True),
    ({"group": ""}, "group", True),
    ({"assignee": "alice"}, "assignee", True),
    ({"assignee": "", "solved": False}, "assignee", True),
    ({"requester": "bob"}, "requester", True),
    ({"tag": ["vip"]}, "tags", True),
    ({"tag": ["vip", "paper"], "status": ["open"]}, "tags", True),
    ({"field": ["floor:3"]}, "terms", True),
    ({"opened_from": "2026-03-01", "opened_before": "2026-03-02"}, "opened_at", True),
    ({"updated_from": "2026-03-01"}, "updated_at", True),
    ({"resolved_from": "2026-03-01"}, "resolved_at", True),
    ({"breached": True}, "sla_breached", True),
    ({"breached": False}, "opened_at", False),
    ({"spam": True}, "opened_at", False),
    ({"due_before": "2026-03-01"}, "due_at", True),
    ({"q": "printer jam"}, "terms", True),
    ({"q": "print*"}, "terms", True),
    ({"q": "-printer"}, "opened_at", False),
    ({"q": "has:note"}, "opened_at", False),
    ({"q": "status:open priority>=high assignee:none printer jam"}, "terms", True),
    ({"q": "-status:closed assignee:alice"}, "assignee", True),
    ({"q": "group:print"}, "group", True),
    ({"status": ["open"], "group": "print", "assignee": "alice"}, "assignee", True),
]


def served(asked: Query) -> bool:
    """Whether what is read is bounded: by the filter, or by the limit as it is in order."""
    order = [*asked.order.items()]
    index, filter_ = tuple(asked.index), asked.filter()
    return bool(bounded(index, filter_)) or gives_order(index, filter_, order)


def of(parameters: dict[str, Any], sort: Sort) -> list[Query]:
    return [*parts(without_spam(ListQuery.model_validate(parameters).filter()), sort).values()]


@pytest.mark.parametrize("sort", get_args(Sort))
@pytest.mark.parametrize(("parameters", "field", "is_narrow"), LISTS)
def test_each_list_is_read_along_the_index_that_serves_it(parameters, field, is_narrow, sort):
    by = sort.removeprefix("-")
    expected = field if is_narrow or by == "opened_at" else by
    if by == "priority" and field == "opened_at":
        expected = "priority"
    for asked in of(parameters, sort):
        assert asked.index == indexes.OF_LISTS[expected]
        assert served(asked)


@pytest.mark.parametrize("sort", get_args(TimeSort))
def test_a_list_by_a_time_is_read_as_one_and_by_priority_as_one_of_each(sort):
    assert len(of({}, sort)) == 1
    ranked = [asked.narrow for asked in of({}, "-priority")]
    assert [each["priority"] for each in ranked] == ["urgent", "high", "normal", "low"]
    for asked in of({"status": ["open"]}, "priority"):
        assert gives_order(tuple(asked.index), asked.filter(), [*asked.order.items()])


@pytest.mark.parametrize(("parameters", "field", "is_narrow"), LISTS)
def test_lists_of_one_value_by_opening_need_no_sorting(parameters, field, is_narrow):
    """And no list that is only sorted: as many documents are read as a page has."""
    [asked] = of(parameters, "-opened_at")
    order = [*asked.order.items()]
    if asked.narrow and asked.by in dict(asked.index):
        assert gives_order(tuple(asked.index), asked.filter(), order)
    if not is_narrow and asked.index == indexes.OF_LISTS["opened_at"]:
        assert gives_order(tuple(asked.index), asked.filter(), order)


def test_a_narrow_filter_is_what_bounds_the_reading():
    """Not only an index walked from end to end: what does not match is not looked at."""
    for parameters, field, is_narrow in LISTS:
        if is_narrow:
            [asked] = of(parameters, "-opened_at")
            assert field in bounded(tuple(asked.index), asked.filter()), parameters


def test_a_requesters_list_is_read_along_what_they_see_in_any_case():
    seen = Visibility(Principal("bob", "requester"))
    for sort in get_args(Sort):
        found = ListQuery.model_validate({"requester": "bob", "q": "printer"}).filter()
        if sort.removeprefix("-") == "due_at":
            continue  # refused to them
        for asked in parts(seen.within(found), seen.sort(sort), "participants").values():
            assert bounded(tuple(asked.index), asked.filter())[0] == "participants"


async def test_the_indexes_are_those_of_the_table(database):
    await Generations(database).prepare()
    reads = (await Generations(database).shown()).collection("ticket_reads")
    made = {tuple(index["key"]) for index in (await reads.index_information()).values()}
    assert made == {(("_id", 1),), *indexes.OTHERS, *indexes.OF_LISTS.values()}
