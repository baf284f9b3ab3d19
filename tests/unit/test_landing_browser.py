"""The landing page in a real Chromium, over a real server; only what the kernel would have counted is made
up. Each look is two seconds of the daemon's clock after the one before, however fast the page asks: rates are
exact.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from browser import THEMES, WIDTHS, Browser, chromium, eventually, until
from needs import needs
from overviews import looked, row
from selenium.webdriver.common.keys import Keys

from tcpmon.config import Address
from tcpmon.metrics.overview import Overview
from tcpmon.web.landing import Landing
from tcpmon.web.server import Server, listen

pytestmark = needs("chromium", "chromedriver")
STEP_S = 2.0
REFRESH_S = 2.0
AA = 4.5
COLUMNS = ("Connects", "Accepts", "Failures", "Closes", "Open", "Sent", "Received", "Trend")
Look = Callable[[int], Overview]


class Site:
    """A server of the page. `look(n)` is what there is to see at the nth request for it."""

    def __init__(self, look: Look) -> None:
        self.look, self.asked = look, 0
        self.told = ""  # what the browser may tell of requests that a test lets fail
        self.start(0)

    def start(self, port: int) -> None:
        landing = Landing(self.next)
        sock = listen(Address("127.0.0.1", port))
        self.port = sock.getsockname()[1]
        self.server = Server([sock], {"/": landing.page, "/status.json": landing.status})
        self.server.start()

    def next(self) -> Overview:
        self.asked += 1
        return replace(self.look(self.asked), uptime=STEP_S * self.asked)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("chromium")) as running:
        yield running


@pytest.fixture
def show(window: Browser) -> Iterator[Callable[[Look], Site]]:
    """show(look): the page, open in the window. It must not have had a complaint at the end."""
    sites: list[Site] = []

    def open_page(look: Look) -> Site:
        sites.append(Site(look))
        window.look("light", 1440)
        window.open(sites[-1].url)
        return sites[-1]

    yield open_page
    complaints = window.complaints()
    window.open("about:blank")
    for site in sites:
        site.server.stop()
        complaints = [line for line in complaints if not site.told or site.told not in line]
    assert not complaints


Show = Callable[[Look], Site]


def steady(n: int) -> Overview:
    """A server, a client of it, one whose connects fail, and one that does nothing."""
    return looked(
        [
            row("nginx", accepts=20_000 * n, closes=20_000 * n, open=17, sent_bytes=3 * 2**20 * n),
            row("curl", connects=7 * n, closes=6 * n, received_bytes=2048 * n, open=n),
            row("psql", netns="4026532245", port="5432", failures=n),
            row("sshd", port="22", accepts=3, open=3),
        ],
        netns={"4026531840": "web"},
    )


def comms(window: Browser) -> list[str]:
    return [row[0] for row in window.rows()]


def live(window: Browser) -> None:
    """Rates are there."""

    def check() -> None:
        assert window.sum()[1] not in ("–", "")
        assert re.fullmatch(r"[\d.]+( k)?", window.sum()[1])

    eventually(check)


def test_rates(window: Browser, show: Show) -> None:
    show(steady)

    def check() -> None:
        assert window.row("nginx")[3:9] == ["0", "10.0 k", "0", "10.0 k", "17", "1.50 MiB"]
        assert window.row("curl")[3:7] == ["3.5", "0", "0", "3.0"]
        assert window.row("curl")[9] == "1.00 KiB"
        assert window.row("psql")[3:8] == ["0", "0", "0.5", "0", "0"]
        assert window.row("sshd")[3:9] == ["0", "0", "0", "0", "3", "0 B"]
        assert window.sum()[1:5] == ["3.5", "10.0 k", "0.5", "10.0 k"]

    eventually(check)
    assert comms(window) == ["nginx", "curl", "psql", "sshd"]
    assert window.row("curl")[:3] == ["curl", "web 4026531840", "443"]
    assert window.row("psql")[:3] == ["psql", "4026532245", "5432"]
    assert window.text("#state") == "Live, read every 2 s."


def test_totals(window: Browser, show: Show) -> None:
    """The same words for them as the page without a script has."""
    site = show(lambda n: steady(1009))
    before = window.run("return fetch('/').then(r => r.text())")
    live(window)
    window.click("#totals")
    assert window.row("nginx")[4] == "20,180,000"
    assert window.row("nginx")[8] == "2.96 GiB"
    for text in [*window.sum()[1:8], *window.row("curl")[3:10]]:
        assert f">{text}</td>" in before
    window.click("#rates")
    assert window.row("nginx")[4] == "0"
    assert site.asked > 1


# What any cell of the table ever showed
WATCH = """
window.seen = new Set();
const note = () => document.querySelectorAll("tbody td").forEach((td) => window.seen.add(td.innerText));
new MutationObserver(note).observe(document.querySelector("table"),
  {subtree: true, childList: true, characterData: true});
