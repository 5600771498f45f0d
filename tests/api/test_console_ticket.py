"""A ticket's page in the console: to answer, to work on, and to see what has become of it."""

import re
from uuid import UUID, uuid4

from playwright.async_api import expect

from api.commands.handler import Handler, Submission
from domain.tickets.opening import OpenTicket
from eventstore.database import Database
from eventstore.event_document import to_document
from eventstore.log import EventStore
from scripts.testbed.harness import HEADERS, callers
from scripts.testbed.load import Connection
from tests.api.browsing import (
    browsing,
    held_back,
    keys_of,
    opened,
    page_of,
    serious_faults,
    served,
    set_up,
    sign_in,
    told,
)
from tests.spec import ALICE

__all__ = ["page_of", "served"]
pytestmark = browsing
CAUSE = {"type": "choice", "choices": ["toner", "paper"], "required_on": "resolve"}


async def at_ticket(page, ticket, heading="Printer jam"):
    await page.goto(f"/#/tickets/{ticket}")
    await expect(page.get_by_role("heading", level=1)).to_contain_text(heading)
    await expect(page.get_by_role("button", name=re.compile("^assignee:"))).to_be_visible()


def property_(page, name):
    """The button that shows a property, and lets one change it."""
    return page.get_by_role("button", name=re.compile(rf"^{name}: "))


async def shown(served, ticket):
    async with Connection(served, HEADERS) as connection:
        return (await connection.get(f"/tickets/{ticket}")).json()


async def colour(locator):
    return await locator.evaluate("(each) => getComputedStyle(each).backgroundColor")


async def test_a_ticket_has_its_number_its_subject_and_first_what_was_said(served, page_of):
    ticket = await opened(served)
    await told(served, ticket, "reply", {"body": "Which tray?"})
    await told(served, ticket, "change_priority", {"priority": "high"})
    async with page_of(served) as page:
        await sign_in(page)
        await at_ticket(page, ticket)
        await expect(page.get_by_role("heading", level=1)).to_have_text("C-1 Printer jam")
        assert await page.title() == "C-1 – Casebook"  # browsers keep titles
        said = page.locator(".message .text")
        await expect(said).to_have_text(["It jams.", "Which tray?"])
        await expect(page.locator(".message", has_text="Which tray?")).to_contain_text("soak")
        await expect(page.locator("main")).not_to_contain_text(re.compile("[0-9a-f]{12}"))
        assert await serious_faults(page) == []


async def test_a_public_reply_and_an_internal_note_are_told_apart(served, page_of):
    """By words and by colour, before and after they are sent; Ctrl and Enter sends."""
    ticket = await opened(served)
    async with page_of(served) as page:
        await sign_in(page)
        await at_ticket(page, ticket)
        box = page.get_by_role("form", name="Write")
        await box.get_by_label("Message").focus()
        await expect(box.get_by_role("button")).to_have_text("Send the reply")
        await expect(box).to_contain_text("bob and all who follow the ticket read it.")
        public = await colour(box)
        await box.get_by_label("Message").fill("Try the other tray.")
        await box.get_by_label("Message").press("Control+Enter")
        await expect(page.locator(".message.by-agent")).to_contain_text("Try the other tray.")
        await expect(box.get_by_label("Message")).to_have_value("")
        await box.get_by_label("Internal note").check()
        await expect(box.get_by_role("button")).to_have_text("Add the note")
        await expect(box).to_contain_text("the requester never sees it")
        assert await colour(box) != public
        assert await serious_faults(page) == []
        await box.get_by_label("Message").fill("A known fault.")
        await box.get_by_role("button").click()
        note = page.locator(".message.internal")
        await expect(note).to_contain_text("A known fault.")
        await expect(note).to_contain_text("Internal note")
        assert await colour(note) != await colour(page.locator(".message.by-agent"))
        assert (await shown(served, ticket))["agent_replies"] == 1


