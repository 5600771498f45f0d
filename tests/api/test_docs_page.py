"""The API's own pages: served from here, under the console's policy, and good without a network."""

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.async_api import expect

from tests.api.browsing import KEY, browsing, opened, page_of, serious_faults, served
from tests.api.test_api import client

__all__ = ["client", "page_of", "served"]
STATIC = Path(__file__).parents[2] / "api" / "console" / "static"


async def test_the_pages_are_served_from_here_alone(client):
    """Whoever enters a key into them gives it to nobody else."""
    page = await client.get("/docs", headers={"Authorization": ""})
    console = await client.get("/", headers={"Authorization": ""})
    assert page.status_code == 200
    policy = page.headers["content-security-policy"]
    assert policy == console.headers["content-security-policy"]
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    named = re.findall(r'(?:src|href)="([^"]*)"', page.text)
    assert named
    for each in named:
        assert each.startswith(("/", "#")), each
        assert not each.startswith("//"), each
        if each.startswith("/"):
            shown = await client.get(each, headers={"Authorization": ""})
            assert shown.status_code == 200, each
    assert "<script>" not in page.text
    assert "http" not in (STATIC / "docs.js").read_text().replace("http://", "")


@pytest.mark.parametrize("path", ["/redoc", "/docs/oauth2-redirect"])
async def test_no_other_pages_are_served(client, path):
    assert (await client.get(path)).status_code == 404


async def test_the_document_is_sent_once(client):
    first = await client.get("/openapi.json", headers={"Authorization": ""})
    assert first.json()["info"]["title"] == "Casebook"
    again = await client.get("/openapi.json", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@browsing
async def test_every_route_is_shown_and_can_be_tried(served, page_of):
    """And no request leaves this server, and no policy is broken (`new_page` sees to that)."""
    ticket = await opened(served)
    async with page_of(served) as page:
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        await page.goto("/docs")
        await expect(page.get_by_role("heading", level=1)).to_contain_text("Casebook")
        paths = (await page.evaluate("fetch('/openapi.json').then((a) => a.json())"))["paths"]
        count = sum(map(len, paths.values()))
        await expect(page.locator(".operation")).to_have_count(count)
        assert await serious_faults(page) == []

        await page.get_by_label("Key, for what is tried here").fill(KEY)
        shown = page.locator("#show_ticket")
        await shown.locator("summary").first.click()
        await shown.get_by_label("ticket_id (path)").fill(ticket)
        await shown.get_by_role("button", name="Send").click()
        await expect(shown.locator("pre")).to_contain_text("Printer jam")

        opening = page.locator("#open_ticket")
        await opening.locator("summary").first.click()
        written = opening.get_by_label("Body", exact=True)
        assert "Printer jam" in await written.input_value()
        await opening.get_by_role("button", name="Send").click()
        await expect(opening.get_by_role("form")).to_contain_text("201")
        assert await serious_faults(page) == []

        kept = "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])"
        assert KEY not in await page.evaluate(kept)
        assert {urlsplit(url).netloc for url in asked} == {f"127.0.0.1:{served}"}
