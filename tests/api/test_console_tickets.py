"""The console's list of tickets: to find what is to be done, and to do it to several at once."""

import re

import orjson
from playwright.async_api import expect

from scripts.testbed.harness import HEADERS
from scripts.testbed.load import Connection, request
from tests.api.browsing import (
    KEY,
    browsing,
    keys_of,
    opened,
    page_of,
    serious_faults,
    served,
    set_up,
    sign_in,
    told,
)

__all__ = ["page_of", "served"]
pytestmark = browsing


async def at_list(page, rows, search=""):
    await page.goto(f"/#/tickets{search}")
    await expect(page.locator(".rows tbody tr")).to_have_count(rows)


def row(page, subject):
    return page.locator(".rows tbody tr", has_text=subject)


async def saved_view(served, name, **filter_):
    async with Connection(served, HEADERS) as connection:
        saved = request("PUT", f"/views/{name}", orjson.dumps(filter_), HEADERS)
        answer = await connection.send(saved)
    assert answer.status in (200, 201), answer.body


async def test_each_ticket_is_one_line_and_a_page_has_fifty(served, page_of):
    async with Connection(served, HEADERS) as connection:
        for n in range(53):
            long = {
                "subject": f"Jam {n} " + "of which there is much to tell " * 9,
                "requester": "bob",
            }
            await connection.post("/tickets", long)
    await opened(served, subject="The last one")
    async with page_of(served) as page:
        await sign_in(page)
        await at_list(page, 50)
        heights = await page.locator(".rows tbody tr").evaluate_all(
            "(rows) => rows.map((each) => each.offsetHeight)"
        )
        assert max(heights) <= 40, heights
        await expect(page.locator(".pager")).to_contain_text("1–50 of 54")
        assert await serious_faults(page) == []
        await page.get_by_role("button", name="Next").click()
        await expect(page.locator(".rows tbody tr")).to_have_count(4)
        await expect(page.locator(".pager")).to_contain_text("51–54 of 54")
        await expect(page.get_by_role("button", name="Next")).to_be_disabled()
        await page.get_by_role("button", name="Previous").click()
        await expect(page.get_by_role("link", name="The last one")).to_be_focused()


async def test_on_a_phone_each_ticket_is_two_lines(served, page_of):
    await opened(served, subject="A subject of which there is more than fits " * 4)
    async with page_of(served, viewport={"width": 360, "height": 740}) as page:
        await sign_in(page)
        await at_list(page, 1)
        one = page.locator(".rows tbody tr")
        assert 30 < await one.evaluate("(row) => row.offsetHeight") <= 60
        subject, status = one.get_by_role("link"), one.locator(".c-status")
        assert (await subject.bounding_box())["y"] < (await status.bounding_box())["y"]


async def test_columns_are_chosen_and_stay_so(served, page_of, database):
    await set_up(served, database, fields={"floor": {"type": "integer"}})
    await opened(served, tags=["vip"], fields={"floor": 3})
    async with page_of(served) as page:
        await sign_in(page)
        await at_list(page, 1)
        await page.get_by_text("Columns", exact=True).click()
        for name in ("Tags", "floor"):
            await page.get_by_label(name, exact=True).check()
        await page.get_by_label("Requester", exact=True).uncheck()
        headings = page.get_by_role("columnheader")
        await expect(headings).to_contain_text(
            ["", "Number", "Subject", "Status", "Priority", "Assignee", "Changed", "Tags", "floor"]
        )
        await expect(row(page, "Printer jam")).to_contain_text("vip3")
        assert await serious_faults(page) == []
        await page.reload()
        await expect(headings).to_have_count(9)
        await page.evaluate("localStorage.setItem('casebook-columns', '{damaged')")
        await page.reload()
        await expect(headings).to_have_count(8)  # the usual ones


