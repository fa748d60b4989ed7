"""The page as a browser shows it: nothing loaded, nothing cut off, everything readable.

It needs a Chromium of the system (`apt-get install chromium`); playwright brings none here.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import report_runs

from parity.report import page

ROOT = Path(__file__).parents[2]
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
LEAST_CONTRAST = 4.5  # WCAG 2.1, success criterion 1.4.3, for text of this size
WIDTHS, SCHEMES = (360, 1280), ("light", "dark")

playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on this machine"
)

# Every element that has text of its own: the text, its colour, and the first opaque colour behind.
TEXTS = """() => [...document.querySelectorAll("body *")].filter(e => !e.closest("svg")
    && e.checkVisibility() && [...e.childNodes].some(n => n.nodeType == 3 && n.data.trim()))
  .map(e => {
    let behind = e, colour;
    do { colour = getComputedStyle(behind).backgroundColor; behind = behind.parentElement; }
    while (behind && /, 0\\)$|transparent/.test(colour));
    return [e.textContent.trim().slice(0, 60), getComputedStyle(e).color, colour];
  })"""
DRAWN_TEXTS = """() => [...document.querySelectorAll("svg text")].map(e =>
    [e.textContent, getComputedStyle(e).fill,
     getComputedStyle(e.closest("figure")).backgroundColor])"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One of each look: a pass with images, a failure, seeds, the kept study, several at once."""
    folder = tmp_path_factory.mktemp("pages")
    faulty = report_runs.write_run(folder / "faulty", report_runs.planted("block3.conv"))
    drawn = report_runs.write_drawn(folder / "drawn")
    seeds = report_runs.write_seeds(folder / "seeds")
    kept = ROOT / "results"
    return {
        "faulty": page.write(faulty),
        "drawn": page.write(drawn, images=2),
        "seeds": page.write(seeds),
        "study": page.write(kept / "paper", out=folder / "study.html"),
        "several": page.write(kept / "explain/baseline", kept / "selftest", kept / "float64-paper",
                              out=folder / "several.html"),
    }  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        made = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture(params=["faulty", "drawn", "seeds", "study", "several"])
def path(request: pytest.FixtureRequest, pages: dict[str, Path]) -> Path:
    return pages[request.param]


def opened(browser: Any, path: Path, width: int = 1280, scheme: str = "light") -> Any:
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, java_script_enabled=True
    )
    context.set_default_timeout(10_000)
    tab = context.new_page()
    tab.goto(path.as_uri())
    tab.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    return tab


def test_loads_nothing_and_complains_of_nothing(browser: Any, path: Path) -> None:
    tab = browser.new_page()
    asked, said = [], []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.goto(path.as_uri())
    tab.wait_for_load_state("networkidle")
    assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
    assert said == []
    tab.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_page(browser: Any, path: Path, width: int) -> None:
    tab = opened(browser, path, width)
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    # What is wider than its box can be scrolled, with the keyboard too.
    cut_off = """[...document.querySelectorAll(".box")].filter(e => e.scrollWidth > e.clientWidth
        && (getComputedStyle(e).overflowX != "auto" || e.tabIndex != 0)).length"""
    assert tab.evaluate(cut_off) == 0
    tab.context.close()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_text_can_be_read(browser: Any, path: Path, scheme: str) -> None:
    tab = opened(browser, path, scheme=scheme)
    texts = tab.evaluate(TEXTS) + tab.evaluate(DRAWN_TEXTS)
    assert len(texts) > 50
    pale = {
        (text, colour, behind)
        for text, colour, behind in texts
        if contrast(colour, behind) < LEAST_CONTRAST
    }
    assert not pale
    light = luminance(tab.evaluate("getComputedStyle(document.body).backgroundColor")) > 0.5
    assert light == (scheme == "light")
    tab.context.close()


def test_stripes_behind_a_text_leave_it_readable(browser: Any, pages: dict[str, Path]) -> None:
    """Cells that are undecided or not compared have no plain colour behind them."""
    for scheme in SCHEMES:
        tab = opened(browser, pages["study"], scheme=scheme)
        tab.evaluate("document.body.innerHTML = `<p class='heat-abstain'>a</p>"
                     "<p class='missing'>b</p>`")  # fmt: skip
        for style in ("heat-abstain", "missing"):
            colour, drawn = tab.evaluate(
                f"""(() => {{ const s = getComputedStyle(document.querySelector(".{style}"));
                return [s.color, s.backgroundImage]; }})()"""
            )
            behind = re.findall(r"rgba?\([^)]*\)", drawn)
            assert len(set(behind)) == 2
            assert all(contrast(colour, each) >= LEAST_CONTRAST for each in behind), style
        tab.context.close()


def test_headings_figures_and_cells_have_their_names(browser: Any, path: Path) -> None:
    tab = opened(browser, path)
    levels = tab.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map(e => +e.tagName[1])")
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    for role in ("img", "region", "table", "navigation"):
        for each in tab.get_by_role(role).all():
            name = each.evaluate(
                """e => e.ariaLabel || e.alt || e.caption?.textContent
                || e.querySelector("figcaption")?.textContent || """
                "document.getElementById(e.getAttribute('aria-labelledby'))?.textContent || ''"
            )
            assert name.strip(), (role, each.evaluate("e => e.outerHTML.slice(0, 80)"))
    empty = "[...document.querySelectorAll('.heat td')].filter(e => !e.textContent.trim()).length"
    head = "[...document.querySelectorAll('.heat thead td')].length"
    assert tab.evaluate(empty) == tab.evaluate(head)
    for landmark in ("banner", "main", "contentinfo"):
        assert tab.get_by_role(landmark).count() == 1
    tab.context.close()


def test_the_keyboard_reaches_links_boxes_and_what_is_folded(
    browser: Any, pages: dict[str, Path]
) -> None:
    tab = opened(browser, pages["study"])
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "Skip to the results"
    tab.keyboard.press("Enter")
    assert tab.url.endswith("#results")
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.className") == "box"
    outline = tab.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none"
    tab.context.close()


def test_no_script_is_needed(browser: Any, pages: dict[str, Path]) -> None:
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(pages["faulty"].as_uri())
    assert "FAIL" in tab.locator(".verdict").inner_text()
    assert tab.locator(".heat").first.is_visible()
    assert tab.locator("figure svg").first.is_visible()
    context.close()


def luminance(colour: str) -> float:
    """WCAG's relative luminance of `rgb(…)`."""
    channels = [int(each) / 255 for each in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    """WCAG's contrast ratio, from 1 to 21."""
    pale, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (pale + 0.05) / (dark + 0.05)


def test_contrast_is_wcags() -> None:
    assert contrast("rgb(0, 0, 0)", "rgb(255, 255, 255)") == pytest.approx(21)
    assert contrast("rgb(119, 119, 119)", "rgb(255, 255, 255)") == pytest.approx(4.48, abs=0.01)
