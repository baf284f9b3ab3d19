"""A tool under test: a real `tcpmon tcptracer` (or tcpaccept, tcpconnect), its lines, and its end."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import TracebackType

from .netns import Netns
from .polling import PATIENCE, eventually
from .workload import enter

START_S = 30.0
END_S = 10.0 * PATIENCE
LOST = re.compile(r"^tcpmon (\w+): lost (\d+) events$", re.MULTILINE)

# A line's cells by the header's titles
Row = dict[str, str]


def command(name: str, *args: str) -> list[str]:
    """The command line of a tool."""
    return [sys.executable, "-m", "tcpmon", name, *args]


def parse(header: str, lines: list[str]) -> list[Row]:
    """The last column takes what is left of a line; a name with blanks is not for here."""
    titles = header.split()
    last = len(titles) - 1
    return [dict(zip(titles, line.rstrip().split(maxsplit=last), strict=True)) for line in lines]


class Tool:
    """A tool that writes to a file. `lossy` says that this test makes it lose events; `ns`, where it runs."""

    def __init__(
        self, folder: Path, name: str, *args: str, lossy: bool = False, ns: Netns | None = None
    ) -> None:
        self.name, self.lossy = name, lossy
        self._stdout, self._stderr = folder / "stdout", folder / "stderr"
        with self._stdout.open("wb") as out, self._stderr.open("wb") as err:
            self.process = subprocess.Popen(
                command(name, *args),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                preexec_fn=partial(enter, ns) if ns else None,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def ready(self) -> Tool:
        """Waits until it traces, which it says by its first line."""
        eventually(self._started, START_S)
        return self

    def _started(self) -> None:
        assert self.process.poll() is None, f"{self.name} ended before it traced\n{self.stderr()}"
        assert self.size(), f"{self.name}: nothing within {START_S} s"

    def stderr(self) -> str:
        return self._stderr.read_text(errors="replace")

    def lost(self) -> int:
        """How many events it says it lost."""
        return sum(int(number) for _name, number in LOST.findall(self.stderr()))

    def size(self) -> int:
        """How many bytes it has written."""
        return self._stdout.stat().st_size

    def output(self) -> str:
        """All it has written; bytes that are not UTF-8 as surrogates."""
        return self._stdout.read_bytes().decode(errors="surrogateescape")

    def lines(self, since: int = 0) -> list[str]:
        """The whole lines under the header; those only that came after its first `since` bytes."""
        with self._stdout.open("rb") as stdout:
            stdout.seek(since)
            text = stdout.read().decode(errors="surrogateescape")
        lines = text.split("\n")[:-1]
        headers = [number for number, line in enumerate(lines) if "PID " in line]
        return lines[headers[0] + 1 :] if headers else lines

    def header(self) -> str:
        return next(line for line in self.output().split("\n") if "PID " in line)

    def rows(self, since: int = 0) -> list[Row]:
        """The same as `lines`, by the header's titles."""
        return parse(self.header(), self.lines(since))

    def stop(self, how: signal.Signals = signal.SIGINT) -> str:
        """Ends it: it must have lost nothing, exit with 0 and say no more. All it has written."""
        self.process.send_signal(how)
        try:
            status = self.process.wait(END_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{how.name} did not end {self.name}\n{self.stderr()}") from None
        assert status == 0, f"exit status {status}\n{self.stderr()}"
        rest = LOST.sub("", self.stderr()).strip() if self.lossy else self.stderr()
        assert not rest, f"{self.name}: {rest}"
        return self.output()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Tool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self.process.poll() is not None:
            return
        if kind is None:
            self.stop()
        else:
            self.kill()
