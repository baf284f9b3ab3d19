"""Who may have what is served, and how: TLS, client certificates, basic authentication, a rate limit and
headers, from a web configuration file as Prometheus and its exporters have it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tcpmon.errors import ConfigError
from tcpmon.web.webconfig import read
from tcpmon.web.webconfig.files import Files, Stamp

if TYPE_CHECKING:
    from tcpmon.web.webconfig.tls import Tls

__all__ = ["WebConfig", "load"]


@dataclass(frozen=True)
class WebConfig:
    """A file's settings, ready for use. `seen` is what its files looked like at `seen_at` (time.time). `path`
    is None where nothing is configured; `contents` is equal where all files are."""

    path: str | None = None
    tls: Tls | None = None
    users: Mapping[bytes, bytes] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    rate: tuple[float, int] = (0.0, 0)
    seen: Mapping[str, Stamp] = field(default_factory=dict)
    seen_at: float = 0.0
    contents: bytes = b""

    def demands(self) -> frozenset[str]:
        """What clients must speak, show or know, in words."""
        passwords = frozenset({"a password"} if self.users else ())
        return passwords | self.tls.demands if self.tls else passwords


def load(path: str | None, files: Files | None = None) -> WebConfig:
    """What the file says; nothing for None. Raises ConfigError with every fault of the file."""
    if path is None:
        return WebConfig()
    try:
        return _load(path, files or Files())
    except ConfigError as error:
        raise ConfigError(error.faults, "web-config.md") from None


def _load(path: str, files: Files) -> WebConfig:
    seen_at = time.time()
    settings = read.read(path, files)
    tls = None
    if settings.tls:
        from tcpmon.web.webconfig.tls import Tls  # only where it is used: memory

        tls = Tls(settings.tls)
    if settings.users:
        from tcpmon.web.webconfig import auth  # noqa: F401  # the same; here, where a lack of it is told in time
    return WebConfig(
        path, tls, settings.users, settings.headers, settings.rate, files.seen, seen_at, files.contents
    )
