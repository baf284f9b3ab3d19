"""The web configuration in force, kept up with its files: what connections and requests have to pass."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING

from tcpmon.errors import ConfigError
from tcpmon.web.connections import Connection, Connections
from tcpmon.web.webconfig import WebConfig, load
from tcpmon.web.webconfig.files import Files, have_changed
from tcpmon.web.webconfig.limit import Bucket
from tcpmon.web.webconfig.turns import Crowded
from tcpmon.web.wire import Channel, Hangup

if TYPE_CHECKING:
    from tcpmon.web.webconfig.auth import Passwords

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Verdict:
    """On a request: what refuses it, if anything; headers of its reply; whether its connection ends then."""

    refusal: HTTPStatus | None = None
    refusal_headers: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    last: bool = False


class Guard:
    """Looks at the files with each connection and each request, and never in between. A change that is at
    fault, or that asks for less of clients, is logged once, and changes nothing: half a file must not open a
    door. A reload puts in force what it finds."""

    def __init__(self, config: WebConfig | None = None) -> None:
        self._reading = threading.Lock()
        self._config = WebConfig()
        self._seen, self._seen_at = self._config.seen, self._config.seen_at
        self._bucket = Bucket()
        self._passwords: Passwords | None = None
        self._put(config or self._config)

    @property
    def scheme(self) -> str:
        return "https" if self._config.tls else "http"

    def put(self, config: WebConfig) -> None:
        """Put in force what a reload has read."""
        with self._reading:
            self._put(config)

    def open(self, connection: Connection, connections: Connections) -> Channel:
        """A new connection's way to send and receive; with TLS, after the handshake. Raises Hangup."""
        tls = None if connection.own else self._now().tls
        return tls.accept(connection, connections) if tls else Channel(connection, connections)

    def judge(self, channel: Channel, authorization: str) -> Verdict:
        """On a request with that Authorization header ("" for none). Raises Hangup where no reply may be sent
        on this connection any more."""
        if channel.connection.own:
            return Verdict()
        config = self._now()
        last = _is_last(channel, config)
        if not self._bucket.take():
            return Verdict(HTTPStatus.TOO_MANY_REQUESTS, last=last)
        try:
            if not config.users or self._knows(config.users, authorization, channel.connection.peer):
                return Verdict(headers=config.headers, last=last)
        except Crowded:
            return Verdict(HTTPStatus.SERVICE_UNAVAILABLE, {"Retry-After": "1"}, config.headers, last)
        return Verdict(HTTPStatus.UNAUTHORIZED, {"WWW-Authenticate": "Basic"}, config.headers, last)

    def _knows(self, users: Mapping[bytes, bytes], authorization: str, peer: str) -> bool:
        assert self._passwords  # there are users, so there are passwords
        return self._passwords.check(users, authorization, peer.partition(" ")[0])

    def _now(self) -> WebConfig:
        """What is in force, after a look at its files; while another thread reads them, what was."""
        if self._config.path and self._reading.acquire(blocking=False):
            try:
                if have_changed(self._seen, self._seen_at):
                    self._read_again()
            finally:
                self._reading.release()
        return self._config

    def _read_again(self) -> None:
        files, begun_at = Files(), time.time()
        try:
            config = load(self._config.path, files)
            problem = _less(self._config, config)
        except ConfigError as error:
            problem = "; ".join(error.message.splitlines())
        self._seen, self._seen_at = files.seen, begun_at
        if problem:
            log.error("%s; the web configuration in force is unchanged", problem)
        elif config.contents != self._config.contents:
            self._put(config)
            log.info("the web configuration %s, or a certificate, changed, and is in force", config.path)

    def _put(self, config: WebConfig) -> None:
        self._seen, self._seen_at = config.seen, config.seen_at
        if (config.path, config.contents) == (self._config.path, self._config.contents):
            return  # connections go on
        if config.rate != self._bucket.limits:
            self._bucket = Bucket(*config.rate)
        if config.users and not self._passwords:
            from tcpmon.web.webconfig.auth import Passwords  # only where it is used: memory

            self._passwords = Passwords()
        self._config = config


def _less(old: WebConfig, new: WebConfig) -> str:
    """What the new one does not ask of clients any more, as a complaint; empty if nothing."""
    missing = sorted(old.demands() - new.demands())
    return f"{new.path} asks no more for {' and '.join(missing)}: if that is meant, reload" if missing else ""


def _is_last(channel: Channel, config: WebConfig) -> bool:
    """Whether a connection, made before TLS changed, is to end with its reply. Raises Hangup if its client
    might not be let in again."""
    was, now = channel.tls, config.tls
    if now and (not was or was.admission != now.admission):
        raise Hangup("made before the web configuration changed")
    return was is not now