async def test_own_commands_that_were_not_read_again_are_nobody_else_s(served, page_of):
    """What is sent next builds upon what was acknowledged, seen or not."""
    ticket = await opened(served)
    async with page_of(served) as page:
        await sign_in(page)
        await at_ticket(page, ticket)
        free = await held_back(page, "**/timeline*")
        message = page.get_by_label("Message")
        await message.fill("Try the other tray.")
        await message.press("Control+Enter")
        await expect(message).not_to_be_focused()  # it was acknowledged
        await message.fill("And the one below.")
        await message.press("Control+Enter")
        await expect(message).to_have_value("")
        await property_(page, "assignee").click()
        await page.get_by_label("assignee", exact=True).fill("alice")
        await page.get_by_role("button", name="Save").click()
        await expect(page.get_by_label("assignee", exact=True)).to_have_count(0)
        assert (await shown(served, ticket))["agent_replies"] == 2
        free.set()
        await expect(property_(page, "assignee")).to_have_text("alice")


async def test_two_commands_in_a_row_are_not_in_each_other_s_way(served, page_of, database):
    """What is begun while another is sent conflicts neither with it nor with one's other tab."""
    await set_up(served, database, fields={"cause": CAUSE})
    ticket = await opened(served)
    async with page_of(served) as page:
        await sign_in(page)
        await at_ticket(page, ticket)
        free = await held_back(page, "**/reply")
        await page.get_by_label("Message").fill("Try the other tray.")
        await page.get_by_label("Message").press("Control+Enter")
        await page.get_by_role("button", name="Resolve").click()
        form = page.get_by_role("dialog").get_by_role("form")
        await form.get_by_label("resolution").fill("A new drum.")
        await form.get_by_label("cause").select_option("paper")
        free.set()
        await expect(page.locator(".message", has_text="Try the other tray.")).to_be_attached()
        await told(served, ticket, "change_priority", {"priority": "high"})
        await expect(page.locator(".marks")).to_contain_text("high")
        await form.get_by_role("button", name="Resolve").click()
        await expect(page.locator(".marks")).to_contain_text("resolved")


async def test_keys_are_kept_for_what_they_are_for(served, page_of):
    """One that is pressed before it is known what can be done, or as a dialog closes."""
    ticket = await opened(served)
    async with page_of(served) as page:
        await sign_in(page)
        free = await held_back(page, "**/commands")
        await page.goto(f"/#/tickets/{ticket}")
        await expect(page.locator(".message")).to_contain_text("It jams.")
        await page.keyboard.press("a")
        await page.keyboard.press("e")  # it is typed for what "a" opens
        free.set()
        await expect(page.get_by_label("assignee", exact=True)).to_be_focused()
        await page.keyboard.press("Escape")
        await expect(page.locator("dialog")).to_have_count(0)
        await page.keyboard.press("e")
        await expect(page.get_by_role("dialog").get_by_label("assignee")).to_be_focused()
        await page.evaluate(
            """() => {
              const field = document.activeElement;
              field.closest("dialog").close();
              field.dispatchEvent(new KeyboardEvent("keydown", { key: "?", bubbles: true }));
            }"""
        )
        await expect(page.get_by_role("dialog", name="Keyboard")).to_be_visible()


async def test_the_focus_stays_where_one_types_when_an_answer_comes(served, page_of):
    """Or what is typed next would be taken for single keys."""
    ticket = await opened(served)
    async with page_of(served) as page:
        await sign_in(page)
        await at_ticket(page, ticket)
        free = await held_back(page, "**/assign")
        await property_(page, "assignee").click()
        await page.get_by_label("assignee", exact=True).fill("alice")
        await page.get_by_role("button", name="Save").click()
        message = page.get_by_label("Message")
        await message.press_sequentially("Please tr")
        free.set()
        await expect(property_(page, "assignee")).to_have_text("alice")
        await page.keyboard.type("y a reset")
        await expect(message).to_have_value("Please try a reset")


async def test_what_is_possible_is_asked_for_again_if_there_was_no_answer(served, page_of):
    ticket = await opened(served)
    async with page_of(served) as page:
        await sign_in(page)
        await page.route("**/commands", lambda route: route.abort(), times=1)
        await page.goto(f"/#/tickets/{ticket}")
        await expect(page.get_by_role("form", name="Write")).to_be_visible()


