"""What makes a tool: its options, the events it shows, and how it shows them; and the same of other verbs."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from tcpmon.events.columns import Column, Lines, header
from tcpmon.events.record import Kind
from tcpmon.kernel.load import Layout
from tcpmon.tools import options
from tcpmon.tools.options import Example, Option

# The name that was looked up for a remote address, at a time of CLOCK_MONOTONIC in nanoseconds, as a cell
Query = Callable[[bytes, int], bytes]

# What tcptracer's columns of a connection mean, for manual pages
FLOW_MEANINGS = (
    ("IP", "4 or 6."),
    ("SADDR", "The local address; IPv6 in brackets."),
    ("DADDR", "The remote address."),
    ("SPORT", "The local port."),
    ("DPORT", "The remote port."),
    ("NETNS", "The inum of the socket's network namespace."),
)


class Printer(Protocol):
    """Makes a tool's output of batches of records, as Ring.read gives them."""

    def start(self) -> bytes:
        """What comes once tracing has begun."""

    def render(self, records: bytes) -> bytes:
        """What comes for these."""

    def end(self) -> bytes:
        """What comes when the tool ends."""


class Table:
    """A line for each event, under a header."""

    def __init__(self, start: str, layout: Layout, columns: Sequence[Column]) -> None:
        self._start = start.encode() + header(columns)
        self._lines = Lines(layout, columns)

    def start(self) -> bytes:
        return self._start

    def render(self, records: bytes) -> bytes:
        return self._lines.render(records)

    def end(self) -> bytes:
        return b""


@dataclass(frozen=True)
class Verb:
    """What the help and a manual page say of a verb with many options. `columns`: heading and meaning."""

    name: str
    description: str
    options: tuple[Option, ...]
    columns: tuple[tuple[str, str], ...]
    examples: tuple[Example, ...]

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """Gives a parser the description, options and examples."""
        parser.description = "\n".join(textwrap.wrap(options.plain(self.description), 80))
        options.add(parser, self.name, self.options, self.examples)


@dataclass(frozen=True)
class Tool(Verb):
    """A tool; `problem` says what is wrong with options given together, or nothing."""

    kinds: tuple[Kind, ...]
    printer: Callable[[argparse.Namespace, Layout, Query], Printer]
    problem: Callable[[argparse.Namespace], str] = lambda _parsed: ""
