"""`tcpmon run`: from a configuration to an answer on /metrics, and what signals change of it."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Mapping
from dataclasses import replace

from tcpmon import config as configuration
from tcpmon import privileges
from tcpmon.config import Config
from tcpmon.config.kinds import map_problem
from tcpmon.errors import TcpmonError
from tcpmon.kernel import control, load, source
from tcpmon.kernel.load import Loaded
from tcpmon.metrics import snapshot
from tcpmon.metrics.scrape import Scraper, Status, bounds
from tcpmon.web.landing import landing_page
from tcpmon.web.server import Response, Route, Server, listen_all

log = logging.getLogger(__name__)

SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
_TEXT = "text/plain; charset=utf-8"


def run(path: str | None, mechanisms: Mapping[str, str]) -> None:
    """Serves until SIGTERM or SIGINT. `mechanisms` forces a way to trace for an event (tests)."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # one that comes while starting is taken below
    config = configuration.load(path)
    set_log_level(config)
    privileges.require()
    sockets = listen_all(config.listen)
    loaded = load.load(module(config), mechanisms)
    control.apply(loaded.tables, config)
    privileges.drop(lambda: snapshot.counters(loaded.tables["counters"]))
    daemon = Daemon(path, config, loaded)
    server = Server(sockets, daemon.routes())
    server.start()
    for bound in sockets:
        host, port = bound.getsockname()[:2]
        log.info("ready, serving http://%s:%d/metrics", f"[{host}]" if ":" in host else host, port)
    daemon.wait()
    server.stop()
    loaded.close()


def module(config: Config) -> source.Module:
    """What of the configuration is compiled in."""
    return source.Module(
        bounds={name: tuple(round(bound * 1e9) for bound in found) for name, found in bounds(config).items()},
        max_series=config.metrics.max_series,
        max_tracked=config.connections.max_tracked,
        ring_bytes=config.events.buffer,
        cgroup_map=config.filters.cgroup_map,
        mntns_map=config.filters.mntns_map,
    )


def set_log_level(config: Config) -> None:
    logging.getLogger().setLevel(config.log.level.upper())


class Daemon:
    """The state behind the routes: the configuration in force and how the last reload went."""

    def __init__(self, path: str | None, config: Config, loaded: Loaded) -> None:
        self._path = path
        self._loaded = loaded
        self._status = Status(config, reload_ok=True, reload_timestamp=time.time())
        self._scraper = Scraper(loaded, config)

    def routes(self) -> dict[str, Route]:
        return {
            "/metrics": self._metrics,
            "/-/healthy": lambda _headers: Response(200, _TEXT, [b"tcpmon is healthy\n"]),
            "/-/ready": lambda _headers: Response(200, _TEXT, [b"tcpmon is ready\n"]),
            "/": landing_page,
        }

    def _metrics(self, headers: Mapping[str, str]) -> Response:
        content_type, body = self._scraper.scrape(headers.get("Accept") or "", self._status)
        return Response(200, content_type, body)

    def wait(self) -> None:
        """Handles signals until one says to end. Costs nothing meanwhile."""
        while (number := signal.sigwait(SIGNALS)) == signal.SIGHUP:
            self.reload()
        log.info("ending on %s", signal.Signals(number).name)

    def _map_problem(self, path: str) -> str | None:
        """As at the start, but for the maps in use: those may be out of reach without privilege."""
        filters = self._status.config.filters
        return None if path in (filters.cgroup_map, filters.mntns_map) else map_problem(path)

    def reload(self) -> None:
        """Reads the file anew. With a fault nothing changes; what needs a restart keeps its value."""
        old = self._status.config
        try:
            new = configuration.load(self._path, check_map=self._map_problem)
            for key in configuration.changed_restart_only(old, new):
                log.warning("%s cannot change while running: it keeps its value until a restart", key)
            new = configuration.with_restart_only_of(old, new)
            control.apply(self._loaded.tables, new)
        except TcpmonError as error:
            self._status = replace(self._status, reload_ok=False)
            for line in (*error.message.splitlines(), "the configuration in force is unchanged"):
                log.error("%s", line)
            return
        set_log_level(new)
        self._status = Status(new, reload_ok=True, reload_timestamp=time.time())
        log.info("configuration reloaded")
