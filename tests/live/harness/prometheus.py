"""Debian's Prometheus: started with a configuration, asked by its HTTP interface, stopped."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import yaml

from .daemon import free_port
from .polling import PATIENCE, eventually
from .require import require

ANSWER_S = 10.0 * PATIENCE
START_S = 20.0 * PATIENCE
NAME = "__name__"


class Series(NamedTuple):
    """One element of an instant vector. A scalar is one without labels."""

    labels: dict[str, str]
    value: float


def require_prometheus() -> None:
    for tool in ("prometheus", "promtool"):
        require(shutil.which(tool) is not None, f"`{tool}` (package prometheus) is not installed")


class Prometheus:
    """A running Prometheus with its data below `folder`, which `config`'s relative paths start from."""

    def __init__(self, folder: Path, config: Mapping[str, Any], *options: str) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self._log = folder / "prometheus.log"
        (folder / "prometheus.yml").write_text(yaml.safe_dump(dict(config)))
        command = [
            "prometheus",
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={self.address}",
            "--log.level=warn",
            *options,
        ]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            eventually(self._ready, START_S)
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def api(self, path: str, **parameters: str) -> Any:
        """`data` of what /api/v1/PATH answers; AssertionError with Prometheus' words where it is an error."""
        url = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=ANSWER_S) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode(errors='replace')}") from None

    def query(self, expression: str, at: float | None = None) -> list[Series]:
        """The instant vector (or scalar) at a Unix time; without one, now."""
        moment = {} if at is None else {"time": repr(at)}
        data = self.api("query", query=expression, **moment)
        if data["resultType"] == "scalar":
            return [Series({}, float(data["result"][1]))]
        assert data["resultType"] == "vector", f"{expression}: {data['resultType']}"
        return [Series(row["metric"], float(row["value"][1])) for row in data["result"]]

    def value(self, expression: str, at: float | None = None) -> float:
        """The value of an expression that gives one series."""
        found = self.query(expression, at)
        assert len(found) == 1, f"{len(found)} series of {expression}: {found}"
        return found[0].value

    def scraped(self, targets: int) -> float:
        """Waits until each of so many targets has been asked once more, from now on, and the answer (or that
        there was none) is stored; the Unix time of that."""
        begin = time.time()

        def again() -> float:
            times = [series.value for series in self.query("timestamp(up)")]
            assert len(times) == targets, f"{len(times)} of {targets} targets"
            assert min(times) > begin, "not scraped again"
            return time.time()

        return eventually(again, 15)

    def rules(self) -> list[dict[str, Any]]:
        """All rules, with health, lastError and what else Prometheus says of each."""
        return [rule for group in self.api("rules")["groups"] for rule in group["rules"]]

    def firing(self, alert: str) -> list[dict[str, str]]:
        """Labels of the alerts of that name that fire now."""
        alerts = self.api("alerts")["alerts"]
        return [
            {name: value for name, value in one["labels"].items() if name not in ("alertname", "severity")}
            for one in alerts
            if one["state"] == "firing" and one["labels"]["alertname"] == alert
        ]

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(START_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def complaints(self) -> Sequence[str]:
        """What it logged, warnings and errors."""
        return self._log.read_text(errors="replace").splitlines()

    def _ready(self) -> None:
        assert self._process.poll() is None, f"Prometheus ended\n{self._log.read_text()}"
        try:
            with urllib.request.urlopen(f"http://{self.address}/-/ready", timeout=ANSWER_S) as answer:
                assert answer.status == 200
        except OSError as error:
            raise AssertionError(f"Prometheus is not ready: {error}\n{self._log.read_text()}") from None

    def __enter__(self) -> Prometheus:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.stop()