async def test_what_was_taken_meanwhile_is_not_taken_away(served, page_of, database):
    ticket = await opened(served)
    [other] = await keys_of(database, "agent")
    async with page_of(served) as page:
        await sign_in(page)
        await at_ticket(page, ticket)
        free = await held_back(page, "**/assign")
        await page.get_by_role("button", name="Take it").click()
        async with Connection(served, {"Authorization": f"Bearer {other}"}) as connection:
            answer = await connection.post(f"/tickets/{ticket}/assign", {"assignee": "alice"})
        assert answer.status == 200, answer.body
        free.set()
        await expect(page.get_by_text("assignee is alice")).to_be_visible()
        assert (await shown(served, ticket))["assignee"] == "alice"


async def test_an_answer_that_was_cut_off_is_not_known(served, page_of):
    """And what is sent again is done once."""
    ticket = await opened(served)
    async with page_of(served) as page:
        await sign_in(page)
        await at_ticket(page, ticket)

        async def cut_off(route):
            answer = await route.fetch()
            await route.fulfill(status=answer.status, body=(await answer.body())[:20])

        await page.route("**/reply", cut_off, times=1)
        message = page.get_by_label("Message")
        await message.fill("Try the other tray.")
        await message.press("Control+Enter")
        await expect(page.get_by_role("alert")).to_contain_text(
            "send it again, and it is done once"
        )
        await message.press("Control+Enter")
        await expect(message).to_have_value("")
        assert (await shown(served, ticket))["agent_replies"] == 1


async def test_what_is_typed_while_a_reply_is_sent_stays(served, page_of):
    ticket = await opened(served)
    async with page_of(served) as page:
        held = []

        async def hold(route):
            held.append(route)

        await page.route("**/reply", hold)
        await sign_in(page)
        await at_ticket(page, ticket)
        message = page.get_by_label("Message")
        await message.fill("Try the other tray.")
        async with page.expect_request("**/reply"):
            await message.press("Control+Enter")
        await message.press("Control+Enter")  # it is on its way
        await message.press_sequentially(" And the belt")
        await held[0].continue_()
        await expect(page.locator(".message.by-agent")).to_contain_text("Try the other tray.")
        await expect(message).to_have_value("And the belt")
        await page.reload()
        await expect(message).to_have_value("And the belt")  # it is kept
        assert len(held) == 1


async def test_what_was_begun_to_be_written_is_kept_until_it_is_sent_or_one_signs_out(
    served, page_of
):
    ticket, other = await opened(served), await opened(served, subject="Another jam")
    async with page_of(served) as page:
        await sign_in(page)
        await at_ticket(page, ticket)
        await page.get_by_label("Internal note").check()
        await page.get_by_label("Message").fill("Half a thou")
        await at_ticket(page, other, "Another jam")
        await expect(page.get_by_label("Message")).to_have_value("")
        await at_ticket(page, ticket)
        await page.reload()
        await expect(page.get_by_label("Message")).to_have_value("Half a thou")
        await expect(page.get_by_label("Internal note")).to_be_checked()
        await page.get_by_role("button", name="Sign out").click()
        await sign_in(page)
        await at_ticket(page, ticket)
        await expect(page.get_by_label("Message")).to_have_value("")
        assert await page.evaluate("Object.keys(sessionStorage)") == ["casebook-key"]


async def test_properties_are_edited_in_place_with_suggestions(served, page_of, database):
    await set_up(served, database, groups={"print": ["alice", "bella"], "network": ["carol"]})
    ticket = await opened(served, group="print")
    async with page_of(served) as page:
        await sign_in(page)
        await at_ticket(page, ticket)
        await property_(page, "assignee").click()
        edit = page.get_by_label("assignee", exact=True)
        await expect(edit).to_be_focused()
        options = page.locator(f"#{await edit.get_attribute('list')} option")
        values = [await option.get_attribute("value") for option in await options.all()]
        assert values == ["alice", "bella"]
        assert await serious_faults(page) == []
        await edit.fill("alice")
        await edit.press("Enter")
        await expect(property_(page, "assignee")).to_have_text("alice")
        await expect(property_(page, "assignee")).to_be_focused()
        await property_(page, "priority").click()
        await page.get_by_label("priority", exact=True).select_option("urgent")
        await page.get_by_role("button", name="Save").click()
        await expect(property_(page, "priority")).to_have_text("urgent")
        await property_(page, "group").click()
        await page.get_by_label("group", exact=True).select_option("network")
        await page.get_by_role("button", name="Save").click()
        await expect(property_(page, "group")).to_have_text("network")
        await expect(property_(page, "assignee")).to_have_text("nobody")  # alice is not of it
        await property_(page, "requester").click()
        await page.get_by_label("requester", exact=True).press("Escape")
        await expect(property_(page, "requester")).to_be_focused()
        await page.get_by_role("button", name="Add to tags").click()
        await page.get_by_label("Add to tags").fill("vip, paper")
        await page.get_by_label("Add to tags").press("Enter")
        await expect(page.locator(".chip")).to_have_count(2)
        await page.get_by_role("button", name="Remove vip").click()
        await expect(page.locator(".chip")).to_have_count(1)
        await page.get_by_role("button", name="Remove paper").click()
        await expect(page.locator(".chip")).to_have_count(0)
        await page.get_by_text("More", exact=True).click()
        await page.get_by_role("button", name="Change subject").click()
        await expect(page.get_by_label("subject", exact=True)).to_be_focused()
        await page.keyboard.type("Paper jam")  # in place of what is there
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", level=1)).to_have_text("C-1 Paper jam")


