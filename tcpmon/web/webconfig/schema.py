"""Writes config/web.schema.json, for editors: `python -m tcpmon.web.webconfig.schema`, in a checkout. A test
compares it with the reader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tcpmon.web.webconfig.names import CIPHERS, CLIENT_AUTH, CURVES, HEADERS, VERSIONS

Schema = dict[str, Any]

_TEXT: Schema = {"type": ["string", "null"]}
_FLAG: Schema = {"type": ["boolean", "null"]}
_HASH: Schema = {"type": "string", "pattern": r"^\$2[aby]\$(0[4-9]|1[0-8])\$[./A-Za-z0-9]{53}$"}
_DURATION = r"^(0|(([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+)$"


def _object(properties: Schema) -> Schema:
    return {"type": ["object", "null"], "properties": properties, "additionalProperties": False}


def _one_of(*names: str) -> Schema:
    return {"enum": [*names, None]}


def _list(item: Schema, **limits: int) -> Schema:
    return {"type": ["array", "null"], "items": item, **limits}


def _header(allowed: tuple[str, ...]) -> Schema:
    printable = {"type": ["string", "number", "null"], "pattern": "^[ -~]*$", "maxLength": 8192}
    return {"enum": [*allowed, "", None]} if allowed else printable


def _with_a_pair(properties: Schema) -> Schema:
    """A certificate and its key, each given or named by its file, where there is anything."""
    given = [{"anyOf": [_given(name), _given(f"{name}_file")]} for name in ("cert", "key")]
    nothing = [{"type": "null"}, {"type": "object", "maxProperties": 0}]
    return {**_object(properties), "anyOf": [*nothing, {"allOf": given}]}


def _given(name: str) -> Schema:
    return {"required": [name], "properties": {name: {"type": "string", "minLength": 1}}}


def schema() -> Schema:
    paths = ("cert_file", "key_file", "client_ca_file", "cert", "key", "client_ca")
    tls = {
        **dict.fromkeys(paths, _TEXT),
        "client_auth_type": _one_of(*CLIENT_AUTH, ""),
        "client_allowed_sans": _list({"type": "string"}, minItems=1),
        "min_version": _one_of(*VERSIONS),
        "max_version": _one_of(*VERSIONS),
        "cipher_suites": _list({"enum": list(CIPHERS)}),
        "prefer_server_cipher_suites": _FLAG,
        "curve_preferences": _list({"enum": list(CURVES)}, maxItems=1),
    }
    headers = {name: _header(allowed) for name, allowed in HEADERS.items()}
    users = {
        "type": ["object", "null"],
        "propertyNames": {"pattern": "^[^:]*$"},
        "additionalProperties": _HASH,
    }
    rate = {
        "interval": {"anyOf": [{"const": 0}, {"type": "null"}, {"type": "string", "pattern": _DURATION}]},
        "burst": {"type": ["integer", "null"], "minimum": 0, "maximum": 1_000_000},
    }
    sections = {
        "tls_server_config": _with_a_pair(tls),
        "http_server_config": _object({"http2": _FLAG, "headers": _object(headers)}),
        "basic_auth_users": users,
        "rate_limit": _object(rate),
    }
    dialect = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": dialect, "title": "web.yml", "description": "docs/web-config.md", **_object(sections)}


def text() -> str:
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    (Path(__file__).parents[3] / "config/web.schema.json").write_text(text(), encoding="utf-8")


if __name__ == "__main__":
    main()
