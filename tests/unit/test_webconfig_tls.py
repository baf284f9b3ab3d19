"""TLS on real sockets, with curl and OpenSSL as clients: who is let in, and what bad clients cannot do."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import ssl
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from needs import needs
from waiting import DEADLINE_SECONDS, drain, eventually
from webpki import YESTERDAY, Pki
from websites import AS_CLIENT, DEMANDING, PAIR, TEXT, Website, website

from tcpmon.web import connections
from tcpmon.web.webconfig import tls

pytestmark = needs("curl")

GET = b"GET /%s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
# curl's exit statuses
NO_TLS, NOT_TRUSTED, BROKEN_OFF, EMPTY = 35, 60, 56, 52
# What it makes of an alert, by version and moment
REFUSED = (NO_TLS, NOT_TRUSTED, BROKEN_OFF)


def resources() -> tuple[int, int]:
    return len(os.listdir("/proc/self/fd")), threading.active_count()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    pki = Pki(folder)
    pki.for_all()
    pki.issue("old", "localhost", expires=YESTERDAY)
    return folder


@pytest.fixture
def site(folder: Path) -> Iterator[Website]:
    before = resources()
    with website(folder, {"tls_server_config": PAIR}) as running:
        yield running
    assert eventually(lambda: resources() == before), (before, resources())


@pytest.fixture
def demanding(folder: Path) -> Iterator[Website]:
    with website(folder, {"tls_server_config": DEMANDING}) as running:
        yield running


# --- who is let in


def test_curl_is_served(site: Website) -> None:
    assert site.curl() == (0, "ok\n200")
    assert site.curl("--compressed", path="/text") == (0, TEXT.decode() + "200")
    assert site.curl("--http1.0", path="/text") == (0, TEXT.decode() + "200")
    assert site.curl("--head")[0] == 0
    assert site.curl("--http2") == (0, "ok\n200")  # offers it, and does without


def test_curl_keeps_its_connection(site: Website) -> None:
    url = f"https://localhost:{site.port}/text"
    assert site.curl("-w", "%{num_connects}\n", url, url)[1].count("\n1") == 1


def test_a_client_that_trusts_another(site: Website) -> None:
    assert site.curl("--cacert", "stranger.crt")[0] == NOT_TRUSTED


def test_the_servers_certificate_has_expired(folder: Path) -> None:
    """Served, as by any server: it is the client that has to look."""
    with website(folder, {"tls_server_config": {"cert_file": "old.crt", "key_file": "old.key"}}) as site:
        status, told = site.curl()
        assert (status, "expired" in told) == (NOT_TRUSTED, True)
        assert site.curl("--insecure") == (0, "ok\n200")


def test_client_certificates(demanding: Website) -> None:
    assert demanding.curl(*AS_CLIENT) == (0, "ok\n200")
    refused = {"": "required", "expired": "expired", "stranger": "unknown ca"}
    for name, why in refused.items():
        given = ("--cert", f"{name}.crt", "--key", f"{name}.key") if name else ()
        status, told = demanding.curl(*given)
        assert status in REFUSED, told
        assert why in told
        status, told = demanding.curl(*given, "--tls-max", "1.2")
        assert status in REFUSED, told


@pytest.mark.parametrize("policy", ["RequestClientCert", "VerifyClientCertIfGiven"])
def test_laxer_policies(folder: Path, policy: str) -> None:
    settings = {**PAIR, "client_auth_type": policy, "client_ca_file": "ca.pem"}
    with website(folder, {"tls_server_config": settings}) as site:
        assert site.curl()[0] == 0
        assert site.curl(*AS_CLIENT)[0] == 0
        stranger = site.curl("--cert", "stranger.crt", "--key", "stranger.key")[0]
        assert stranger == 0 if policy == "RequestClientCert" else stranger in REFUSED


def test_a_clients_own_certificate_is_trusted_by_itself(folder: Path) -> None:
    """As in Go: without the authority that signed it."""
    with website(folder, {"tls_server_config": {**DEMANDING, "client_ca_file": "client.crt"}}) as site:
        assert site.curl(*AS_CLIENT)[0] == 0
        assert site.curl("--cert", "server.crt", "--key", "server.key")[0] in REFUSED


@pytest.mark.parametrize("san", ["client@tcpmon.example", "scraper.example", "2001:db8::1"])
def test_allowed_names(folder: Path, san: str) -> None:
    settings = {**DEMANDING, "client_allowed_sans": ["another.example", san]}
    with website(folder, {"tls_server_config": settings}) as site:
        assert site.curl(*AS_CLIENT) == (0, "ok\n200")
        assert site.curl("--cert", "server.crt", "--key", "server.key")[0] == EMPTY


def test_allowed_names_of_whoever_shows_none(folder: Path) -> None:
    policy = {"client_auth_type": "VerifyClientCertIfGiven", "client_allowed_sans": ["scraper.example"]}
    with website(folder, {"tls_server_config": {**DEMANDING, **policy}}) as site:
        assert site.curl(*AS_CLIENT) == (0, "ok\n200")
        assert site.curl()[0] == EMPTY


def test_versions(folder: Path) -> None:
    def spoken(site: Website, version: ssl.TLSVersion) -> bool:
        context = site.trusting()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = context.maximum_version = version
        context.set_ciphers("DEFAULT@SECLEVEL=0")
        try:
            with site.dial_tls(GET % b"ok", context) as sock:
                return drain(sock).endswith(b"ok\n")
        except ssl.SSLError:
            return False

    every = [ssl.TLSVersion[f"TLSv1{minor}"] for minor in ("", "_1", "_2", "_3")]
    for settings, wanted in (
        ({}, every[2:]),
        ({"min_version": "TLS13"}, every[3:]),
        ({"max_version": "TLS12"}, every[2:3]),
        ({"min_version": "TLS10"}, every),
        ({"cipher_suites": ["TLS_AES_128_GCM_SHA256"]}, every[3:]),
    ):
        with website(folder, {"tls_server_config": {**PAIR, **settings}}) as site:
            assert [version for version in every if spoken(site, version)] == wanted, settings


@pytest.mark.parametrize("servers", [True, False])
def test_ciphers_and_whose_order_counts(folder: Path, servers: bool) -> None:
    both = ["TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"]
    settings = {**PAIR, "cipher_suites": both, "prefer_server_cipher_suites": servers}
    with website(folder, {"tls_server_config": settings}) as site:
        context = site.trusting()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384")
        with site.dial_tls(context=context) as sock:
            cipher = sock.cipher()
        assert cipher
        assert ("AES256" in cipher[0]) is servers
        context.set_ciphers("ECDHE-ECDSA-CHACHA20-POLY1305")
        with pytest.raises(ssl.SSLError):
            site.dial_tls(context=context)


def test_a_curve(folder: Path) -> None:
    with website(folder, {"tls_server_config": {**PAIR, "curve_preferences": ["CurveP384"]}}) as site:
        assert site.curl("--curves", "secp384r1:prime256v1")[0] == 0
        assert site.curl("--curves", "prime256v1")[0] == NO_TLS


def test_sessions_do_not_pile_up(site: Website, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of TLS 1.2, from clients that end them well: those OpenSSL keeps."""
    monkeypatch.setattr(tls, "MAX_SESSIONS", 5)
    context = site.trusting()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    kept = []
    for _ in range(13):
        with site.dial_tls(GET % b"ok", context) as sock:
            assert drain(sock).endswith(b"ok\n")
        serving = site.guard._config.tls
        assert serving
        kept.append(serving._context.session_stats()["number"])
    assert 1 < max(kept) <= 5


