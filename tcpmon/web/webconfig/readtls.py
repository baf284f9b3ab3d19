"""Reads the TLS settings of a web configuration file, with the certificates that it names."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tcpmon.config.kinds import FLAG
from tcpmon.config.yamlmap import MAX_SHOWN, Node, collect
from tcpmon.errors import Fault
from tcpmon.web.webconfig.files import Files
from tcpmon.web.webconfig.names import CIPHERS, CLIENT_AUTH, CURVES, UNVERIFIED, VERSIONS
from tcpmon.web.webconfig.parse import Parse, kind, list_of, mapping_of, one_of, pem, text


@dataclass(frozen=True)
class Pem:
    """Certificates or a key, and the value that holds or names them."""

    node: Node
    data: bytes


@dataclass(frozen=True)
class TlsSettings:
    """`ciphers` in OpenSSL's names, empty for its defaults; `sans` None for any; `curve` OpenSSL's name."""

    cert: Pem
    key: Pem
    client_ca: Pem | None
    client_auth: str
    sans: frozenset[str] | None
    min_version: str
    max_version: str
    ciphers: tuple[str, ...]
    prefer_server_ciphers: bool
    curve: str | None
    curve_node: Node


def _client_auth(node: Node) -> str:
    name = text(node)
    if name in UNVERIFIED:
        raise node.bad(
            "a certificate that nobody verifies cannot be asked for here; RequireAndVerifyClientCert can"
        )
    return name and str(one_of(*CLIENT_AUTH)(node))


def _cipher(node: Node) -> str:
    name = text(node)
    if name not in CIPHERS:
        near = difflib.get_close_matches(name[:MAX_SHOWN], CIPHERS, n=1)
        raise node.bad("unknown cipher" + (f'; did you mean "{near[0]}"?' if near else ""))
    return name


_TLS_KEYS: Mapping[str, Parse] = {
    "cert": pem,
    "key": pem,
    "client_ca": pem,
    "cert_file": text,
    "key_file": text,
    "client_ca_file": text,
    "client_auth_type": _client_auth,
    "client_allowed_sans": list_of(text),
    "min_version": one_of(*VERSIONS),
    "max_version": one_of(*VERSIONS),
    "cipher_suites": list_of(_cipher),
    "prefer_server_cipher_suites": kind(FLAG.parse),
    "curve_preferences": list_of(one_of(*CURVES)),
}


def tls(node: Node, files: Files) -> TlsSettings | None:
    values, nodes = mapping_of(node, _TLS_KEYS)
    if not node.entries:
        return None
    faults = [*_faults_of_files(node, values, nodes), *_faults_of_choices(values, nodes)]
    pems = collect(lambda name: _find_pem(name, values, nodes, files), ("cert", "key", "client_ca"), faults)
    cert, key, client_ca = pems
    assert cert
    assert key
    ciphers = values.get("cipher_suites") or []
    curves = values.get("curve_preferences") or [None]
    sans = values.get("client_allowed_sans")
    return TlsSettings(
        cert=cert,
        key=key,
        client_ca=client_ca,
        client_auth=values.get("client_auth_type") or CLIENT_AUTH[0],
        sans=None if sans is None else frozenset(sans),
        min_version=_min_version(values),
        max_version=values.get("max_version", "TLS13"),
        ciphers=tuple(name for cipher in ciphers if (name := CIPHERS[cipher])),
        prefer_server_ciphers=values.get("prefer_server_cipher_suites", True),
        curve=CURVES.get(curves[0]),
        curve_node=nodes.get("curve_preferences", node),
    )


def _min_version(values: Mapping[str, Any]) -> str:
    """Suites of TLS 1.3 cannot be chosen; where only such are named, nothing below it can be spoken."""
    ciphers = values.get("cipher_suites")
    return "TLS13" if ciphers and not any(map(CIPHERS.get, ciphers)) else values.get("min_version", "TLS12")


def _faults_of_files(node: Node, values: Mapping[str, Any], nodes: Mapping[str, Node]) -> list[Fault]:
    faults = []
    for name in ("cert", "key", "client_ca"):
        file = f"{name}_file"
        if values.get(name) and values.get(file):
            faults.append(nodes[name].fault(f"give {name} or {file}, not both"))
        elif name != "client_ca" and not values.get(name) and not values.get(file):
            faults.append(node.fault(f"neither {name} nor {file} is given"))
    return faults


def _faults_of_choices(values: Mapping[str, Any], nodes: Mapping[str, Node]) -> list[Fault]:
    verified = values.get("client_auth_type") in CLIENT_AUTH[2:]
    need = "needs client_auth_type: RequireAndVerifyClientCert"
    sans = values.get("client_allowed_sans")
    faults = [nodes[name].fault(need) for name in ("client_ca", "client_ca_file") if _no_policy(name, values)]
    if sans is not None and not verified:
        faults.append(nodes["client_allowed_sans"].fault(need))
    elif sans is not None and not any(sans):
        faults.append(nodes["client_allowed_sans"].fault("an empty list lets nobody in"))
    least, most = _min_version(values), values.get("max_version", "TLS13")
    if VERSIONS.index(least) > VERSIONS.index(most):
        node = nodes.get("max_version") or nodes["min_version"]
        faults.append(node.fault(f"no version is left from {least} to {most}"))
    if len(values.get("curve_preferences") or ()) > 1:
        faults.append(
            nodes["curve_preferences"].fault("an order cannot be set here: leave it out, or name one")
        )
    return faults


def _no_policy(name: str, values: Mapping[str, Any]) -> bool:
    return bool(values.get(name)) and values.get("client_auth_type", "") in ("", CLIENT_AUTH[0])


def _find_pem(name: str, values: Mapping[str, Any], nodes: Mapping[str, Node], files: Files) -> Pem | None:
    """What is given inline, or in a file, whose path starts at the configuration's folder."""
    if path := values.get(f"{name}_file"):
        node = nodes[f"{name}_file"]
        return Pem(node, files.read(os.path.join(os.path.dirname(node.path), path), node))
    return Pem(nodes[name], values[name].encode(errors="replace")) if values.get(name) else None
