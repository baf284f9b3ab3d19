"""bcc's tools as the judges of ours: of one workload they tell the same, but for what docs/tools.md lists."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
from harness.netns import Netns, netns
from harness.traffic import IPV4, IPV6, MAPPED, Way, connect_and_close, connect_errno, serve
from harness.workload import run, spawn

from tests.vm.guest.judge import BCC, LIBBPF, OURS, Line, Running, start, together

MACHINE = os.environ.get("TCPMON_VM_MACHINE", "")
COUNT = 7
CLOSED_PORT = 9
# Where bcc 0.26's tools compile against the kernel's headers
BCC_COMPILES = MACHINE == "6.1"
JUDGES = {"6.1": {"bcc": BCC, "libbpf": LIBBPF}, "6.12": {"libbpf": LIBBPF}}.get(MACHINE, {})


def meet(ns: Netns, comm: str, way: Way) -> None:
    with spawn(ns, comm + ".s", serve, COUNT, way) as server:
        run(ns, comm, connect_and_close, COUNT, way.target, server.hear())
        server.result()


def refuse(ns: Netns, comm: str, blocking: bool) -> None:
    def body() -> None:
        for _ in range(COUNT):
            with socket.socket() as sock:
                assert connect_errno(sock, ("127.0.0.1", CLOSED_PORT), blocking) == errno.ECONNREFUSED

    run(ns, comm, body)


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Running]:
    """What all of them said of the whole workload; they have ended."""
    folder = tmp_path_factory.mktemp("judges")
    with netns() as ns, together({"our": OURS, **JUDGES}, folder) as found:
        time.sleep(2)  # bcc's show their header before the last probe is attached
        meet(ns, "j-plain4", IPV4)
        meet(ns, "j-plain6", IPV6)
        meet(ns, "j-mapped", MAPPED)
        refuse(ns, "j-refused", True)
        refuse(ns, "j-refnb", False)
        time.sleep(2)
        for tool in found.values():
            tool.end()
    return found


def kinds(lines: Counter[Line]) -> Counter[str]:
    return Counter(line[0] for line in lines.elements())


PAIRS = [(whose, name) for whose, found in JUDGES.items() for name in found]


@pytest.mark.parametrize("comm", ["j-plain4", "j-plain6"])
@pytest.mark.parametrize("whose, name", PAIRS)
def test_they_agree(tools: dict[str, Running], whose: str, name: str, comm: str) -> None:
    ours, theirs = tools[f"our {name}"].lines(comm), tools[f"{whose} {name}"].lines(comm)
    assert sum(ours.values()) == {"tcptracer": 4 * COUNT}.get(name, COUNT)
    assert ours == theirs


@pytest.mark.parametrize("whose, name", PAIRS)
def test_refused_connects(tools: dict[str, Running], whose: str, name: str) -> None:
    """They agree but for tcptracer's X of a non-blocking connect, which closes what never was."""
    for comm in ("j-refused", "j-refnb"):
        ours, theirs = tools[f"our {name}"].lines(comm), tools[f"{whose} {name}"].lines(comm)
        if name == "tcptracer":
            assert not ours
            assert set(kinds(theirs)) <= {"X"}
        else:
            assert ours == theirs


def test_mapped_addresses_are_ipv4(tools: dict[str, Running]) -> None:
    """Ours are whole: C, A, X and X, all as IPv4."""
    lines = tools["our tcptracer"].lines("j-mapped")
    assert kinds(lines) == {"C": COUNT, "A": COUNT, "X": 2 * COUNT}
    assert {line[3] for line in lines} == {"4"}


@pytest.mark.parametrize("whose", list(JUDGES))
def test_bcc_has_no_connect_of_mapped_addresses(tools: dict[str, Running], whose: str) -> None:
    assert "C" not in kinds(tools[f"{whose} tcptracer"].lines("j-mapped"))


@pytest.mark.skipif(BCC_COMPILES, reason="here they compile")
@pytest.mark.parametrize("name", list(BCC))
def test_bcc_does_not_compile_here(name: str, tmp_path: Path) -> None:
    """With the kernel's own headers; ours ran in the tests above."""
    assert Path(f"/lib/modules/{os.uname().release}/build/include").exists()
    tool = start(name, BCC[name], tmp_path / "bcc")
    try:
        tool.process.wait(300)
    except subprocess.TimeoutExpired:
        pytest.fail(f"it runs\n{tool.output.read_text()}")
    finally:
        tool.process.kill()
        tool.process.wait()
    assert "error:" in tool.output.read_text(errors="replace")
