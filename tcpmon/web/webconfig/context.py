"""From the TLS settings of a file to OpenSSL's: certificates, who must show one, versions, ciphers."""

from __future__ import annotations

import contextlib
import os
import ssl
import warnings
from collections.abc import Iterator

from tcpmon.errors import ConfigError, Fault
from tcpmon.web.webconfig.names import CLIENT_AUTH
from tcpmon.web.webconfig.readtls import Pem, TlsSettings

_VERSIONS = {
    "TLS10": ssl.TLSVersion.TLSv1,
    "TLS11": ssl.TLSVersion.TLSv1_1,
    "TLS12": ssl.TLSVersion.TLSv1_2,
    "TLS13": ssl.TLSVersion.TLSv1_3,
}
_MODES = (ssl.CERT_NONE, ssl.CERT_NONE, ssl.CERT_OPTIONAL, ssl.CERT_REQUIRED)
_VERIFY = dict(zip(CLIENT_AUTH, _MODES, strict=True))
_NO_PEM = "holds no certificate in PEM"


def context_of(settings: TlsSettings) -> ssl.SSLContext:
    """Raises ConfigError where OpenSSL refuses what the settings hold."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TLS 1.0 and 1.1, where somebody asks for them
        context.minimum_version = _VERSIONS[settings.min_version]
        context.maximum_version = _VERSIONS[settings.max_version]
    _set_ciphers(context, settings)
    _set_curve(context, settings)
    # No state for what a client may or may not do
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0
    context.set_alpn_protocols(["http/1.1"])
    _load_certificate(context, settings.cert, settings.key)
    _set_client_auth(context, settings)
    return context


def _set_ciphers(context: ssl.SSLContext, settings: TlsSettings) -> None:
    if settings.ciphers:
        context.set_ciphers(":".join(settings.ciphers))
    if settings.min_version < "TLS12":  # their signatures are by SHA-1, which OpenSSL has at this level only
        context.set_ciphers(":".join((*(settings.ciphers or ("DEFAULT",)), "@SECLEVEL=0")))
    if settings.prefer_server_ciphers:
        context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    else:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE


def _set_curve(context: ssl.SSLContext, settings: TlsSettings) -> None:
    if settings.curve:
        try:
            context.set_ecdh_curve(settings.curve)
        except (ssl.SSLError, ValueError):
            problem = f"{settings.curve} cannot be the only one here; left out, it is the preferred one"
            raise ConfigError([settings.curve_node.fault(problem)]) from None


def _load_certificate(context: ssl.SSLContext, cert: Pem, key: Pem) -> None:
    _load_trusted(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), cert)  # tells which of the two is at fault
    try:
        with _as_file(cert.data) as cert_path, _as_file(key.data) as key_path:
            context.load_cert_chain(cert_path, key_path, password=_no_password)
    except ssl.SSLError as error:
        raise ConfigError([_fault_of_pair(cert, key, error)]) from None
    except _EncryptedError:
        raise ConfigError([key.node.fault("the key is encrypted, and there is nobody to ask")]) from None


def _fault_of_pair(cert: Pem, key: Pem, error: ssl.SSLError) -> Fault:
    reason = error.reason or ""
    if reason.endswith("_MISMATCH"):
        return key.node.fault("is not the key of the certificate")
    if reason:  # too small a key, too weak a signature
        return cert.node.fault(f"OpenSSL refuses the certificate: {reason.lower().replace('_', ' ')}")
    return key.node.fault("holds no key in PEM")


class _EncryptedError(Exception):
    """A password is asked for."""


def _no_password() -> str:
    raise _EncryptedError


def _set_client_auth(context: ssl.SSLContext, settings: TlsSettings) -> None:
    context.verify_mode = _VERIFY[settings.client_auth]
    # As Go: whose certificate is in the file is trusted, whoever signed it
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if settings.client_ca:
        _load_trusted(context, settings.client_ca)
    else:
        context.set_default_verify_paths()  # the system's, as Go


def _load_trusted(context: ssl.SSLContext, pem: Pem) -> None:
    try:
        with _as_file(pem.data) as path:
            context.load_verify_locations(path)
    except ssl.SSLError:
        raise ConfigError([pem.node.fault(_NO_PEM)]) from None
    if not context.cert_store_stats()["x509"]:  # revocations only
        raise ConfigError([pem.node.fault(_NO_PEM)])


@contextlib.contextmanager
def _as_file(data: bytes) -> Iterator[str]:
    """A path where OpenSSL, which takes these from files only, finds `data`."""
    descriptor = os.memfd_create("pem", os.MFD_CLOEXEC)
    with open(descriptor, "wb", buffering=0) as file:
        file.write(data)
        yield f"/proc/self/fd/{descriptor}"
