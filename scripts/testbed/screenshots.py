"""Take pictures of the console: each page by day, night and phone, as each role sees it.

On a database of its own, with what `casebook demo` loads. All go into
`build/screenshots`; those that `docs/guides/console.md` shows go beside it, too. Needs Chromium.
"""

import argparse
import asyncio
import os
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from playwright.async_api import Browser, Page, ViewportSize, expect

from scripts.cli import start
from scripts.demo import STORY
from scripts.testbed.browser import chromium
from scripts.testbed.harness import (
    HEADERS,
    accepted,
    callers,
    code_of,
    free_port,
    require,
    scratch,
    serving,
)
from scripts.testbed.load import Connection

_FOLDER = Path("build/screenshots")
_GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "console.md"
_SHOWN = frozenset(re.findall(r"console/([\w-]+\.png)", _GUIDE.read_text()))
_LOOKS: Mapping[str, ViewportSize] = {
    "light": {"width": 1280, "height": 860},
    "dark": {"width": 1280, "height": 860},
    "phone": {"width": 360, "height": 780},
}


class _Shot(NamedTuple):
    """A page: who looks at it, where it is, and what is there once it is drawn."""

    role: str
    address: str
    drawn: str


_SHOTS: Mapping[str, _Shot] = {
    "sign-in": _Shot("", "/", ".sign-in"),
    "desk": _Shot("supervisor", "/#/desk", "figure:nth-of-type(4) canvas"),
    "tickets": _Shot("supervisor", "/#/tickets", ".rows a"),
    "ticket": _Shot("agent", f"/#/tickets/{STORY}", ".write"),
    "system": _Shot("supervisor", "/#/system", ".plot canvas"),
    "webhooks": _Shot("supervisor", "/#/system/webhooks", "table"),
    "set-up": _Shot("admin", "/#/system/desk", ".editor .group"),
    "keys": _Shot("admin", "/#/system/keys", "table"),
    "erasures": _Shot("admin", "/#/system/erasures", "#person"),
    "requests": _Shot("requester", "/#/tickets", ".requests a"),
    "request": _Shot("requester", "", ".talk li"),
}


async def main(_: argparse.Namespace) -> int:
    port = free_port()
    async with (
        chromium() as browser,
        scratch(durable=False) as url,
        serving("scripts.serve", port=port, url=url),
    ):
        signing = str(Path(os.environ["CASEBOOK_DATA_DIR"], "signing-key.pem"))
        for command in ("demo", "replay", "checkpoint"):
            code = await code_of(
                f"scripts.{command}", CASEBOOK_MONGODB_URL=url, CASEBOOK_SIGNING_KEY=signing
            )
            require(code == 0, f"{command} ends well")
        keys = await _keys(url)
        async with Connection(port, HEADERS) as connection:
            hook = {"url": "http://127.0.0.1:9/casebook", "types": ["TicketOpened"]}
            accepted(await connection.post("/webhooks", hook))
            for look in _LOOKS:
                work = asyncio.create_task(_work(connection))
                await _take(browser, port, look, keys)
                work.cancel()
                await asyncio.wait([work])
    return 0


async def _keys(url: str) -> Mapping[str, str]:
    """Return a key of each role."""
    [admin] = await callers(url, "admin")
    folder = Path(os.environ["CASEBOOK_DATA_DIR"])
    demo = {role: folder / f"demo-{role}-key" for role in ("supervisor", "agent", "requester")}
    return {
        "admin": admin["Authorization"].removeprefix("Bearer "),
        **{role: path.read_text().strip() for role, path in demo.items()},
    }


async def _take(browser: Browser, port: int, look: str, keys: Mapping[str, str]) -> None:
    """Take the pictures of one look."""
    for role in dict.fromkeys(shot.role for shot in _SHOTS.values()):
        context = await browser.new_context(
            base_url=f"http://127.0.0.1:{port}",
            viewport=_LOOKS[look],
            color_scheme="dark" if look == "dark" else "light",
            reduced_motion="reduce",
        )
        if role:
            kept = f"sessionStorage.setItem('casebook-key', '{keys[role]}')"
            await context.add_init_script(kept)
        page = await context.new_page()
        for name, shot in _SHOTS.items():
            if shot.role == role:
                if shot.address:
                    await page.goto(shot.address)
                else:
                    await page.locator(".requests a").first.click()
                await page.locator(shot.drawn).first.wait_for()
                await _keep(page, _FOLDER / f"{name}-{look}.png")
        await context.close()


async def _keep(page: Page, path: Path) -> None:
    await expect(page.get_by_text("Loading")).to_have_count(0)
    await expect(page.locator(".views .n", has_text="…")).to_have_count(0)  # views are counted
    await asyncio.sleep(3 if path.name.startswith("system") else 0.3)  # plots come by themselves
    await page.screenshot(path=path)
    if path.name in _SHOWN:
        shutil.copyfile(path, _GUIDE.parent / "console" / path.name)
    print(path, file=sys.stderr)


async def _work(connection: Connection) -> None:
    """Have something to be folded all the time."""
    opened = await connection.post("/tickets", {"subject": "Wiki", "requester": "eve"})
    ticket = str(opened.json()["ticket_id"])
    for n in range(10_000):
        await connection.post(f"/tickets/{ticket}/add_note", {"body": f"Step {n}"})
        await asyncio.sleep(0.1 + n % 7 / 20)


if __name__ == "__main__":
    start("screenshots", main)