async def test_a_custom_field_is_asked_for_as_its_kind_wants_it(served, page_of, database):
    """Also one that the desk does not define, which can be taken away."""
    ticket = await opened(served, fields={"mood": "bad"})
    kinds = {
        "due": {"type": "date"},
        "price": {"type": "decimal"},
        "count": {"type": "integer"},
        "insured": {"type": "boolean"},
        "parts": {"type": "choices", "choices": ["drum", "belt", "fuser"]},
        "cause": {"type": "choice", "choices": ["toner", "paper"]},
    }
    await set_up(served, database, fields=kinds)
    async with page_of(served) as page:
        await sign_in(page)
        await at_ticket(page, ticket)

        async def change(key, give, after):
            await property_(page, key).click()
            form = page.get_by_role("form", name=f"Change {key}")
            await give(form)
            await form.get_by_role("button", name="Save").click()
            await expect(property_(page, key)).to_have_text(after)

        await change("due", lambda form: form.get_by_label("due").fill("2026-03-01"), "2026-03-01")
        await change("price", lambda form: form.get_by_label("price").fill("12.50"), "12.5")
        await change("count", lambda form: form.get_by_label("count").fill("3"), "3")
        await change("insured", lambda form: form.get_by_label("insured").select_option("no"), "no")
        await change(
            "cause", lambda form: form.get_by_label("cause").select_option("paper"), "paper"
        )
        await page.get_by_role("button", name="Remove mood").click()
        await expect(page.locator(".state")).not_to_contain_text("mood")

        async def two(form):
            await form.get_by_label("fuser").check()
            await form.get_by_label("drum").check()

        await change("parts", two, "drum, fuser")
        await property_(page, "parts").click()
        assert await serious_faults(page) == []
        fields = (await shown(served, ticket))["fields"]
        assert fields == {
            "due": "2026-03-01",
            "price": "12.5",
            "count": 3,
            "insured": False,
            "parts": ["drum", "fuser"],
            "cause": "paper",
        }


async def test_resolving_asks_for_what_is_missing(served, page_of, database):
    await set_up(served, database, fields={"cause": CAUSE})
    ticket = await opened(served)
    async with page_of(served) as page:
        await sign_in(page)
        await at_ticket(page, ticket)
        await page.get_by_role("button", name="Resolve").click()
        form = page.get_by_role("dialog").get_by_role("form")
        await expect(form.get_by_label("assignee")).to_have_value("soak")
        await form.get_by_label("resolution").fill("A new drum.")
        await form.get_by_role("button", name="Resolve").click()
        await expect(form.locator(".fault", has_text="Fill this in.")).to_be_visible()
        assert await serious_faults(page) == []
        assert (await shown(served, ticket))["assignee"] is None  # nothing of it is done
        await form.get_by_label("cause").select_option("paper")
        await form.get_by_role("button", name="Resolve").click()
        await expect(page.locator(".marks")).to_contain_text("resolved")
        await expect(page.locator("dialog")).to_have_count(0)
        await expect(page.locator(".message", has_text="A new drum.")).to_be_visible()
        await expect(property_(page, "cause")).to_have_text("paper")


