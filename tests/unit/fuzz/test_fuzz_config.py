"""The configuration file, whatever is in it: a configuration or complaints that each have their place, the
same each time, and what its JSON Schema says too."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from fuzzing import fuzz
from yamltexts import SchemaLoader, check_places, check_schema, files, trees

from tcpmon.config import Config, load
from tcpmon.config.file import MAX_FILE_BYTES
from tcpmon.config.settings import SETTINGS
from tcpmon.errors import ConfigError

ROOT = Path(__file__).parents[3]
SHIPPED = (ROOT / "config/tcpmon.yaml").read_bytes()
SCHEMA = jsonschema.Draft202012Validator(json.loads((ROOT / "config/tcpmon.schema.json").read_text()))
VALUES = (
    *(setting.default for setting in SETTINGS.values()),
    *(
        "[80, '8000-8099']",
        "[connect, close]",
        "[comm]",
        "[0.5, 1, 2.5e3]",
        "{exclude: [10.0.0.0/8]}",
        "[self]",
    ),
)
# What a schema cannot say: what there is outside the file, in which order, and what depends on other values
BEYOND_SCHEMA = (
    *("given twice", "the range runs backwards", "bounds must rise", "units run from", "not a power of two"),
    *("durations run from", "ports run from", "sizes run from", "not an IP address", "the address has bits"),
    *(
        "no such user",
        "no namespace",
        "no process",
        "not a network namespace",
        "cannot be read",
        "no such file",
    ),
    *(
        "neither a name under",
        "and the kernel keeps",
        "aliases are not",
        "nested too deeply",
        "duplicate key",
    ),
    *("whole number", "number of seconds"),  # of 1.0, 010, 1:30
    *("entries, expected", "holds a character that", "not readable here", "on what is none", "unknown key"),
)


def keys() -> Mapping[str, Any]:
    """The settings' names, nested."""
    found: dict[str, Any] = {}
    for key in SETTINGS:
        place = found
        for name in key.split("."):
            place = place.setdefault(name, {})
    return found


TREES = trees(keys(), VALUES)


class Reader:
    """Reads a file's bytes in a world of its own: process 1234, this namespace as "blue"; no maps."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "x.yaml")
        for link in ("proc/1234/ns/net", "proc/self/ns/net", "netns/blue"):
            (folder / link).parent.mkdir(parents=True, exist_ok=True)
            (folder / link).symlink_to("/proc/self/ns/net")
        self._proc, self._netns = str(folder / "proc"), str(folder / "netns")

    def read(self, data: bytes) -> Config | ConfigError:
        Path(self.path).write_bytes(data)
        try:
            return load(self.path, check_map=lambda path: None, proc=self._proc, run_netns=self._netns)
        except ConfigError as error:
            return error


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    return Reader(tmp_path_factory.mktemp("config"))


def plain(data: bytes) -> Any:
    """What a schema is asked about; bytes as the text that they would be."""
    return json.loads(
        json.dumps(yaml.load(data, SchemaLoader), default=lambda found: found.decode("latin-1"))
    )


@fuzz(250, data=files(SHIPPED, TREES))
def test_whatever_is_in_the_file(reader: Reader, data: bytes) -> None:
    found = reader.read(data)
    again = reader.read(data)
    if isinstance(found, ConfigError):
        check_places(found, reader.path, data)
        assert isinstance(again, ConfigError)
        assert again.faults == found.faults
    else:
        assert found == again
        assert SCHEMA.is_valid(plain(data)), data


@fuzz(200, data=TREES)
def test_what_the_schema_takes(reader: Reader, data: bytes) -> None:
    check_schema(data, lambda: SCHEMA.is_valid(plain(data)), reader.read, BEYOND_SCHEMA)


LARGE = {
    "unknown keys": b"".join(b"k%06d: 1\n" % number for number in range(24_990)),
    "near keys": b"".join(b"max_series%022d: 1\n" % number for number in range(24_990)),
    "colons": b"a: [" + b":" * 1_000_000,
    "brackets": b"[" * 1_000_000,
    "dashes": b"- " * 500_000,
    "hashes": b"#\n" * 500_000,
    "a scalar": b"filters: {comm: [" + b"9:" * 500_000 + b"]}",
    "a number": b"metrics: {max_series: " + b"9" * 1_000_000 + b"}",
    "a user": b"filters: {uid: [" + b"a" * 1_000_000 + b"]}",
    "aliases": b"a: &a [x,x,x]\nb: &b [*a,*a,*a]\nc: [*b,*b,*b]",
    "quotes": b'"\\U0001f600' * 80_000,
    "a list": b"filters: {port: [" + b"0," * 49_000 + b"]}",
}
# In a child, so that the limits are its own; what the interpreter and libraries take is in there
_LIMITED = """
import sys
from tcpmon.config import load
from tcpmon.errors import ConfigError
for path in sys.argv[1:]:
    try:
        load(path)
        print(0, path)
    except ConfigError as error:
        print(len(error.message), path)