async def test_a_list_is_sorted_by_a_heading_and_says_how(served, page_of):
    for priority in ("low", "urgent", "high"):
        await opened(served, subject=f"A {priority} one", priority=priority)
    async with page_of(served) as page:
        await sign_in(page)
        await at_list(page, 3)
        await page.get_by_role("button", name="Priority").click()
        links = page.locator(".rows a")
        await expect(links).to_have_text(["A urgent one", "A high one", "A low one"])
        heading = page.get_by_role("columnheader", name="Priority")
        await expect(heading).to_have_attribute("aria-sort", "descending")
        await expect(page.get_by_role("button", name="Priority")).to_be_focused()
        await expect(page.get_by_label("Order")).to_have_value("-priority")
        await page.get_by_label("Order").select_option("opened_at")
        await expect(links).to_have_text(["A low one", "A urgent one", "A high one"])


async def test_several_tickets_are_changed_at_once_and_what_was_refused_is_told(served, page_of):
    first, second = await opened(served, subject="One"), await opened(served, subject="Two")
    await opened(served, subject="Three")
    await told(served, second, "close", {"reason": "invalid"})
    async with page_of(served) as page:
        await sign_in(page)
        await at_list(page, 3)
        await page.get_by_label("Select all on this page").check()
        await expect(page.get_by_label("Select all on this page")).to_be_focused()
        await page.get_by_label("Select C-3").uncheck()
        selection = page.get_by_role("region", name="Selection")
        await expect(selection).to_contain_text("2 selected")
        assert await serious_faults(page) == []
        await selection.get_by_text("Change", exact=True).click()
        await selection.get_by_role("button", name="Assign", exact=True).click()
        form = page.get_by_role("dialog").get_by_role("form")
        await expect(form).to_contain_text("Assign: 2 tickets")
        await form.get_by_label("assignee").fill("alice")
        await form.get_by_role("button", name="Assign").click()
        await expect(page.locator(".news")).to_contain_text("1 of 2 done.")
        await expect(page.locator(".news")).to_contain_text("C-2: the ticket is closed")
        await expect(row(page, "One")).to_contain_text("alice")
        await expect(row(page, "Three")).not_to_contain_text("alice")
        await expect(selection).to_contain_text("1 selected")  # what was refused
        async with Connection(served, HEADERS) as connection:
            shown = (await connection.get(f"/tickets/{first}")).json()
        assert shown["assignee"] == "alice"
        await told(served, first, "change_priority", {"priority": "high"})
        await expect(row(page, "One")).to_contain_text("high")
        await expect(page.locator(".news")).to_contain_text("C-2: the ticket is closed")


async def test_a_change_that_ends_after_one_has_left_the_list_leaves_the_address_alone(
    served, page_of
):
    ticket = await opened(served)
    async with page_of(served) as page:
        held = []

        async def hold(route):
            held.append(route)

        await page.route("**/bulk/assign", hold)
        await sign_in(page)
        await at_list(page, 1)
        await page.get_by_label("Select C-1").check()
        await page.get_by_text("Change", exact=True).click()
        await page.get_by_role("button", name="Assign", exact=True).click()
        async with page.expect_request("**/bulk/assign"):
            await page.get_by_role("dialog").get_by_role("button", name="Assign").click()
        await page.goto(f"/#/tickets/{ticket}")
        await expect(page.get_by_role("heading", level=1)).to_contain_text("Printer jam")
        await held[0].continue_()
        await expect(page.locator("#status")).to_have_text("1 of 1 done.")
        assert page.url.endswith(f"#/tickets/{ticket}")


async def test_what_was_changed_stays_selected_for_what_is_done_next(served, page_of):
    await opened(served, subject="One")
    await opened(served, subject="Two")
    async with page_of(served) as page:
        await sign_in(page)
        await at_list(page, 2)
        await page.get_by_label("Select C-1").check()
        all_ = page.get_by_label("Select all on this page")
        assert await all_.evaluate("(box) => box.indeterminate")
        await page.get_by_label("Select C-2").check()
        await expect(all_).to_be_checked()
        selection = page.get_by_role("region", name="Selection")
        await selection.get_by_text("Change", exact=True).click()
        usual = selection.locator(".menu[open]").get_by_role("button")
        await expect(usual.first).to_have_text("Assign")
        assert await usual.count() < 12
        await usual.get_by_text("Add tags").click()
        form = page.get_by_role("dialog").get_by_role("form")
        await form.get_by_label("tags").fill("vip")
        await form.get_by_role("button", name="Add tags").click()
        await expect(page.get_by_text("2 of 2 done.")).to_be_visible()
        await expect(selection).to_contain_text("2 selected")
        await selection.get_by_text("More", exact=True).click()
        await expect(selection.get_by_role("button", name="Redact")).to_be_visible()
        await page.goto("/#/tickets?q=c2")
        await expect(page.locator(".rows a")).to_have_text(["Two"])