# --- how replies and connections end


def test_the_end_of_a_reply_is_told_from_a_broken_one(site: Website) -> None:
    """HTTP/1.0 has no other sign of it: OpenSSL complains of a stream that ends without TLS's own."""
    context = site.trusting()
    with site.dial_tls(b"GET /text HTTP/1.0\r\n\r\n", context) as sock:
        sock.suppress_ragged_eofs = False
        body = b""
        with contextlib.suppress(ssl.SSLZeroReturnError):
            while piece := sock.recv(65536):
                body += piece
    assert body.endswith(TEXT)


def test_pipelined_requests(site: Website) -> None:
    """More than one in a record, and one in several."""
    sent = b"GET /ok HTTP/1.1\r\n\r\n" * 7 + GET % b"text"
    with site.dial_tls() as sock:
        for start in range(0, len(sent), 11):
            sock.sendall(sent[start : start + 11])
        reply = drain(sock)
    assert reply.count(b"HTTP/1.1 200 OK") == 8
    assert reply.endswith(b"0\r\n\r\n")
    with site.dial_tls(sent) as sock:
        assert drain(sock).count(b"HTTP/1.1 200 OK") == 8


def test_plain_http_is_answered_as_by_go(site: Website) -> None:
    for sent in (
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"HEAD / HTTP/1.0\r\n\r\n",
        b"POST /ok HTTP/1.1\r\n\r\n",
    ):
        with site.dial(sent) as sock:
            assert drain(sock) == tls._NOT_TLS
    assert site.curl(scheme="http") == (0, "Client sent an HTTP request to an HTTPS server.\n400")


def test_tls_where_none_is_spoken(folder: Path) -> None:
    with website(folder, {}) as site:
        assert site.curl()[0] == NO_TLS
        assert site.curl(scheme="http") == (0, "ok\n200")


