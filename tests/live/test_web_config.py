"""The real daemon behind TLS and passwords: scraped by Prometheus, reloaded, as a user without privilege."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.daemon import Daemon
from harness.manager import Manager
from harness.polling import eventually
from harness.require import require
from scraper import scraper
from webpki import Pki, curl, hashed, write_yaml

StartDaemon = Callable[..., Daemon]
PAIR = {"cert_file": "server.crt", "key_file": "server.key"}
DEMANDING = {**PAIR, "client_auth_type": "RequireAndVerifyClientCert", "client_ca_file": "ca.pem"}
FIRST = {"tls_server_config": DEMANDING, "basic_auth_users": {"alice": hashed("one", 6)}}
SECOND = {"tls_server_config": DEMANDING, "basic_auth_users": {"alice": hashed("two", 6)}}
# Prometheus has been ready, and has asked
SCRAPED_S = 30.0


@pytest.fixture
def folder() -> Iterator[Path]:
    """With a server's certificate and a client's; within reach of whoever the daemon becomes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        Pki(folder).for_all()
        yield folder


def ask(daemon: Daemon, folder: Path, *words: str, path: str = "/metrics") -> str:
    """The status, and the body's last line; or curl's exit status."""
    url = daemon.url.removesuffix("/metrics").replace("127.0.0.1", "localhost") + path
    certificate = ("--cacert", "ca.pem", "--cert", "client.crt", "--key", "client.key")
    done = curl(*certificate, *words, "-w", "\n%{http_code}", url, folder=folder)
    return done.stdout.splitlines()[-1] if done.returncode == 0 else f"curl {done.returncode}"


def expect_heard(manager: Manager, line: str, times: int) -> None:
    assert manager.heard.count(line) >= times


def reload(daemon: Daemon, words: str) -> None:
    """SIGHUP, and wait until it has said so once more."""
    before = daemon.stderr().count(words)
    os.kill(daemon.pid, signal.SIGHUP)

    def said() -> None:
        assert daemon.stderr().count(words) > before, daemon.stderr()

    eventually(said)


def start(start_daemon: StartDaemon, folder: Path, contents: dict[str, Any]) -> Daemon:
    # lossy: it cannot be asked in the harness' way, without certificate and password
    path = write_yaml(folder / "web.yml", contents)
    daemon: Daemon = start_daemon({"web_config": str(path)}, lossy=True)
    assert daemon.url.startswith("https://")
    return daemon


def test_prometheus_through_reloads(start_daemon: StartDaemon, folder: Path, tmp_path: Path) -> None:
    """A new password by SIGHUP, one that is refused, and by the file's change alone; no scrape without it."""
    require(shutil.which("prometheus") is not None, "`prometheus` is not installed")
    daemon = start(start_daemon, folder, FIRST)
    target = {"targets": [daemon.url.removeprefix("https://").removesuffix("/metrics")]}
    tls = {"cert_file": f"{folder}/client.crt", "key_file": f"{folder}/client.key"}
    jobs = {
        user: {
            "scheme": "https",
            "tls_config": {**tls, "ca_file": f"{folder}/ca.pem"},
            "basic_auth": {"username": "alice", "password": user},
            "static_configs": [target],
        }
        for user in ("one", "two")
    }
    with scraper(tmp_path, jobs) as prometheus:

        def only(password: str) -> None:
            health = {job: found[0] for job, found in prometheus.targets().items()}
            assert health == {job: "up" if job == password else "down" for job in jobs}

        eventually(lambda: only("one"), SCRAPED_S)
        assert "401" in prometheus.targets()["two"][1]
        build = 'tcpmon_build_info{job="one"}'

        def stored() -> None:
            assert prometheus.value(build) == 1

        eventually(stored, SCRAPED_S)
        write_yaml(folder / "web.yml", {**SECOND, "zzz": 1})
        reload(daemon, "the configuration in force is unchanged")
        assert "web.yml:1:" in daemon.stderr()
        only("one")
        write_yaml(folder / "web.yml", SECOND)
        reload(daemon, "configuration reloaded")
        eventually(lambda: only("two"), SCRAPED_S)
        write_yaml(folder / "web.yml", FIRST)
        eventually(lambda: only("one"), SCRAPED_S)
    assert "Traceback" not in daemon.stderr()