async def test_saved_views_stand_at_the_side_with_their_counts_which_are_live(served, page_of):
    await opened(served, subject="Printer fire", priority="urgent")
    await opened(served)
    await saved_view(served, "burning", priority="urgent")
    async with page_of(served) as page:
        await sign_in(page)
        await at_list(page, 2)
        views = page.get_by_role("navigation", name="Saved views")
        await expect(views.get_by_role("link", name="burning")).to_have_text("burning1")
        for link in await views.get_by_role("link").all():
            assert (await link.bounding_box())["height"] < 40  # one line each
        await opened(served, subject="Another fire", priority="urgent")
        await expect(views.get_by_role("link", name="burning")).to_have_text("burning2")
        await views.get_by_role("link", name="burning").click()
        await expect(page.locator(".rows a")).to_have_text(["Another fire", "Printer fire"])
        await expect(views.get_by_role("link", name="burning")).to_have_attribute(
            "aria-current", "true"
        )
        await views.get_by_role("link", name="All tickets").click()
        await expect(page.locator(".rows a")).to_have_count(3)
        assert await serious_faults(page) == []


async def test_a_view_is_saved_from_a_search_changed_and_deleted(served, page_of, database):
    """What no view can keep of the search is said; an agent only looks."""
    await opened(served, subject="Printer fire", priority="urgent")
    await opened(served)
    async with page_of(served) as page:
        await sign_in(page)
        await at_list(page, 1, "?q=priority:urgent assignee:none fire")
        views = page.get_by_role("navigation", name="Saved views")
        await expect(views.get_by_role("link", name="Unsolved", exact=False).first).to_have_text(
            "Unsolved2"
        )
        await expect(views.get_by_role("link", name="Unassigned")).to_have_text("Unassigned2")
        await views.get_by_role("button", name="Save a view").click()
        form = page.get_by_role("dialog").get_by_role("form")
        await expect(form).to_contain_text("no words, no times, no custom fields, no order")
        await expect(form).to_contain_text("Not kept of this search, as no view has it: fire")
        await expect(form.get_by_label("priority")).to_have_value("urgent")
        await expect(form.get_by_label("assignee")).to_have_value("none")
        assert await serious_faults(page) == []
        await form.get_by_label("name").fill("burning")
        await form.get_by_role("button", name="Save").click()
        await expect(views.get_by_role("link", name="burning")).to_have_text("burning1")
        await expect(page.locator(".rows a")).to_have_text(["Printer fire"])
        await views.get_by_role("button", name="Change").click()
        await form.get_by_label("priority").select_option("normal")
        await form.get_by_role("button", name="Save").click()
        await expect(page.locator(".rows a")).to_have_text(["Printer jam"])
        await views.get_by_role("button", name="Delete").click()
        await views.get_by_role("button", name="Really delete it?").click()
        await expect(views.get_by_role("link", name="burning")).to_have_count(0)
        await expect(page.locator(".rows a")).to_have_count(2)
    [agent] = await keys_of(database, "agent")
    async with page_of(served) as page:
        await sign_in(page, agent)
        await at_list(page, 2)
        await expect(page.get_by_role("link", name="Unassigned")).to_have_text("Unassigned2")
        await expect(page.get_by_role("button", name="Save a view")).to_have_count(0)


