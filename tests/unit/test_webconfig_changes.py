"""Files that change while the server runs: what is put in force, and what never is."""

from __future__ import annotations

import logging
import os
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from needs import needs
from waiting import drain, eventually
from webpki import Pki, hashed
from websites import AS_CLIENT, DEMANDING, PAIR, Website, website

from tcpmon.web.webconfig import files

pytestmark = needs("curl")

GET = b"GET /ok HTTP/1.1\r\nHost: a\r\n\r\n"
ALICE = {"tls_server_config": PAIR, "basic_auth_users": {"alice": hashed("one")}}


@pytest.fixture(autouse=True)
def _little_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's clock ticks a hundred times a second, or more often."""
    monkeypatch.setattr(files, "REST_SECONDS", 0.1)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Website]:
    with website(tmp_path, ALICE) as running:
        yield running


def served(site: Website) -> bytes:
    """The certificate, as a client sees it that trusts anyone."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with site.dial_tls(context=context) as sock:
        return sock.getpeercert(binary_form=True) or b""


def status(site: Website, password: str, *words: str) -> int:
    return int(site.curl("-u", f"alice:{password}", *words)[1][-3:])


def rests(*paths: Path) -> None:
    """Whoever looks now sees a change, if there was one."""
    changed = max(path.stat().st_ctime for path in paths)
    assert eventually(lambda: time.time() - changed > files.REST_SECONDS)


def ask_until_told(site: Website, caplog: pytest.LogCaptureFixture, words: str) -> None:
    def told() -> bool:
        served(site)
        return words in caplog.text

    assert eventually(told)


# --- what is put in force


def test_a_renewed_certificate(site: Website) -> None:
    before = served(site)
    site.pki.issue("server", "localhost")
    assert eventually(lambda: served(site) != before)
    assert status(site, "one") == 200


def test_a_new_password(site: Website) -> None:
    assert (status(site, "one"), status(site, "two")) == (200, 401)
    site.write({**ALICE, "basic_auth_users": {"alice": hashed("two")}})
    assert eventually(lambda: status(site, "two") == 200)
    assert status(site, "one") == 401


def test_more_is_asked(site: Website) -> None:
    assert status(site, "one") == 200
    site.write({**ALICE, "tls_server_config": DEMANDING})
    assert eventually(lambda: site.curl("-u", "alice:one")[0] != 0)
    assert status(site, "one", *AS_CLIENT) == 200


def test_the_clients_authority(tmp_path: Path) -> None:
    with website(tmp_path, {"tls_server_config": DEMANDING}) as site:
        assert site.curl(*AS_CLIENT)[0] == 0
        (tmp_path / "other.pem").write_bytes((tmp_path / "stranger.crt").read_bytes())
        (tmp_path / "trusted.pem").write_bytes((tmp_path / "ca.pem").read_bytes())
        (tmp_path / "other.pem").replace(tmp_path / "ca.pem")
        trust = ("--cacert", "trusted.pem")
        stranger = ("--cert", "stranger.crt", "--key", "stranger.key")
        assert eventually(lambda: site.curl(*stranger, *trust)[0] == 0)
        assert site.curl(*AS_CLIENT, *trust)[0] != 0


def test_links_that_are_switched(tmp_path: Path) -> None:
    """As where a container's secrets are mounted: not the file changes, but where its path leads."""
    for name in ("old", "new"):
        folder = tmp_path / name
        folder.mkdir()
        Pki(folder).for_all()
    (tmp_path / "now").symlink_to("old")
    pair = {"cert_file": "now/server.crt", "key_file": "now/server.key"}
    with website(tmp_path, {"tls_server_config": pair}) as site:
        before = served(site)
        (tmp_path / "next").symlink_to("new")
        (tmp_path / "next").replace(tmp_path / "now")
        assert eventually(lambda: served(site) != before)


def test_the_first_look_changes_nothing(site: Website, caplog: pytest.LogCaptureFixture) -> None:
    """What was read fresh is read once more, and is the same: connections and log stay as they are."""
    caplog.set_level(logging.INFO)
    in_force = site.guard._config
    rests(site.path, site.folder / "server.crt")
    served(site)
    assert site.guard._config is in_force
    os.utime(site.path)
    rests(site.path)
    served(site)
    assert site.guard._config is in_force
    assert not caplog.records


def test_a_file_that_rests_is_not_read_again(site: Website, monkeypatch: pytest.MonkeyPatch) -> None:
    rests(site.path, site.folder / "server.crt")
    served(site)
    read = []
    monkeypatch.setattr(files.Files, "read", lambda *_: read.append(1))
    for _ in range(7):
        assert served(site)
    assert not read


# --- what never is


LESS: dict[str, tuple[dict[str, Any], str]] = {
    "no TLS": ({"basic_auth_users": ALICE["basic_auth_users"]}, "TLS and a client certificate"),
    "no password": ({"tls_server_config": DEMANDING}, "a password"),
    "no certificate": (ALICE, "a client certificate"),
    "nothing": ({}, "TLS and a client certificate and a password"),
}


