"""bcc's tools and libbpf-tools' beside ours: started together, ended together, their lines made alike."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.polling import PATIENCE, eventually
from harness.tool import command, parse

NAMES = ("tcptracer", "tcpaccept", "tcpconnect")
# Local ports show more of a connect than its destination
_OPTIONS = {"tcptracer": [], "tcpaccept": [], "tcpconnect": ["-L"]}
BCC = {name: [sys.executable, "-u", f"/usr/sbin/{name}-bpfcc", *_OPTIONS[name]] for name in NAMES}
# There is no tcpaccept among them
LIBBPF = {
    "tcptracer": ["stdbuf", "-oL", "/usr/sbin/tcptracer"],
    "tcpconnect": ["stdbuf", "-oL", "/usr/sbin/tcpconnect", "-s"],
}
OURS = {name: command(name, *_OPTIONS[name]) for name in NAMES}
POLL_S = 0.5  # compilers need the time
START_S, END_S = 30.0, 10.0 * PATIENCE

# What is told (C, A, X, or nothing), pid, comm, IP version, local and remote address, local and remote port
Line = tuple[str, ...]


@dataclass(frozen=True)
class Running:
    """A tool at work."""

    name: str
    process: subprocess.Popen[bytes]
    output: Path

    def started(self) -> None:
        time.sleep(POLL_S)
        text = self.output.read_text(errors="replace")
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.process.args} ended\n{text}")
        assert "PID " in text, f"{self.process.args} shows no header\n{text}"

    def end(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(END_S)

    def lines(self, comm: str) -> Counter[Line]:
        """Those of processes whose name starts with `comm`."""
        lines = self.output.read_text(errors="replace").splitlines()
        header = next(number for number, line in enumerate(lines) if "PID " in line)
        rows = parse(lines[header], [line for line in lines[header + 1 :] if comm in line])
        return Counter(_alike(row) for row in rows)


def _alike(row: Mapping[str, str]) -> Line:
    ends = (_first(row, titles).strip("[]") for titles in (("SADDR", "LADDR"), ("DADDR", "RADDR")))
    ports = (_first(row, titles) for titles in (("SPORT", "LPORT"), ("DPORT", "RPORT")))
    return (row.get("T", ""), row["PID"], row["COMM"][:12], row["IP"], *ends, *ports)


def _first(row: Mapping[str, str], titles: tuple[str, ...]) -> str:
    """The tools do not agree on what the local end is called."""
    return next(row[title] for title in titles if title in row)


def start(name: str, program: list[str], folder: Path) -> Running:
    """Not waiting until it traces."""
    folder.mkdir()
    output = folder / name
    with output.open("wb") as file:
        process = subprocess.Popen(
            program,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            # a tool that was started in the background would ignore SIGINT
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
    return Running(name, process, output)


@contextmanager
def together(programs: Mapping[str, Mapping[str, list[str]]], folder: Path) -> Iterator[dict[str, Running]]:
    """All of `programs` (by whose, then by name) tracing at once: "bcc tcptracer" and so on."""
    with ExitStack() as ending:
        tools = {}
        for whose, found in programs.items():
            for name, program in found.items():
                tool = start(name, program, folder / f"{whose}-{name}")
                ending.callback(_gone, tool)
                tools[f"{whose} {name}"] = tool
                eventually(tool.started, START_S)  # one after the other: each compiles
        for tool in tools.values():
            tool.started()
        yield tools


def _gone(tool: Running) -> None:
    if tool.process.poll() is None:
        tool.process.kill()
    tool.process.wait()