async def test_an_agent_of_groups_sees_counts_of_what_they_see(served, page_of, database):
    await set_up(served, database, groups={"print": ["soak-agent"], "network": []})
    await opened(served, subject="Of print", group="print")
    await opened(served, subject="Of network", group="network")
    await saved_view(served, "everything", solved=False)
    [agent] = await keys_of(database, "agent")
    async with page_of(served) as page:
        await sign_in(page, agent)
        await at_list(page, 1)
        await expect(page.get_by_role("link", name="Of print")).to_be_visible()
        views = page.get_by_role("navigation", name="Saved views")
        await expect(views.get_by_role("link", name="everything")).to_have_text("everything1")


async def test_a_list_is_worked_with_single_keys(served, page_of):
    for n in (1, 2, 3):
        await opened(served, subject=f"Jam {n}")
    async with page_of(served) as page:
        press = page.keyboard.press
        await sign_in(page)
        await at_list(page, 3)
        await press("j")
        await press("j")
        await expect(page.get_by_role("link", name="Jam 2")).to_be_focused()
        await press("x")
        await expect(page.get_by_label("Select C-2")).to_be_checked()
        await press("k")
        await expect(page.get_by_role("link", name="Jam 3")).to_be_focused()
        await press("?")
        help_ = page.get_by_role("dialog", name="Keyboard")
        await expect(help_).to_contain_text("next ticket")
        await expect(help_).to_contain_text("reply to the ticket")
        assert await serious_faults(page) == []
        await press("Escape")
        await expect(page.get_by_role("link", name="Jam 3")).to_be_focused()
        await press("/")
        await expect(page.get_by_label("Search")).to_be_focused()
        await page.keyboard.type("xjn")  # is typed, and nothing else
        await expect(page.get_by_label("Search")).to_have_value("xjn")
        await page.get_by_label("Search").blur()
        await press("n")
        await expect(page.get_by_label("subject")).to_be_focused()
        await press("Escape")
        await expect(page.locator("dialog")).to_have_count(0)
        await press("j")
        await press("r")
        await expect(page.get_by_label("Message")).to_be_focused()
        await page.get_by_label("Message").blur()
        await press("u")
        await expect(page.locator(".rows tbody tr")).to_have_count(3)
        # Who dictates, or is used to other keys, turns them off.
        await press("?")
        await page.get_by_label("Use single keys").uncheck()
        await page.get_by_role("button", name="Close").click()
        await press("n")
        await expect(page.locator("dialog")).to_have_count(0)


async def test_a_search_is_completed_with_the_languages_words_and_the_desks_names(
    served, page_of, database
):
    await set_up(served, database, groups={"field service": ["Agent 10"]})
    await opened(served, group="field service", tags=["vip"])
    await opened(served, subject="Network down")
    async with page_of(served) as page:
        await sign_in(page)
        await at_list(page, 2)
        search, options = page.get_by_label("Search"), page.locator(".completions li")
        await search.press_sequentially("gr")
        await expect(options).to_have_text([re.compile("^group:")])
        assert await serious_faults(page) == []
        await search.press("ArrowDown")
        await search.press("Enter")
        await expect(search).to_have_value("group:")
        await expect(options).to_have_text(["group:none", 'group:"field service"'])
        await search.press_sequentially("f")
        await search.press("ArrowDown")
        await search.press("Tab")
        await expect(search).to_have_value('group:"field service" ')
        await search.press_sequentially("-status:cl")
        await options.click()
        await expect(search).to_have_value('group:"field service" -status:closed ')
        await search.press("Enter")
        await expect(page.locator(".rows tbody tr")).to_have_count(1)
        await search.fill("")
        await search.press_sequentially("tag:v")
        await expect(options).to_have_text(["tag:vip"])
        await search.press("Escape")
        await expect(options).to_have_count(0)


