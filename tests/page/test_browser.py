"""Every kind of page in a real browser: no error, no request, no sideways scrolling, text to be read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import featcache as fc
from tests.page.pages import KINDS, ODD_NAMES

webdriver = pytest.importorskip("selenium.webdriver")
CONTRAST = 4.5
"""WCAG 2.2, success criterion 1.4.3."""
READ = """
const parse = (text) => text.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => {
  const [x, y, z] = [r, g, b].map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * x + 0.7152 * y + 0.0722 * z;
};
const over = ([r, g, b, a = 1], [x, y, z]) => [r * a + x * (1 - a), g * a + y * (1 - a), b * a + z * (1 - a)];
const ground = (e) => {
  const above = e.parentElement ? ground(e.parentElement) : [255, 255, 255];
  return over(parse(getComputedStyle(e).backgroundColor), above);
};
const found = [];
const walk = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
while (walk.nextNode()) {
  const e = walk.currentNode.parentElement, text = walk.currentNode.textContent.trim();
  if (!text || e.closest("script, style, title")) continue;
  const style = getComputedStyle(e), back = ground(e);
  const front = over(parse(e.closest("svg") ? style.fill : style.color), back);
  const [a, b] = [light(front), light(back)].sort((x, y) => y - x);
  found.push([(a + 0.05) / (b + 0.05), text]);
}
return found;
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chrome, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if chrome is None or driver is None:
        pytest.skip("needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chrome
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield made
    made.quit()


def look(browser: Any, page: fc.Report, width: int, scheme: str) -> None:
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get_log("performance")
    browser.get(page.path.as_uri())


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1400])
@pytest.mark.parametrize("kind", KINDS)
def test_a_page_can_be_looked_at(
    browser: Any, page: Callable[[str], fc.Report], kind: str, width: int, scheme: str
) -> None:
    look(browser, page(kind), width, scheme)
    assert browser.get_log("browser") == []
    sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in sent if m["method"] == "Network.requestWillBeSent"]
    assert urls, "the browser tells of no request, not even of the page"
    assert [url for url in urls if not url.startswith(("data:", page(kind).path.as_uri()))] == []
    whole, seen = browser.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert whole <= seen == width
    pale = [(round(ratio, 2), text) for ratio, text in browser.execute_script(READ) if ratio < CONTRAST]
    assert pale == []


def test_odd_names_are_text(browser: Any, page: Callable[[str], fc.Report]) -> None:
    look(browser, page("run"), 1400, "light")
    names = browser.execute_script("return [...document.querySelectorAll('bdi')].map(e => e.textContent)")
    assert set(ODD_NAMES) <= set(names)


def test_a_table_is_sorted_by_a_click(browser: Any, page: Callable[[str], fc.Report]) -> None:
    look(browser, page("study"), 1400, "light")
    rows = "[...document.querySelectorAll('table.sortable tbody tr')]"
    column = f"{rows}.map(row => parseFloat(row.cells[3].textContent))"
    before = browser.execute_script(f"return {column}")
    head = browser.find_elements("css selector", "table.sortable th button")[3]
    head.click()
    assert browser.execute_script(f"return {column}") == sorted(before) != before
    head.click()
    assert browser.execute_script(f"return {column}") == sorted(before, reverse=True)


def test_the_map_names_the_sample_under_the_pointer(browser: Any, page: Callable[[str], fc.Report]) -> None:
    look(browser, page("run"), 1400, "light")
    canvas = browser.find_element("css selector", "canvas.map")
    content = page("run").content["map"]
    side = canvas.size["width"]
    x = 12 + content["x"][0] * (side - 24)
    y = 12 + (1 - content["y"][0]) * (side - 24)
    browser.execute_script(
        "const [canvas, x, y] = arguments, box = canvas.getBoundingClientRect();"
        "const at = {clientX: box.left + x, clientY: box.top + y};"
        "canvas.dispatchEvent(new PointerEvent('pointermove', at));",
        canvas,
        x,
        y,
    )
    assert browser.find_element("id", "map-said").text.startswith(content["id"][0])