async def test_no_value_becomes_an_idempotency_key(served, page_of, database):
    """Also one that no header takes: keys stay in the log in plain text."""
    text = {"type": "text", "required_on": "resolve"}
    await set_up(served, database, fields={"code": text, "place": text})
    ticket = await opened(served)
    keys = []
    async with page_of(served) as page:
        page.on("request", lambda asked: keys.append(asked.headers.get("idempotency-key")))
        await sign_in(page)
        await at_ticket(page, ticket)
        await page.get_by_role("button", name="Resolve").click()
        form = page.get_by_role("dialog").get_by_role("form")
        await form.get_by_label("code").fill("4711")
        await form.get_by_label("place").fill("東京")
        await form.get_by_label("resolution").fill("A new drum.")
        await form.get_by_role("button", name="Resolve").click()
        await expect(page.locator(".marks")).to_contain_text("resolved")
    sent = [key for key in keys if key]
    assert len({*sent}) == len(sent) == 4
    assert all(re.fullmatch("[0-9a-f]{32}", key) for key in sent)
    assert (await shown(served, ticket))["fields"] == {"code": "4711", "place": "東京"}


async def test_a_dialog_closes_with_the_page_that_it_is_of(served, page_of):
    """Or it would act on the ticket that one has left."""
    ticket, other = await opened(served), await opened(served, subject="Another jam")
    async with page_of(served) as page:
        await sign_in(page)
        await at_ticket(page, other, "Another jam")
        await at_ticket(page, ticket)
        await page.get_by_role("button", name="Resolve").click()
        await expect(page.get_by_role("dialog").get_by_role("form")).to_be_visible()
        await page.go_back()
        await expect(page.get_by_role("heading", level=1)).to_contain_text("Another jam")
        await expect(page.locator("dialog")).to_have_count(0)


async def test_only_what_is_possible_now_is_offered(served, page_of, database):
    ticket = await opened(served)
    [auditor] = await keys_of(database, "auditor")
    async with page_of(served) as page:
        await sign_in(page)
        await at_ticket(page, ticket)
        more = page.locator(".menu", has_text="More")
        await expect(page.get_by_role("button", name="Reopen")).to_have_count(0)
        await more.locator("summary").click()
        offered = await more.get_by_role("button").all_text_contents()
        assert {"Merge", "Link", "Close", "Redact"} <= {*offered}
        assert not {"Unmerge", "Unlink", "Rate", "Number", "Mark sla breach"} & {*offered}
        await more.locator("summary").press("Escape")
        await property_(page, "status").click()
        form = page.get_by_role("dialog").get_by_role("form")
        options = await form.get_by_label("status").locator("option").all_text_contents()
        assert {*options} == {"choose …", "new", "open", "pending", "on hold"}
        await form.get_by_label("status").select_option("pending")
        await form.get_by_role("button", name="Change status").click()
        await expect(form.get_by_role("alert")).to_contain_text("say in reason")
        await form.get_by_label("reason").fill("a photo")
        await form.get_by_role("button", name="Change status").click()
        await expect(property_(page, "status")).to_have_text("pending")
        await told(served, ticket, "close", {"reason": "invalid"})
        await expect(page.locator(".marks")).to_contain_text("closed")
        await expect(property_(page, "assignee")).to_have_count(0)
        await expect(page.get_by_role("form", name="Write")).not_to_be_visible()
        assert await serious_faults(page) == []
    async with page_of(served) as page:
        await sign_in(page, auditor)
        await page.goto(f"/#/tickets/{ticket}")
        await expect(page.locator(".message")).to_contain_text("It jams.")
        await expect(page.get_by_role("form", name="Write")).not_to_be_visible()
        await expect(page.get_by_text("More", exact=True)).to_have_count(0)


