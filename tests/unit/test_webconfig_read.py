"""The web configuration file: what is taken, as by exporter-toolkit, and what is refused in which words."""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from needs import needs
from webpki import Pki

from tcpmon.config import load as load_config
from tcpmon.errors import ConfigError
from tcpmon.web import webconfig
from tcpmon.web.webconfig import WebConfig, read, readtls, schema
from tcpmon.web.webconfig.files import Files
from tcpmon.web.webconfig.names import CIPHERS, CLIENT_AUTH, CURVES, HEADERS
from tcpmon.web.webconfig.readtls import TlsSettings

pytestmark = needs("openssl")

ROOT = Path(__file__).parents[2]
# From the toolkit's documentation: htpasswd made it
HASH = "$2y$10$X0h1gDsPszWURQaxFh.zoubFi6DXncSjhoQNJgRrnGs7EsimhC7zG"
PAIR = "cert_file: server.crt, key_file: server.key"


def golden() -> Iterator[tuple[str, str]]:
    """A case is lines of YAML, then, indented, those of the complaint."""
    for case in (Path(__file__).with_name("webconfig_faults.txt")).read_text().split("\n\n"):
        lines = case.splitlines()
        told = [line[4:] for line in lines if line.startswith("    ")]
        yield "\n".join(lines[: -len(told)]), "\n".join(told)


