"""Other tools that trace TCP connections, run as they come: what each is, how it is started, and what it
says.

Whether one can run on this kernel is found by trying. bcc's tools compile against the kernel's headers; where
there are none, those that need no more than tracepoints run with the tree that tcpmon makes of the kernel's
BTF.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tcpmon.kernel import btf, headers
from tests.bench import subjects
from tests.bench.scrape import until

UAPI = Path(headers.__file__).parent.parent / "bpf" / "uapi.h"
SETTLE_SECONDS, POLL_SECONDS = 3.0 * subjects.PATIENCE, 0.1
# What says most first
_COMPLAINTS = ("Unable to", "Error attaching", "error:", "failed to", "ERROR", "Error")
_LOST = re.compile(rb"(?i)lost (\d+) (?:events|samples)")


class CannotRun(Exception):
    """A peer that does not trace here; the message is its own reason."""


@dataclass(frozen=True)
class Peer:
    """Tools that run at once, mostly one. `lines` is how many they print of a connection's whole life, both
    ends and all tools; `listener_lines` how many of a listening socket."""

    name: str
    commands: tuple[tuple[str, ...], ...]
    lines: int
    listener_lines: int = 0
    our_headers: bool = False


def _bcc(*names: str) -> tuple[tuple[str, ...], ...]:
    # Unbuffered, as a terminal has it: else nothing shows that one is ready
    return tuple((sys.executable, "-u", f"/usr/sbin/{name}-bpfcc") for name in names)


def _libbpf(name: str) -> tuple[tuple[str, ...], ...]:
    return (("stdbuf", "-oL", f"/usr/sbin/{name}"),)


def _bpftrace(name: str) -> tuple[tuple[str, ...], ...]:
    return (("bpftrace", "-B", "line", f"/usr/sbin/{name}.bt"),)


ALL_THREE = ("tcptracer", "tcpconnect", "tcpaccept")
PEERS = (
    Peer("bcc's tcplife", _bcc("tcplife"), 2),
    Peer("bcc's tcplife, with tcpmon's headers", _bcc("tcplife"), 2, our_headers=True),
    Peer("bcc's tcpstates", _bcc("tcpstates"), 10, 2),
    Peer("bcc's tcpstates, with tcpmon's headers", _bcc("tcpstates"), 10, 2, our_headers=True),
    Peer("bcc's tcptracer", _bcc("tcptracer"), 4),
    Peer("bcc's tcpconnect", _bcc("tcpconnect"), 1),
    Peer("bcc's tcpaccept", _bcc("tcpaccept"), 1),
    Peer("bcc's tcptracer, tcpconnect and tcpaccept at once", _bcc(*ALL_THREE), 6),
    Peer("libbpf-tools' tcplife", _libbpf("tcplife"), 2),
    Peer("libbpf-tools' tcpstates", _libbpf("tcpstates"), 10, 2),
    Peer("libbpf-tools' tcptracer", _libbpf("tcptracer"), 4),
    Peer("libbpf-tools' tcpconnect", _libbpf("tcpconnect"), 1),
    Peer("bpftrace's tcplife.bt", _bpftrace("tcplife"), 2),
    Peer("bpftrace's tcpconnect.bt", _bpftrace("tcpconnect"), 1),
    Peer("bpftrace's tcpaccept.bt", _bpftrace("tcpaccept"), 1),
)


@dataclass(frozen=True)
class Tool:
    """One running program that prints to a file."""

    process: subprocess.Popen[bytes]
    said: Path

    def text(self) -> bytes:
        return self.said.read_bytes()

    def reason(self) -> str:
        """The line that says what went wrong, or the last."""
        lines = [line.strip() for line in self.text().decode(errors="replace").splitlines() if line.strip()]
        complaints = (line for words in _COMPLAINTS for line in lines if words in line)
        found = next(complaints, lines[-1] if lines else "it ended without a word")
        return found if len(found) <= 160 else found[:157] + "…"

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(subjects.STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _header_tree(folder: Path) -> Path:
    """The tree that tcpmon compiles with, and what bcc's tools include of the kernel besides."""
    if folder.exists():
        return folder
    folder.mkdir()
    headers.write_tree(folder, btf.load())
    include = folder / "include"
    (include / "net").mkdir()
    (include / "net" / "sock.h").write_text(f"#include <kernel_types.h>\n{UAPI.read_text()}")
    (include / "linux" / "tcp.h").write_text("")
    return folder


def _started(command: tuple[str, ...], said: Path, our_headers: bool) -> Tool:
    environment = dict(os.environ)
    if our_headers:
        environment["BCC_KERNEL_SOURCE"] = str(_header_tree(said.with_name("headers")))
    with said.open("wb") as out:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
                # one that was started in the background would ignore it
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )
        except FileNotFoundError as error:
            raise CannotRun(f"{error.filename} is not installed") from None
    return Tool(process, said)


@contextlib.contextmanager
def running(peer: Peer, folder: Path) -> Iterator[list[Tool]]:
    """Its tools, each of which has shown a connection. Raises CannotRun with the reason where one does
    not."""
    tools: list[Tool] = []
    try:
        for number, command in enumerate(peer.commands):
            tools.append(_started(command, folder / f"peer-{number}", peer.our_headers))
        for tool in tools:
            _wait_until_it_traces(tool)
        yield tools
    finally:
        for tool in tools:
            tool.stop()


def _wait_until_it_traces(tool: Tool) -> None:
    with subjects.listener() as server:
        port = re.compile(rb"\b%d\b" % server.getsockname()[1])

        def traces() -> bool:
            subjects.whole_connection(server)
            return bool(port.search(tool.text()))

        if not until(
            lambda: tool.process.poll() is not None or traces(), subjects.START_SECONDS, POLL_SECONDS
        ):
            raise CannotRun(f"shows no connection within {subjects.START_SECONDS:.0f} s")
    if tool.process.poll() is not None:
        raise CannotRun(tool.reason())


def lines_of(tools: list[Tool], port: int) -> int:
    """How many they have printed of connections to this port."""
    word = re.compile(rb"^.*\b%d\b.*$" % port, re.MULTILINE)
    return sum(len(word.findall(tool.text())) for tool in tools)


def lost(tools: list[Tool]) -> int:
    """How many events they say they lost."""
    return sum(int(number) for tool in tools for number in _LOST.findall(tool.text()))


def settled(tools: list[Tool]) -> None:
    """Waits until they print no more."""
    sizes = [-1]

    def still() -> bool:
        sizes.append(sum(tool.said.stat().st_size for tool in tools))
        return sizes[-1] == sizes[-2]

    until(still, SETTLE_SECONDS, 3 * POLL_SECONDS)