async def test_what_others_do_meanwhile_shows_and_what_was_typed_stays(served, page_of, database):
    """Only another's change of the same property is a conflict; then it says what changed."""
    ticket = await opened(served)
    [agent] = await callers(database.url, "agent")
    async with page_of(served) as page:

        async def first(verb, content):
            async with Connection(served, agent) as colleague:
                answer = await colleague.post(f"/tickets/{ticket}/{verb}", content)
            assert answer.status == 200, answer.body

        await sign_in(page)
        await at_ticket(page, ticket)
        await property_(page, "assignee").click()
        await page.get_by_label("assignee", exact=True).fill("alice")
        await told(served, ticket, "add_tags", {"tags": ["vip"]})  # nothing to ask back for
        await expect(page.locator(".chip")).to_have_text(re.compile("vip"))
        await page.get_by_role("button", name="Save").click()
        await expect(property_(page, "assignee")).to_have_text("alice")
        # Another is first, and this page has not heard of it.
        await property_(page, "priority").click()
        await page.get_by_label("priority", exact=True).select_option("low")
        await page.route("**/timeline*", lambda route: route.abort())
        await first("change_priority", {"priority": "urgent"})
        await page.get_by_role("button", name="Save").click()
        form = page.get_by_role("form", name="Change priority")
        await expect(form.get_by_role("alert")).to_contain_text("It was changed meanwhile")
        await page.unroute("**/timeline*")
        await page.get_by_role("button", name="Save").click()
        await expect(form.get_by_role("alert")).to_contain_text("soak-agent changed the priority")
        await expect(form.get_by_role("alert")).to_contain_text("priority is urgent")
        await expect(page.get_by_label("priority", exact=True)).to_have_value("low")
        assert await serious_faults(page) == []
        await page.get_by_role("button", name="Save").click()
        await expect(property_(page, "priority")).to_have_text("low")
        # And a reply, to which another has replied.
        await page.get_by_label("Message").fill("Try the other tray.")
        await first("reply", {"body": "I am on my way."})
        await expect(page.locator(".message", has_text="I am on my way.")).to_be_visible()
        await page.get_by_role("button", name="Send the reply").click()
        box = page.get_by_role("form", name="Write")
        await expect(box.get_by_role("alert")).to_contain_text("I am on my way.")
        await expect(page.get_by_label("Message")).to_have_value("Try the other tray.")
        await page.get_by_role("button", name="Send the reply").click()
        await expect(page.locator(".message", has_text="Try the other tray.")).to_be_visible()


async def test_a_promise_says_what_is_left_and_how_that_comes_about(served, page_of, database):
    await set_up(served, database, sla={"normal": {"first_response_minutes": 90}})
    ticket = await opened(served)
    async with page_of(served) as page:
        await sign_in(page)
        await at_ticket(page, ticket)
        promise = page.get_by_role("region", name="Promises").locator("details")
        await expect(promise).to_contain_text("First response")
        await expect(promise).to_contain_text(re.compile("due in (1 hour|2 hours|89 minutes)"))
        await promise.locator("summary").click()
        await expect(promise).to_contain_text("Promised 1 h 30 min, used")
        await expect(promise.get_by_role("row").nth(1)).to_contain_text("counts")
        assert await serious_faults(page) == []
        await told(served, ticket, "reply", {"body": "Which tray?"})
        await expect(promise).to_contain_text("met")


async def test_a_ticket_is_merged_by_number_and_the_merge_is_undone(served, page_of):
    first, second = await opened(served), await opened(served, subject="The same jam")
    async with page_of(served) as page:
        await sign_in(page)
        await at_ticket(page, second, "The same jam")
        await page.get_by_text("More", exact=True).click()
        await page.get_by_role("button", name="Merge").click()
        form = page.get_by_role("dialog").get_by_role("form")
        await form.get_by_label("into").fill("C-77")
        await form.get_by_role("button", name="Merge").click()
        await expect(form.locator(".fault")).to_contain_text(["you see no ticket C-77"])
        assert await serious_faults(page) == []
        await form.get_by_label("into").fill("c-1")
        await form.get_by_role("button", name="Merge").click()
        await expect(page.locator(".banner").get_by_role("link")).to_have_text("C-1 Printer jam")
        assert (await shown(served, second))["close_reason"] == "merged"
        await page.get_by_role("button", name="Undo the merge").click()
        await page.get_by_role("dialog").get_by_role("button", name="Undo the merge").click()
        await expect(page.locator(".banner")).not_to_be_visible()
        assert (await shown(served, second))["status"] == "new"
        assert (await shown(served, first))["links"] == []


