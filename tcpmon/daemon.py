"""`tcpmon run`: from a configuration to an answer on /metrics, and what signals change of it."""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from tcpmon import config as configuration
from tcpmon import privileges
from tcpmon.config import Config
from tcpmon.config.kinds import map_problem
from tcpmon.errors import TcpmonError
from tcpmon.events.journal import Journal
from tcpmon.events.record import JOURNALED, Kind
from tcpmon.events.tally import Tally
from tcpmon.kernel import control, source
from tcpmon.kernel.load import Loaded, Loader
from tcpmon.metrics import selfmetrics, snapshot
from tcpmon.metrics.folding import Folding
from tcpmon.metrics.idle import Folder
from tcpmon.metrics.overview import Observer
from tcpmon.metrics.scrape import Scraper, Status, bounds
from tcpmon.service import store
from tcpmon.service.heartbeat import Pulse, scrape_works
from tcpmon.service.inheritance import Inheritance
from tcpmon.service.manager import SIGNALS, Manager
from tcpmon.web import webconfig
from tcpmon.web.landing import Landing
from tcpmon.web.server import Response, Route, Server, listen_all, name_of
from tcpmon.web.webconfig.guard import Guard

log = logging.getLogger(__name__)

_TEXT = "text/plain; charset=utf-8"


def run(
    path: str | None, mechanisms: Mapping[str, str], manager: Manager, handed: Inheritance, loader: Loader
) -> None:
    """Serves until SIGTERM or SIGINT. `mechanisms` forces a way to trace for an event (tests)."""
    manager.status("reading the configuration")
    config = configuration.load(configuration.find(path))
    set_log_level(config)
    webconfig.load(config.web_config)  # a fault shows before anything is attached
    sockets = handed.sockets or listen_all(config.listen)
    compiled = module(config)
    loaded = store.take_back(manager, handed.kept, compiled, mechanisms)
    if not loaded:
        privileges.require()
        manager.status("compiling and attaching the BPF programs")
        loaded = loader.load(compiled, mechanisms)
        store.keep(manager, loaded, compiled, mechanisms)
    control.apply(loaded.tables, config, *telling(config))
    privileges.drop(lambda: snapshot.counters(loaded.tables["counters"]))
    if os.geteuid() == 0:
        log.info("there is no user %s: serving as root, but without its capabilities", privileges.USER)
    guard = Guard(webconfig.load(config.web_config))  # by who reads it from now on
    daemon = Daemon(config, loaded, manager, guard)
    daemon.serve(sockets)
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
        events=_bits(JOURNALED.values()),
    )


def telling(config: Config) -> tuple[int, int]:
    """Which kinds of events the kernel tells of, as bits, and at most how many a second (0: all)."""
    types = config.events.types if config.events.journal else ()
    return _bits(JOURNALED[name] for name in types), config.events.rate_limit


def _bits(kinds: Iterable[Kind]) -> int:
    return sum(1 << kind for kind in kinds)


def set_log_level(config: Config) -> None:
    logging.getLogger().setLevel(config.log.level.upper())


