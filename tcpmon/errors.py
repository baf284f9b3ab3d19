"""The kinds of error an operator can meet. Each carries what is wrong and a hint what to do about it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path


class TcpmonError(Exception):
    """An operator's error: printed as one line plus a hint, never as a traceback; exit status 1."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class KernelError(TcpmonError):
    """The kernel, or what talks to it, lacks something that tracing needs."""


class ListenError(TcpmonError):
    """An address of `listen` cannot be bound."""


class OutputError(TcpmonError):
    """What stdout goes to takes no more."""

    def __init__(self, error: OSError) -> None:
        reason = (error.strerror or str(error)).lower()
        super().__init__(f"the output cannot be written: {reason}", "make room, or write elsewhere")


@dataclass(frozen=True)
class Fault:
    """One complaint about a configuration file. `line` and `column` count from 1; 0 means the whole file."""

    path: str
    line: int
    column: int
    key: str
    problem: str

    def __str__(self) -> str:
        place = f"{self.path}:{self.line}:{self.column}" if self.line else self.path
        return f"{place}: {self.key}: {self.problem}" if self.key else f"{place}: {self.problem}"


# Of a file that is none of ours every line may be a fault; nobody reads more at once.
MAX_TOLD = 100


class ConfigError(TcpmonError):
    """A configuration file with faults, one line each in `message`: the first MAX_TOLD, and how many more.
    What may be in it is told in `document`, of the folder docs."""

    def __init__(self, faults: list[Fault], document: str = "configuration.md") -> None:
        hint = f"see {_documents() / document}; `tcpmon check-config` checks a file"
        told = [*map(str, faults[:MAX_TOLD])]
        if more := len(faults) - len(told):
            told.append(f"{faults[0].path}: {more} more faults")
        super().__init__("\n".join(told), hint)
        self.faults = faults


@cache
def _documents() -> Path:
    """Where the package has them (python's prefix is /usr), or `make install` (PREFIX/lib/tcpmon); else those
    of the checkout."""
    prefix = Path(sys.prefix)
    for root in (prefix, *prefix.parents[1:2]):
        if (installed := root / "share" / "doc" / "tcpmon" / "docs").is_dir():
            return installed
    return Path("docs")