async def test_the_slider_shows_a_ticket_as_it_was_and_one_line_proves_its_history(
    served, page_of, store
):
    """L11: also that one event is not what was written."""
    ticket = await opened(served)
    await told(served, ticket, "assign", {"assignee": "alice"})
    await told(served, ticket, "change_priority", {"priority": "urgent"})
    await told(served, ticket, "add_note", {"body": "A known fault."})
    async with page_of(served) as page:
        await sign_in(page)
        await at_ticket(page, ticket)
        await page.get_by_role("tab", name="History (4)").click()
        proof = page.locator(".proof")
        await expect(proof.locator("summary")).to_have_text(
            "✓ 4 of 4 events verified in this browser"
        )
        await proof.locator("summary").click()
        await expect(proof.get_by_role("row")).to_have_count(5)
        state = page.locator(".state")
        await page.get_by_label("As it was after event").fill("1")
        await expect(state).to_contain_text("new")
        await expect(state).not_to_contain_text("alice")
        await page.get_by_label("As it was after event").fill("2")
        await expect(state.locator(".changed", has_text="assignee")).to_contain_text("alice")
        await expect(property_(page, "assignee")).to_have_count(0)  # the past is only looked at
        assert await serious_faults(page) == []
        await page.get_by_role("button", name="As it is").click()
        await expect(state).to_contain_text("urgent")
        [*_, last] = await store.load(next(iter([event async for event in store.scan()])).ticket_id)
        log = Database(store._database.url)
        forged = {**to_document(last)["data"], "priority": "low"}
        changed = {"ticket_id": UUID(ticket), "version": 3}
        await log.collection("ticket_events").update_one(changed, {"$set": {"data": forged}})
        await log.close()
        await page.reload()
        await expect(page.locator(".marks")).to_contain_text("history was changed")
        await page.get_by_role("tab", name="History (4)").click()
        await page.get_by_text("✗ History was changed").click()
        await expect(page.get_by_text("✗ not what was written")).to_be_visible()


async def test_a_change_is_said_once_and_as_what_was_added_or_removed(served, page_of):
    ticket = await opened(served, tags=["paper"])
    await told(served, ticket, "add_tags", {"tags": ["vip"]})
    await told(served, ticket, "remove_tags", {"tags": ["paper"]})
    await told(served, ticket, "change_priority", {"priority": "high"})
    async with page_of(served) as page:
        await sign_in(page)
        await at_ticket(page, ticket)
        await page.get_by_role("tab", name="History").click()
        events = page.locator(".event")
        await expect(events.nth(1)).to_contain_text("added tags")
        await expect(events.nth(1).locator("ins")).to_have_text(["+ vip "])
        await expect(events.nth(1).locator("del")).to_have_count(0)
        await expect(events.nth(2).locator("del")).to_have_text(["− paper "])
        await expect(events.nth(2).locator("ins")).to_have_count(0)
        await expect(events.nth(3)).to_contain_text("changed the priority")
        await expect(events.nth(3)).to_contain_text("normal → high")
        for n, once in ((1, "tags"), (3, "priority")):
            assert (await events.nth(n).text_content() or "").count(once) == 1


async def test_a_ticket_that_is_not_there_has_a_way_back(served, page_of):
    await opened(served)
    async with page_of(served) as page:
        await sign_in(page)
        await page.goto("/#/tickets/0192f0c4-0000-7000-8000-000000000001")
        await expect(page.get_by_role("heading", name="No such ticket")).to_be_visible()
        assert await serious_faults(page) == []
        await page.get_by_role("link", name="Back to the tickets").click()
        await expect(page.get_by_role("link", name="Printer jam")).to_be_visible()


async def test_a_ticket_that_one_hands_to_others_says_that_it_is_gone(served, page_of, database):
    """The list that one goes back to is there all the same."""
    await set_up(served, database, groups={"print": ["soak-agent"], "network": ["carol"]})
    ticket = await opened(served, group="print")
    await opened(served, subject="Another jam", group="print")
    [agent] = await keys_of(database, "agent")
    async with page_of(served) as page:
        await sign_in(page, agent)
        await at_ticket(page, ticket)
        await property_(page, "group").click()
        await page.get_by_label("group", exact=True).select_option("network")
        await page.get_by_role("button", name="Save").click()
        await expect(page.locator(".banner")).to_contain_text("You do not see this ticket any more")
        await page.locator(".banner").get_by_role("link", name="Tickets").click()
        await expect(page.locator(".rows a")).to_have_text(["Another jam"])