"""


def test_large_files(tmp_path: Path) -> None:
    """None of the size that is allowed takes minutes, or half a gigabyte, or is told of at length."""
    for name, data in LARGE.items():
        assert len(data) <= MAX_FILE_BYTES
        (tmp_path / name).write_bytes(data)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (120, 120))
        resource.setrlimit(resource.RLIMIT_AS, (512 << 20, 512 << 20))

    command = [sys.executable, "-c", _LIMITED, *(str(tmp_path / name) for name in LARGE)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, preexec_fn=limit, env={**os.environ, "TZ": "UTC"}
    )
    told = [int(line.split()[0]) for line in done.stdout.splitlines()]
    assert (done.returncode, len(told)) == (0, len(LARGE)), done.stderr
    assert max(told) < 64 << 10


@pytest.mark.parametrize(
    "text, told",
    [
        (b"\xef\xbb\xbfa\nb\n\xff", "3:1: is not UTF-8"),
        (b"log: {}\nx: !%ED%A0%80 b", "2:2: not YAML: the next tag escapes bytes that are not UTF-8"),
        (b"%TAG ! %ED%A0%80\n--- !x\n", "1:1: not YAML: the next tag escapes bytes that are not UTF-8"),
        (b"metrics: {labels: !!seq x}", "1:19: metrics.labels: !!seq on what is none"),
        (b"filters: !!map x", "1:10: filters: !!map on what is none"),
        (b"filters: !!null {comm: [x]}", "1:10: filters: !!null on what is none"),
        (b"filters: !!null x", "1:10: filters: !!null on what is none"),
        (b"log: {level: !!str [info]}", "1:14: log.level: !!str on what is none"),
        (
            b"filters: {port: [010]}",
            '1:18: filters.port: expected a port or a range such as "8000-8099", not 010',
        ),
        (b"filters: {netns: [/dev/net/tun]}", '1:19: filters.netns: "/dev/net/tun": not a network namespace'),
    ],
)
def test_found_by_fuzzing(reader: Reader, text: bytes, told: str) -> None:
    if b"/dev/net/tun" in text and not os.access("/dev/net/tun", os.R_OK):
        pytest.skip("there is no /dev/net/tun")
    found = reader.read(text)
    assert isinstance(found, ConfigError)
    assert found.message == f"{reader.path}:{told}"


def test_numbers_as_the_schema_has_them(reader: Reader) -> None:
    found = reader.read(
        b"metrics: {series_ttl: 0x10}\nfilters: {port: [0x50, 1_000]}\nevents: {buffer: 0x10000}"
    )
    assert isinstance(found, Config)
    assert (found.metrics.series_ttl, found.events.buffer) == (16.0, 65536)
    assert found.filters.port.include == ((80, 80), (1000, 1000))


def test_many_faults(reader: Reader) -> None:
    found = reader.read(b"".join(b"k%d: 1\n" % number for number in range(150)))
    assert isinstance(found, ConfigError)
    assert found.message.endswith(f"\n{reader.path}: 50 more faults")