note();
"""


def test_counters_that_begin_anew(window: Browser, show: Show) -> None:
    """No rate is negative, nor one of all that was counted since; the next one is known again."""
    started = [1.0]

    def look(n: int) -> Overview:
        at = n if n < 4 else n - 4
        return replace(steady(at + 1), started=started[0])

    site = show(look)
    window.run(WATCH)

    def over() -> None:
        assert site.asked > 6
        assert window.row("curl")[3] == "3.5"

    eventually(over)
    started[0] = 2.0  # another daemon
    until(lambda: site.asked > 10)
    eventually(over)
    seen = set(window.run("return [...window.seen]"))
    assert "–" in seen
    assert not [text for text in seen if text.startswith(("-", "−"))]
    assert {text for text in seen if text.endswith(" k")} == {"10.0 k"}


def test_label_sets_that_come_and_go(window: Browser, show: Show) -> None:
    """One that was not there before had counted nothing: it has a rate at once."""

    def look(n: int) -> Overview:
        rows = [row("stays", connects=5 * n)]
        if 5 <= n < 9:
            rows.append(row("comes", connects=6 if n == 5 else 10))
        return looked(rows)

    site = show(look)
    window.run(WATCH)
    eventually(lambda: window.row("comes"))
    until(lambda: site.asked > 9 and comms(window) == ["stays"])
    assert {"3.0", "2.0"} <= set(window.run("return [...window.seen]"))


NAMES = ["<script>a()", '"><img src=x>', "<b>bold</b>", "a&amp;b", "$&", "\\xff", "constructor", "__proto__"]


def test_names_are_text(window: Browser, show: Show) -> None:
    show(lambda n: looked([row(name, connects=n) for name in NAMES], netns={"4026531840": "<i>x</i>"}))
    live(window)
    assert sorted(comms(window)) == sorted(NAMES)
    assert {row[1] for row in window.rows()} == {"<i>x</i> 4026531840"}
    assert window.run("return document.querySelectorAll('main :is(script, img, b, i)').length") == 0


def test_sorted_by_keyboard(window: Browser, show: Show) -> None:
    show(steady)
    live(window)
    window.run("document.querySelector('#filter').focus()")
    for _ in range(20):
        window.press(Keys.TAB)
        if window.focus().startswith("port"):
            break
    window.press(Keys.ENTER)
    assert comms(window) == ["sshd", "nginx", "curl", "psql"]  # by number, and then by activity
    sorts = "return [...document.querySelectorAll('[aria-sort]')].map(h => [h.dataset.column, h.ariaSort])"
    assert window.run(sorts) == [["port", "ascending"]]
    window.press(Keys.SPACE)
    assert comms(window)[0] == "psql"
    assert window.run(sorts) == [["port", "descending"]]
    for column in COLUMNS:
        window.press(Keys.TAB)
        assert window.focus().startswith(column)
    outline = window.run("return getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    window.press(Keys.ENTER)
    assert comms(window)[0] == "nginx"


def test_filtered_by_typing(window: Browser, show: Show) -> None:
    show(steady)
    live(window)
    window.type("#filter", "443 CU")
    assert comms(window) == ["curl"]
    assert window.text("#note") == "1 of 4 match the filter."
    assert window.run("return document.querySelector('#found').textContent") == "1 label sets match."
    window.type("#filter", "web")
    assert set(comms(window)) == {"nginx", "curl", "sshd"}
    window.type("#filter", "nobody")
    assert comms(window) == []
    assert window.sum()[0] == "all 4 label sets"


def quiet(site: Site) -> None:
    """Nothing is asked for, for longer than from one refresh to the next."""
    asked = eventually(lambda: settled_count(site))
    time.sleep(1.5 * REFRESH_S)
    assert site.asked == asked


def settled_count(site: Site) -> int:
    before = site.asked
    time.sleep(0.3)
    assert site.asked == before
    return before


def test_pause(window: Browser, show: Show) -> None:
    site = show(steady)
    live(window)
    window.click("#pause")
    assert window.text("#state") == "Paused."
    quiet(site)
    window.type("#filter", "curl")  # works on what there is
    assert comms(window) == ["curl"]
    asked = site.asked
    window.click("#pause")
    until(lambda: site.asked > asked + 1)
    assert window.text("#state") == "Live, read every 2 s."


def test_a_page_that_is_not_seen_asks_for_nothing(window: Browser, show: Show) -> None:
    site = show(steady)
    live(window)
    page = window.driver.current_window_handle
    window.driver.switch_to.new_window("tab")
    try:
        quiet(site)
    finally:
        window.driver.close()
        window.driver.switch_to.window(page)
    asked = site.asked
    until(lambda: site.asked > asked + 1)


def test_not_reachable(window: Browser, show: Show) -> None:
    site = show(steady)
    site.told = "ERR_CONNECTION_REFUSED"
    live(window)
    site.server.stop()
    since = r"Not reachable since \d\d:\d\d:\d\d \(no connection\)\. The numbers are from before\..*"
    until(lambda: bool(re.fullmatch(since, window.text("#state"))))
    assert len(window.rows()) == 4
    said = window.text("#state")
    until(lambda: len(window.complaints()) > 2)  # the browser's own, of each try; since when stays as it is
    assert window.text("#state") == said
    site.start(site.port)
    until(lambda: window.text("#state") == "Live, read every 2 s.")
    live(window)


def test_an_error_is_told(window: Browser, show: Show) -> None:
    def look(n: int) -> Overview:
        if n > 3:
            raise RuntimeError("a bug")
        return steady(n)

    show(look).told = "status of 500"
    until(lambda: "(it answers 500 Internal Server Error)" in window.text("#state"))


def test_more_than_are_followed(window: Browser, show: Show) -> None:
    show(lambda n: looked([row(f"c{at}", connects=at * n) for at in range(1, 1500)]))
    live(window)
    assert len(window.rows()) == 100
    assert window.sum()[0] == "all 1,499 label sets"
    assert window.text("#note") == (
        "Of 1,499 label sets, the 1,000 with most connections since counting began are followed here; the "
        "sum is of all. The first 100 are shown."
    )
    window.type("#filter", "c51")
    until(lambda: {"c510", "c519"} <= set(comms(window)))


@pytest.mark.parametrize("labels", [("port",), ()])
def test_other_labels_after_a_reload(window: Browser, show: Show, labels: tuple[str, ...]) -> None:
    """The page loads itself anew."""

    def look(n: int) -> Overview:
        seen = steady(n)
        metrics = replace(seen.status.config.metrics, labels=labels)
        status = replace(seen.status, config=replace(seen.status.config, metrics=metrics))
        rows = [(("443",) if labels else (), (2 * n,) * 7)]
        return seen if n < 4 else replace(seen, status=status, rows=rows, label_sets=1)

    show(look)
    until(lambda: [row[:2] for row in window.rows()] == [["443" if labels else "all", "1.0"]])
    window.click("thead button")
    assert len(window.rows()[0]) == 9


def test_nothing_counted_yet(window: Browser, show: Show) -> None:
    show(lambda n: looked([]))
    until(lambda: window.text("#note") == "No connection has been counted yet.")
    until(lambda: window.sum()[1:6] == ["0", "0", "0", "0", "0"])


def test_what_is_told_of_tcpmon_stays_up_to_date(window: Browser, show: Show) -> None:
    show(lambda n: looked([], lost={"event_ring": 7 if n > 3 else 0}))
    assert window.text("#lost dd") == "none lost"
    until(lambda: window.text("#lost dd") == "7 event_ring")
    assert window.driver.title.startswith("tcpmon on ")


@pytest.mark.parametrize("theme", THEMES)
def test_every_width_in_both_themes(window: Browser, show: Show, theme: str) -> None:
    """Nothing is wider than the window, all text has contrast, and who cannot see it has a table."""
    long = row("fifteen-bytes-x", port="65535", connects=10**9, open=10**6, sent_bytes=10**15)
    failing = {"event_ring": 7}

    def look(n: int) -> Overview:
        seen = looked(
            [*steady(n).rows, long], lost=failing, netns={"4026531840": "a-long-name-of-a-namespace"}
        )
        return replace(seen, rows=[(labels, tuple(v * n for v in values)) for labels, values in seen.rows])

    show(look)
    live(window)
    for width in WIDTHS:
        window.look(theme, width)
        for view in ("#rates", "#totals"):
            window.click(view)
            assert window.overflow() <= 0, (width, view)
            ratio, where = window.contrast()
            assert ratio >= AA, (width, where)
        roles = window.roles()
        assert len(roles["table"]) == 1
        assert (len(roles["row"]), len(roles["rowheader"])) == (7, 16)
        assert len(roles["columnheader"]) == 11
        assert len(roles["cell"]) == 6 * 8
        assert {"Connects", "comm"} <= {name.split()[0] for name in roles["button"] if name}
        assert "Filter" in roles["searchbox"]


def test_tops_of_the_sparkline_are_the_busiest_times(window: Browser, show: Show) -> None:
    grown = [0, 1, 11, 12, 13, 33, 34, 35, 36]
    show(lambda n: looked([row("curl", connects=1000 + (grown[n] if n < len(grown) else 36 + n))]))
    path = "return document.querySelector('#rows .line').getAttribute('d')"
    drawn = eventually(lambda: enough(re.findall(r"([\d.]+) ([\d.]+)", str(window.run(path)))))
    xs, heights = zip(*((float(x), 20 - float(y)) for x, y in drawn), strict=True)
    assert all(b - a == 1 for a, b in pairwise(xs))
    assert xs[-1] == 59
    assert max(heights) == 19


def enough(points: list[tuple[str, str]]) -> list[tuple[str, str]]:
    assert len(points) > 2
    return points


def test_without_a_script(tmp_path: Path) -> None:
    site = Site(lambda n: steady(1009))
    try:
        with chromium(tmp_path, scripts=False) as plain:
            plain.open(site.url)
            assert plain.text("#state").startswith("Totals since counting began.")
            assert plain.row("curl")[1:] == [
                *("web 4026531840", "443"),
                *("7,063", "0", "0", "6,054", "1,009", "0 B", "1.97 MiB"),
            ]
            assert plain.sum()[:5] == ["all 4 label sets", "7,063", "20,180,003", "1,009", "20,186,054"]
            assert not [
                button
                for button in plain.driver.find_elements("css selector", "button, input")
                if button.is_displayed()
            ]
            for theme in THEMES:
                for width in WIDTHS:
                    plain.look(theme, width)
                    assert plain.overflow() <= 0
            assert not plain.complaints()
            assert site.asked == 1
    finally:
        site.server.stop()
