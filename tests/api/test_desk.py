"""The desk as those who set it up and work at it meet it."""

from functools import partial

import pytest

from tests.api.test_api import OPEN, is_problem, serving
from tests.callers import ADMIN, AGENT, SUPERVISOR
from tests.oracle import assert_views_equal_the_log

WAIT = {"Prefer": "wait=9"}
FIELDS = {
    "due": {"type": "date"},
    "price": {"type": "decimal"},
    "causes": {"type": "choices", "choices": ["paper", "toner", "紙"], "required_on": "resolve"},
}


@pytest.fixture
async def client(database):
    """The API with its projector."""
    async with serving(database) as one:
        yield one


async def opened(client, **more):
    answer = await client.post("/tickets", json={**OPEN, **more}, headers={**AGENT, **WAIT})
    assert answer.status_code == 201, answer.text
    assert answer.headers["preference-applied"]
    return answer.json()["ticket_id"]


async def sent(client, ticket, verb, **content):
    path = f"/tickets/{ticket}/{verb}"
    return await client.post(path, json=content, headers={**AGENT, **WAIT})


async def listed(client, **asked):
    answer = await client.get("/tickets", params=asked, headers=SUPERVISOR)
    assert answer.status_code == 200, answer.text
    return {ticket["id"] for ticket in answer.json()["tickets"]}


async def test_i_tag_in_my_own_script_and_find_it_however_i_type_it(client):
    ticket = await opened(client, tags=["プリンター", "Straße", "vip"])
    shown = (await client.get(f"/tickets/{ticket}", headers=AGENT)).json()
    assert shown["tags"] == ["strasse", "vip", "プリンター"]
    found = partial(listed, client)
    for typed in ("ﾌﾟﾘﾝﾀｰ", "プリンター", "STRASSE", "straße", "VIP"):
        assert await found(tag=typed) == await found(q=f"tag:{typed}") == {ticket}, typed
    assert await found(tag="Dr\u0075cker") == await found(q="-tag:STRASSE") == set()
    view = {"tag": "ﾌﾟﾘﾝﾀｰ"}
    saved = await client.put("/views/printers", json=view, headers=SUPERVISOR)
    assert saved.json()["filter"]["tag"] == "プリンター"
    assert await found(view="printers") == {ticket}
    bulk = {"tickets": [ticket], "command": {"tags": ["ＶＩＰ", "STRASSE"]}}
    answer = await client.post("/bulk/remove_tags", json=bulk, headers={**AGENT, **WAIT})
    assert answer.json()["done"] == 1
    assert await found(tag="vip") == set()
    again = await sent(client, ticket, "add_tags", tags=["プリンター"])
    assert again.json()["events"] == []


async def test_my_desk_asks_for_a_date_a_price_and_several_causes(client, database):
    await client.put("/desk", json={"fields": FIELDS}, headers=ADMIN)
    ticket = await opened(client, fields={"price": "012.50", "due": "2026-03-01"})
    other = await opened(client, fields={"price": 12})
    chosen = await sent(client, ticket, "set_field", key="causes", value=["toner", "paper"])
    assert chosen.status_code == 200
    shown = (await client.get(f"/tickets/{ticket}", headers=AGENT)).json()
    assert shown["fields"] == {"price": "12.5", "due": "2026-03-01", "causes": ["paper", "toner"]}
    found = partial(listed, client)
    assert await found(q="field.price:12.500") == await found(field="price:+12.5") == {ticket}
    assert await found(q="field.price:12.0") == await found(q="-field.due:2026-03-01") == {other}
    assert await found(q="field.causes:paper field.causes:toner") == {ticket}
    assert await found(q="field.causes:紙") == set()
    exported = await client.get("/events", headers=SUPERVISOR)
    assert '"value":["paper","toner"]' in exported.text
    await assert_views_equal_the_log(database)
    wrong = await sent(client, ticket, "set_field", key="price", value=12.5)
    [fault] = is_problem(wrong, 422, "invalid_request")["errors"]
    assert 'another number is text, like "12.50", to be exact' in fault["detail"]
    wrong = await sent(client, ticket, "set_field", key="causes", value=["prayer"])
    assert (
        "a list of some of: paper, toner, 紙"
        in is_problem(wrong, 422, "wrong_field_value")["detail"]
    )


async def test_i_am_told_which_choice_is_gone_that_keeps_my_ticket_from_being_resolved(client):
    await client.put("/desk", json={"fields": FIELDS}, headers=ADMIN)
    ticket = await opened(client, fields={"causes": ["paper"]})
    fewer = {
        **FIELDS,
        "causes": {"type": "choices", "choices": ["toner"], "required_on": "resolve"},
    }
    await client.put("/desk", json={"fields": fewer}, headers=ADMIN)
    await sent(client, ticket, "assign", assignee="alice")
    refused = await sent(client, ticket, "resolve", resolution="dried it")
    assert is_problem(refused, 409, "fields_missing")["detail"] == (
        "set before it is resolved: causes (it says paper, and takes a list of some of: toner)"
    )


async def test_the_mail_that_i_pasted_is_kept_without_its_control_characters(client):
    ticket = await opened(client, subject="Fax\x00 12", body="Page 1\x0cPage 2\x1b[0m\r\n")
    shown = (await client.get(f"/tickets/{ticket}", headers=AGENT)).json()
    assert (shown["subject"], shown["body"]) == ("Fax 12", "Page 1 Page 2[0m")