async def test_a_bad_search_keeps_the_list_and_says_what_to_mend(served, page_of):
    await opened(served)
    async with page_of(served) as page:
        await sign_in(page)
        await at_list(page, 1)
        search = page.get_by_label("Search")
        await search.fill("jam stauts:open")
        await search.press("Enter")
        await expect(page.get_by_role("alert")).to_contain_text("unknown key 'stauts'")
        await expect(page.get_by_role("alert")).to_contain_text("status")
        await expect(page.get_by_role("link", name="Printer jam")).to_be_visible()
        assert await page.evaluate("getSelection().toString()") == "stauts:open"
        assert await serious_faults(page) == []
        await search.fill("jam status:new")
        await search.press("Enter")
        await expect(page.locator("#search-fault")).to_be_empty()
        await expect(page.locator(".rows tbody tr")).to_have_count(1)
        # One that came with the address has no list to keep, and a way out.
        await page.goto("/#/tickets?q=stauts:open")
        await page.locator("main").get_by_role("link", name="all tickets", exact=True).click()
        await expect(page.locator(".rows tbody tr")).to_have_count(1)
        await page.goto("/#/tickets?q=nothing")
        await expect(page.get_by_text("No ticket matches.")).to_be_visible()


async def test_each_example_of_a_search_is_answered(served, page_of):
    async with page_of(served) as page:
        await sign_in(page, KEY)
        await page.goto("/#/tickets")
        await page.get_by_text("How to search").click()
        for example in await page.locator(".help").get_by_role("button").all():
            await page.get_by_label("Search").fill("")
            await example.click()
            async with page.expect_response(lambda r: "/tickets?" in r.url) as answered:
                await page.get_by_role("button", name="Find").click()
            assert (await answered.value).status == 200, await example.text_content()


async def test_a_search_is_kept_in_the_address(served, page_of):
    """Also its order, and a saved view: it can be sent to others, and one comes back to it."""
    await opened(served, subject="Printer jam")
    await opened(served, subject="Printer fire", priority="urgent")
    await opened(served, subject="Network down", priority="urgent")
    await saved_view(served, "burning", priority="urgent")
    async with page_of(served) as page:
        await sign_in(page)
        await at_list(page, 2, "?view=burning")
        await page.get_by_label("Order").select_option("opened_at")
        await expect(page.locator(".rows a").first).to_have_text("Printer fire")
        await page.get_by_label("Search").fill("printer")
        await page.get_by_role("button", name="Find").click()
        await expect(page.locator(".rows a")).to_have_text(["Printer fire"])
        address = page.url
        await page.get_by_role("link", name="Printer fire").click()
        await page.get_by_role("link", name="‹ Tickets").click()
        await expect(page.locator(".rows a")).to_have_text(["Printer fire"])
        assert page.url == address
        await expect(page.get_by_label("Order")).to_have_value("opened_at")
        await expect(page.get_by_role("link", name="burning")).to_have_attribute(
            "aria-current", "true"
        )
        await expect(page.get_by_label("Search")).to_have_value("printer")


async def test_no_search_stays_in_the_address_after_one_has_signed_out(served, page_of):
    await opened(served)
    async with page_of(served) as page:
        await sign_in(page)
        await at_list(page, 1, "?q=requester:bob")
        await page.get_by_role("button", name="Sign out").click()
        await expect(page.get_by_role("heading", name="Sign in", level=1)).to_be_visible()
        assert page.url == f"http://127.0.0.1:{served}/"


async def test_what_others_do_shows_by_itself_and_moves_nothing_under_ones_hands(served, page_of):
    ticket = await opened(served)
    async with page_of(served) as page:
        await sign_in(page)
        await at_list(page, 1)
        await opened(served, subject="Another jam")
        await expect(page.locator(".rows tbody tr")).to_have_count(2)
        await page.get_by_role("link", name="Printer jam").focus()
        await told(served, ticket, "assign", {"assignee": "alice"})
        await expect(row(page, "Printer jam")).to_contain_text("alice")  # where it stands
        await expect(page.get_by_role("link", name="Printer jam")).to_be_focused()
        await opened(served, subject="A third one")
        await expect(page.get_by_text("This list has changed.")).to_be_visible()
        await expect(page.locator(".rows tbody tr")).to_have_count(2)
        await page.get_by_role("button", name="Show it as it is now").click()
        await expect(page.locator(".rows tbody tr")).to_have_count(3)
        await expect(page.get_by_text("This list has changed.")).not_to_be_visible()


