"""A headless Chromium, and a page in it that notes whatever goes wrong."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

SIZES = {"desktop": (1280, 900), "phone": (375, 812)}
SCHEMES = ("light", "dark")
QUIET = (
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Start it with a profile of its own, or skip the test where it is not installed; under CI=true fail."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        refuse = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        refuse("chromium, which shows the live page to its tests, is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path,
            args=QUIET,
            chromium_sandbox=os.geteuid() != 0,  # it has none for root
        )
        with contextlib.closing(browser):
            yield browser


@dataclass
class Opened:
    """A page, and what no page of ours may do."""

    page: Page
    origin: str
    wrongs: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        page = self.page
        page.on("dialog", lambda dialog: (self.wrongs.append(f"dialog {dialog.message}"), dialog.dismiss()))
        page.on("pageerror", lambda error: self.wrongs.append(f"error {error}"))
        page.on("console", lambda said: self.wrongs.append(f"{said.type} {said.text}"))  # also what a policy refused
        page.on("request", lambda request: self._note_request(request.url))

    def _note_request(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "data" and f"{parts.scheme}://{parts.netloc}/" != self.origin:
            self.wrongs.append(f"request {url}")

    def text(self, selector: str) -> str:
        return self.page.locator(selector).inner_text()

    def wait_for_state(self, state: str) -> None:
        self.page.locator("#state", has_text=state).wait_for(timeout=30_000)

    def overflow(self) -> int:
        """How many pixels the page is wider than its window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


@contextlib.contextmanager
def opened(
    browser: Browser, url: str, size: str = "desktop", scheme: str = "light", document: object = None
) -> Iterator[Opened]:
    """Open the live page; with a `document` it gets that one in place of the scorer's."""
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, timezone_id="UTC")
    with contextlib.closing(context):
        one = Opened(context.new_page(), url)
        if document is not None:
            one.page.route("**/status.json", lambda route: route.fulfill(json=document))
        one.page.goto(url)
        yield one