def test_our_own_connection_needs_nothing(folder: Path) -> None:
    nobody = {"nobody": "$2b$04$" + "a" * 21 + "e" + "a" * 31}
    contents = {"tls_server_config": DEMANDING, "basic_auth_users": nobody, "rate_limit": {"interval": "1h"}}
    with website(folder, contents) as site, site.server.connect() as sock:
        sock.settimeout(DEADLINE_SECONDS)
        sock.sendall(GET % b"text")
        assert drain(sock).endswith(b"0\r\n\r\n")


def test_stop_lets_a_reply_finish(folder: Path) -> None:
    site = Website(folder, {"tls_server_config": PAIR})
    idle, asked = site.dial_tls(), site.dial_tls(GET % b"held")
    assert site.entered.wait(DEADLINE_SECONDS)
    stopping = threading.Thread(target=site.server.stop)
    stopping.start()
    site.release.set()
    assert drain(asked).endswith(b"held\n")
    stopping.join(DEADLINE_SECONDS)
    assert not stopping.is_alive()
    for sock in (idle, asked):
        sock.close()


# --- clients that stall, crowd or lie


def hello(site: Website) -> bytes:
    """The first bytes of a client of TLS."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = site.trusting().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def never_reading(site: Website) -> ssl.SSLSocket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(DEADLINE_SECONDS)
    sock.connect(("127.0.0.1", site.port))
    wrapped = site.trusting().wrap_socket(sock, server_hostname="localhost")
    wrapped.sendall(GET % b"endless")
    return wrapped


CROWDS: dict[str, Callable[[Website], socket.socket]] = {
    "idle before the handshake": lambda site: site.dial(),
    "half a hello": lambda site: site.dial(hello(site)[:97]),
    "a hello and no more": lambda site: site.dial(hello(site)),
    "idle after the handshake": lambda site: site.dial_tls(),
    "half a request": lambda site: site.dial_tls(b"GET /ok HTTP/1.1\r\nHos"),
    "never reading": never_reading,
}


@pytest.mark.parametrize("kind", CROWDS)
def test_a_crowd_of_one_kind(site: Website, kind: str) -> None:
    crowd = [CROWDS[kind](site) for _ in range(101)]
    with site.dial_tls(GET % b"text") as sock:
        assert drain(sock).endswith(b"0\r\n\r\n")
    assert len(site.server._connections.threads()) <= connections.MAX_CONNECTIONS
    for sock in crowd:
        sock.close()


def test_a_handshake_that_takes_too_long(site: Website, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "HANDSHAKE_SECONDS", 0.2)
    for sent in (b"", hello(site)[:97], hello(site)):
        with site.dial(sent) as sock, contextlib.suppress(ConnectionError):
            drain(sock)  # it ends
    assert site.curl()[0] in (0, NO_TLS)  # whether or not curl was as quick


def test_a_handshake_without_end(site: Website) -> None:
    """Records of nothing but ever more of one message: broken off long before the deadline."""
    record = b"\x16\x03\x01\x40\x00" + b"\x01\xff\xff\xff" + b"a" * 16380
    with site.dial() as sock, contextlib.suppress(ConnectionError):
        for _ in range(tls.MAX_SILENT_BYTES // 16384 + 100):
            sock.sendall(record)
        drain(sock)
    assert site.curl()[0] == 0


GARBAGE = {
    "bytes": bytes(range(256)) * 16,
    "zeros": bytes(4096),
    "an alert": b"\x15\x03\x01\x00\x02\x02\x28",
    "SSL 2": b"\x80\x2e\x01\x00\x02" + bytes(41),
    "a record of nothing": b"\x16\x03\x01\x00\x00" * 100,
    "application data": b"\x17\x03\x03\x00\x20" + bytes(32),
}


@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage(site: Website, caplog: pytest.LogCaptureFixture, garbage: str) -> None:
    caplog.set_level(logging.INFO)
    with site.dial(GARBAGE[garbage]) as sock:
        sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            assert not re.search(rb"HTTP/1", drain(sock))
    assert site.curl()[0] == 0
    assert not caplog.records


def test_clients_that_vanish(site: Website, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for make in CROWDS.values():
        for _ in range(3):
            make(site).close()
    assert site.curl()[0] == 0
    assert eventually(lambda: not site.server._connections.threads())
    assert not caplog.records


def test_a_reply_cut_by_an_eviction_cannot_pass_for_a_whole_one(site: Website) -> None:
    cut = never_reading(site)
    cut.suppress_ragged_eofs = False
    crowd: list[socket.socket] = []

    def given_up() -> bool:
        crowd.append(site.dial())
        return site.closed.is_set()

    assert eventually(given_up)
    with cut, pytest.raises((ConnectionResetError, ssl.SSLError)):
        drain(cut)
    for sock in crowd:
        sock.close()


def test_a_slow_handshake_holds_up_nobody(site: Website) -> None:
    with contextlib.ExitStack() as slow:
        for sent in (b"", hello(site)[:97], hello(site)):
            slow.enter_context(site.dial(sent))
        assert site.curl() == (0, "ok\n200")
