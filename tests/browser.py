"""A real browser: the system's Chromium, driven by Playwright."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Page, sync_playwright

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; infra/install-browser.sh installs one")


@contextmanager
def opened(url: str) -> Iterator[Page]:
    """A page, whose scripts may not fail."""
    with sync_playwright() as playwright:
        # Chromium's own sandbox does not work as root, in containers.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 1000}, accept_downloads=True)
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        elsewhere: list[str] = []
        page.on("request", lambda request: elsewhere.append(request.url))
        page.goto(url)
        yield page
        assert not errors
        # What people upload is nobody else's business.
        assert all(address.startswith((url, "data:", "blob:")) for address in elsewhere), elsewhere
        browser.close()
