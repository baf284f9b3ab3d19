"""What a tool asks of the kernel's side: which events, of which connections."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass

from tcpmon.config import Filters, Selection
from tcpmon.config.kinds import map_problem
from tcpmon.errors import TcpmonError
from tcpmon.events.record import Kind


@dataclass(frozen=True)
class ToolRequest:
    """`dns`: the answers of name servers too."""

    kinds: tuple[Kind, ...]
    filters: Filters
    dns: bool = False


def make(
    kinds: tuple[Kind, ...],
    parsed: argparse.Namespace,
    check_map: Callable[[str], str | None] = map_problem,
) -> ToolRequest:
    """The request of a tool's options; a tool that lacks one asks for everything there.

    TcpmonError where a map cannot be used. `check_map` says what is wrong with one, or None.
    """
    given = vars(parsed)
    ports = given.get("port") or ()
    family = {(True, False): "ipv4", (False, True): "ipv6"}.get((parsed.ipv4, parsed.ipv6), "both")
    filters = Filters(
        pid=_only(given.get("pid")),
        port=Selection(tuple((port, port) for port in ports)),
        netns=_only(given.get("netns")),
        comm=Selection(),
        uid=_only(given.get("uid")),
        remote=Selection(),
        family=family,
        cgroup_map=_map("--cgroupmap", parsed.cgroupmap, check_map),
        mntns_map=_map("--mntnsmap", parsed.mntnsmap, check_map),
    )
    return ToolRequest(kinds, filters, bool(given.get("dns")))


def _only(number: int | None) -> Selection[int]:
    return Selection() if number is None else Selection((number,))


def _map(option: str, path: str | None, check: Callable[[str], str | None]) -> str | None:
    if path is None:
        return None
    absolute = os.path.abspath(path)
    problem = check(absolute)
    if problem:
        raise TcpmonError(
            f"{option} {path}: {problem}",
            "bpftool map create PATH type hash key 8 value 8 entries 128 name ids flags 0",
        )
    return absolute