async def test_a_click_finds_what_it_was_begun_on(served, page_of):
    """Also if the row has changed while the button was down."""
    ticket = await opened(served)
    async with page_of(served) as page:
        await sign_in(page)
        await at_list(page, 1)
        await page.get_by_role("link", name="Printer jam").hover()
        await page.mouse.down()
        async with page.expect_response("**/views"):  # it is asked for when the list is there
            await told(served, ticket, "assign", {"assignee": "alice"})
        await page.evaluate("new Promise((go) => requestAnimationFrame(() => setTimeout(go)))")
        await page.mouse.up()
        await expect(page.get_by_role("heading", level=1)).to_contain_text("Printer jam")


async def test_a_list_that_comes_late_is_not_shown_for_another(served, page_of):
    """Nor does it take away where one has just gone, or the page that is turned to twice."""
    async with Connection(served, HEADERS) as connection:
        for n in range(100):
            await connection.post("/tickets", {"subject": f"Jam {n}", "requester": "bob"})
    await opened(served, subject="Jam 100")  # and they are in the views
    async with page_of(served) as page:
        await sign_in(page)
        await at_list(page, 50)
        # At once: the page may be there before a second key comes, which would turn to the next.
        await page.evaluate(
            """() => {
              for (const key of "]]") {
                document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
              }
            }"""
        )
        await expect(page.locator(".pager")).to_contain_text("51–100 of 101")
        await expect(page.locator(".rows a").first).to_have_text("Jam 50")
        # The answer comes when the address has changed, and nobody has heard of that yet.
        await page.evaluate(
            """() => {
              const { json } = Response.prototype;
              Response.prototype.json = async function () {
                const content = await json.call(this);
                if (this.url.includes("sort=opened_at")) {
                  Response.prototype.json = json;
                  location.hash = "#/tickets?q=nothing";
                }
                return content;
              };
            }"""
        )
        await page.get_by_label("Order").select_option("opened_at")
        await expect(page.get_by_text("No ticket matches.")).to_be_visible()
        assert page.url.endswith("?q=nothing")


async def test_a_ticket_is_opened_as_it_would_be_without_the_console(served, page_of):
    """What is not chosen is as the API has it: of normal priority."""
    async with page_of(served) as page:
        await sign_in(page)
        await page.goto("/#/tickets")
        await page.get_by_role("button", name="New ticket").click()
        form = page.get_by_role("form", name="New ticket")
        await form.get_by_label("subject").fill("By hand")
        await form.get_by_label("requester").fill("bob")
        await form.get_by_label("fields").fill("floor = 3\nroom=007")
        await form.get_by_role("button", name="Open the ticket").click()
        await expect(page.get_by_role("heading", name="By hand")).to_be_visible()
        await expect(page.locator(".title .priority-normal")).to_be_visible()
        await expect(page.locator(".state")).to_contain_text("floor3")
        await expect(page.locator(".state")).to_contain_text("room007")


async def test_where_there_is_no_ticket_it_says_what_to_do_next(served, page_of, database):
    required = {"floor": {"type": "integer", "required_on": "open"}}
    await set_up(served, database, fields=required)
    async with page_of(served) as page:
        await sign_in(page)
        await page.goto("/#/tickets")
        welcome = page.locator(".welcome")
        await expect(welcome).to_contain_text("There are no tickets yet")
        await expect(welcome).to_contain_text("make demo")
        await expect(welcome).to_contain_text("casebook keys make alice agent")
        assert await serious_faults(page) == []
        await page.goto("/#/tickets?new")
        form = page.get_by_role("form", name="New ticket")
        await form.get_by_label("subject").fill("The first one")
        await form.get_by_label("requester").fill("bob")
        await form.get_by_label("floor").fill("3")
        await form.get_by_role("button", name="Open the ticket").click()
        await expect(page.get_by_role("heading", name="The first one")).to_be_visible()
