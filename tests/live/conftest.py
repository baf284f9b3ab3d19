"""Fixtures of the truth suite: a daemon, namespaces, names and helpers, all of them real."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from harness.again import pytest_runtest_protocol
from harness.blackhole import SILENT4, SILENT6, silence
from harness.daemon import Daemon
from harness.helpers import Helpers, build
from harness.netns import Netns, netns, veth_pair
from harness.require import require_privileges
from harness.tool import Tool
from harness.watched import Trio, Watched

from tests.soak.journald import StandIn

__all__ = ["pytest_runtest_protocol"]  # a hook

_names = itertools.count(1)
StartTool = Callable[..., Tool]


@pytest.fixture(scope="session", autouse=True)
def privileges() -> None:
    require_privileges()


@pytest.fixture(scope="session")
def shared_daemon(privileges: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    # The tests' traffic is in namespaces of their own: what else goes on in the machine is not their affair.
    # lossy: each test looks for itself.
    config = {"filters": {"netns": {"exclude": ["self"]}}}
    with Daemon(tmp_path_factory.mktemp("daemon"), config, lossy=True) as running:
        yield running


@pytest.fixture
def daemon(shared_daemon: Daemon) -> Iterator[Daemon]:
    """The session's daemon, with the defaults; the test must not make it lose an event."""
    before = shared_daemon.losses()
    yield shared_daemon
    assert shared_daemon.losses() == before


@pytest.fixture
def start_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Daemon]]:
    """start_daemon(config={...}, lossy=False): a daemon of the test's own, stopped and judged at the end."""
    with ExitStack() as running:

        def start(config: dict[str, Any] | None = None, *, lossy: bool = False) -> Daemon:
            folder = tmp_path_factory.mktemp("own-daemon")
            return running.enter_context(Daemon(folder, config, lossy=lossy))

        yield start


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[StandIn]:
    """What stands for journald, for a daemon that it launches."""
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    place = tmp_path / "journald"
    place.mkdir()
    made = StandIn(place)
    yield made
    made.close()


@pytest.fixture
def ns(privileges: None) -> Iterator[Netns]:
    """A fresh network namespace with lo up."""
    with netns() as fresh:
        yield fresh


@pytest.fixture
def pair(privileges: None) -> Iterator[tuple[Netns, Netns]]:
    """Two fresh namespaces joined by a veth: (left, right)."""
    with veth_pair() as both:
        yield both


@pytest.fixture
def silent(pair: tuple[Netns, Netns]) -> tuple[Netns, Netns]:
    """A pair whose left end knows addresses that never answer, and soon gives up."""
    left, _ = pair
    left.sysctl("net.ipv4.tcp_syn_retries", 1)
    for address in (SILENT4, SILENT6):
        silence(left, address)
    return pair


@pytest.fixture
def comm() -> str:
    """A comm that no other test has; room for a suffix (`comm + ".s"`) within 15 bytes. No dot: it also names
    pinned maps, and a BPF file system has no names with dots."""
    return f"t{os.getpid() % 4096:x}-{next(_names)}"


@pytest.fixture(scope="session")
def helpers(privileges: None, tmp_path_factory: pytest.TempPathFactory) -> Helpers:
    return build(tmp_path_factory.mktemp("helpers"))


@pytest.fixture
def start_tool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartTool]:
    """start_tool(name, *args, lossy=False, ns=None): a tool that traces, stopped and judged at the end.

    With wait=False it is on its way; `Tool.ready` waits.
    """
    with ExitStack() as running:

        def start(name: str, *args: str, wait: bool = True, **how: Any) -> Tool:
            tool = running.enter_context(Tool(tmp_path_factory.mktemp(name), name, *args, **how))
            return tool.ready() if wait else tool

        yield start


@pytest.fixture(scope="module")
def trio(privileges: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trio]:
    """The three tools, for the tests of a module; none of these may make them lose an event."""
    commands = (("tcptracer", "-v"), ("tcpaccept",), ("tcpconnect", "-U", "-L"))
    with ExitStack() as running:
        tools = [running.enter_context(Tool(tmp_path_factory.mktemp(args[0]), *args)) for args in commands]
        yield Trio(*(tool.ready() for tool in tools))


@pytest.fixture
def watched(trio: Trio, request: pytest.FixtureRequest, comm: str) -> Watched:
    """What the three tools tell of the test's namespaces (`ns` or `pair`) and of its programs."""
    names = [name for name in ("ns", "pair") if name in request.fixturenames]
    found = [request.getfixturevalue(name) for name in names]
    namespaces = [each for one in found for each in (one if isinstance(one, tuple) else (one,))]
    return Watched(trio, trio.sizes(), tuple(namespaces), comm)
