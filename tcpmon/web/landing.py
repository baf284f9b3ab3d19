"""The landing page, and the JSON that keeps it live.

The page is whole as it is sent, with totals since counting began; its script, where one runs, takes over the
table and shows rates. Both come from files below page/, read when first asked for. docs/landing.md has the
shape of the JSON.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from string import Template

from tcpmon import __version__
from tcpmon.metrics.overview import COLUMNS, Overview, Row, Values
from tcpmon.web.facts import Fact, facts, uptime
from tcpmon.web.handler import Response

_FOLDER = Path(__file__).parent / "page"
# Without a script there is no filter to find a row of more.
MAX_PAGE_ROWS = 100
_NO_STORE = {"Cache-Control": "no-store"}
# In the page's order: the name in COLUMNS, the heading, and what kind of number it is.
_SHOWN = (
    ("connects", "Connects", "rate"),
    ("accepts", "Accepts", "rate"),
    ("failures", "Failures", "rate"),
    ("closes", "Closes", "rate"),
    ("open", "Open", "level"),
    ("sent_bytes", "Sent", "bytes"),
    ("received_bytes", "Received", "bytes"),
)
_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


@dataclass(frozen=True)
class _Files:
    """The page's parts, and the headers that let a browser use these and nothing else."""

    template: Template
    style: str
    script: str
    headers: Mapping[str, str]


class Landing:
    """Routes of `/` and `/status.json`. `look` is called for each; one costs less than a scrape."""

    def __init__(self, look: Callable[[], Overview]) -> None:
        self._look = look

    def page(self, _headers: Mapping[str, str]) -> Response:
        return Response(200, "text/html; charset=utf-8", self._page(), _files().headers)

    def status(self, _headers: Mapping[str, str]) -> Response:
        return Response(200, "application/json", self._status(), _NO_STORE)

    # Made when read, so that HEAD costs nothing
    def _page(self) -> Iterator[bytes]:
        yield render(self._look()).encode()

    def _status(self) -> Iterator[bytes]:
        yield json.dumps(as_json(self._look()), separators=(",", ":")).encode()


def as_json(seen: Overview) -> dict[str, object]:
    in_rows = {value for labels, _values in seen.rows for value in labels}
    return {
        "version": __version__,
        "started": seen.started,
        "uptime": seen.uptime,
        "up": uptime(seen.uptime),
        "facts": [asdict(fact) for fact in facts(seen)],
        "labels": seen.status.config.metrics.labels,
        "netns": {inum: name for inum, name in seen.netns.items() if inum in in_rows},
        "columns": COLUMNS,
        "label_sets": seen.label_sets,
        "total": seen.total,
        "rows": [[*labels, *values] for labels, values in seen.rows],
    }


def render(seen: Overview) -> str:
    """The page's HTML. Names of processes and namespaces are anybody's choice: all text is escaped."""
    files, labels = _files(), seen.status.config.metrics.labels
    left_out = seen.label_sets - MAX_PAGE_ROWS
    rows = "\n".join(_row(row, seen, labels) for row in seen.rows[:MAX_PAGE_ROWS])
    return files.template.substitute(
        style=files.style,
        script=files.script,
        version=escape(__version__),
        host=escape(platform.node()),
        kernel=escape(platform.release()),
        up=escape(uptime(seen.uptime)),
        labels=escape(" ".join(labels)),
        facts="\n".join(map(_fact, facts(seen))),
        headings="\n".join([*map(_label_heading, labels or ("",)), *map(_heading, _SHOWN)]),
        width=len(labels) or 1,
        label_sets=f"{seen.label_sets:,}",
        total="".join(_numbers(seen.total)),
        rows=rows,
        note=f"{left_out:,} label sets with fewer connections are left out here." if left_out > 0 else "",
    )


@functools.cache
def _files() -> _Files:
    template, style, rates, page = (
        (_FOLDER / name).read_text(encoding="utf-8")
        for name in ("landing.html", "landing.css", "rates.js", "landing.js")
    )
    script = rates + page
    policy = (
        "default-src 'none'; "
        f"style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = {"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer", **_NO_STORE}
    return _Files(Template(template), style, script, headers)


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _fact(fact: Fact) -> str:
    lines = "".join(f"<span>{escape(line)}</span>" for line in fact.lines)
    warning = ' class="warning"' if fact.warning else ""
    return f'<div id="{fact.name}"{warning}><dt>{escape(fact.title)}</dt><dd>{lines}</dd></div>'


# The roles are those that a table's parts have of themselves: browsers forget them where a style lays out the
# parts in another way, as it does on narrow screens.
def _label_heading(name: str) -> str:
    text = name or "label set"
    return f'<th role="columnheader" scope="col" data-column="{name}" data-kind="label">{text}</th>'


def _heading(column: tuple[str, str, str]) -> str:
    name, heading, kind = column
    return f'<th role="columnheader" scope="col" data-column="{name}" data-kind="{kind}">{heading}</th>'


def _row(row: Row, seen: Overview, names: tuple[str, ...]) -> str:
    labels, values = row
    cells = [_label(name, value, seen) for name, value in zip(names, labels, strict=True)]
    heading = "".join(cells) or '<th role="rowheader" scope="row">all</th>'
    return f'<tr role="row">{heading}{"".join(_numbers(values))}</tr>'


def _label(name: str, value: str, seen: Overview) -> str:
    known = seen.netns.get(value, "") if name == "netns" else ""
    text = f"<span>{escape(known)}</span> <small>{escape(value)}</small>" if known else escape(value)
    return f'<th role="rowheader" scope="row" class="{name}">{text}</th>'


def _numbers(values: Values) -> Iterator[str]:
    by_name = dict(zip(COLUMNS, values, strict=True))
    for name, heading, kind in _SHOWN:
        number = by_name[name]
        quiet = "" if number else ' class="zero"'
        text = size(number) if kind == "bytes" else f"{number:,}"
        yield f'<td role="cell"{quiet} data-kind="{kind}" data-heading="{heading}">{text}</td>'


def size(number: float) -> str:
    """Bytes, with three digits that count."""
    unit = "B"
    for larger in _UNITS:
        if number < 999.5:
            break
        number, unit = number / 1024, larger
    digits = 0 if unit == "B" or number >= 99.95 else 1 if number >= 9.995 else 2
    return f"{number:.{digits}f} {unit}"
