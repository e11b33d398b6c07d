"""The status page in a real browser: what it shows, and what it never loads or runs."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from playwright.async_api import Page, async_playwright, expect

from proxy.address import Address
from proxy.lab.farm import Farm
from tests.integration.running import RunningProxy, running
from tests.interop.programs import path_of
from tests.patience import PATIENCE_S
from tests.servers.ports import free_port

PATIENCE_MS = PATIENCE_S * 1000
expect.set_options(timeout=PATIENCE_MS)

CALM = "{}?refresh=off"  # a page that refreshes itself may do so between two looks at it
HOSTILE = "<img src=x onerror=alert(1)>"


@asynccontextmanager
async def browser(**context: Any) -> AsyncIterator[Page]:
    """A page of Debian's chromium; whatever it complains about fails the test."""
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(
            executable_path=path_of("chromium"), args=["--no-sandbox"], timeout=PATIENCE_MS
        )
        page = await (await chromium.new_context(**context)).new_page()
        page.context.set_default_timeout(PATIENCE_MS)
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        yield page
        await chromium.close()
        assert complaints == []


@asynccontextmanager
async def shown(
    farm: Farm, directory: Path, **more: Any
) -> AsyncIterator[tuple[RunningProxy, str]]:
    """A proxy whose page is at an address."""
    admin = Address("127.0.0.1", free_port())
    health = {"check": "tls", "interval": "1s", "timeout": "10s"}
    settings = {
        "admin": {"bind": str(admin)} | more,
        "pool": {"health": health},
        "canary": {"interval": "1s"},
    }
    async with running(farm, directory, **settings) as proxy:
        yield proxy, f"http://{admin}/"


async def test_the_page_tells_hosts_reasons_tokens_connections_and_events(tmp_path: Path) -> None:
    async with (
        Farm.start(hosts=2, seed=1) as farm,
        shown(farm, tmp_path) as (proxy, url),
        browser() as page,
    ):
        farm.broker.place("alice", "rdsh02")
        farm.broker.place(HOSTILE, "rdsh01")
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        async with farm.client(proxy.address, "alice").session() as (result, _):
            assert result.ok, result.words()
            assert (await farm.client(proxy.address, HOSTILE, source="127.63.0.1").login()).ok
            line = f"Cookie: mstshash={HOSTILE}".encode()
            hostile = farm.client(proxy.address, HOSTILE, line=line, source="127.63.0.2")
            async with hostile.session() as (result, __):
                assert result.ok, result.words()
                answer = await page.goto(CALM.format(url))
                assert answer is not None
                policy = answer.headers["content-security-policy"]
                assert policy.startswith("default-src 'self';")
                await expect(page).to_have_title("rdp-proxy on " + await _node(page))
                await expect(page.locator("#readiness")).to_have_text("ready")
                hosts = page.locator("#hosts tbody tr")
                await expect(hosts).to_have_count(2)
                await expect(hosts.nth(1)).to_contain_text("rdsh02")
                await expect(hosts.nth(1)).to_contain_text("up")
                await expect(page.locator("#reasons")).to_contain_text("balanced")
                await expect(page.locator("#fates")).to_contain_text("absent")
                await expect(page.locator("#connections tbody")).to_contain_text(HOSTILE)
                await expect(page.locator("#events")).to_contain_text("started")
                colour = await page.evaluate(
                    "getComputedStyle(document.querySelector('.good')).color"
                )
                assert colour != await page.evaluate("getComputedStyle(document.body).color")
        assert {one.split("?")[0] for one in asked} <= {url, url + "page.css", url + "favicon.ico"}


async def _node(page: Page) -> str:
    heading = await page.locator("h1").inner_text()
    return heading.removeprefix("rdp-proxy on ")


async def test_a_host_that_goes_down_is_seen_without_a_touch_and_can_be_looked_for(
    tmp_path: Path,
) -> None:
    async with (
        Farm.start(hosts=2) as farm,
        shown(farm, tmp_path) as (_, url),
        browser() as page,
    ):
        await page.goto(url)
        first = page.locator("#hosts tbody tr").first
        await expect(first).to_contain_text("up")
        await expect(first).to_contain_text("CN=rdsh01, until 2")
        await expect(first).to_contain_text("works")
        await farm.hosts["rdsh01"].kill()
        await expect(first).to_contain_text("down (refused)")
        await expect(page.locator("#events")).to_contain_text("host_down")
        stop = page.get_by_role("link", name="Stop refreshing")
        await expect(stop).to_have_attribute("href", CALM.format(""))
        calm = await page.context.new_page()
        await calm.goto(CALM.format(url))
        assert await calm.locator("meta[http-equiv=refresh]").count() == 0
        await calm.get_by_label("Host").fill("rdsh02")
        await calm.get_by_role("button", name="Find").click()
        await expect(calm.locator("#connections h2")).to_have_text("Connections, filtered: 0")


async def test_behind_a_token_the_page_asks_for_it_as_a_password(tmp_path: Path) -> None:
    secret = tmp_path / "bearer"
    secret.write_text("open sesame\n")
    async with (
        Farm.start(hosts=1) as farm,
        shown(farm, tmp_path, bearer_file=str(secret)) as (_, url),
    ):
        credentials = {"username": "operator", "password": "open sesame"}
        async with browser(http_credentials=credentials) as page:
            await page.goto(url)
            await expect(page.locator("#hosts tbody tr")).to_have_count(1)
            change = await page.request.put(f"{url}v1/hosts/will?host=rdsh01&will=drain")
            assert change.status == 401, "a password that a browser remembers changes nothing"
        async with browser() as stranger:
            answer = await stranger.request.get(url)
            assert answer.status == 401
            assert json.loads(await answer.body()) == {"error": "a bearer token is needed"}
