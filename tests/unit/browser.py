"""A real Chromium, driven by the distribution's chromedriver: what a person sees of a page, and does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By

T = TypeVar("T")
DRIVER, CHROMIUM = "/usr/bin/chromedriver", "/usr/bin/chromium"
DEADLINE_S = 30.0
EVERY_S = 0.05
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
NO_SCRIPTS = {"profile.managed_default_content_settings.javascript": 2}
THEMES = ("light", "dark")
WIDTHS = (360, 800, 1280, 1440)

_TABLE = (
    "return [...document.querySelectorAll('#rows tr')].map(r => [...r.cells].map(c => c.innerText.trim()))"
)
_SUM = "return [...document.querySelector('.sum tr').cells].map(c => c.innerText.trim())"
_OVERFLOW = "const r = document.documentElement; return r.scrollWidth - r.clientWidth"
# The least contrast (WCAG 2) of any text that is seen, and the element that has it
_CONTRAST = """
const channel = (c) => { c /= 255; return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
const parse = (text) => text.match(/[\\d.]+/g).map(Number);
const paper = (e) => {
  for (; e; e = e.parentElement) {
    const c = parse(getComputedStyle(e).backgroundColor);
    if (c.length === 3 || c[3] === 1) return c;
  }
};
let least = [99, ""];
for (const e of document.querySelectorAll("body *")) {
  const text = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
  if (!text || !e.checkVisibility() || e.closest("script, style")) continue;
  const [a, b] = [luminance(parse(getComputedStyle(e).color)), luminance(paper(e))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < least[0]) least = [ratio, e.outerHTML.slice(0, 200)];
}
return least;
"""


class Browser:
    """A window with a page. `eventually` and what is built on it wait for at most DEADLINE_S."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver
        self._said: list[str] = []

    def open(self, url: str) -> None:
        self.driver.get(url)
        self.complaints()  # what came before is another page's
        self._said.clear()

    def run(self, script: str, *arguments: object) -> Any:
        return self.driver.execute_script(script, *arguments)

    def rows(self) -> list[list[str]]:
        """The table's rows but for the sum, as they are seen."""
        return list(self.run(_TABLE))

    def sum(self) -> list[str]:
        return list(self.run(_SUM))

    def row(self, comm: str) -> list[str]:
        """The one row of a process; AssertionError while there is none."""
        found = [row for row in self.rows() if row[0] == comm]
        assert len(found) == 1, f"{len(found)} rows of {comm!r}"
        return found[0]

    def text(self, css: str) -> str:
        return str(self.driver.find_element(By.CSS_SELECTOR, css).text)

    def click(self, css: str) -> None:
        self.driver.find_element(By.CSS_SELECTOR, css).click()

    def type(self, css: str, text: str) -> None:
        """In place of what is there."""
        field = self.driver.find_element(By.CSS_SELECTOR, css)
        field.clear()
        field.send_keys(text)

    def press(self, *keys: str) -> None:
        """Into whatever has the focus."""
        ActionChains(self.driver).send_keys(*keys).perform()

    def focus(self) -> str:
        """The text of what has the focus."""
        return str(self.run("return document.activeElement.innerText")).strip()

    def look(self, theme: str, width: int) -> None:
        """In a window of this width, with this preference of the user's."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": "prefers-color-scheme", "value": theme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def overflow(self) -> int:
        """How many pixels the page is wider than the window."""
        return int(self.run(_OVERFLOW))

    def contrast(self) -> tuple[float, str]:
        ratio, element = self.run(_CONTRAST)
        return ratio, element

    def roles(self) -> dict[str, list[str]]:
        """What assistive software is told: the names of what there is, by role."""
        found: dict[str, list[str]] = {}
        for node in self.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]:
            if not node.get("ignored"):
                name = str(node.get("name", {}).get("value", ""))
                found.setdefault(str(node.get("role", {}).get("value")), []).append(name)
        return found

    def complaints(self) -> list[str]:
        """What its console says since the page was opened: errors, and what the page's policy forbade."""
        self._said += [str(entry["message"]) for entry in self.driver.get_log("browser")]
        return list(self._said)


@contextmanager
def chromium(folder: Path, *, scripts: bool = True) -> Iterator[Browser]:
    """A new one, without a past; `folder` is to be empty."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={folder}"):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {} if scripts else NO_SCRIPTS)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        yield Browser(driver)
    finally:
        driver.quit()


def eventually(check: Callable[[], T]) -> T:
    """Call `check` until it raises no AssertionError; its value. After the deadline its last error stands."""
    end = time.monotonic() + DEADLINE_S
    while True:
        try:
            return check()
        except AssertionError:
            if time.monotonic() > end:
                raise
        time.sleep(EVERY_S)


def until(condition: Callable[[], bool]) -> None:
    """Returns once it holds."""

    def check() -> None:
        assert condition()

    eventually(check)
