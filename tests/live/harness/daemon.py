"""The daemon under test: a real `tcpmon run` as root, started, scraped, reloaded and stopped."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import yaml

from .metrics import Counts, Metrics, parse
from .netns import Netns
from .polling import PATIENCE, eventually, settled

READY = re.compile(r"^tcpmon: ready, serving (\S+)", re.MULTILINE)
START_S = 30.0
SCRAPE_S = 10.0 * PATIENCE
END_S = 10.0 * PATIENCE
# On kernels that offer several, tests/vm forces each
MECHANISM = os.environ.get("TCPMON_MECHANISM")
FORCED = [
    word for event in ("connect", "accept") for word in ("--force", f"{event}={MECHANISM}") if MECHANISM
]


Launch = Callable[[list[str], IO[bytes]], "subprocess.Popen[bytes]"]


def _launch(command: list[str], stderr: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class Daemon:
    """A running daemon with the defaults plus `config`. `lossy` says that this test makes it lose events;
    `launch` starts a command with an open file for what it says."""

    def __init__(
        self,
        folder: Path,
        config: dict[str, Any] | None = None,
        *,
        lossy: bool = False,
        launch: Launch = _launch,
    ) -> None:
        self.config_path, self.stderr_path = folder / "tcpmon.yaml", folder / "stderr"
        self.lossy = lossy
        self._listen = f"127.0.0.1:{free_port()}"
        self.write_config(config or {})
        with self.stderr_path.open("wb") as stderr:
            command = [sys.executable, "-m", "tcpmon", "run", "-c", str(self.config_path), *FORCED]
            self.process = launch(command, stderr)
        try:
            self.url = eventually(self._ready, START_S)
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise

    @property
    def pid(self) -> int:
        return self.process.pid

    def stderr(self) -> str:
        return self.stderr_path.read_text(errors="replace")

    def write_config(self, config: dict[str, Any]) -> None:
        """Write the file only (`listen` is added), at once as a whole; see `reload`."""
        new = self.config_path.with_suffix(".new")
        new.write_text(yaml.safe_dump({"listen": self._listen, **config}))
        new.replace(self.config_path)

    def get(self, path: str = "/metrics", patience_s: float = SCRAPE_S, **headers: str) -> str:
        """The body of a GET; header names are given with underscores."""
        request = urllib.request.Request(self.url.removesuffix("/metrics") + path)
        for name, value in headers.items():
            request.add_header(name.replace("_", "-"), value)
        with urllib.request.urlopen(request, timeout=patience_s) as answer:
            return str(answer.read().decode())

    def scrape(self, only: str = "") -> Metrics:
        """All samples, or those whose line contains `only`."""
        return parse(self.get(), only)

    def losses(self) -> dict[str, float]:
        """What it lost so far, by stage."""
        return self.scrape("tcpmon_lost_events_total").losses()

    def expect(self, want: Counts, ns: Netns, comm: str, deadline_s: float = 10.0, **labels: str) -> Metrics:
        """Assert that what `comm` did in `ns` comes to exactly `want` and stays there, identities and all."""
        where = {"netns": ns.inum, "comm": comm, **labels}

        def check() -> Metrics:
            scrape = self.scrape(f'netns="{ns.inum}"')
            got = scrape.counts(**where)
            assert got == want, f"{where}\n want {want}\n got  {got}"
            return scrape

        try:
            scrape = settled(check, deadline_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self._circumstances(ns)}") from None
        scrape.identities(**where)
        return scrape

    def _circumstances(self, ns: Netns) -> str:
        """What may have become of a count that is missing: the namespace's series, and all losses."""
        wanted = (f'netns="{ns.inum}"', "tcpmon_lost_events_total{")
        lines = [line for line in self.get().splitlines() if any(text in line for text in wanted)]
        told = [line for line in lines if not line.endswith((" 0", " 0.0")) and "_bucket{" not in line]
        return "in this namespace, and lost so far:\n" + "\n".join(told)

    def reload(self, config: dict[str, Any]) -> bool:
        """Write the file, send SIGHUP, wait for the outcome: True if the daemon took it.

        A refusal is only seen if the reload before it was not refused as well.
        """
        stamp = "tcpmon_config_last_reload_success_timestamp_seconds"
        before = self.scrape().value(stamp)
        self.write_config(config)
        os.kill(self.pid, signal.SIGHUP)

        def outcome() -> bool:
            scrape = self.scrape()
            taken = scrape.value(stamp) != before
            assert taken or scrape.value("tcpmon_config_last_reload_successful") == 0, "SIGHUP: no outcome"
            return taken

        return eventually(outcome)

    def stop(self) -> None:
        """SIGTERM: it must have lost nothing, exit with 0 and leave no traceback."""
        losses = {} if self.lossy else self.losses()
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"SIGTERM did not end the daemon\n{self.stderr()}") from None
        assert status == 0, f"exit status {status}\n{self.stderr()}"
        assert "Traceback" not in self.stderr(), self.stderr()
        assert not losses, f"the daemon lost events: {losses}"

    def _ready(self) -> str:
        status = self.process.poll()
        if status is not None:
            raise RuntimeError(f"the daemon ended with {status} before it was ready\n{self.stderr()}")
        line = READY.search(self.stderr())
        assert line, f"no ready line within {START_S} s\n{self.stderr()}"
        return line[1]

    def __enter__(self) -> Daemon:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.stop()
