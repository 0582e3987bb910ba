"""The page in real headless Chromium, with the network cut: no request, no error, every control, light and dark."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import run_command

from patchwork.report.sections import SECTIONS

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
NAME = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page_path(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the full page of a run whose directory has a hostile name."""
    run_dir = shutil.copytree(finished_run, tmp_path_factory.mktemp("hostile") / NAME)
    figures = ",".join(section.name for section in SECTIONS)
    assert run_command("report", f"run='{run_dir}'", f"figures=[{figures}]", cwd=run_dir.parent) == 0
    return Path(run_dir) / "report.html"


def open_page(browser: Any, path: Path, **options: Any) -> tuple[Any, list[str]]:
    """Open a page, offline; return it, and the list that all its requests, messages and errors go to."""
    context = browser.new_context(offline=True, **options)
    page, heard = context.new_page(), []
    page.on("request", lambda request: heard.append(request.url) if not request.url.startswith("data:") else None)
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("dialog", lambda dialog: heard.append(dialog.message))
    page.goto(path.as_uri())
    return page, heard


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_asks_for_nothing_and_reports_no_error(browser: Any, page_path: Path, scheme: str) -> None:
    page, heard = open_page(browser, page_path, color_scheme=scheme)
    assert heard == [page_path.as_uri()]
    assert NAME in page.locator("header").inner_text()
    assert page.locator("img[src=x]").count() == 0
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(background.removeprefix("rgb(").split(",")[0]) > 128) == (scheme == "light")
    page.get_by_role("button", name="Switch between light and dark").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != background
    assert heard == [page_path.as_uri()]


def test_steppers_work_by_keyboard(browser: Any, page_path: Path) -> None:
    page, heard = open_page(browser, page_path)
    tabs = page.locator("[data-stepper='Layer'] > .tabs [role=tab]")
    assert tabs.count() > 1
    tabs.first.focus()
    for key, index in (
        ("ArrowRight", 1),
        ("End", tabs.count() - 1),
        ("ArrowRight", 0),
        ("ArrowLeft", tabs.count() - 1),
    ):
        page.keyboard.press(key)
        chosen = tabs.nth(index)
        assert chosen.get_attribute("aria-selected") == "true"
        assert chosen.evaluate("tab => tab === document.activeElement")
        assert page.locator(f"#{chosen.get_attribute('aria-controls')}").is_visible()
    assert tabs.evaluate_all("tabs => tabs.filter(tab => tab.tabIndex === 0).length") == 1
    assert len(heard) == 1


def test_points_of_a_map_show_their_image_on_hover_and_by_keyboard(browser: Any, page_path: Path) -> None:
    page, heard = open_page(browser, page_path)
    scatter = page.locator("[data-scatter]")
    shown, words = scatter.locator(".inspector"), scatter.locator("[aria-live]")
    assert not shown.is_visible()
    scatter.locator("svg:visible").focus()
    assert shown.is_visible()
    first = words.inner_text()
    assert "sample" in first
    read = set()
    for key in ("ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp"):
        page.keyboard.press(key)
        read.add(words.inner_text())
    assert len(read) > 1
    assert scatter.locator(".mark").count() == 1
    page.keyboard.press("Escape")
    assert not shown.is_visible()
    points = scatter.locator("svg:visible path").first
    box = points.bounding_box()
    x, y = points.evaluate("""path => {
        const [, x, y] = path.getAttribute("d").match(/M([\\d.]+) ([\\d.]+)/).map(Number);
        const place = new DOMPoint(x, y).matrixTransform(path.getScreenCTM());
        return [place.x, place.y];
    }""")
    assert box is not None
    page.mouse.move(x, y)
    assert shown.is_visible()
    assert "url(" in scatter.locator(".thumbnail").evaluate("image => image.style.backgroundImage")
    assert len(heard) == 1


def test_every_link_and_control_is_reached_by_tab(browser: Any, page_path: Path) -> None:
    page, _ = open_page(browser, page_path)
    count = page.locator("a[href], button:not([tabindex='-1']):visible, summary:visible").count()
    reached = set()
    for _ in range(count + 5):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("[...document.querySelectorAll('*')].indexOf(document.activeElement)"))
    assert len(reached) >= count


def test_phone_has_no_horizontal_scroll(browser: Any, page_path: Path) -> None:
    page, _ = open_page(browser, page_path, viewport={"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_without_javascript_every_panel_is_there(browser: Any, page_path: Path) -> None:
    page, heard = open_page(browser, page_path, java_script_enabled=False)
    panels = page.locator("[data-panel]")
    assert all(panels.nth(index).is_visible() for index in range(panels.count()))
    assert page.locator("[data-theme-button]").is_hidden()
    assert heard == [page_path.as_uri()]


def test_page_is_printed(browser: Any, page_path: Path) -> None:
    page, _ = open_page(browser, page_path)
    assert len(page.pdf()) > 10_000
