"""The landing page and its JSON as they are sent: bounds, escaping, what a browser may run, what is told."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from overviews import looked, row

from tcpmon import __version__
from tcpmon.config import Selection
from tcpmon.metrics.overview import COLUMNS, MAX_ROWS, Overview
from tcpmon.metrics.scrape import Status
from tcpmon.web import facts, landing
from tcpmon.web.landing import MAX_PAGE_ROWS, Landing, size

FOLDER = Path(landing.__file__).parent / "page"
HOSTILE = [
    "<script>a()",
    '"><img src=x>',
    "</title>&amp;",
    "'onload='",
    "a&b",
    "\\xff\\xfe",
    "$style ${x} $$",
]


def page(seen: Overview) -> str:
    return b"".join(Landing(lambda: seen).page({}).body).decode()


def answer(seen: Overview) -> dict[str, Any]:
    return dict(json.loads(b"".join(Landing(lambda: seen).status({}).body)))


class Parsed(HTMLParser):
    """The tags, and the text of each cell of the table, row by row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self.in_cell = self.in_cell and tag not in ("th", "td")

    def handle_data(self, data: str) -> None:
        if self.in_cell:
            self.rows[-1][-1] += data


def lines(seen: Overview, name: str) -> tuple[tuple[str, ...], bool]:
    (fact,) = [fact for fact in facts.facts(seen) if fact.name == name]
    return fact.lines, fact.warning


# --- the page


