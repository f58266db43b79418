"""A real Chromium for the pages, with every page watched: no error on the console, nothing asked of a network."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fxkernels.report.report import Report

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Playwright

REQUIRED = os.environ.get("FXKERNELS_REQUIRE_BROWSER") == "1"
if REQUIRED:
    import axe_playwright_python  # noqa: F401
    import playwright.sync_api  # noqa: F401 # the tests skip themselves where it is missing

NAMES = ("chromium", "chromium-browser", "google-chrome")

PATIENCE = 120_000
"""Milliseconds: what does not come is a failure, what comes late on a busy machine is not."""

Open = Callable[..., "Page"]
"""``open_page(report, address="#call-norm-0", viewport=..., color_scheme=...)``"""


def chromium() -> str | None:
    """Where the browser is. Playwright's own ones are not used: the tests download nothing."""
    named = os.environ.get("FXKERNELS_CHROMIUM")
    return named or next((path for path in map(shutil.which, NAMES) if path is not None), None)


# Of a module, not of the session: as long as it runs, playwright has an event loop in the thread, and asyncio.run() of other tests fails.
@pytest.fixture(scope="module")
def driver() -> Iterator[Playwright]:
    if chromium() is None:
        if REQUIRED:
            pytest.fail(f"FXKERNELS_REQUIRE_BROWSER=1, but none of {', '.join(NAMES)} is on PATH and FXKERNELS_CHROMIUM is not set")
        pytest.skip(f"no Chromium: none of {', '.join(NAMES)} is on PATH (FXKERNELS_CHROMIUM names another one)")
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as running:
        yield running


@pytest.fixture(scope="module")
def browser(driver: Playwright) -> Iterator[Browser]:
    started = driver.chromium.launch(executable_path=chromium(), args=["--no-sandbox"] if os.geteuid() == 0 else [])
    yield started
    started.close()


@pytest.fixture
def open_page(browser: Browser, tmp_path: Path) -> Iterator[Open]:
    """Saves a report as a page, opens it, and sees to it at the end that nothing went wrong in the browser."""
    troubles: list[str] = []
    contexts = []

    def open_report(report: Report, address: str = "", **options: Any) -> Page:
        file = report.save(tmp_path / "report.html")
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("console", lambda message: troubles.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("dialog", lambda dialog: (troubles.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: troubles.append(request.url) if not request.url.startswith((file.as_uri(), "data:")) else None)
        page.goto(file.as_uri() + address)
        return page

    yield open_report
    for context in contexts:
        context.close()
    assert troubles == []