@pytest.mark.parametrize("case", LESS)
def test_a_change_that_asks_for_less_waits_for_a_reload(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, case: str
) -> None:
    """Half a file looks like that, too."""
    all_of_it = {**ALICE, "tls_server_config": DEMANDING}
    less, missing = LESS[case]
    with website(tmp_path, all_of_it) as site:
        site.write(less)
        ask_until_told(site, caplog, f"web.yml asks no more for {missing}: if that is meant, reload")
        assert status(site, "one", *AS_CLIENT) == 200
        assert site.curl(*AS_CLIENT)[1][-3:] == "401"
        assert site.curl("-u", "alice:one")[0] != 0
        assert site.curl(scheme="http")[1][-3:] == "400"
        site.reload(less)
        words = AS_CLIENT if missing == "a password" else ("-u", "alice:one")
        assert site.curl(*words, scheme="http" if "TLS" in missing else "https") == (0, "ok\n200")


BROKEN = {
    "web.yml": ("tls_server_config: {", "not YAML"),
    "server.crt": ("nothing", "holds no certificate in PEM"),
    "server.key": ("nothing", "holds no key in PEM"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_change_is_told_once(site: Website, caplog: pytest.LogCaptureFixture, name: str) -> None:
    contents, complaint = BROKEN[name]
    good = (site.folder / name).read_text()
    before = served(site)
    (site.folder / name).write_text(contents)
    ask_until_told(site, caplog, complaint)
    for _ in range(3):
        assert served(site) == before
        assert (status(site, "one"), status(site, "two")) == (200, 401)
    rests(site.folder / name)
    served(site)
    assert len(caplog.records) == 1
    assert caplog.records[0].getMessage().endswith("; the web configuration in force is unchanged")
    assert "\n" not in caplog.records[0].getMessage()
    (site.folder / name).unlink()
    ask_until_told(site, caplog, "no such file")
    assert served(site) == before
    (site.folder / name).write_text(good)
    rests(site.folder / name)
    assert status(site, "one") == 200
    site.write({**ALICE, "basic_auth_users": {"alice": hashed("two")}})
    assert eventually(lambda: status(site, "two") == 200)


def test_a_file_that_is_being_written(site: Website, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not read before it has been left alone for a while."""
    monkeypatch.setattr(files, "REST_SECONDS", 1000.0)
    before = site.guard._config
    site.write({})
    assert status(site, "one") == 200
    assert site.guard._config is before
    assert site.curl()[1][-3:] == "401"


def test_a_missing_certificate_that_comes_later(site: Website, caplog: pytest.LogCaptureFixture) -> None:
    pair = {"cert_file": "later.crt", "key_file": "later.key"}
    site.write({**ALICE, "tls_server_config": pair})
    ask_until_told(site, caplog, "later.crt: no such file")
    before = served(site)
    site.pki.issue("later", "localhost")
    assert eventually(lambda: served(site) != before)


# --- connections that are open meanwhile


def read_reply(sock: socket.socket) -> bytes:
    reply = b""
    while not reply.endswith(b"ok\n") and (piece := sock.recv(65536)):
        reply += piece
    return reply


def test_a_connection_ends_with_its_reply_after_a_renewal(tmp_path: Path) -> None:
    with website(tmp_path, {"tls_server_config": PAIR}) as site, site.dial_tls(GET) as kept:
        assert b"Connection: close" not in read_reply(kept)
        site.pki.issue("server", "localhost")
        site.reload({"tls_server_config": PAIR})
        kept.sendall(GET)
        reply = drain(kept)
        assert reply.endswith(b"ok\n")
        assert b"Connection: close" in reply


def test_a_reload_that_finds_nothing_new(tmp_path: Path) -> None:
    contents = {"tls_server_config": PAIR, "rate_limit": {"interval": "1h", "burst": 3}}
    with website(tmp_path, contents) as site, site.dial_tls(GET) as kept:
        for _ in range(2):
            assert b"Connection: close" not in read_reply(kept)
            site.reload(contents)
            kept.sendall(GET)
        assert b"200 OK" in read_reply(kept)


def test_a_connection_is_not_answered_where_its_client_might_not_be_let_in(tmp_path: Path) -> None:
    with website(tmp_path, {"tls_server_config": PAIR}) as site, site.dial_tls(GET) as kept:
        read_reply(kept)
        site.reload({"tls_server_config": DEMANDING})
        kept.sendall(GET)
        assert drain(kept) == b""


def test_a_plain_connection_is_not_answered_once_there_is_tls(tmp_path: Path) -> None:
    with website(tmp_path, {}) as site, site.dial(GET) as kept:
        assert read_reply(kept).endswith(b"ok\n")
        site.reload({"tls_server_config": PAIR})
        kept.sendall(GET)
        assert drain(kept) == b""


def test_an_idle_server_looks_at_nothing(site: Website) -> None:
    """No thread of it wakes up, however much changes."""
    threads = switches().keys()
    served(site)
    assert eventually(lambda: switches().keys() == threads)  # the connection's has ended
    before = switches()
    site.pki.issue("server", "localhost")
    site.write({})
    time.sleep(3 * files.REST_SECONDS)
    assert switches() == before


def switches() -> dict[str, str]:
    """How often each other thread of this process has slept, by its number."""
    found = {}
    for task in Path("/proc/self/task").iterdir():
        if task.name != str(os.getpid()):
            with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
                lines = (task / "status").read_text().splitlines()
                (found[task.name],) = (line for line in lines if line.startswith("voluntary"))
    return found