def test_only_what_is_shipped_may_run() -> None:
    response = Landing(lambda: looked([])).page({})
    text, policy = page(looked([])), response.headers["Content-Security-Policy"]
    for kind, files in (("style", ["landing.css"]), ("script", ["rates.js", "landing.js"])):
        (inline,) = re.findall(rf"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
        assert inline == "".join((FOLDER / file).read_text() for file in files)
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'; " in policy
    assert policy.startswith("default-src 'none'; ")
    assert "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'" in policy
    assert "unsafe" not in policy
    assert response.headers["Cache-Control"] == "no-store"


def test_nothing_is_loaded_from_elsewhere() -> None:
    tags = Parsed(page(looked([row("nginx", connects=3)]))).tags
    assert not [attribute for _tag, found in tags for attribute in found if attribute.startswith("on")]
    assert not [found for _tag, found in tags if "style" in found or "src" in found]
    links = [str(found["href"]) for _tag, found in tags if "href" in found]
    assert links[0].startswith("data:image/svg+xml,")
    # Relative: a proxy may have put the whole below a folder
    assert links[1:] == ["metrics", "status.json", "-/healthy", "-/ready"]


def test_files_are_read_when_first_asked_for() -> None:
    code = "import tcpmon.daemon; from tcpmon.web import landing; print(landing._files.cache_info().currsize)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_text(name: str) -> None:
    seen = looked(
        [row(name, connects=3)], filters={"comm": Selection((name.encode(),))}, netns={"4026531840": name}
    )
    parsed = Parsed(page(seen))
    assert parsed.rows[2][:2] == [name, f"{name} 4026531840"]
    assert [tag for tag, _ in parsed.tags] == [tag for tag, _ in Parsed(page(plain_twin())).tags]
    assert answer(seen)["rows"][0][0] == name


def plain_twin() -> Overview:
    """As above, with a harmless name."""
    comm = Selection((b"nginx",))
    return looked([row("nginx", connects=3)], filters={"comm": comm}, netns={"4026531840": "web"})


def test_totals_in_the_order_of_the_page() -> None:
    numbers = {name: 10**at + at for at, name in enumerate(COLUMNS, 3)}
    heading, total, first = Parsed(page(looked([row("nginx", **numbers)]))).rows
    assert heading == [
        *("comm", "netns", "port"),
        *("Connects", "Accepts", "Failures", "Closes", "Open", "Sent", "Received"),
    ]
    # connects, accepts, closes, failures, sent, received and open are 1003, 10,004, 100,005 and so on
    counts = ["1,003", "10,004", "1,000,006", "100,005", "1,000,000,009", "9.54 MiB", "95.4 MiB"]
    assert first == ["nginx", "4026531840", "443", *counts]
    assert total == ["all 1 label sets", *counts]


def test_without_any_series() -> None:
    seen = looked([])
    assert len(Parsed(page(seen)).rows) == 2
    assert answer(seen)["rows"] == []
    assert answer(seen)["total"] == [0] * len(COLUMNS)


def with_labels(seen: Overview, *labels: str) -> Overview:
    metrics = replace(seen.status.config.metrics, labels=labels)
    return replace(seen, status=replace(seen.status, config=replace(seen.status.config, metrics=metrics)))


def test_with_fewer_labels() -> None:
    seen = replace(with_labels(looked([]), "port"), rows=[(("443",), (5,) * len(COLUMNS))])
    heading, total, first = Parsed(page(seen)).rows
    assert (heading[0], first[0], len(heading)) == ("port", "443", len(first))
    assert len(total) == len(first)
    seen = replace(with_labels(looked([])), rows=[((), (5,) * len(COLUMNS))])
    heading, total, first = Parsed(page(seen)).rows
    assert (heading[0], first[0]) == ("label set", "all")
    assert len(heading) == len(total) == len(first)


def test_many_label_sets() -> None:
    rows = [row(f"c{number}", connects=number) for number in range(1, 2004)]
    seen = looked(rows)
    parsed, told = Parsed(page(seen)), answer(seen)
    assert len(parsed.rows) == 2 + MAX_PAGE_ROWS
    assert parsed.rows[2][0] == "c2003"
    assert "1,903 label sets with fewer connections are left out here." in page(seen)
    assert (len(told["rows"]), told["label_sets"]) == (MAX_ROWS, 2003)
    assert told["total"][0] == sum(range(1, 2004))


# --- the JSON


def test_the_shape_of_the_json() -> None:
    told = answer(looked([row("nginx", connects=3, open=2)], netns={"4026531840": "web", "7": "db"}))
    assert told.pop("facts")[0] == {
        "name": "lost",
        "title": "Losses",
        "lines": ["none lost"],
        "warning": False,
    }
    assert told == {
        "version": __version__,
        "started": 1_700_000_000.0,
        "uptime": 7.0,
        "up": "7 s",
        "labels": ["comm", "netns", "port"],
        "netns": {"4026531840": "web"},  # the others are not in the rows
        "columns": list(COLUMNS),
        "label_sets": 1,
        "total": [3, 0, 0, 0, 0, 0, 2],
        "rows": [["nginx", "4026531840", "443", 3, 0, 0, 0, 0, 0, 2]],
    }


@pytest.mark.parametrize("route", [Landing.page, Landing.status])
def test_nothing_is_read_for_who_wants_no_body(route: Callable[..., Any]) -> None:
    """HEAD closes the body without reading it."""

    def look() -> Overview:
        raise AssertionError("looked")

    response = route(Landing(look), {})
    response.body.close()
    assert response.status == 200


# --- facts


def test_losses() -> None:
    assert lines(looked([]), "lost") == (("none lost",), False)
    seen = looked([], lost={"event_ring": 7, "connection_table": 12345})
    assert lines(seen, "lost") == (("12,345 connection_table", "7 event_ring"), True)


def test_series() -> None:
    seen = looked([row("a")])
    assert lines(seen, "series") == (("1", "of 10,000"), False)
    full = replace(seen, counters={**seen.counters, "overflow": 1009})
    assert lines(full, "series") == (("1", "of 10,000", "no room for 1,009 connections: in _other"), True)


def test_tracked_connections() -> None:
    seen = looked([])
    busy = replace(seen, counters={**seen.counters, "tracked": 262144})
    assert lines(busy, "tracked") == (("262,144", "of 262,144"), False)


def test_mechanisms() -> None:
    assert lines(looked([]), "probes") == (("connect: fexit, raw_tracepoint", "accept: fexit"), False)


def test_no_filters() -> None:
    assert lines(looked([]), "filters") == (("none", "every connection counts"), False)


def test_filters() -> None:
    filters = {
        "pid": Selection((7,)),
        "port": Selection(((443, 443), (8000, 8099)), ((22, 22),)),
        "netns": Selection((), (4026531840, 4026531999)),
        "comm": Selection((b"caf\xe9", b"<b>")),
        "uid": Selection(tuple(range(20))),
        "remote": Selection((ip_network("10.0.0.0/8"), ip_network("fd00::/8"))),
        "family": "ipv6",
        "cgroup_map": "/sys/fs/bpf/cgroups",
    }
    assert lines(looked([], filters=filters, netns={"4026531840": "web"}), "filters")[0] == (
        "pid 7",
        "port 443, 8000-8099",
        "port not 22",
        "netns not web, 4026531999",
        "comm caf\\xe9, <b>",
        "uid 0, 1, 2, 3, 4, 5, 6, 7 and 12 more",
        "remote 10.0.0.0/8, fd00::/8",
        "family ipv6",
        "cgroup_map /sys/fs/bpf/cgroups",
    )


def test_configuration() -> None:
    seen = looked([])
    read = "read 2023-11-14 22:13:20 UTC"
    assert lines(seen, "config") == (("built-in defaults", read), False)
    named = replace(seen.status.config, path="/etc/tcpmon/tcpmon.yaml")
    failed = replace(seen, status=Status(named, reload_ok=False, reload_timestamp=1_700_000_000.0))
    said, warning = lines(failed, "config")
    assert warning
    assert said[:2] == ("/etc/tcpmon/tcpmon.yaml", "the last reload failed, see the log")


# --- words for numbers


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0.4, "0 s"),
        (59.2, "59 s"),
        (59.9, "59 s"),
        (61, "1 min 1 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 0 min"),
        (86399, "23 h 59 min"),
        (86400 * 400 + 7200, "400 d 2 h"),
    ],
)
def test_uptime(seconds: float, text: str) -> None:
    assert facts.uptime(seconds) == text


@pytest.mark.parametrize(
    "number, text",
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "0.98 KiB"),
        (1024, "1.00 KiB"),
        (10239, "10.0 KiB"),
        (102300, "99.9 KiB"),
        (102399, "100 KiB"),
        (1023487, "999 KiB"),
        (1023999, "0.98 MiB"),
        (5 * 2**40, "5.00 TiB"),
        (2**70, "1024 EiB"),
    ],
)
def test_size(number: int, text: str) -> None:
    assert size(number) == text
