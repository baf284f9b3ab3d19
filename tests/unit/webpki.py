"""Certificates of an authority of the test's own, and files and requests around them."""

from __future__ import annotations

import json
import subprocess
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import bcrypt
import trustme
from waiting import DEADLINE_SECONDS

NOW = datetime.now(timezone.utc)
YESTERDAY, TOMORROW = NOW - timedelta(days=1), NOW + timedelta(days=1)
LONG_AGO = NOW - timedelta(days=300)


class Pki:
    """A certificate authority in a folder: `ca.pem`, and NAME.crt with NAME.key for whoever it knows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = trustme.CA()
        self.ca.cert_pem.write_to_path(str(folder / "ca.pem"))

    def issue(
        self, name: str, *identities: str, expires: datetime = TOMORROW, ca: trustme.CA | None = None
    ) -> None:
        made = (ca or self.ca).issue_cert(*identities, not_before=LONG_AGO, not_after=expires)
        for file, pem in ((f"{name}.key", made.private_key_pem), (f"{name}.crt", made.cert_chain_pems[0])):
            new = self.folder / f"{file}.new"
            new.write_bytes(pem.bytes())
            new.replace(self.folder / file)

    def for_all(self) -> None:
        """A server, and clients: one that is fine, one whose time is over, one of another authority."""
        self.issue("server", "localhost", "127.0.0.1")
        self.issue("client", "client@tcpmon.example", "scraper.example", "2001:db8::1")
        self.issue("expired", "client@tcpmon.example", expires=YESTERDAY)
        self.issue("stranger", "client@tcpmon.example", ca=trustme.CA())


def hashed(password: str, cost: int = 4) -> str:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost)).decode()


def write_yaml(path: Path, contents: Any) -> Path:
    """JSON is YAML. In one step, as a careful program would."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps(contents))
    return new.replace(path)


def curl(*words: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """In the folder of the certificates. Its exit status tells what went wrong with TLS."""
    command = ["curl", "-sS", "--max-time", str(DEADLINE_SECONDS), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder)
