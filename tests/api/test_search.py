"""The search language of lists: what it takes, and what it says of what it does not."""

import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.queries.lists.search import QUERY_TERMS, BadQuery, search
from domain.values import one_spelling
from projections.views.filter import Is, has_field, is_solved

MARCH = datetime(2026, 3, 1, tzinfo=UTC)
SECOND = datetime(2026, 3, 2, tzinfo=UTC)


def asked(text):
    return [term.condition() for term in search(text).terms]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("   ", []),
        ("printer", [{"terms": "printer"}]),
        ("Façade  JAM", [{"terms": "facade"}, {"terms": "jam"}]),
        ('"paper jam"', [{"terms": "paper"}, {"terms": "jam"}]),
        ("print*", [{"terms": {"$elemMatch": {"$gte": "print", "$lt": "print\U0010ffff"}}}]),
        ("-printer", [{"$nor": [{"terms": "printer"}]}]),
        ("打印机", [{"terms": "打印"}, {"terms": "印机"}, {"terms": {"$regex": "^[^=]*打印机"}}]),
        ("http://x", [{"terms": "http"}, {"terms": "x"}]),
        ("Re: jam", [{"terms": "re"}, {"terms": "jam"}]),
        ("Status: offline", [{"terms": "status"}, {"terms": "offline"}]),
        ("bob@example.com", [{"terms": "bob"}, {"terms": "example.com"}]),
        ("<mailto:bob@x>", [{"terms": "mailto"}, {"terms": "bob"}, {"terms": "x"}]),
        ('24" screen - "dark', [{"terms": "24"}, {"terms": "screen"}, {"terms": "dark"}]),
        ('a"b"', [{"terms": "a"}, {"terms": "b"}]),
        ("jam -", [{"terms": "jam"}]),
        ("-re:jam", [{"$nor": [{"$and": [{"terms": "re"}, {"terms": "jam"}]}]}]),
        ("jam!!! !!!", [{"terms": "jam"}]),
        ("status:open", [{"status": "open"}]),
        ("STATUS:open,pending", [{"status": {"$in": ["open", "pending"]}}]),
        ("-status:closed", [{"$nor": [{"status": "closed"}]}]),
        ("priority>=high", [{"priority": {"$in": ["high", "urgent"]}}]),
        ("priority<normal", [{"priority": "low"}]),
        ("priority>urgent", [{"priority": {"$in": []}}]),
        ("assignee:none", [{"assignee": None}]),
        ('assignee:"none"', [{"assignee": "none"}]),
        ("requester:none", [{"requester": "none"}]),
        (r'requester:"Bob \"B\" Smith"', [{"requester": 'Bob "B" Smith'}]),
        ("tag:floor-3", [{"tags": "floor-3"}]),
        ("number:c-1042", [{"number": "C-1042"}]),
        ("number:1042", [{"number": "C-1042"}]),
        ("is:solved", [{"status": {"$in": ["resolved", "closed"]}}]),
        ("has:note", [{"has_note": True}]),
        ("opened:2026-03-01", [{"opened_at": {"$gte": MARCH, "$lt": SECOND}}]),
        ("opened>2026-03-01", [{"opened_at": {"$gte": SECOND}}]),
        ("updated<=2026-03-01", [{"updated_at": {"$lt": SECOND}}]),
        ("resolved<2026-03-01T01:00:00+01:00", [{"resolved_at": {"$lt": MARCH}}]),
        ("field.floor:3", [{"terms": "=floor=3"}, {"fields.floor": {"$in": ["3", 3]}}]),
        ("field.vip:true", [{"terms": "=vip=true"}, {"fields.vip": {"$in": ["true", True]}}]),
    ],
)
def test_what_it_takes(text, expected):
    assert asked(text) == expected


@pytest.mark.parametrize(
    ("text", "at", "says"),
    [
        ("printer stauts:open", 9, "unknown key 'stauts'; did you mean status?"),
        ("tags:vip", 1, 'Put text in quotes: "tags:..."'),
        ("status:opened", 1, "status is one of new, open, pending"),
        ("status>open", 1, "status takes : only"),
        ("priority>=huge", 1, "priority is one of low, normal, high, urgent, not 'huge'"),
        ("jam opened:yesterday", 5, "a time like 2026-03-01 or"),
        ("opened:0001-01-01T00:00:00+12:00", 1, "opened takes a time"),
        ("!!!", 1, "there is no word in '!!!'"),
        ("- *", 1, "there is no word in '- *'"),
        ("is:happy", 1, "is takes one of solved, unsolved, breached, spam"),
        ("tag:a!", 1, "a tag is like"),
        ("number:0", 1, "a number is like C-1042"),
        ("due:2026-03-01", 1, "due takes < or <="),
        ("field.9:1", 1, "'9' is no name of a field"),
        ("field.due>soon", 1, "field.due is compared with a day like 2026-03-01"),
        (" ".join("x" * (QUERY_TERMS + 1)), 201, "at most 100 terms"),
        ("x" * 1001, 1001, "at most 1000 characters"),
    ],
)
def test_what_it_does_not_take_is_told_with_its_place(text, at, says):
    """L12"""
    with pytest.raises(BadQuery) as refused:
        asked(text)
    assert refused.value.code == "bad_query"
    assert refused.value.detail.startswith(f"at {at}: ")
    assert says in refused.value.detail


def test_an_emoji_among_my_words_is_passed_over_and_alone_is_no_word():
    for emoji in ("\U0001f600", "\u2764\ufe0f", "\U0001f468\u200d\U0001f4bb"):
        assert asked(f"printer {emoji} jam{emoji}") == asked("printer jam")
        with pytest.raises(BadQuery, match="there is no word in"):
            asked(emoji)


LIKELY = st.sampled_from(
    [
        "status",
        "priority",
        "field.",
        "opened",
        ":",
        ">=",
        "<",
        "-",
        '"',
        "\\",
        " ",
        "open",
        "*",
        "é",
    ]
)


def test_without_a_value_is_all_of_the_others():
    """What is excluded is what matches both conditions, not what matches either."""
    [found] = asked("-field.floor:3")
    assert found == {"$nor": [{"$and": asked("field.floor:3")}]}


@given(st.one_of(st.text(max_size=60), st.lists(LIKELY, max_size=20).map("".join)))
def test_any_text_at_all_is_taken_or_refused_in_words(text):
    """L12: and no operator in it becomes one of the database's."""
    try:
        found, refused = asked(text), None
    except BadQuery as error:
        found, refused = [], error.detail
    assert refused is None or re.match(r"at \d+: .", refused)
    assert {name for condition in found for name in condition if name[0] == "$"} <= {"$nor", "$or"}


@given(st.lists(st.tuples(st.booleans(), st.text(max_size=12)), max_size=5))
def test_whatever_is_quoted_is_looked_for_as_it_is(values):
    text = [
        f'{"-" if is_excluded else ""}requester:"' + re.sub(r'(["\\])', r"\\\1", value) + '"'
        for is_excluded, value in values
    ]
    conditions = ({"requester": one_spelling(value)} for _, value in values)
    assert asked(" ".join(text)) == [
        {"$nor": [condition]} if is_excluded else condition
        for (is_excluded, _), condition in zip(values, conditions, strict=True)
    ]


def test_numbers_of_fields_are_those_that_can_be_kept():
    for text in (str(2**63), "٣"):
        assert Is("fields.n", (text,)) in has_field("n", text).terms
    assert is_solved(yes=False).values == ("new", "open", "pending", "on_hold")
