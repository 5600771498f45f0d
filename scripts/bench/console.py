"""The console's desk in a browser, over many tickets: until it is painted, and whether it keeps up.

*Painted*: it is opened in a new browser session; from the last byte of its data, and from the
beginning, until figures and plots are on the screen. *Live*: commands at a steady rate, every fifth
one opening a ticket; from an opening's answer until the desk's first figure counts it. It looks at
most once a second. *Heard of*: from the answer of the last event that it had heard of when it
looked. If it fell behind, the last third of a stretch would be later than the first.
"""

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from statistics import median
from typing import NamedTuple, cast
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

from playwright.async_api import Browser, Page, Request

from projections.generations import Generations
from scripts.bench.found import Table
from scripts.bench.made_up_views import DAYS, copies, made_up_lives, write_views
from scripts.bench.measuring import Options, in_turns, percentiles, prepared, send_at_rate
from scripts.testbed.browser import chromium
from scripts.testbed.harness import HEADERS, until
from scripts.testbed.services import service

_COMMANDS_PER_SECOND = 200
_LATE_SECONDS = 60
_STRETCH = 10  # so many times the seconds of other measurements

# Each frame: is the desk painted, and how many tickets are unsolved? Times are as Python has them.
_WATCH = """() => {
  const seen = (window.seen = { painted: null, counts: [] });
  const look = () => {
    const figure = document.querySelector(".tile.first dd")?.firstChild?.textContent;
    if (figure) {
      const now = performance.now();
      const isDrawn = document.querySelectorAll(".plot canvas").length === 4;
      if (isDrawn && seen.painted === null) {
        seen.painted = Infinity;
        requestAnimationFrame(() => (seen.painted = performance.now())); // it was painted before
      }
      const count = Number(figure.replaceAll(",", ""));
      if (seen.counts.at(-1)?.[1] !== count)
        seen.counts.push([(performance.timeOrigin + now) / 1000, count]);
    }
    requestAnimationFrame(look);
  };
  look();
}"""
_PAINTED = """() => {
  const all = performance.getEntriesByType("resource");
  const data = all.filter((each) => each.name.includes("/dashboard"));
  const first = new Map(); // answers of each: later ones refresh
  for (const each of data) if (!first.has(each.name)) first.set(each.name, each.responseEnd);
  const last = Math.max(...first.values());
  return [window.seen.painted - last, window.seen.painted];
}"""


class Session(NamedTuple):
    """The desk in one browser session: when it was painted, in milliseconds from its data and from
    the beginning; commands/s; and, in order, how late opened tickets were counted, and the last
    event was that the desk had heard of when it looked, in seconds.
    """

    of_data: float
    of_beginning: float
    rate: float
    counted: list[float]
    heard: list[float]


async def measure(url: str, options: Options) -> list[Table]:
    """Measure at so many tickets, of which the last was opened now."""
    seconds = options.seconds * _STRETCH
    async with chromium() as browser:
        async with prepared(url) as database:
            lives = made_up_lives(datetime.now(UTC) - timedelta(days=DAYS))
            shown = await Generations(database).shown()
            await write_views(shown, copies(lives, options.tickets))
        async with service("projecting", url) as port:
            ways = {"the desk": partial(_session, browser, port, seconds)}
            found = await in_turns(ways, options.rounds, "the desk")
    sessions = found["the desk"]
    painted = {
        "its data": [each.of_data for each in sessions],
        "the beginning": [each.of_beginning for each in sessions],
    }
    rate = median(each.rate for each in sessions)
    return [
        Table(
            f"The desk painted, {options.tickets:,} tickets",
            ["from", "median ms", "longest ms"],
            [[name, f"{median(ms):.0f}", f"{max(ms):.0f}"] for name, ms in painted.items()],
            "ms",
            {f"from {name}": ms for name, ms in painted.items()},
        ),
        Table(
            f"The desk live, {rate:.0f} commands/s for {seconds:.0f} s",
            ["late", "p50 s", "p99 s", "first third s", "last third s", "measured"],
            [
                ["counted", *_late([each.counted for each in sessions])],
                ["heard of", *_late([each.heard for each in sessions])],
            ],
            "s",
        ),
    ]


def _late(stretches: Sequence[Sequence[float]]) -> list[str]:
    """Return the figures of a row: of all, and of the first and last thirds of each stretch."""
    every = [seconds for stretch in stretches for seconds in stretch]
    first = median(median(each[: len(each) // 3]) for each in stretches)
    last = median(median(each[-(len(each) // 3) :]) for each in stretches)
    return [*(f"{each:.2f}" for each in (*percentiles(every), first, last)), f"{len(every)}"]


async def _session(browser: Browser, port: int, seconds: float) -> Session:
    """Open the desk in a session of its own, and watch it under load once all of it is painted."""
    context = await browser.new_context(base_url=f"http://127.0.0.1:{port}")
    key = HEADERS["Authorization"].split()[1]
    await context.add_init_script(f"sessionStorage.setItem('casebook-key', '{key}')")
    await context.add_init_script(f"({_WATCH})()")
    page = await context.new_page()
    await page.goto("/#/desk")
    await _until(page, "Number.isFinite(window.seen.painted ?? Infinity)")
    await page.get_by_text("live", exact=True).wait_for()
    of_data, of_beginning = cast("tuple[float, float]", await page.evaluate(_PAINTED))
    live = await _live(page, port, seconds)
    await context.close()
    return Session(of_data, of_beginning, *live)


async def _live(page: Page, port: int, seconds: float) -> tuple[float, list[float], list[float]]:
    """Send commands, and watch; return what a `Session` has of it."""
    base = await _settled(page)
    opened: list[float] = []
    acknowledged: dict[str, float] = {}
    asked: list[tuple[float, str]] = []

    def note(sent: Request) -> None:
        [*_, after] = parse_qs(urlsplit(sent.url).query).get("after", [""])
        if "/dashboard?" in sent.url and after:
            asked.append((time.time(), after))

    def answered(ticket_id: UUID, version: int) -> None:
        acknowledged[f"{ticket_id}@{version}"] = time.time()
        if version == 1:
            opened.append(time.time())

    page.on("request", note)
    rate = await send_at_rate(port, _COMMANDS_PER_SECOND, seconds, answered)
    await _until(page, f"window.seen.counts.at(-1)[1] >= {base + len(opened)}")
    frames = iter(cast("list[tuple[float, int]]", await page.evaluate("window.seen.counts")))
    at, shown = next(frames)
    counted = []
    for n, answer_at in enumerate(opened, start=1):
        while shown < base + n:
            at, shown = next(frames)
        counted.append(max(0.0, at - answer_at))
    heard = [max(0.0, at - acknowledged[one]) for at, one in asked if one in acknowledged]
    return rate, counted, heard


async def _until(page: Page, condition: str) -> None:
    # Playwright's own way would evaluate text in the page, which the console's policy forbids.
    await until(lambda: page.evaluate(condition), _LATE_SECONDS, condition)


async def _settled(page: Page) -> int:
    """Return how many tickets the desk counts, once that has not changed for a while."""
    before = -1
    while True:
        now = int(await page.evaluate("window.seen.counts.at(-1)[1]"))
        if now == before:
            return now
        before = now
        await asyncio.sleep(3)
