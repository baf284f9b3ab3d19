"""A server with a web configuration, in this process, and what asks it."""

from __future__ import annotations

import contextlib
import itertools
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from waiting import DEADLINE_SECONDS
from webpki import Pki, curl, write_yaml

from tcpmon.config import Address
from tcpmon.web import webconfig
from tcpmon.web.handler import Route
from tcpmon.web.server import Response, Server, listen
from tcpmon.web.webconfig.guard import Guard

PAIR = {"cert_file": "server.crt", "key_file": "server.key"}
DEMANDING = {**PAIR, "client_auth_type": "RequireAndVerifyClientCert", "client_ca_file": "ca.pem"}
AS_CLIENT = ("--cert", "client.crt", "--key", "client.key")
LINES = [b'tcpmon_connects_total{comm="proc",port="%d"} 7.0\n' % port for port in range(9973)]
TEXT = b"".join(LINES)
_PLAIN = "text/plain; charset=utf-8"


class _Endless:
    """A body that tells when it was given up."""

    def __init__(self, closed: threading.Event) -> None:
        self._closed = closed

    def __iter__(self) -> Iterator[bytes]:
        return itertools.repeat(b"x" * 1021)

    def close(self) -> None:
        self._closed.set()


class Website:
    """Serves /ok, /text, /endless and /held to whom `contents`, written to web.yml, lets in."""

    def __init__(self, folder: Path, contents: Mapping[str, Any]) -> None:
        self.folder, self.path = folder, folder / "web.yml"
        if not (folder / "ca.pem").exists():
            self.pki = Pki(folder)
            self.pki.for_all()
        self.write(contents)
        self.entered, self.release, self.closed = threading.Event(), threading.Event(), threading.Event()
        routes: dict[str, Route] = {
            "/ok": lambda _: Response(200, _PLAIN, [b"ok\n"]),
            "/own": lambda _: Response(200, _PLAIN, [b"ok\n"], {"Content-Security-Policy": "its own"}),
            "/text": lambda _: Response(200, _PLAIN, iter(LINES)),
            "/endless": lambda _: Response(200, _PLAIN, _Endless(self.closed)),
            "/held": self._held,
        }
        self.guard = Guard(webconfig.load(str(self.path)))
        listener = listen(Address("127.0.0.1", 0))
        self.port = int(listener.getsockname()[1])
        self.server = Server([listener], routes, self.guard)
        self.server.start()

    def _held(self, _: Mapping[str, str]) -> Response:
        self.entered.set()
        assert self.release.wait(DEADLINE_SECONDS)
        return Response(200, _PLAIN, [b"held\n"])

    def write(self, contents: Mapping[str, Any]) -> None:
        write_yaml(self.path, contents)

    def reload(self, contents: Mapping[str, Any]) -> None:
        """As SIGHUP does it."""
        self.write(contents)
        self.guard.put(webconfig.load(str(self.path)))

    def curl(self, *words: str, path: str = "/ok", scheme: str = "https") -> tuple[int, str]:
        """curl's exit status, and the reply's status and body, or what curl complained of."""
        url = f"{scheme}://localhost:{self.port}{path}"
        done = curl("--cacert", "ca.pem", "-w", "%{http_code}", *words, url, folder=self.folder)
        return done.returncode, done.stdout if done.returncode == 0 else done.stderr

    def dial(self, sent: bytes = b"") -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.port), DEADLINE_SECONDS)
        sock.sendall(sent)
        return sock

    def trusting(self, client: str = "") -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.folder / "ca.pem"))
        if client:
            context.load_cert_chain(self.folder / f"{client}.crt", self.folder / f"{client}.key")
        return context

    def dial_tls(self, sent: bytes = b"", context: ssl.SSLContext | None = None) -> ssl.SSLSocket:
        wrapped = (context or self.trusting()).wrap_socket(self.dial(), server_hostname="localhost")
        wrapped.sendall(sent)
        return wrapped

    def stop(self) -> None:
        self.release.set()
        self.server.stop()


@contextlib.contextmanager
def website(folder: Path, contents: Mapping[str, Any]) -> Iterator[Website]:
    site = Website(folder, contents)
    try:
        yield site
    finally:
        site.stop()