def test_it_never_falls_open(start_daemon: StartDaemon, folder: Path) -> None:
    """Neither with a fault nor with an empty file; only where a reload finds that this is meant."""
    daemon = start(start_daemon, folder, FIRST)
    plain = daemon.url.replace("https", "http")

    def refuses() -> None:
        assert ask(daemon, folder) == "401"
        assert ask(daemon, folder, "-u", "alice:one") == "200"
        assert curl(plain, folder=folder).stdout.startswith("Client sent an HTTP request to an HTTPS server")

    refuses()
    (folder / "web.yml").write_text("")

    def told() -> None:
        refuses()
        assert "asks no more for TLS" in daemon.stderr()

    eventually(told)
    (folder / "web.yml").write_text("tls_server_config: {")
    reload(daemon, "the configuration in force is unchanged")
    refuses()
    (folder / "web.yml").write_text("")
    reload(daemon, "configuration reloaded")
    assert "tcpmon_build_info" in curl(plain, folder=folder).stdout


def test_from_plain_to_tls_and_back(start_daemon: StartDaemon, folder: Path) -> None:
    daemon = start_daemon()
    assert daemon.url.startswith("http://")
    write_yaml(folder / "web.yml", FIRST)
    daemon.write_config({"web_config": str(folder / "web.yml")})
    reload(daemon, "configuration reloaded")
    daemon.url = daemon.url.replace("http:", "https:")
    assert ask(daemon, folder, "-u", "alice:one") == "200"
    daemon.write_config({})
    reload(daemon, "configuration reloaded")
    daemon.url = daemon.url.replace("https:", "http:")
    assert daemon.scrape().value("tcpmon_config_last_reload_successful") == 1


def test_a_fault_at_the_start_is_a_line_and_a_hint(folder: Path, tmp_path: Path) -> None:
    (folder / "web.yml").write_text("tls_server_config:\n  cert_file: nowhere.crt\n  key_file: server.key\n")
    (tmp_path / "tcpmon.yaml").write_text(f"web_config: {folder}/web.yml\nlisten: 127.0.0.1:0\n")
    command = [sys.executable, "-m", "tcpmon", "run", "-c", str(tmp_path / "tcpmon.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    fault, hint = done.stderr.splitlines()
    where = f"{folder}/web.yml:2:14: tls_server_config.cert_file"
    assert fault == f"{where}: {folder}/nowhere.crt: no such file or directory"
    assert hint.startswith("hint: ")
    assert done.returncode == 1


def test_a_key_that_only_root_can_read(folder: Path, tmp_path: Path) -> None:
    """Where the daemon becomes another user, it says so at the start, not when the certificate is renewed."""
    (folder / "server.key").chmod(0o600)
    write_yaml(folder / "web.yml", FIRST)
    (tmp_path / "tcpmon.yaml").write_text(f"web_config: {folder}/web.yml\nlisten: 127.0.0.1:0\n")
    users = Path("/etc/passwd").read_text().splitlines()
    users = [line for line in users if not line.startswith("tcpmon:")]
    (tmp_path / "passwd").write_text("\n".join((*users, "tcpmon:x:64321:64321::/:/bin/false\n")))
    script = 'mount --bind "$1" /etc/passwd && shift && exec "$@"'
    daemon = [sys.executable, "-m", "tcpmon", "run", "-c", str(tmp_path / "tcpmon.yaml")]
    command = ["unshare", "--mount", "sh", "-c", script, "sh", str(tmp_path / "passwd"), *daemon]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "server.key: cannot be read by the user tcpmon" in done.stderr
    assert done.returncode == 1


def test_the_watchdog_needs_no_password(folder: Path, tmp_path: Path) -> None:
    """Its request comes from within: were it refused, systemd would hear of no life, and end the daemon."""
    write_yaml(folder / "web.yml", FIRST)
    config = {"web_config": str(folder / "web.yml")}
    with (
        Manager(tmp_path, watchdog_s=1) as manager,
        Daemon(tmp_path, config, lossy=True, launch=manager.launch),
    ):
        eventually(lambda: expect_heard(manager, "WATCHDOG=1", 3))
