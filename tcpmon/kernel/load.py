"""Starts the loader child, and takes over what it hands back: maps, programs and links."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import IO, Any

from tcpmon.errors import KernelError
from tcpmon.kernel.probes import Probe
from tcpmon.kernel.source import Module

log = logging.getLogger(__name__)

_TIMEOUT_SECONDS = 270  # a compile takes a second, under emulation minutes; the unit waits for 300
MAX_FDS = 253
_MAX_ANSWER_BYTES = 1 << 20
_NO_MEMORY = "Cannot allocate memory"  # as libbpf says it of a map
MEMORY_HINT = "is there memory (MemoryMax=)? The compiler takes 130 MB, the tables with the defaults 62 MB"
_DEATH_HINT = "`tcpmon check-kernel` may tell more; else please report it"
ROOM_HINT = "make room in /tmp, or name another folder by TMPDIR"


@dataclass(frozen=True)
class Layout:
    """A C type: its size, and the (offset, size) of each field, in bytes."""

    size: int
    fields: Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class Table:
    """A BPF map: its descriptor and the layout of its keys and values, as compiled from bpf/types.h."""

    fd: int
    key: Layout
    value: Layout


@dataclass(frozen=True)
class Loaded:
    """The running module. Tracing goes on for as long as `links` are open."""

    tables: Mapping[str, Table]
    programs: Mapping[str, int]
    links: tuple[int, ...]
    probes: tuple[Probe, ...]
    bcc: str

    def close(self) -> None:
        for fd in (*self.links, *self.programs.values(), *(table.fd for table in self.tables.values())):
            os.close(fd)


class Loader:
    """The child that compiles, loads and attaches, for one module. Once begun it makes ready (imports bcc,
    reads the kernel's types) while its parent does something else. To be closed."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        """Returns at once. KernelError where there is no room for what the child says."""
        # bcc and the compiler write to both stdout and stderr; it is told where something fails
        self._output = _temporary_file()
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._channel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _MAX_ANSWER_BYTES)
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _MAX_ANSWER_BYTES)
            self._child = subprocess.Popen(
                # -I: a bcc.py in the working directory is not ours to run
                [sys.executable, "-I", "-m", "tcpmon.kernel.loader", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
            )

    def load(self, module: Module, mechanisms: Mapping[str, str]) -> Loaded:
        """The module, attached; the child is gone then.

        `mechanisms` forces one for an event ("accept", "connect"). KernelError says what is missing.
        """
        if self._child is None:
            self.begin()
        request = {"module": asdict(module), "mechanisms": dict(mechanisms)}
        data, fds = self._ask(json.dumps(request).encode() + b"\n")
        status = self._end()
        self._output.seek(0)
        said = self._output.read().decode(errors="replace")
        self._output.close()
        if not data:
            hint = MEMORY_HINT if status == -signal.SIGKILL or lacks_memory(said) else _DEATH_HINT
            raise KernelError(_death(status, said), hint)
        answer: dict[str, Any] = json.loads(data)
        if "error" in answer and (line := _line_with(_NO_MEMORY, said)):
            raise KernelError(f"the kernel has no memory for the BPF module ({line})", MEMORY_HINT)
        _pass_on(said, failed="error" in answer)
        if "error" in answer:
            raise KernelError(answer["error"], answer["hint"])
        return described(answer, fds)

    def _ask(self, request: bytes) -> tuple[bytes, list[int]]:
        """Nothing where the child died."""
        self._channel.settimeout(_TIMEOUT_SECONDS)
        try:
            self._channel.sendall(request)
            data, fds, _flags, _peer = socket.recv_fds(
                self._channel, _MAX_ANSWER_BYTES, MAX_FDS, socket.MSG_CMSG_CLOEXEC
            )
        except (BrokenPipeError, ConnectionResetError):
            return b"", []
        except TimeoutError:
            assert self._child
            self._child.kill()
            raise KernelError(
                f"the loader gave no answer in {_TIMEOUT_SECONDS} s", "look at the machine's load"
            ) from None
        return data, fds

    def _end(self) -> int:
        """The child's exit status. One that was not asked ends when its channel does."""
        if self._child is None:
            return 0
        child, self._child = self._child, None
        self._channel.close()
        return child.wait()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._child:
            self._end()
            self._output.close()


def load(module: Module, mechanisms: Mapping[str, str]) -> Loaded:
    """By a loader of its own; as Loader.load."""
    with Loader() as loader:
        return loader.load(module, mechanisms)


def described(answer: Mapping[str, Any], fds: Sequence[int]) -> Loaded:
    """What the loader, or describe(), says of a module's descriptors."""
    names = answer["maps"]
    maps, programs = fds[: len(names)], fds[len(names) : len(names) + len(answer["programs"])]
    tables = {
        name: Table(fd, _layout(answer["layouts"][name]["key"]), _layout(answer["layouts"][name]["value"]))
        for name, fd in zip(names, maps, strict=True)
    }
    return Loaded(
        tables=tables,
        programs=dict(zip(answer["programs"], programs, strict=True)),
        links=tuple(fds[len(maps) + len(programs) :]),
        probes=tuple(Probe(**probe) for probe in answer["probes"]),
        bcc=answer["bcc"],
    )


def describe(loaded: Loaded) -> dict[str, Any]:
    """All but the descriptors, for JSON; as the loader does."""
    return {
        "maps": list(loaded.tables),
        "programs": list(loaded.programs),
        "links": len(loaded.links),
        "probes": [asdict(probe) for probe in loaded.probes],
        "layouts": {
            name: {"key": asdict(table.key), "value": asdict(table.value)}
            for name, table in loaded.tables.items()
        },
        "bcc": loaded.bcc,
    }


def descriptors(loaded: Loaded) -> list[int]:
    """In the order that described() takes."""
    return [*(table.fd for table in loaded.tables.values()), *loaded.programs.values(), *loaded.links]


def _layout(of: Mapping[str, Any]) -> Layout:
    return Layout(of["size"], {name: (place[0], place[1]) for name, place in of["fields"].items()})


def _temporary_file() -> IO[bytes]:
    try:
        return tempfile.TemporaryFile()  # for as long as the child lives
    except OSError as error:
        raise KernelError(f"a temporary file cannot be made: {error.strerror}", ROOM_HINT) from None


def lacks_memory(said: str) -> bool:
    """As python, the C library and its linker say so."""
    return any(words in said for words in (_NO_MEMORY, "MemoryError", "failed to map segment"))


def _line_with(text: str, said: str) -> str:
    """The first; empty where there is none."""
    return next((line.strip() for line in said.splitlines() if text in line), "")


def _death(status: int, said: str) -> str:
    last = said.strip().splitlines()[-1:] or ["it said nothing"]
    how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
    return f"the loader {how}: {last[0]}"


def _pass_on(said: str, failed: bool) -> None:
    for line in said.splitlines():
        log.log(logging.INFO if failed else logging.DEBUG, "loader: %s", line)