CASES = list(golden())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("web")
    Pki(folder).for_all()
    (folder / "empty").write_text("")
    (folder / "broken.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    (folder / "large").write_bytes(b"#" * ((1 << 20) + 1))
    (folder / "bytes").write_bytes(b"\xff\xfe\0" * 50)
    os.mkfifo(folder / "pipe")
    encrypt = [
        "openssl",
        "pkcs8",
        "-topk8",
        "-in",
        "server.key",
        "-passout",
        "pass:x",
        "-out",
        "encrypted.key",
    ]
    subprocess.run(encrypt, cwd=folder, check=True)
    weak = "openssl req -x509 -newkey rsa:1024 -nodes -subj /CN=localhost -keyout weak.key -out weak.crt"
    subprocess.run(weak.split(), cwd=folder, check=True, capture_output=True)
    return folder


def load(folder: Path, text: str) -> WebConfig:
    path = folder / "web.yml"
    path.write_text(text)
    return webconfig.load(str(path))


def settings(folder: Path, text: str) -> read.Settings:
    path = folder / "web.yml"
    path.write_text(text)
    return read.read(str(path), Files())


def tls(folder: Path, more: str = "") -> TlsSettings:
    found = settings(folder, f"tls_server_config: {{{PAIR}{more}}}").tls
    assert found
    return found


def complaint(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as error:
        load(folder, text)
    return error.value.message.replace(f"{folder}/", "")


# --- what is taken


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}", "tls_server_config:\nbasic_auth_users: {}\n"])
def test_nothing_is_asked_for(folder: Path, text: str) -> None:
    config = load(folder, text)
    assert (config.tls, config.users, config.headers, config.rate) == (None, {}, {}, (0.0, 0))
    assert not config.demands()


def test_no_file_is_nothing() -> None:
    assert webconfig.load(None) == WebConfig()


def test_defaults_of_tls(folder: Path) -> None:
    found = tls(folder)
    assert found.cert.data == (folder / "server.crt").read_bytes()
    assert found.key.data == (folder / "server.key").read_bytes()
    assert (found.min_version, found.max_version, found.client_auth) == ("TLS12", "TLS13", "NoClientCert")
    assert (found.ciphers, found.prefer_server_ciphers, found.curve) == ((), True, None)
    assert (found.client_ca, found.sans) == (None, None)


def test_inline_certificates(folder: Path) -> None:
    names = {"cert": "server.crt", "key": "server.key", "client_ca": "ca.pem"}
    inline = {key: (folder / name).read_text() for key, name in names.items()}
    section = {**inline, "client_auth_type": "RequireAndVerifyClientCert"}
    config = load(folder, yaml.safe_dump({"tls_server_config": section}))
    assert config.demands() == {"TLS", "a client certificate"}
    assert set(config.seen) == {str(folder / "web.yml")}


def test_the_files_that_are_looked_at_for_changes(folder: Path) -> None:
    text = f"tls_server_config: {{{PAIR}, client_ca_file: ca.pem, client_auth_type: VerifyClientCertIfGiven}}"
    seen = load(folder, text).seen
    assert {Path(path).name for path in seen} == {"web.yml", "server.crt", "server.key", "ca.pem"}


def test_paths_start_at_the_files_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert tls(folder).cert.data
    absolute = f"tls_server_config: {{cert_file: {folder}/server.crt, key_file: {folder}/server.key}}"
    assert load(tmp_path, absolute).tls


def test_the_path_of_the_file_itself_starts_at_the_configurations_folder(folder: Path) -> None:
    (folder / "tcpmon.yaml").write_text("web_config: web.yml")
    assert load_config(str(folder / "tcpmon.yaml")).web_config == str(folder / "web.yml")


@pytest.mark.parametrize("name", CLIENT_AUTH[2:])
def test_whoever_verifies_may_do_so_by_the_systems_authorities(folder: Path, name: str) -> None:
    assert load(folder, f"tls_server_config: {{{PAIR}, client_auth_type: {name}}}").tls


def test_every_curve_of_the_table_is_openssls(folder: Path) -> None:
    """X25519 is none that every OpenSSL can be limited to."""
    for name in CURVES:
        text = f"tls_server_config: {{{PAIR}, curve_preferences: [{name}]}}"
        if name != "X25519":
            assert load(folder, text).tls


def test_every_cipher_of_the_table_is_openssls(folder: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for name, openssl in CIPHERS.items():
        found = tls(folder, f", cipher_suites: [{name}]")
        assert found.ciphers == ((openssl,) if openssl else ())
        assert found.min_version == ("TLS12" if openssl else "TLS13")
        if openssl:
            context.set_ciphers(openssl)
            assert openssl in [cipher["name"] for cipher in context.get_ciphers()]


@pytest.mark.parametrize(
    "text, seconds", [("1s", 1), ("500ms", 0.5), ("1m30s", 90), ("1.5h", 5400), ("0", 0)]
)
def test_intervals(folder: Path, text: str, seconds: float) -> None:
    assert load(folder, f"rate_limit: {{interval: {text}, burst: 20}}").rate == (seconds, 20)


def test_the_toolkits_own_example(folder: Path) -> None:
    text = f"""
tls_server_config:
  cert_file: server.crt
  key_file: server.key
basic_auth_users:
  alice: {HASH}
  bob: {HASH.replace("$2y$", "$2a$")}
  "": {HASH.replace("$2y$", "$2b$")}
http_server_config:
  http2: false
  headers:
    X-Frame-Options: deny
    Strict-Transport-Security: max-age=31536000; includeSubDomains
    X-Content-Type-Options: nosniff
    X-XSS-Protection: 1
    Content-Security-Policy: ""
rate_limit:
  interval: "1s" # time interval between two requests, set to 0 to disable rate limiter
  burst: 20 # and permits a burst of up to 20 requests.
"""
    config = load(folder, text)
    assert set(config.users) == {b"alice", b"bob", b""}
    assert config.users[b"alice"] == HASH.encode()
    assert config.headers == {
        "X-Frame-Options": "deny",
        "Strict-Transport-Security": "max-age=31536000; includeSubDomains",
        "X-Content-Type-Options": "nosniff",
        "X-XSS-Protection": "1",
    }
    assert (config.rate, config.demands()) == ((1.0, 20), {"TLS", "a password"})


def test_a_salt_with_odd_last_bits(folder: Path) -> None:
    """Some tools leave bits there that do not count, and that the library refuses."""
    odd = HASH[:28] + chr(ord(HASH[28]) + 1) + HASH[29:]
    assert load(folder, f"basic_auth_users: {{a: {odd}}}").users[b"a"] == HASH.encode()


def test_the_shipped_example_has_every_key(folder: Path) -> None:
    for name, ours in (("web.crt", "server.crt"), ("web.key", "server.key"), ("clients.crt", "ca.pem")):
        shutil.copy(folder / ours, folder / name)
    text = (ROOT / "config/web.example.yml").read_text()
    assert load(folder, text).demands() == {
        "TLS",
        "a password",
        "a client certificate",
        "client_allowed_sans",
    }
    found = yaml.safe_load(text)
    in_files = {"cert", "key", "client_ca"}
    assert set(found["tls_server_config"]) == set(readtls._TLS_KEYS) - in_files
    assert set(found["http_server_config"]) == set(read._HTTP_KEYS)
    assert set(found["http_server_config"]["headers"]) == set(HEADERS)
    assert set(found["rate_limit"]) == set(read._RATE_KEYS)
    assert set(found) == set(read._SECTIONS)


# --- the schema


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    text = (ROOT / "config/web.schema.json").read_text()
    assert text == schema.text(), "out of step: python -m tcpmon.web.webconfig.schema"
    found = jsonschema.Draft202012Validator(json.loads(text))
    found.check_schema(found.schema)
    return found


def test_the_schema_takes_the_example(validator: jsonschema.Draft202012Validator) -> None:
    validator.validate(yaml.safe_load((ROOT / "config/web.example.yml").read_text()))
    validator.validate({})
    validator.validate({"rate_limit": {"interval": 0}, "tls_server_config": None})


def test_the_schema_has_the_readers_keys(validator: jsonschema.Draft202012Validator) -> None:
    sections: Any = validator.schema["properties"]  # type: ignore[index]
    assert set(sections) == set(read._SECTIONS)
    for name, keys in (
        ("tls_server_config", readtls._TLS_KEYS),
        ("http_server_config", read._HTTP_KEYS),
        ("rate_limit", read._RATE_KEYS),
    ):
        assert set(sections[name]["properties"]) == set(keys)


# What a schema cannot know: what is in files, what goes together, how large a quantity with a unit is
BEYOND = ("holds no", "no such", "is a directory", "larger", "not the key", "encrypted", "OpenSSL refuses")
BEYOND += ("give ", "needs", "nobody", "left", "999999999h", "duplicate", "not YAML", "document", "aliases")
WITHIN = [text for text, said in CASES if not any(word in said for word in BEYOND) and "[a]: " not in text]


@pytest.mark.parametrize("text", WITHIN)
def test_the_schema_refuses_what_is_refused(validator: jsonschema.Draft202012Validator, text: str) -> None:
    assert not validator.is_valid(yaml.safe_load(text))


# --- what is refused: the line and column, and the words


@pytest.mark.parametrize("text, said", CASES, ids=[text for text, _ in CASES])
def test_refused(folder: Path, text: str, said: str) -> None:
    assert complaint(folder, text) == said


def test_each_key_has_a_case() -> None:
    """So that a new key brings its fault along."""
    told = (Path(__file__).with_name("webconfig_faults.txt")).read_text()
    sections = ("tls_server_config", "http_server_config", "basic_auth_users", "rate_limit")
    assert all(f"\n{section}: " in told for section in sections)
    assert len(CASES) > 70


@pytest.mark.parametrize("said", ["doe", "s3cret", "5432"])
def test_no_complaint_repeats_a_secret(said: str) -> None:
    assert any(said in text for text, _ in CASES)
    assert not any(said in complaint for _, complaint in CASES)


def test_control_characters(folder: Path) -> None:
    assert complaint(folder, "x: \x01") == "web.yml:1:4: not YAML: control character '\\x01'"


def test_odd_characters(folder: Path) -> None:
    """What YAML can write, and a path cannot."""
    odd = '"\\0"'
    assert "holds a character" in complaint(folder, f"tls_server_config: {{cert_file: {odd}}}")
    assert "no certificate" in complaint(folder, f"tls_server_config: {{cert: {odd}, key: {odd}}}")
    assert load(folder, f"basic_auth_users: {{{odd}: {HASH}}}").users == {b"\0": HASH.encode()}


def test_a_curve_that_openssl_cannot_be_limited_to(folder: Path) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).set_ecdh_curve("X25519")
    except ssl.SSLError:
        text = f"tls_server_config: {{{PAIR}, curve_preferences: [X25519]}}"
        assert "X25519 cannot be the only one here" in complaint(folder, text)


def test_no_file(folder: Path) -> None:
    with pytest.raises(ConfigError) as error:
        webconfig.load(str(folder / "nowhere.yml"))
    assert error.value.message == f"{folder}/nowhere.yml: no such file or directory"


OUT_OF_REACH = """
import os, sys
from tcpmon.errors import ConfigError
from tcpmon.web import webconfig
if os.geteuid() == 0:
    os.setgroups([])
    os.setuid(65534)
try:
    webconfig.load(sys.argv[1])
except ConfigError as error:
    print(error)
"""


def test_a_key_out_of_reach(folder: Path) -> None:
    """As the service's user finds one of root's: in a process of its own, which can be another user."""
    with tempfile.TemporaryDirectory() as open_to_all:
        reachable = Path(open_to_all)
        shutil.copytree(folder, reachable, dirs_exist_ok=True, ignore=shutil.ignore_patterns("pipe"))
        reachable.chmod(0o755)
        (reachable / "web.yml").write_text(f"tls_server_config: {{{PAIR}}}")
        (reachable / "server.key").chmod(0o600 if os.geteuid() == 0 else 0)
        command = [sys.executable, "-c", OUT_OF_REACH, str(reachable / "web.yml")]
        told = subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout
    assert (
        f"web.yml:1:54: tls_server_config.key_file: {reachable}/server.key: cannot be read by the user"
        in told
    )
    assert "docs/web-config.md" in told


def test_check_config_looks_into_it(folder: Path) -> None:
    (folder / "web.yml").write_text("basic_auth_users: {a: b}")
    (folder / "tcpmon.yaml").write_text("web_config: web.yml")
    command = [sys.executable, "-m", "tcpmon", "check-config", "-c", str(folder / "tcpmon.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr.startswith(f"{folder}/web.yml:1:23: basic_auth_users.a: is not a bcrypt hash")
    assert "Traceback" not in done.stderr
    (folder / "web.yml").write_text(f"tls_server_config: {{{PAIR}}}")
    assert subprocess.run(command, capture_output=True, cwd=ROOT).returncode == 0


def test_bcrypt_is_loaded_for_passwords_only(folder: Path) -> None:
    (folder / "web.yml").write_text(f"tls_server_config: {{{PAIR}}}")
    code = f"""
import sys
import tcpmon.daemon
from tcpmon.web import webconfig
assert not {{"bcrypt", "tcpmon.web.webconfig.tls"}} & set(sys.modules)
webconfig.load({str(folder / "web.yml")!r})
assert "bcrypt" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_reference_has_every_name() -> None:
    text = (ROOT / "docs/web-config.md").read_text()
    for name in (*CIPHERS, *CLIENT_AUTH, *CURVES, *HEADERS):
        assert f"`{name}`" in text, name


def test_reading_what_is_no_file_keeps_no_descriptor(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    for _ in range(3):
        with pytest.raises(ConfigError, match="is a directory"):
            Files().read(str(tmp_path))
    assert os.listdir("/proc/self/fd") == before