async def test_a_supervisor_redacts_what_was_pasted(served, page_of):
    ticket = await opened(served, body="My card is 4111.")
    async with page_of(served) as page:
        await sign_in(page)
        await at_ticket(page, ticket)
        await page.get_by_role("button", name="Redact what").click()
        form = page.get_by_role("dialog").get_by_role("form")
        await form.get_by_label("reason").fill("a card")
        await form.get_by_role("button", name="Redact").dblclick()  # is asked all the same
        await form.get_by_role("button", name="Really redact it?").click()
        await expect(page.locator(".message .text")).to_have_text("[redacted]")
        # And nothing else that the same event says.
        await expect(page.get_by_role("heading", level=1)).to_have_text("C-1 Printer jam")
        assert (await shown(served, ticket))["subject"] == "Printer jam"


async def test_a_day_s_work_is_done_with_the_keyboard_alone(served, page_of, database):
    """Open, triage, reply, note, resolve with a missing field, merge, undo."""
    await set_up(served, database, fields={"cause": CAUSE})
    await opened(served, subject="The first jam")
    ticket = await opened(served)
    async with page_of(served) as page:
        press, write = page.keyboard.press, page.keyboard.type
        await sign_in(page)
        await page.goto("/#/tickets")
        await expect(page.locator(".rows tbody tr")).to_have_count(2)
        await press("j")
        await expect(page.get_by_role("link", name="Printer jam")).to_be_focused()
        await press("Enter")
        await expect(property_(page, "assignee")).to_be_visible()
        await press("a")
        await write("alice")
        await press("Enter")
        await expect(property_(page, "assignee")).to_have_text("alice")
        await press("p")
        await expect(page.get_by_label("priority", exact=True)).to_be_focused()
        await write("urgent")
        await press("Tab")
        await press("Enter")
        await expect(property_(page, "priority")).to_have_text("urgent")
        await press("r")
        await write("Try the other tray.")
        await press("Control+Enter")
        await expect(page.get_by_label("Message")).not_to_be_focused()  # single keys are keys again
        await press("n")
        await write("A known fault.")
        await press("Control+Enter")
        await expect(page.locator(".message.internal")).to_contain_text("A known fault.")
        await expect(page.get_by_label("Message")).not_to_be_focused()
        await press("e")
        await expect(page.get_by_role("dialog").get_by_label("cause")).to_be_focused()
        await write("paper")
        await press("Tab")
        await write("A new tray.")
        await press("Tab")
        await press("Enter")
        await expect(page.locator(".marks")).to_contain_text("resolved")
        await press("m")
        await expect(page.get_by_text("More", exact=True)).to_be_focused()
        menu = page.locator(".menu", has_text="More")
        for _ in range(await menu.get_by_role("button").count()):
            await press("ArrowDown")
            if await menu.get_by_role("button", name="Merge").evaluate(
                "(b) => b === document.activeElement"
            ):
                break
        await press("Enter")
        await expect(page.get_by_label("into")).to_be_focused()
        await write("C-1")
        await press("Enter")
        await expect(page.locator(".banner")).to_contain_text("C-1 The first jam")
        await expect(page.get_by_role("button", name="Undo the merge")).to_be_visible()
        for _ in range(40):
            await press("Tab")
            if await page.get_by_role("button", name="Undo the merge").evaluate(
                "(b) => b === document.activeElement"
            ):
                break
        await press("Enter")
        await expect(page.get_by_role("dialog")).to_be_visible()
        await press("Enter")
        await expect(page.locator(".banner")).not_to_be_visible()
        assert (await shown(served, ticket))["status"] == "resolved"


async def test_what_is_hidden_and_was_not_sealed_is_no_changed_history(served, page_of, store):
    """L11: its hash is over words that nobody is shown, and cannot be computed here."""
    ticket, former = uuid4(), Handler(EventStore(store._database, sealing=False))
    order = OpenTicket(subject="Printer jam", requester="bob", body="PIN 4711")
    await former.handle(ticket, Submission(command=order, actor=ALICE))
    await told(served, ticket, "redact", {"version": 1, "fields": ["body"], "reason": "a PIN"})
    async with page_of(served) as page:
        await sign_in(page)
        await at_ticket(page, ticket)
        await page.get_by_role("tab", name="History (2)").click()
        await expect(page.locator(".proof summary")).to_have_text(
            "1 of 2 events verified in this browser"
        )
