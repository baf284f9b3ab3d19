"""Work that does something with its connections: nginx, asked by ab, with a connection for each request."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.bench.scrape import until
from tests.bench.subjects import START_SECONDS, STOP_SECONDS, BenchError
from tests.bench.world import Namespace

PORT = 8080
AT_ONCE = 8
PAGE_BYTES = 4096
CONFIG = """\
daemon off;
user root;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ }}
http {{
	access_log {folder}/access.log;
	server {{ listen 127.0.0.1:{port}; root {folder}; }}
}}
"""
RATE = re.compile(r"^Requests per second: +([0-9.]+)", re.MULTILINE)
FAILED = re.compile(r"^Failed requests: +(\d+)", re.MULTILINE)


@contextlib.contextmanager
def nginx(folder: Path, ns: Namespace) -> Iterator[None]:
    """One, with one worker, in `ns`; its page is /page."""
    config = folder / "nginx.conf"
    config.write_text(CONFIG.format(folder=folder, port=PORT))
    (folder / "page").write_bytes(b"x" * PAGE_BYTES)
    command = ["ip", "netns", "exec", ns.name, "nginx", "-c", str(config), "-e", str(folder / "error.log")]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        if not until((folder / "nginx.pid").exists, START_SECONDS, 0.02) or process.poll() is not None:
            raise BenchError("nginx does not start")
        yield
    finally:
        process.terminate()
        process.wait(STOP_SECONDS)


def served(ns: Namespace, requests: int) -> float:
    """Requests a second that nginx answers to ab."""
    url = f"http://127.0.0.1:{PORT}/page"
    said = ns.run("ab", "-q", "-n", str(requests), "-c", str(AT_ONCE), url)
    rate, failed = RATE.search(said), FAILED.search(said)
    if not rate or not failed or failed[1] != "0":
        raise BenchError(f"ab: {said}")
    return float(rate[1])
