"""Reads a web configuration file, in the format that Prometheus's exporter-toolkit defines
(docs/web-configuration.md there), into frozen settings. What this server cannot honour is a fault."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tcpmon.config import yamlmap
from tcpmon.config.kinds import FLAG, whole
from tcpmon.config.units import MAX_SECONDS
from tcpmon.config.yamlmap import Node, collect
from tcpmon.errors import ConfigError
from tcpmon.web.webconfig.files import Files
from tcpmon.web.webconfig.names import HEADERS
from tcpmon.web.webconfig.parse import Parse, kind, mapping_of
from tcpmon.web.webconfig.readtls import TlsSettings, tls

# A hash of this cost takes a quarter of a minute; each step up doubles it.
MAX_COST = 18
MAX_HEADER_CHARACTERS = 8192

_HASH = re.compile(r"(\$2[aby]\$([0-3][0-9])\$[./A-Za-z0-9]{21})([./A-Za-z0-9])([./A-Za-z0-9]{31})")
_HASH_DIGITS = f"./{string.ascii_uppercase}{string.ascii_lowercase}{string.digits}"
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")
_DURATION_PART = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
MAX_DURATION_CHARACTERS = 64  # trying that on long texts would take for ever
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Settings:
    """What a file says. `users` are bcrypt hashes by name; `rate` is seconds for a request, and a burst."""

    tls: TlsSettings | None = None
    users: Mapping[bytes, bytes] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    rate: tuple[float, int] = (0.0, 0)


def read(path: str, files: Files) -> Settings:
    """Raises ConfigError with every fault of the file."""
    root = yamlmap.parse(files.read(path), path)
    try:
        found, _ = mapping_of(root, {name: lambda node: node for name in _SECTIONS})
        parts = collect(lambda node: (node.key, _SECTIONS[node.key](node, files)), found.values())
    except ConfigError as error:
        raise ConfigError(sorted(error.faults, key=lambda fault: (fault.line, fault.column))) from None
    return Settings(**{_FIELDS[key]: value for key, value in parts})


# --- http_server_config


def _header(name: str) -> Parse:
    def parse(node: Node) -> str:
        if node.tag in ("seq", "map"):
            raise node.expected("a text")
        if not _HEADER_VALUE.fullmatch(node.text) or len(node.text) > MAX_HEADER_CHARACTERS:
            raise node.bad(f"expected up to {MAX_HEADER_CHARACTERS} printable ASCII characters in one line")
        allowed = HEADERS[name]
        if allowed and node.text and node.text not in allowed:
            raise node.expected(" or ".join(allowed))
        return node.text

    return parse


_HEADER_PARSERS = {name: _header(name) for name in HEADERS}
_HTTP_KEYS: Mapping[str, Parse] = {
    "http2": kind(FLAG.parse),
    "headers": lambda node: mapping_of(node, _HEADER_PARSERS)[0],
}


def _http(node: Node, _: Files) -> dict[str, str]:
    values, _nodes = mapping_of(node, _HTTP_KEYS)
    return {name: value for name, value in values.get("headers", {}).items() if value}


# --- basic_auth_users


def _hash(node: Node) -> bytes:
    """It is a secret, or worse, a password: the complaints do not repeat it."""
    match = _HASH.fullmatch(node.text) if node.tag == "str" else None
    if not match or not 4 <= int(match[2]) <= 31:
        problem = "is not a bcrypt hash ($2y$, $2b$ or $2a$); make one with: htpasswd -nBC 10 NAME"
        raise ConfigError([node.fault(problem)])
    if int(match[2]) > MAX_COST:
        raise ConfigError([node.fault(f"a cost of {match[2]} takes too long for each login; use 10 to 14")])
    # Of the salt's last digit two bits count; others must be 0 for bcrypt, and are not with some tools
    last = _HASH_DIGITS[_HASH_DIGITS.index(match[3]) & 0x30]
    return (match[1] + last + match[4]).encode()


def _users(node: Node, _: Files) -> dict[bytes, bytes]:
    collect(_hash, (value for _key, value in node.entries))  # also of those that are null
    parsers = {key.text: _hash for key, _value in node.entries if not key.items and not key.entries}
    values, nodes = mapping_of(node, parsers)
    for name in filter(lambda name: ":" in name, nodes):
        raise ConfigError([nodes[name].fault("HTTP has no user names with a colon")])
    return {name.encode(errors="surrogatepass"): value for name, value in values.items()}


# --- rate_limit


def _interval(node: Node) -> float:
    what = "a duration such as 1s, 500ms, 1m30s, or 0 for no limit"
    if node.text == "0":
        return 0.0
    is_text = node.tag == "str" and len(node.text) <= MAX_DURATION_CHARACTERS
    parts = _DURATION_PART.findall(node.text) if is_text else []
    if not parts or "".join(map("".join, parts)) != node.text:
        raise node.expected(what)
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if seconds > MAX_SECONDS:
        raise node.expected(what)
    return seconds


_RATE_KEYS: Mapping[str, Parse] = {"interval": _interval, "burst": kind(whole(0, 1_000_000).parse)}


def _rate(node: Node, _: Files) -> tuple[float, int]:
    values, _nodes = mapping_of(node, _RATE_KEYS)
    return values.get("interval", 0.0), values.get("burst", 0)


_SECTIONS: Mapping[str, Callable[[Node, Files], Any]] = {
    "tls_server_config": tls,
    "http_server_config": _http,
    "basic_auth_users": _users,
    "rate_limit": _rate,
}
_FIELDS = {
    "tls_server_config": "tls",
    "http_server_config": "headers",
    "basic_auth_users": "users",
    "rate_limit": "rate",
}
