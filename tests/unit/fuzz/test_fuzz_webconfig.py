"""The web configuration file, whatever is in it: settings or complaints that each have their place, and what
its JSON Schema says too."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
import yaml
from fuzzing import fuzz
from hypothesis import strategies as st
from needs import needs
from webpki import Pki
from yamltexts import SchemaLoader, check_places, check_schema, files, trees

from tcpmon.config import yamlmap
from tcpmon.errors import ConfigError
from tcpmon.web import webconfig
from tcpmon.web.webconfig import WebConfig, read, schema
from tcpmon.web.webconfig.names import CIPHERS, CLIENT_AUTH, CURVES, HEADERS, VERSIONS

pytestmark = needs("openssl")

HASH = "$2y$10$X0h1gDsPszWURQaxFh.zoubFi6DXncSjhoQNJgRrnGs7EsimhC7zG"
SCHEMA = jsonschema.Draft202012Validator(schema.schema())
KEYS = {
    name: {key: {} for key in found.get("properties", {})}
    for name, found in SCHEMA.schema["properties"].items()
}
KEYS["http_server_config"]["headers"] = {key: {} for key in HEADERS}
KEYS["basic_auth_users"] = {"alice": {}, "bob:": {}, "'": {}}
VALUES = (
    *("server.crt", "server.key", "ca.pem", "none.pem", "/dev/null", "'-----BEGIN'", "client.crt", "."),
    *(
        *VERSIONS,
        *CLIENT_AUTH,
        *CURVES,
        *list(CIPHERS)[::5],
        HASH,
        HASH.replace("10", "31"),
        "nosniff",
        "deny",
    ),
    *("[CurveP256]", "[X25519, CurveP384]", "[a.example]", f"[{', '.join(CIPHERS)}]", "100ms", "1m30s"),
)
PAIR = b"{cert_file: server.crt, key_file: server.key"
TREES = st.one_of(
    trees(KEYS, VALUES),
    # Whole but for its end, so that what depends on a certificate is reached
    trees(KEYS["tls_server_config"], VALUES).map(
        lambda text: b"tls_server_config: %b, %b" % (PAIR, text[1:])
    ),
)
SHIPPED = f"""\
tls_server_config:
  cert_file: server.crt
  key_file: server.key
  client_ca_file: ca.pem
  client_auth_type: RequireAndVerifyClientCert
  client_allowed_sans: [a.example]
  min_version: TLS12
  cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]
  curve_preferences: [CurveP256]
http_server_config: {{http2: false, headers: {{X-Frame-Options: deny}}}}
basic_auth_users:
  alice: {HASH}
rate_limit: {{interval: 1s, burst: 20}}
""".encode()
# What a schema cannot say: what is in files, and what depends on other values
BEYOND_SCHEMA = (
    *(
        "needs client_auth_type",
        "no version is left",
        "not both",
        "holds no",
        "is not the key",
        "OpenSSL refuses",
    ),
    *(
        "no such file",
        "directory",
        "not a regular file",
        "duplicate key",
        "aliases are not",
        "on what is none",
    ),
    *(
        "whole number",  # of 1.0, 010, 1:30
        "cannot be the only one",
        "nested too deeply",
        "lets nobody in",
        "holds a character that",
        "a duration such",
    ),
)


class Reader:
    def __init__(self, folder: Path) -> None:
        Pki(folder).for_all()
        self.path = str(folder / "web.yml")

    def read(self, data: bytes) -> WebConfig | ConfigError:
        Path(self.path).write_bytes(data)
        try:
            return webconfig.load(self.path)
        except ConfigError as error:
            return error


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    return Reader(tmp_path_factory.mktemp("web"))


def is_valid(data: bytes) -> bool:
    """Says the schema."""
    return bool(SCHEMA.is_valid(json.loads(json.dumps(yaml.load(data, SchemaLoader)))))


@fuzz(150, data=files(SHIPPED, TREES))
def test_whatever_is_in_the_file(reader: Reader, data: bytes) -> None:
    found = reader.read(data)
    again = reader.read(data)
    if isinstance(found, ConfigError):
        check_places(found, reader.path, data)
        assert HASH[7:] not in found.message
        assert isinstance(again, ConfigError)
        assert again.faults == found.faults
    else:
        assert isinstance(again, WebConfig)
        assert (found.users, found.headers, found.rate) == (again.users, again.headers, again.rate)
        assert (found.contents, found.demands()) == (again.contents, again.demands())
        assert is_valid(data), data


@fuzz(100, data=TREES)
def test_what_the_schema_takes(reader: Reader, data: bytes) -> None:
    check_schema(data, lambda: is_valid(data), reader.read, BEYOND_SCHEMA)


def test_a_long_duration() -> None:
    """Found by fuzzing: ways to match grew with the cube of its length."""
    node = yamlmap.Node("web.yml", 1, 1, "rate_limit.interval", "str", "1" * 100_000 + "x")
    with pytest.raises(ConfigError, match="expected a duration"):
        read._interval(node)