class Daemon:
    """The state behind the routes: the configuration in force and how the last reload went."""

    def __init__(self, config: Config, loaded: Loaded, manager: Manager, guard: Guard) -> None:
        self._guard = guard
        self._loaded = loaded
        self._manager = manager
        self._status = Status(config, reload_ok=True, reload_timestamp=time.time())
        self._journal = Journal(loaded.tables["events"], Tally(loaded.tables["journal_tally"]))
        folding = Folding(loaded.tables)
        self._folder = Folder(folding)
        self._scraper = Scraper(loaded, folding, config, self._journal)
        observer = Observer(loaded, folding, self._journal)
        self._landing = Landing(lambda: observer.look(self._status))
        self._own_scrapes = self._proved = 0

    def serve(self, sockets: Sequence[socket.socket]) -> None:
        """Answers scrapes on listening sockets, which it owns, until a signal says to end."""
        server = Server(sockets, self.routes(), self._guard)
        server.start()
        self._folder.keep_by(self._status.config.metrics)
        self._put_in_force()
        for bound in sockets:
            log.info("ready, serving %s://%s/metrics", self._guard.scheme, name_of(bound))
        pulse = Pulse(self._manager, lambda period_s: self._scrapes_work(server, period_s), self._health)
        self._manager.ready()
        self._wait(pulse)
        self._manager.stopping()
        server.stop()
        self._folder.stop()
        self._journal.stop()

    def routes(self) -> dict[str, Route]:
        return {
            "/metrics": self._metrics,
            "/-/healthy": lambda _headers: Response(200, _TEXT, [b"tcpmon is healthy\n"]),
            "/-/ready": lambda _headers: Response(200, _TEXT, [b"tcpmon is ready\n"]),
            "/": self._landing.page,
            "/status.json": self._landing.status,
        }

    def _metrics(self, headers: Mapping[str, str]) -> Response:
        content_type, body = self._scraper.scrape(headers.get("Accept") or "", self._status)
        return Response(200, content_type, body, {"Vary": "Accept, Accept-Encoding"})

    def _wait(self, pulse: Pulse) -> None:
        """Handles signals until one says to end."""
        while (number := pulse.wait(SIGNALS)) == signal.SIGHUP:
            self._manager.reloading()
            self.reload()
            self._manager.ready()
        log.info("ending on %s", signal.Signals(number).name)

    def _scrapes_work(self, server: Server, period_s: float) -> bool:
        """One that somebody was answered since the last beat is proof enough; else we ask for one."""
        works = self._scraper.answered > self._proved
        if not works:
            works = scrape_works(server.connect, period_s / 2)
            self._own_scrapes += works
        self._proved = self._scraper.answered
        return works

    def _health(self) -> str:
        counters = snapshot.counters(self._loaded.tables["counters"])
        infos = selfmetrics.program_infos(self._loaded)
        lost = dict(selfmetrics.lost(counters, infos, self._journal))
        cut = lost.pop(selfmetrics.RATE_LIMIT)
        return (
            f"{counters['tracked']} connections followed, {sum(lost.values())} events lost, "
            + (f"{cut} beyond events.rate_limit, " if cut else "")
            + f"{self._scraper.answered - self._own_scrapes} scrapes answered"
        )

    def _put_in_force(self) -> None:
        """What of the configuration does not wait for scrapes."""
        if self._status.config.events.journal:
            self._journal.start()
        else:
            self._journal.stop()

    def _map_problem(self, path: str) -> str | None:
        """As at the start, but for the maps in use: those may be out of reach without privilege."""
        filters = self._status.config.filters
        return None if path in (filters.cgroup_map, filters.mntns_map) else map_problem(path)

    def reload(self) -> None:
        """Reads the file anew. With a fault nothing changes; what needs a restart keeps its value."""
        old = self._status.config
        try:
            # A file that was read must be there ever after: its end must not open what it had closed
            new = configuration.load(configuration.find(old.path), check_map=self._map_problem)
            for key in configuration.changed_restart_only(old, new):
                log.warning("%s cannot change while running: it keeps its value until a restart", key)
            new = configuration.with_restart_only_of(old, new)
            web = webconfig.load(new.web_config)
            with self._folder.still():
                control.apply(self._loaded.tables, new, *telling(new))
                self._status = Status(new, reload_ok=True, reload_timestamp=time.time())
                self._folder.keep_by(new.metrics)
        except (TcpmonError, OSError) as error:
            self._status = replace(self._status, reload_ok=False)
            for line in (*str(error).splitlines(), "the configuration in force is unchanged"):
                log.error("%s", line)
            return
        set_log_level(new)
        self._guard.put(web)
        self._put_in_force()
        log.info("configuration reloaded")
