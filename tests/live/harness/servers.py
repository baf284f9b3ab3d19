"""Debian's nginx and redis with configurations of the tests' own, and what they say of their connections."""

from __future__ import annotations

import http.client
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .netns import Netns
from .oracle import sockets
from .polling import PATIENCE, eventually
from .require import require
from .workload import run

HTTP, STATUS, REDIS = 8080, 8081, 6379
END_S = 10.0 * PATIENCE

_NGINX = """\
daemon off;
user root;
worker_processes 2;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{servers}
}}
"""
_SITE = f"""
    server {{{{ listen {{address}}:{HTTP}; location / {{{{ return 200 "{"x" * 997}\\n"; }}}} }}}}
    server {{{{ listen {{address}}:{STATUS}; location / {{{{ stub_status; }}}} }}}}
"""


def require_servers() -> None:
    packages = {
        "nginx": "nginx",
        "redis-server": "redis-server",
        "redis-benchmark": "redis-tools",
        "ab": "apache2-utils",
    }
    for tool, package in packages.items():
        require(shutil.which(tool) is not None, f"`{tool}` (package {package}) is not installed")


@contextmanager
def _running(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as said:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(END_S)


def _within(ns: Netns | None, *command: str) -> list[str]:
    """`ip netns exec` becomes the command, so that its pid is the command's."""
    return [*(("ip", "netns", "exec", ns.name) if ns else ()), *command]


def _listening(ns: Netns, port: int, log: Path) -> None:
    lines = sockets(ns, "listening")
    assert any(f":{port} " in line for line in lines), f"nobody listens on {port}\n{log.read_text()}"


@contextmanager
def _nginx(ns: Netns | None, folder: Path, servers: str) -> Iterator[Path]:
    """A running nginx; its log. It may not listen yet."""
    config, log = folder / "nginx.conf", folder / "nginx.log"
    config.write_text(_NGINX.format(folder=folder, servers=servers))
    with _running(_within(ns, "nginx", "-p", str(folder), "-c", str(config)), log):
        yield log


@contextmanager
def nginx(ns: Netns, address: str, folder: Path) -> Iterator[None]:
    """Serves 998 bytes on HTTP and its own figures on STATUS, with two workers."""
    with _nginx(ns, folder, _SITE.format(address=address)) as log:
        eventually(lambda: _listening(ns, STATUS, log))
        yield


@contextmanager
def asking_for(target: str, accepts: Sequence[tuple[int, str]], folder: Path) -> Iterator[None]:
    """For each (port, Accept): an nginx on that port of 127.0.0.1 which asks `target` (a URL) with that
    header, whatever it is itself asked with."""
    servers = [
        f"    server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass {target};"
        f' proxy_set_header Accept "{accept}"; }} }}'
        for port, accept in accepts
    ]
    with _nginx(None, folder, "\n".join(servers)) as log:
        for port, _accept in accepts:
            eventually(lambda port=port: _answers(port, log))  # type: ignore[misc]
        yield


def _answers(port: int, log: Path) -> None:
    with socket.socket() as sock:
        assert sock.connect_ex(("127.0.0.1", port)) == 0, log.read_text()


@contextmanager
def redis(ns: Netns, address: str, folder: Path) -> Iterator[None]:
    """An empty redis on REDIS that keeps nothing on disk."""
    options = f"--port {REDIS} --bind {address} --protected-mode no --appendonly no --dir {folder}".split()
    with _running(_within(ns, "redis-server", *options, "--save", ""), folder / "redis.log"):
        eventually(lambda: _listening(ns, REDIS, folder / "redis.log"))
        yield


def nginx_accepts(ns: Netns, comm: str, address: str) -> int:
    """Connections that nginx accepted, the one that asks (as `comm`, from `ns`) among them."""

    def ask() -> str:
        connection = http.client.HTTPConnection(address, STATUS, timeout=END_S)
        connection.request("GET", "/")
        text = connection.getresponse().read().decode()
        connection.close()
        return text

    return int(re.findall(r"^ (\d+) \d+ \d+ $", run(ns, comm, ask), re.MULTILINE)[0])


def redis_connections(ns: Netns, comm: str, address: str) -> int:
    """Connections that redis received, the one that asks (as `comm`, from `ns`) among them."""

    def ask() -> str:
        with socket.create_connection((address, REDIS), END_S) as sock:
            sock.sendall(b"INFO stats\r\nQUIT\r\n")
            with sock.makefile() as answer:
                return answer.read()

    return int(re.findall(r"total_connections_received:(\d+)", run(ns, comm, ask))[0])


def load(ns: Netns, *command: str) -> None:
    """Runs ab or redis-benchmark to its end, which must be a success."""
    process = ns.exec(*command, stderr=subprocess.STDOUT)
    said, _ = process.communicate(timeout=60 * PATIENCE)
    assert process.returncode == 0, f"{command}\n{said}"
