"""The page to draw on, in a real browser without a network: what it reads and shows, and that it asks for nothing."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawing_helpers import draw
from helpers import TINY, run_command

from patchwork.core.errors import ConfigError
from patchwork.export.lab import build_page, join_modules, pack, write_lab
from patchwork.runs.run import Run

sync_api = pytest.importorskip("playwright.sync_api", reason="the tests of the page need playwright")
CHROMIUM = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND"]
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="the tests of the page need Chromium")


@pytest.fixture(scope="module")
def page_file(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a page with a reader of grids and a classifier."""
    directory = tmp_path_factory.mktemp("lab")
    classify = ["task=classify", *TINY, "model.patch_size=7", "run_dir=classifier"]
    assert run_command("train", *classify, cwd=directory) == 0
    write_lab([Run.load(finished_run), Run.load(directory / "classifier")], directory / "lab.html")
    return directory / "lab.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)


@pytest.fixture
def page(browser: Any, page_file: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Return the opened page; at the end nothing has been requested or reported."""
    options = getattr(request, "param", {})
    context = browser.new_context(**{"viewport": {"width": 1000, "height": 900}, **options})
    page, messages, requests = context.new_page(), [], []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda asked: requests.append(asked.url))
    page.goto(page_file.as_uri())
    page.wait_for_selector("html[data-ready]")
    yield page
    assert messages == []
    assert requests == [page_file.as_uri()]
    context.close()


def strokes_on(page: Any, digit: int, cell: tuple[int, int] = (0, 0), seed: int = 0) -> list[list[tuple[float, float]]]:
    """Return the strokes of a digit in a cell of the drawing area, in pixels of the window."""
    page.locator("#surface").scroll_into_view_if_needed()
    box, (row, col) = page.locator("#surface").bounding_box(), cell
    scale = box["width"] / (2 * 280)
    drawn = draw(digit, 0, np.random.default_rng(seed), size=190, place=(60 + 280 * col, 45 + 280 * row))
    return [[(box["x"] + x * scale, box["y"] + y * scale) for x, y in points] for points in drawn]


def draw_with_mouse(page: Any, strokes: list[list[tuple[float, float]]]) -> None:
    for points in strokes:
        page.mouse.move(*points[0])
        page.mouse.down()
        for point in points[1:]:
            page.mouse.move(*point)
        page.mouse.up()


def settle(page: Any) -> None:
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


@in_browser
def test_a_drawing_is_read_and_shown_as_the_model_sees_it(page: Any) -> None:
    assert page.inner_text("#spoken") == "Draw a digit in each cell"
    draw_with_mouse(page, strokes_on(page, 3, (0, 1)))
    settle(page)
    cells = page.locator("#cells .cell").all_inner_texts()
    assert [("no digit here" in text) for text in cells] == [True, False, True, True]
    read = "() => [...document.querySelectorAll('#cells canvas')[1].getContext('2d').getImageData(0, 0, 28, 28).data]"
    seen = page.evaluate(read)
    assert max(seen[::4]) == 255
    page.click("#undo")
    settle(page)
    assert page.inner_text("#spoken") == "Draw a digit in each cell"


@in_browser
def test_answers_come_while_drawing_and_within_200_ms(page: Any) -> None:
    draw_with_mouse(page, strokes_on(page, 8))
    times = page.evaluate(
        """async () => {
            const surface = document.getElementById("surface"), box = surface.getBoundingClientRect(), times = [];
            const send = (type, x, y) => surface.dispatchEvent(new PointerEvent(type, {
                clientX: box.left + x, clientY: box.top + y, pointerId: 7, isPrimary: true, button: 0 }));
            for (let stroke = 0; stroke < 50; stroke++) {
                send("pointerdown", 20 + stroke, 30);
                for (let step = 0; step < 8; step++) send("pointermove", 20 + stroke + 3 * step, 30 + 5 * step);
                const start = performance.now();
                send("pointerup", 60 + stroke, 70);
                await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
                times.push(performance.now() - start);
            }
            return times;
        }"""
    )
    assert sorted(times)[47] <= 200


@in_browser
@pytest.mark.parametrize("page", [{"has_touch": True, "viewport": {"width": 360, "height": 640}}], indirect=True)
def test_a_finger_draws_and_does_not_scroll(page: Any) -> None:
    page.locator("#surface").scroll_into_view_if_needed()
    box, client = page.locator("#surface").bounding_box(), page.context.new_cdp_session(page)
    before = page.evaluate("() => scrollY")

    def touch(kind: str, *points: tuple[float, float]) -> None:
        touches = [{"x": box["x"] + x, "y": box["y"] + y, "id": index} for index, (x, y) in enumerate(points)]
        client.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})

    touch("touchStart", (30, 10))
    for step in range(30):
        touch("touchMove", (30, 12 + 3 * step))
    touch("touchMove", (30, 103), (90, 50))  # a second finger
    touch("touchEnd")
    touch("touchStart", (80, 20))
    touch("touchCancel")
    touch("touchStart", (120, 20))
    touch("touchEnd")
    settle(page)
    assert page.evaluate("() => scrollY") == before
    page.click("#share")
    strokes = page.evaluate("() => location.hash").partition("s=")[2].split("~")
    assert len(strokes) == 3
    assert len(strokes[0].split("_")) >= 25
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")


@in_browser
def test_probabilities_on_the_page_are_pytorchs(page: Any) -> None:
    for name in page.locator("#models button").all_inner_texts():
        page.click(f"#models button:text-is('{name}')")
        page.click("#run-check")
        assert float(page.inner_text("#check-note").rstrip(".").split()[-1]) <= 1e-4


@in_browser
def test_cuts_change_the_answer_and_are_undone(page: Any) -> None:
    page.click("#sample")
    settle(page)
    before = page.inner_text("#next-token")
    page.click("#hide")
    page.locator("#patches button").nth(0).click()
    settle(page)
    page.locator("#heads button").nth(0).click()
    pressed = page.locator("#patches button[aria-pressed=true], #heads button[aria-pressed=true]")
    assert pressed.count() == 2
    page.click("#restore")
    settle(page)
    assert page.inner_text("#next-token") == before
    assert pressed.count() == 0
    page.click("#needed")
    assert page.inner_text("#cut-note").startswith("Most needed: row ")
    page.select_option("#force", "7")
    settle(page)
    assert page.locator("#tokens button").first.inner_text() == "7"


@in_browser
def test_keys_step_through_tokens(page: Any) -> None:
    page.locator("#surface").focus()
    for key in ("ArrowRight", "Space", "ArrowLeft"):
        page.keyboard.press(key)
    current = page.locator("#tokens button[aria-current=step]")
    assert current.count() == 1
    assert page.evaluate("() => [...document.querySelectorAll('#tokens button')].findIndex((b) => b.ariaCurrent)") == 1


@in_browser
def test_a_link_brings_the_drawing_back(browser: Any, page: Any, page_file: Path) -> None:
    draw_with_mouse(page, strokes_on(page, 5))
    settle(page)
    spoken = page.inner_text("#spoken")
    page.click("#share")
    other = browser.new_page()
    other.goto(page.url)
    other.wait_for_selector("html[data-ready]")
    settle(other)
    assert other.inner_text("#spoken") == spoken
    other.goto("about:blank")
    other.goto(f"{page_file.as_uri()}#m=%3Cimg%20src=x%20onerror=alert(1)%3E&s=zz.q_~~1")
    other.wait_for_selector("html[data-ready]")
    other.close()


def test_the_page_is_the_same_bytes_and_small(page_file: Path, finished_run: Path) -> None:
    packed = pack(Run.load(finished_run))
    assert build_page([packed]) == build_page([pack(Run.load(finished_run))])
    assert len(page_file.read_bytes()) < 6_000_000
    assert "import " not in "\n".join(line for line in join_modules().splitlines() if line.startswith("import"))
    hostile = build_page([{**packed, "name": "</script><img src=x onerror=alert(1)>"}]).decode()
    assert "</script><img" not in hostile
    assert json.loads(hostile.split('id="bundles">')[1].split("</script>")[0])[0]["name"].startswith("</script>")


def test_models_without_an_engine_are_refused(tmp_path: Path) -> None:
    assert run_command("train", "task=classify", *TINY[:-2], "model=cnn", "run_dir=cnn", cwd=tmp_path) in (0, 2)
    if (tmp_path / "cnn" / "manifest.json").exists():
        with pytest.raises(ConfigError, match="does not run in the page"):
            write_lab([Run.load(tmp_path / "cnn")], tmp_path / "lab.html")
    assert not (tmp_path / "lab.html").exists()
