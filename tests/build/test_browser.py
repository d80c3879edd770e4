"""The pages in a real browser: from disk and from a server, dark, narrow, searched, and without anybody else's help."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Page as Tab

from tests.build.preview import PAGES, Book

pytestmark = pytest.mark.slow

LEAST_CONTRAST = 4.5  # of text, by the Web Content Accessibility Guidelines
NARROW = {"width": 390, "height": 844}


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def served(book: Book) -> Iterator[str]:
    """The address of the book on a local server."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=book.copy.html)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def use_theme(tab: Tab, theme: str) -> None:
    """Makes the pages that `tab` opens from now on light or dark."""
    tab.add_init_script(f"localStorage.setItem('mode', '{theme}'); localStorage.setItem('theme', '{theme}')")


@pytest.mark.parametrize("way", ["disk", "server"])
def test_pages_open_without_an_error_and_ask_no_other_host(tab: Tab, book: Book, served: str, way: str) -> None:
    base = book.copy.html.as_uri() if way == "disk" else served
    problems: list[str] = []

    def listen(tab: Tab) -> None:
        tab.on("console", lambda told: problems.append(told.text) if told.type in ("error", "warning") else None)
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.on("requestfailed", lambda request: problems.append(f"failed: {request.url}"))
        tab.on(
            "request", lambda request: None if request.url.startswith((base, "data:")) else problems.append(request.url)
        )

    tabs = {page: tab.context.new_page() for page in PAGES}  # at once: each is watched until it has long asked nothing
    for page, opened in tabs.items():
        listen(opened)
        opened.goto(f"{base}/{page}.html")
    for page, opened in tabs.items():
        opened.wait_for_load_state("networkidle")
        assert opened.locator("h1").count() >= 1, page
    assert problems == []


def test_search_finds_a_word(tab: Tab, served: str) -> None:
    tab.goto(f"{served}/search.html?q=magnitude")
    tab.wait_for_selector("#search-results li")
    assert tab.locator("#search-results li a[href*='pruning.html']").count() >= 1
    tab.goto(f"{served}/search.html?q=zyzzyva")
    tab.wait_for_function("document.querySelector('#search-results').innerText.includes('did not match')")


def contrast(picture: Image.Image) -> float:
    """The contrast, as WCAG has it, of a figure's paper, its commonest grey, and the ink that stands out most."""

    def luminance(grey: int) -> float:
        return float(((grey / 255 + 0.055) / 1.055) ** 2.4)

    grey = picture.convert("L")
    paper = luminance(max(grey.getcolors())[1])
    inks = map(luminance, grey.getextrema())
    return max((max(paper, ink) + 0.05) / (min(paper, ink) + 0.05) for ink in inks)


def test_the_mode_can_be_changed(tab: Tab, served: str) -> None:
    tab.goto(f"{served}/index.html")
    modes = set()
    for _ in range(3):
        modes.add(tab.locator("html").get_attribute("data-theme"))
        tab.locator("button.theme-switch-button:visible").first.click()
    assert modes == {"light", "dark"}


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_figures_are_readable(tab: Tab, served: str, theme: str) -> None:
    tab.emulate_media(color_scheme=theme)
    use_theme(tab, theme)
    for page in ("index", "approach_2", "pruning", "why_fast", "scaling"):
        tab.goto(f"{served}/{page}.html")
        background = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(int(part) for part in background[4:-1].split(",")) < 200) == (theme == "dark"), background
        figures = tab.locator(".bd-article img, .bd-article figure.picture svg")
        assert figures.count() >= 1
        for number in range(figures.count()):
            found = contrast(Image.open(io.BytesIO(figures.nth(number).screenshot())))
            assert found > LEAST_CONTRAST, f"{page}, figure {number}: a contrast of {found:.1f}"


@pytest.mark.parametrize(
    ("page", "theme"),
    [*((page, "light") for page in PAGES), ("index", "dark"), ("approach_2", "dark"), ("faults", "dark")],
)
def test_nothing_is_seriously_inaccessible(tab: Tab, served: str, page: str, theme: str) -> None:
    use_theme(tab, theme)
    tab.goto(f"{served}/{page}.html")
    violations = Axe().run(tab).response["violations"]
    serious = [violation for violation in violations if violation["impact"] in ("serious", "critical")]
    assert not serious, [(each["id"], [node["html"][:200] for node in each["nodes"][:3]]) for each in serious]


@pytest.mark.parametrize("page", PAGES)
def test_nothing_overflows_a_narrow_page(tab: Tab, served: str, page: str) -> None:
    tab.set_viewport_size(NARROW)
    tab.goto(f"{served}/{page}.html")
    assert tab.evaluate("document.documentElement.scrollWidth") <= NARROW["width"]
