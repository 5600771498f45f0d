"""The system's Chromium, by Playwright: to look at the console as its users do."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from playwright.async_api import Browser, async_playwright

from scripts.console import UsageError

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
"""Where it is; None: there is none."""


class NoChromium(UsageError):
    """There is no browser on this machine's path."""

    def __init__(self) -> None:
        super().__init__("there is no Chromium on the path")


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Run it without a window. Raises NoChromium."""
    if CHROMIUM is None:
        raise NoChromium
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            # In a container it may have neither a sandbox nor much shared memory.
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-dev-shm-usage"],
        )
        yield browser
        await browser.close()
