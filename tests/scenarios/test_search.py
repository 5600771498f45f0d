"""What users expect of a search, over the API: each test is a sentence that one would say."""

import pytest
import pytest_asyncio

from eventstore.log import EventStore
from tests.api.test_api import OPEN, serving
from tests.callers import AGENT, REQUESTER
from tests.projecting import caught_up

FILE = {"name": "Photo-2.jpeg", "media_type": "image/jpeg", "size_bytes": 1, "sha256": "0" * 64}
SAID = (
    ("reply", {"body": "We have unjammed it. Is http://lädt.example.com/in up?"}),
    ("reply", {"body": "打印机卡纸了，请更换进纸轮。"}),
    ("add_note", {"body": "Hopeless customer, see C-1042. 维修打印机"}),
    ("attach", FILE),
    ("assign", {"assignee": "alice"}),
    ("resolve", {"resolution": "Exchanged the separator pad"}),
)


@pytest_asyncio.fixture(scope="module")
async def search(shared_database):
    """Return how a search is asked: it returns the names of the tickets that it finds."""
    async with serving(shared_database) as client:
        ids = {}
        for name, subject in (("jam", 'Re: [EXT] Printer: 24" jam'), ("other", "A cable")):
            opening = {**OPEN, "subject": subject, "body": "", "requester": "bob"}
            answer = await client.post("/tickets", json=opening, headers=REQUESTER)
            ids[answer.json()["ticket_id"]] = name
        [jam, _] = ids
        for verb, body in SAID:
            answer = await client.post(f"/tickets/{jam}/{verb}", json=body, headers=AGENT)
            assert answer.status_code == 200, answer.text
        await caught_up(shared_database, EventStore(shared_database))

        async def found(text, who=AGENT):
            asked = {"q": text, "count": True}
            answer = await client.get("/tickets", params=asked, headers=who)
            assert answer.status_code == 200, answer.text
            tickets = {ids[ticket["id"]] for ticket in answer.json()["tickets"]}
            assert answer.json()["total"] == len(tickets)
            return tickets

        yield found


@pytest.mark.parametrize(
    "text",
    [
        *("unjammed", "UNJAM*", "LADT", "example.com", "photo", "photo-2.jpeg", "separator pad"),
        *("printer unjammed -cable", '"exchanged the separator"'),
    ],
)
async def test_i_find_a_ticket_by_whatever_was_said_in_it(search, text):
    for who in (AGENT, REQUESTER):
        assert await search(text, who) == {"jam"}


@pytest.mark.parametrize("text", ["打印机", "卡纸", "纸", "进纸轮", "请更换进纸轮", "打印机 -墨盒"])
async def test_i_search_chinese_as_i_write_it(search, text):
    for who in (AGENT, REQUESTER):
        assert await search(text, who) == {"jam"}


@pytest.mark.parametrize(
    "text",
    ['Re: [EXT] Printer: 24" jam', "Printer: 24 - jam!", "<http://lädt.example.com>", "re:printer"],
)
async def test_i_paste_a_subject_line_or_an_address_and_find_the_ticket(search, text):
    assert await search(text) == {"jam"}


@pytest.mark.parametrize("text", ["jammed", "ample.com", "印打", "打印轮", "C-104", "Photo-3"])
async def test_i_find_nothing_that_is_another_word(search, text):
    assert await search(text) == set()


async def test_what_colleagues_said_finds_nothing_for_me_as_a_requester(search):
    """Neither a word, nor what begins so, nor that there is none of it."""
    every = {"jam", "other"}
    for text in ("hopeless", "hope*", "C-1042", "维修", "维修打印机"):
        assert await search(text) == {"jam"}
        assert await search(text, REQUESTER) == set()
        assert await search(f"-{text}") == {"other"}
        assert await search(f"-{text}", REQUESTER) == every
