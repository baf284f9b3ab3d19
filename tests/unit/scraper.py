"""Debian's Prometheus as a client: which targets it reaches, and why it does not reach the others."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from waiting import DEADLINE_SECONDS
from webpki import write_yaml


class Scraper:
    """A running Prometheus that scrapes each job every other second."""

    def __init__(self, folder: Path, jobs: Mapping[str, Mapping[str, Any]]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self._address = f"127.0.0.1:{probe.getsockname()[1]}"
        often = {"scrape_interval": "2s", "scrape_timeout": "2s"}
        scrapes = [{"job_name": name, **often, **job} for name, job in jobs.items()]
        write_yaml(folder / "prometheus.yml", {"scrape_configs": scrapes})
        self._log = folder / "prometheus.log"
        command = [
            "prometheus",
            f"--config.file={folder}/prometheus.yml",
            f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address={self._address}",
        ]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def api(self, path: str, **parameters: str) -> Any:
        """What it answers; None while it does not."""
        url = f"http://{self._address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=DEADLINE_SECONDS) as reply:
            return json.load(reply)["data"]
        assert self.process.poll() is None, self._log.read_text()
        return None

    def targets(self) -> dict[str, tuple[str, str]]:
        """By job: up, down or unknown; and the last error."""
        found = self.api("targets") or {"activeTargets": []}
        return {
            target["labels"]["job"]: (target["health"], target["lastError"])
            for target in found["activeTargets"]
        }

    def value(self, query: str) -> float | None:
        """Of an expression that gives one series, or none."""
        found = (self.api("query", query=query) or {"result": []})["result"]
        return float(found[0]["value"][1]) if found else None


@contextlib.contextmanager
def scraper(folder: Path, jobs: Mapping[str, Mapping[str, Any]]) -> Iterator[Scraper]:
    running = Scraper(folder, jobs)
    try:
        yield running
    finally:
        running.process.terminate()
        running.process.wait(DEADLINE_SECONDS)
