"""The console's desk, in a real browser: figures with their trend, and plots of any size."""

from datetime import timedelta
from typing import Any

from playwright.async_api import expect

from scripts.testbed.harness import HEADERS
from scripts.testbed.load import Connection
from tests.api.browsing import (
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
from tests.processes import process
from tests.projecting import until

__all__ = ["page_of", "served"]
pytestmark = browsing

# The words that are on each canvas: what a plot's axes say.
WATCH = """
  const words = (window.words = new Map());
  const { fillText, clearRect } = CanvasRenderingContext2D.prototype;
  CanvasRenderingContext2D.prototype.clearRect = function (...all) {
    words.set(this.canvas, []);
    return clearRect.apply(this, all);
  };
  CanvasRenderingContext2D.prototype.fillText = function (text, ...all) {
    words.get(this.canvas)?.push(text);
    return fillText.call(this, text, ...all);
  };
"""
SAID = (
    """() => [...document.querySelectorAll("figure.plot canvas")].map((c) => window.words.get(c))"""
)
PLOT = """async ([count, value]) => {
  const { plot, COUNTS } = await import("/console/plots.js");
  const place = document.createElement("figure");
  place.className = "plot";
  document.querySelector("main").replaceChildren(place);
  const rows = Array.from({ length: count }, (_, n) => ({
    date: new Date(Date.UTC(2026, 2, 1) - (count - 1 - n) * 86400000).toISOString().slice(0, 10),
  }));
  const began = performance.now();
  plot(place, "Tickets", rows, [{ name: "all", colour: "--plot-1", value: () => value }], COUNTS);
  await new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)));
  return [performance.now() - began, window.words.get(place.querySelector("canvas"))];
}"""


async def tile(page, name):
    """Return what a figure says."""
    return await page.locator(".tile", has=page.get_by_text(name, exact=True)).inner_text()


async def test_demo_data_is_shown_on_any_past_day_with_its_trend(served, page_of, database):
    async with process("scripts.demo", CASEBOOK_MONGODB_URL=database.url) as demo:
        assert await demo.wait() == 0
    past = str((await database.server_time() - timedelta(days=20)).date())
    async with page_of(served) as page:
        await sign_in(page)
        async with Connection(served, HEADERS) as connection:
            day: Any = (await connection.get(f"/dashboard?date={past}&days=30")).json()
        await page.get_by_label("As of the end of").fill(past)
        unsolved = page.locator(".tile.first dd")
        await expect(unsolved).to_contain_text(str(day["backlog"]["total"]))
        await expect(unsolved).to_contain_text(f"from {day['period']['backlog_before']}")
        await expect(page.get_by_role("heading", name=f"The 30 days to {past}")).to_be_visible()
        await expect(page.get_by_text(f"As of the end of {past}, in days of UTC.")).to_be_visible()
        created = await tile(page, "created")
        assert str(day["period"]["happened"]["created"]) in created
        assert f"{day['on_date']['created']} on that day" in created
        plot = page.locator("figure", has_text="Backlog")
        await plot.get_by_text("As a table").click()
        await expect(plot.get_by_role("row", name=past)).to_contain_text(
            str(day["backlog"]["total"])
        )
        assert await serious_faults(page) == []
        # Of some days there is nothing to draw; and from there one gets on.
        await page.get_by_label("As of the end of").fill("2001-01-01")
        await expect(page.get_by_text("No ticket had been opened by then.")).to_be_visible()
        await page.get_by_label("As of the end of").fill(past)
        await expect(unsolved).to_contain_text(str(day["backlog"]["total"]))
        await page.get_by_role("link", name="Tickets").click()
        await expect(page.locator(".rows a").first).to_be_visible()


async def test_a_day_is_typed_and_stays_chosen_with_the_rest(served, page_of, database):
    await opened(served)
    now = await database.server_time()
    async with page_of(served) as page:
        await sign_in(page)
        await expect(page.locator(".tile.first dd")).to_contain_text("of 1")
        await page.get_by_label("As of the end of").focus()
        await page.keyboard.type(f"{now:%m%d%Y}")
        await expect(
            page.get_by_role("heading", name=f"The 30 days to {now.date()}")
        ).to_be_visible()
        await page.get_by_label("Period").select_option("7")
        await page.reload()
        await expect(
            page.get_by_role("heading", name=f"The 7 days to {now.date()}")
        ).to_be_visible()
        await page.get_by_label("Period").select_option("last month")
        end = now.replace(day=1) - timedelta(days=1)
        await expect(page.get_by_label("As of the end of")).to_have_value(str(end.date()))
        assert f"day={end.date()}&period=month" in page.url


async def test_plots_of_one_ticket_have_whole_numbers_and_no_years_to_come(served, page_of):
    ticket = await opened(served)
    await told(served, ticket, "reply", {"body": "It is on its way."})
    async with page_of(served) as page:
        await page.add_init_script(WATCH)
        await page.reload()
        await sign_in(page)
        await expect(page.locator("figure canvas")).to_have_count(3)  # nothing is resolved yet
        await page.get_by_label("Period").select_option("7")
        await expect(page.get_by_role("heading", name="Last 7 days")).to_be_visible()
        for plot in await page.evaluate(SAID):
            assert len(plot) == len(set(plot)), plot
            assert not [word for word in plot if "." in word], plot
            years = {word for word in plot if len(word) == 4 and word.startswith("20")}
            assert len(years) <= 2, plot
        for legend in await page.locator(".u-legend").all_inner_texts():
            assert "–" not in legend
            assert "--" not in legend
        assert "< 1 s" in await tile(page, "first response")


async def test_a_plot_is_right_at_one_point_and_quick_at_ten_thousand(served, page_of):
    async with page_of(served) as page:
        await page.add_init_script(WATCH)
        await page.reload()
        await sign_in(page)
        _, one = await page.evaluate(PLOT, [1, 1])
        assert "1 Mar" in one
        assert "2026" in one
        assert {"0", "1"} <= set(one)
        assert len(one) == len(set(one))
        milliseconds, many = await page.evaluate(PLOT, [10_000, 12_345])
        assert milliseconds < 1000
        assert len([word for word in many if len(word) == 4 and word.isdigit()]) >= 4  # years
        assert "10,000" in many
        await expect(page.locator(".u-legend")).to_contain_text("12,345")


async def test_agents_of_groups_are_shown_theirs(served, page_of, database):
    [agent] = await keys_of(database, "agent")
    await set_up(served, database, groups={"print": ["soak-agent"], "network": []})
    await opened(served, subject="Of print", group="print")
    await opened(served, subject="Of network", group="network")
    async with page_of(served) as page:
        await sign_in(page, agent)
        await expect(page.locator(".tile.first dd")).to_contain_text("of 1")
        await expect(page.get_by_label("Group").locator("option")).to_have_text(["print"])
        await page.get_by_role("link", name="Tickets").click()
        await expect(page.get_by_role("link", name="Of print")).to_be_visible()
        await expect(page.get_by_role("link", name="Of network")).to_have_count(0)


async def test_days_are_those_of_the_zone_that_is_chosen(served, page_of, database):
    zones = ["Asia/Tokyo"]
    await set_up(served, database, time_zone="Europe/Berlin", other_time_zones=zones)
    await opened(served)

    async def counted():  # the views are built anew for it
        async with Connection(served, HEADERS) as connection:
            answer = await connection.get("/dashboard?tz=Asia/Tokyo")
            return answer.status == 200

    await until(counted)
    async with page_of(served) as page:
        await sign_in(page)
        await expect(page.get_by_text("in days of Europe/Berlin.")).to_be_visible()
        await page.get_by_label("Days of").select_option("Asia/Tokyo")
        await expect(page.get_by_text("in days of Asia/Tokyo.")).to_be_visible()
        assert await serious_faults(page) == []
