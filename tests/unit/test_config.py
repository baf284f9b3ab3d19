"""The configuration file: what is accepted, what is refused in which words, what derives from the table."""

from __future__ import annotations

import json
import os
import re
from dataclasses import fields, replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tcpmon import config as configuration
from tcpmon.config import Address, Config, Selection, changed_restart_only, load, with_restart_only_of
from tcpmon.config import doc as configdoc
from tcpmon.config.file import MAX_FILE_BYTES
from tcpmon.config.kinds import MAX_ITEMS
from tcpmon.config.settings import SECTIONS, SETTINGS
from tcpmon.errors import ConfigError

ROOT = Path(__file__).parents[2]
NETNS_INUM = os.stat("/proc/self/ns/net").st_ino


@pytest.fixture
def world(tmp_path: Path) -> dict[str, Any]:
    """A /proc with process 1234 in this namespace, a /run/netns with "blue", and no check of maps."""
    (tmp_path / "proc/1234/ns").mkdir(parents=True)
    (tmp_path / "proc/self/ns").mkdir(parents=True)
    (tmp_path / "netns").mkdir()
    for link in ("proc/1234/ns/net", "proc/self/ns/net", "netns/blue"):
        (tmp_path / link).symlink_to("/proc/self/ns/net")
    (tmp_path / "netns/mount").symlink_to("/proc/self/ns/mnt")
    (tmp_path / "netns/file").write_text("")
    return {
        "proc": str(tmp_path / "proc"),
        "run_netns": str(tmp_path / "netns"),
        "check_map": lambda path: None,
    }


def load_text(tmp_path: Path, text: str | bytes, **world: Any) -> Config:
    path = tmp_path / "x.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load(str(path), **world)


def faults(tmp_path: Path, text: str | bytes, **world: Any) -> list[str]:
    with pytest.raises(ConfigError) as error:
        load_text(tmp_path, text, **world)
    return [line.replace(f"{tmp_path}/", "") for line in error.value.message.splitlines()]


def get(config: Config, key: str) -> Any:
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return value


# A YAML flow value of a setting, and what it is read as.
GOOD = [
    ("listen", '"[::]:19317"', (Address("::", 19317),)),
    ("listen", "0.0.0.0:0", (Address("0.0.0.0", 0),)),
    ("listen", "localhost:1", (Address("127.0.0.1", 1),)),
    ("listen", '[127.0.0.1:1, "[0:0::1]:1"]', (Address("127.0.0.1", 1), Address("::1", 1))),
    ("web_config", "null", None),
    ("web_config", "~", None),
    ("web_config", "/etc/passwd", "/etc/passwd"),
    ("filters.pid", "[1, 2, 1]", Selection(include=(1, 2))),
    ("filters.pid", "{exclude: [0x10, 1_000]}", Selection(exclude=(16, 1000))),
    ("filters.pid", "null", Selection()),
    ("filters.pid", "{include: null}", Selection()),
    ("filters.port", '[22, "8000-8099", "443"]', Selection(include=((22, 22), (8000, 8099), (443, 443)))),
    ("filters.port", "[8000-8099]", Selection(include=((8000, 8099),))),
    ("filters.port", "{include: [1-65535], exclude: [7]}", Selection(((1, 65535),), ((7, 7),))),
    ("filters.netns", "[4026531840]", Selection(include=(4026531840,))),
    ("filters.netns", "[self]", Selection(include=(NETNS_INUM,))),
    ("filters.netns", '{exclude: [blue, "pid:1234", /proc/self/ns/net]}', Selection(exclude=(NETNS_INUM,))),
    (
        "filters.comm",
        "[sshd, 'on', ' x', fifteen-bytes-x]",
        Selection((b"sshd", b"on", b" x", b"fifteen-bytes-x")),
    ),
    ("filters.comm", "[jürgen]", Selection(include=("jürgen".encode(),))),
    ("filters.comm", "[!!binary /2E=]", Selection(include=(b"\xffa",))),
    ("filters.comm", "[!!str 123]", Selection(include=(b"123",))),
    ("filters.uid", "[root, 65534, 4294967294]", Selection(include=(0, 65534, 4294967294))),
    ("filters.remote", "[10.0.0.0/8]", Selection(include=(ip_network("10.0.0.0/8"),))),
    (
        "filters.remote",
        '[10.1.2.3, "::1"]',
        Selection(include=(ip_network("10.1.2.3/32"), ip_network("::1/128"))),
    ),
    (
        "filters.remote",
        '["fd00::/8", 0.0.0.0/0]',
        Selection((ip_network("fd00::/8"), ip_network("0.0.0.0/0"))),
    ),
    ("filters.remote", '["::ffff:10.0.0.0/104"]', Selection(include=(ip_network("10.0.0.0/8"),))),
    ("filters.family", "ipv6", "ipv6"),
    ("filters.cgroup_map", "/sys/fs/bpf/a", "/sys/fs/bpf/a"),
    ("metrics.labels", "[port, comm]", ("comm", "port")),
    ("metrics.labels", "[]", ()),
    ("metrics.comm", "thread", "thread"),
    ("metrics.max_series", "1", 1),
    ("metrics.max_series", "1000000", 1_000_000),
    ("metrics.series_ttl", "0", 0.0),
    ("metrics.series_ttl", "1.5", 1.5),
    ("metrics.series_ttl", "90s", 90.0),
    ("metrics.series_ttl", "2d", 172_800.0),
    ("metrics.series_ttl", "1h30m", 5400.0),
    ("metrics.buckets.accept_wait", "[1e-6, 0.5, 1, 2.5e3]", (1e-6, 0.5, 1.0, 2500.0)),
    ("events.types", "[close, connect]", ("connect", "close")),
    ("events.rate_limit", "0", 0),
    ("events.buffer", "65536", 65536),
    ("events.buffer", "64KiB", 65536),
    ("events.buffer", "1GiB", 1 << 30),
    ("connections.max_tracked", "1", 1),
    ("log.level", "debug", "debug"),
]


@pytest.mark.parametrize("key,text,value", GOOD)
def test_good(tmp_path: Path, world: dict[str, Any], key: str, text: str, value: object) -> None:
    nested, defaults = f"{key.replace('.', ': {')}: {text}" + "}" * key.count("."), load(None)
    config = load_text(tmp_path, nested, **world)
    assert get(config, key) == value
    changed = [other for other in SETTINGS if get(config, other) != get(defaults, other)]
    assert changed in ([key], [])


# A YAML flow value of a setting, and the fault it gets behind "x.yaml:LINE:COLUMN: KEY: ".
PORTS = "ports run from 1 to 65535"
LISTEN = 'expected address:port such as 127.0.0.1:19317, or "[::]:19317" for all addresses, not '
SECONDS = "expected a number of seconds from 0.000001 to 315360000 (+Inf is always there), not "
BAD = [
    ("listen", "19317", LISTEN + "19317"),
    ("listen", "':19317'", LISTEN + '":19317"'),
    ("listen", "null", LISTEN + "null"),
    ("listen", "127.0.0.1", LISTEN + '"127.0.0.1"'),
    ("listen", "'::1:19317'", LISTEN + '"::1:19317"'),
    ("listen", "{a: 1}", LISTEN + "a mapping"),
    ("listen", "[]", "0 entries, expected 1 to 64"),
    ("listen", "127.0.0.1:65536", '"127.0.0.1:65536": ports run from 0 to 65535'),
    ("listen", "example.com:80", '"example.com:80": not an IP address before the port'),
    ("listen", "'[127.0.0.1]:80'", '"[127.0.0.1]:80": not an IP address before the port'),
    ("listen", "'[fe80::1%eth0]:80'", '"[fe80::1%eth0]:80": not an IP address before the port'),
    ("web_config", "1", "expected a path or null, not 1"),
    ("web_config", "none.yml", '"none.yml": no such file'),
    ("filters", "[]", "expected a mapping, not a list"),
    ("filters.pid", "7", "expected a list, or a mapping of include and exclude, not 7"),
    ("filters.port", "80-90", 'expected a list, or a mapping of include and exclude, not "80-90"'),
    ("filters.cgroup_map", "relative", '"relative": not an absolute path'),
    ("filters.cgroup_map", '"/a\\0b"', '"/a\\x00b": holds a character that no name can have'),
    ("filters.mntns_map", "''", '"": is empty'),
    ("filters.family", "ipv5", 'expected one of both, ipv4, ipv6, not "ipv5"'),
    ("filters.family", "4", "expected one of both, ipv4, ipv6, not 4"),
    ("metrics.labels", "comm", 'expected a list of comm, netns, port, not "comm"'),
    ("metrics.comm", "null", "expected one of process, thread, not null"),
    ("metrics.max_series", "0", "expected a whole number from 1 to 1000000, not 0"),
    ("metrics.max_series", "1000001", "expected a whole number from 1 to 1000000, not 1000001"),
    ("metrics.max_series", "true", "expected a whole number from 1 to 1000000, not true"),
    ("metrics.max_series", "1.5", "expected a whole number from 1 to 1000000, not 1.5"),
    ("metrics.max_series", "010", "expected a whole number from 1 to 1000000, not 010"),
    ("metrics.max_series", "1:30", "expected a whole number from 1 to 1000000, not 1:30"),
    ("metrics.max_series", "'9'", 'expected a whole number from 1 to 1000000, not "9"'),
    ("metrics.max_series", "9" * 5000, f"expected a whole number from 1 to 1000000, not {'9' * 128}…"),
    ("metrics.max_series", "!!int x", "expected a whole number from 1 to 1000000, not x"),
    ("metrics.series_ttl", "-1", "-1: durations run from 0 to 3650d"),
    ("metrics.series_ttl", "3651d", '"3651d": durations run from 0 to 3650d'),
    (
        "metrics.series_ttl",
        ".nan",
        "expected a duration, a number of seconds or such as 90s, 5m, 1h30m, 2d, not .nan",
    ),
    (
        "metrics.series_ttl",
        "1w",
        'expected a duration, a number of seconds or such as 90s, 5m, 1h30m, 2d, not "1w"',
    ),
    ("metrics.series_ttl", "5m1h", '"5m1h": units run from large to small, each once: 1d2h3m4s'),
    ("metrics.series_ttl", "1h1h", '"1h1h": units run from large to small, each once: 1d2h3m4s'),
    ("metrics.buckets", "[1]", "expected a mapping, not a list"),
    ("metrics.buckets.accept_wait", "[]", "0 entries, expected 1 to 64"),
    ("metrics.buckets.accept_wait", str(list(range(1, 66))), "65 entries, expected 1 to 64"),
    ("metrics.buckets.accept_wait", "1", "expected a list of numbers, not 1"),
    ("events.journal", "1", "expected true or false, not 1"),
    ("events.journal", "'false'", 'expected true or false, not "false"'),
    ("events.types", "[]", "0 entries, expected 1 to 4"),
    ("events.rate_limit", "-1", "expected a whole number from 0 to 10000000, not -1"),
    ("events.buffer", "1M", 'expected a size, a number of bytes or such as 512KiB, 1MiB, not "1M"'),
    ("events.buffer", "4095", "4095: sizes run from 4KiB to 1GiB"),
    ("events.buffer", "2GiB", '"2GiB": sizes run from 4KiB to 1GiB'),
    ("events.buffer", "3MiB", '"3MiB": not a power of two; write 2MiB or 4MiB'),
    ("connections.max_tracked", "16777217", "expected a whole number from 1 to 16777216, not 16777217"),
    ("log.level", "trace", 'expected one of debug, info, warning, error, not "trace"'),
]


@pytest.mark.parametrize("key,text,problem", BAD)
def test_bad_value(tmp_path: Path, world: dict[str, Any], key: str, text: str, problem: str) -> None:
    before = f"{key.replace('.', ': {')}: "
    expected = f"x.yaml:1:{len(before) + 1}: {key}: {problem}"
    assert faults(tmp_path, f"{before}{text}{'}' * key.count('.')}", **world) == [expected]


# An entry of a setting's list, as the third of three, the first two being good; and its fault.
BAD_ENTRIES = [
    ("filters.pid", "1, 2", "0", "expected a whole number from 1 to 4194304, not 0"),
    ("filters.pid", "1, 2", "null", "expected a whole number from 1 to 4194304, not null"),
    ("filters.port", "1, 2", '"8099-8000"', '"8099-8000": the range runs backwards; write 8000-8099'),
    ("filters.port", "1, 2", "0", f"0: {PORTS}"),
    ("filters.port", "1, 2", "70000", f"70000: {PORTS}"),
    ("filters.port", "1, 2", "8000-70000", f'"8000-70000": {PORTS}'),
    ("filters.port", "1, 2", "http", 'expected a port or a range such as "8000-8099", not "http"'),
    ("filters.port", "1, 2", "80.5", 'expected a port or a range such as "8000-8099", not 80.5'),
    ("filters.port", "1, 2", "[3]", 'expected a port or a range such as "8000-8099", not a list'),
    ("filters.netns", "1, 2", "0", "expected an inum from 1 to 4294967295, or a namespace's name, not 0"),
    ("filters.netns", "1, 2", "green", '"green": no namespace green under RUN'),
    ("filters.netns", "1, 2", "pid:4321", '"pid:4321": no process 4321 is running that tcpmon may see'),
    ("filters.netns", "1, 2", "/nowhere", '"/nowhere": no such file'),
    ("filters.netns", "1, 2", "a/b", '"a/b": neither a name under RUN nor an absolute path'),
    ("filters.netns", "1, 2", "..", '"..": neither a name under RUN nor an absolute path'),
    ("filters.netns", "1, 2", "mount", '"mount": not a network namespace'),
    ("filters.netns", "1, 2", "file", '"file": not a network namespace'),
    ("filters.netns", "1, 2", "/etc/passwd", '"/etc/passwd": not a network namespace'),
    ("filters.netns", "1, 2", "true", "expected an inum, self, a name, pid:NUMBER or a path, not true"),
    ("filters.comm", "a, b", "on", "expected a process name, not on; put it in quotes"),
    ("filters.comm", "a, b", "''", '"": is empty'),
    (
        "filters.comm",
        "a, b",
        "sixteen-bytes-xy",
        '"sixteen-bytes-xy": 16 bytes, and the kernel keeps 15 of a name; write "sixteen-bytes-x"',
    ),
    ("filters.comm", "a, b", "ääääääää", '"ääääääää": 16 bytes, and the kernel keeps 15 of a name'),
    ("filters.comm", "a, b", "!!binary '*'", '"*": not base64'),
    ("filters.comm", "a, b", "!!binary AA==", '"AA==": holds a zero byte, or nothing'),
    ("filters.uid", "1, 2", "nobody-of-that-name", '"nobody-of-that-name": no such user on this machine'),
    (
        "filters.uid",
        "1, 2",
        "4294967295",
        "expected a user id from 0 to 4294967294, or a user's name, not 4294967295",
    ),
    ("filters.uid", "1, 2", "true", "expected a user id or a user's name, not true"),
    (
        "filters.remote",
        "1.1.1.1, 8.8.8.8",
        "10.1.0.0/8",
        '"10.1.0.0/8": the address has bits beyond its prefix; write 10.0.0.0/8',
    ),
    (
        "filters.remote",
        "1.1.1.1, 8.8.8.8",
        '"fd00::1/8"',
        '"fd00::1/8": the address has bits beyond its prefix; write fd00::/8',
    ),
    (
        "filters.remote",
        "1.1.1.1, 8.8.8.8",
        "10.0.0.0/33",
        '"10.0.0.0/33": not an IP address, nor a network such as 10.0.0.0/8 or fd00::/8',
    ),
    (
        "filters.remote",
        "1.1.1.1, 8.8.8.8",
        "10.0.0.0/255.0.0.0",
        '"10.0.0.0/255.0.0.0": not an IP address, nor a network such as 10.0.0.0/8 or fd00::/8',
    ),
    (
        "filters.remote",
        "1.1.1.1, 8.8.8.8",
        '"fe80::1%eth0"',
        '"fe80::1%eth0": not an IP address, nor a network such as 10.0.0.0/8 or fd00::/8',
    ),
    (
        "filters.remote",
        "1.1.1.1, 8.8.8.8",
        "example.com",
        '"example.com": not an IP address, nor a network such as 10.0.0.0/8 or fd00::/8',
    ),
    ("filters.remote", "1.1.1.1, 8.8.8.8", "10", "expected an IP address or network, not 10"),
    ("metrics.labels", "comm, port", "comm", '"comm": given twice'),
    ("metrics.labels", "comm, port", "pid", 'expected one of comm, netns, port, not "pid"'),
    ("metrics.buckets.accept_wait", "1, 2", "2", "2: bounds must rise, and the one before is 2"),
    ("metrics.buckets.accept_wait", "1, 2", "0", SECONDS + "0"),
    ("metrics.buckets.accept_wait", "1, 2", "-3", SECONDS + "-3"),
    ("metrics.buckets.accept_wait", "1, 2", ".inf", SECONDS + ".inf"),
    ("metrics.buckets.accept_wait", "1, 2", ".NaN", SECONDS + ".NaN"),
    ("metrics.buckets.accept_wait", "1, 2", "!!float nan", SECONDS + "nan"),
    ("metrics.buckets.accept_wait", "1, 2", "1e999", SECONDS + "1e999"),
    ("metrics.buckets.accept_wait", "1, 2", "1s", SECONDS + '"1s"'),
    ("metrics.buckets.accept_wait", "1, 2", "true", SECONDS + "true"),
    ("events.types", "connect, close", "close", '"close": given twice'),
    (
        "events.types",
        "connect, close",
        "open",
        'expected one of connect, connect_failed, accept, close, not "open"',
    ),
    ("listen", "127.0.0.1:1, 127.0.0.1:2", "localhost:1", '"localhost:1": given twice'),
]


@pytest.mark.parametrize("key,good,text,problem", BAD_ENTRIES)
def test_bad_entry(
    tmp_path: Path, world: dict[str, Any], key: str, good: str, text: str, problem: str
) -> None:
    before = f"{key.replace('.', ': {')}: [{good}, "
    expected = f"x.yaml:1:{len(before) + 1}: {key}: {problem}".replace("RUN", world["run_netns"])
    assert [
        line.replace("RUN", world["run_netns"])
        for line in faults(tmp_path, f"{before}{text}]{'}' * key.count('.')}", **world)
    ] == [expected.replace(f"{tmp_path}/", "")]


# Whole files and all their faults.
BAD_FILES = [
    ("- listen\n", ["1:1: the top level is no mapping: expected a mapping, not a list"]),
    ("just text\n", ['1:1: the top level is no mapping: expected a mapping, not "just text"']),
    ("lissen: 1\n", ['1:1: lissen: unknown key; did you mean "listen"?']),
    ("zzz: 1\n", ["1:1: zzz: unknown key"]),
    ("LOG: 1\n", ['1:1: LOG: unknown key; did you mean "log"?']),
    ("max_series: 1\n", ['1:1: max_series: unknown key; did you mean "metrics.max_series"?']),
    ("buckets: {}\n", ['1:1: buckets: unknown key; did you mean "metrics.buckets"?']),
    ("filters: {prot: []}\n", ['1:11: filters.prot: unknown key; did you mean "port"?']),
    (
        "filters:\n  pid:\n    includes: [1]\n",
        ['3:5: filters.pid.includes: unknown key; did you mean "include"?'],
    ),
    ("on: 1\n", ["1:1: on: unknown key"]),
    ("? [a]\n: 1\n", ["1:3: a key must be text, not a list"]),
    ('"a\\nb": 1\n', ["1:1: a\\nb: unknown key"]),
    ("log: {}\nlisten: 127.0.0.1:1\nlog: {}\n", ["3:1: log: duplicate key, first given on line 1"]),
    (
        "filters:\n  pid: {include: [1],\n    include: [2]}\n",
        ["3:5: filters.pid.include: duplicate key, first given on line 2"],
    ),
    (
        "filters:\n  port:\n    include:\n      - 80\n      - '8099-8000'\n    exclude: [0, x]\n"
        "  prot: 1\nlog: {level: 3}\nlisten: 5\n",
        [
            '5:9: filters.port.include: "8099-8000": the range runs backwards; write 8000-8099',
            f"6:15: filters.port.exclude: 0: {PORTS}",
            '6:18: filters.port.exclude: expected a port or a range such as "8000-8099", not "x"',
            '7:3: filters.prot: unknown key; did you mean "port"?',
            "8:14: log.level: expected one of debug, info, warning, error, not 3",
            f"9:9: listen: {LISTEN}5",
        ],
    ),
    (
        f"filters: {{pid: {list(range(1, MAX_ITEMS + 2))}}}\n",
        [f"1:16: filters.pid: {MAX_ITEMS + 1} entries, expected 0 to {MAX_ITEMS}"],
    ),
    ("a: &x [1]\nlog: *x\n", ["2:6: log: *x: aliases are not supported"]),
    ("&x a: *x\n", ["1:7: a: *x: aliases are not supported"]),
    ("log: &x {level: *x}\n", ["1:17: log.level: *x: aliases are not supported"]),
    ("log: {}\n---\nlog: {}\n", ["2:1: a second document; a file holds one"]),
    ("filters: {pid: " + "[" * 100_000, ["1:31: filters.pid: nested too deeply"]),
    ("- 7\n" * 60_000, ["50000:3: more than 50000 values in the file"]),
    ("log: {level: \x07}\n", ["1:14: not YAML: control character '\\x07'"]),
    ("ä: \x00\n", ["1:4: not YAML: control character '\\x00'"]),
    (b"log: {}\n# \xc3\xa4 \xff\n", ["2:5: is not UTF-8"]),
    ("log: {}\n".encode("utf-16"), ["1:1: is not UTF-8"]),
    (
        "log: !!python/object/apply:os.system ['true']\n",
        ["1:6: log: expected a mapping, not python/object/apply:os.system"],
    ),
]


@pytest.mark.parametrize("text,expected", BAD_FILES, ids=range(len(BAD_FILES)))
def test_bad_file(tmp_path: Path, world: dict[str, Any], text: str | bytes, expected: list[str]) -> None:
    assert faults(tmp_path, text, **world) == [f"x.yaml:{line}" for line in expected]


@pytest.mark.parametrize(
    "text,place,hint",
    [
        ("log: [\n", "2:1", ""),
        ("log: {}\nfilters: a: b\n", "2:11", ""),
        ("listen: [::]:19317\n", "1:10", '; write IPv6 addresses in quotes: "::1", "[::]:19317"'),
        (
            "filters: {remote: [1.1.1.1, ::1]}\n",
            "1:29",
            '; write IPv6 addresses in quotes: "::1", "[::]:19317"',
        ),
    ],
)
def test_not_yaml(tmp_path: Path, text: str, place: str, hint: str) -> None:
    (fault,) = faults(tmp_path, text)
    assert re.fullmatch(rf"x\.yaml:{place}: not YAML: [^;]+{re.escape(hint)}", fault)


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "---\n", "null\n", "{}\n", "\ufefflog:\n", "filters:\nmetrics: {buckets: }\n"]
)
def test_nothing_said_is_the_defaults(tmp_path: Path, text: str) -> None:
    assert replace(load_text(tmp_path, text), path=None) == load(None)


def test_no_file(tmp_path: Path) -> None:
    for path, problem in (
        ("none.yaml", "no such file"),
        ("", "is a directory"),
        ("\0", "embedded null byte"),
    ):
        with pytest.raises(ConfigError) as error:
            load(f"{tmp_path}/{path}")
        assert error.value.message.startswith(f"{tmp_path}/{path}: {problem}")


def test_a_file_too_large(tmp_path: Path) -> None:
    assert load_text(tmp_path, "#" * MAX_FILE_BYTES)
    assert faults(tmp_path, "#" * (MAX_FILE_BYTES + 1)) == ["x.yaml: is larger than 1 MiB"]


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").symlink_to("x.yaml")
    with pytest.raises(ConfigError, match=r"x\.yaml: cannot be read: Too many levels of symbolic links"):
        load(str(tmp_path / "x.yaml"))


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.yaml")
    with pytest.raises(ConfigError, match=r"x\.yaml: is not a regular file"):
        load(str(tmp_path / "x.yaml"))


def test_a_tab(tmp_path: Path) -> None:
    assert faults(tmp_path, "filters:\n\tport: [80]\n") == [
        "x.yaml:2:1: not YAML: found character that cannot start any token while scanning for the next token"
        "; it is a tab: YAML indents with spaces"
    ]


def test_a_pinned_map_is_checked(tmp_path: Path) -> None:
    asked: list[str] = []

    def check_map(path: str) -> str | None:
        asked.append(path)
        return "keys of 4 bytes" if path == "/m" else None

    text = "filters: {cgroup_map: /c, mntns_map: /m}"
    assert faults(tmp_path, text, check_map=check_map) == [
        'x.yaml:1:38: filters.mntns_map: "/m": keys of 4 bytes'
    ]
    assert asked == ["/c", "/m"]


def test_a_pinned_map_that_is_missing(tmp_path: Path) -> None:
    expected = 'x.yaml:1:23: filters.cgroup_map: "/nowhere": no such file; pin the map before tcpmon starts'
    assert faults(tmp_path, "filters: {cgroup_map: /nowhere}") == [expected]


def test_a_file_that_is_no_map(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, "filters: {cgroup_map: /etc/passwd}")
    assert fault.startswith('x.yaml:1:23: filters.cgroup_map: "/etc/passwd": ')


def test_what_needs_a_restart(tmp_path: Path) -> None:
    old = load(None)
    text = (
        "listen: 127.0.0.1:1\nfilters: {pid: [7], cgroup_map: /c, mntns_map: /m}\n"
        "metrics: {max_series: 7, series_ttl: 7, labels: [], buckets: {accept_wait: [7]}}\n"
        "events: {buffer: 4KiB, rate_limit: 7}\nconnections: {max_tracked: 7}\nlog: {level: debug}\n"
    )
    new = load_text(tmp_path, text, check_map=lambda path: None)
    assert set(changed_restart_only(old, new)) == {
        "listen", "filters.cgroup_map", "filters.mntns_map", "metrics.max_series", "metrics.buckets",
        "events.buffer", "connections.max_tracked",
    }  # fmt: skip
    kept = with_restart_only_of(old, new)
    assert changed_restart_only(old, kept) == []
    assert changed_restart_only(old, old) == []
    for key in (
        "path",
        "filters.pid",
        "metrics.series_ttl",
        "metrics.labels",
        "events.rate_limit",
        "log.level",
    ):
        assert get(kept, key) == get(new, key) != get(old, key)


def test_every_field_has_its_row() -> None:
    """A field without a row, or a row without a field, would be a setting that does nothing."""
    found = {
        f"{section.key}.{field.name}" for section in SECTIONS.values() for field in fields(section.make)
    } | {field.name for field in fields(Config)}
    assert found - set(SECTIONS) - {"path"} == set(SETTINGS)


def test_generated_files_are_in_step() -> None:
    for name, text in configdoc.outputs().items():
        assert (ROOT / name).read_text(encoding="utf-8") == text, (
            f"run `python -m tcpmon.config.doc` for {name}"
        )


def test_the_shipped_file_is_the_defaults() -> None:
    assert replace(load(str(ROOT / "config/tcpmon.yaml")), path=None) == load(None)


def test_the_shipped_file_says_every_key() -> None:
    said = yaml.safe_load((ROOT / "config/tcpmon.yaml").read_text(encoding="utf-8"))
    for key in SETTINGS:
        value = said
        for name in key.split("."):
            value = value[name]


def test_the_examples_in_the_documentation_load(tmp_path: Path) -> None:
    (tmp_path / "shop").symlink_to("/proc/self/ns/net")
    examples = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/configuration.md").read_text(), re.DOTALL)
    assert len(examples) == len(configdoc.EXAMPLES)
    for text in examples:
        assert load_text(tmp_path, text, run_netns=str(tmp_path)) != load(None)


@pytest.fixture(scope="module")
def schema() -> jsonschema.Draft202012Validator:
    schema = json.loads((ROOT / "config/tcpmon.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def nested(key: str, text: str) -> Any:
    return yaml.safe_load(f"{key.replace('.', ': {')}: {text}" + "}" * key.count("."))


def test_the_schema_takes_the_shipped_file_and_the_examples(schema: jsonschema.Draft202012Validator) -> None:
    for text in ((ROOT / "config/tcpmon.yaml").read_text(encoding="utf-8"), *configdoc.EXAMPLES.values()):
        schema.validate(yaml.safe_load(text))


# Floats of YAML 1.2 and bytes are what another reader of YAML makes something else of.
@pytest.mark.parametrize("key,text", [(k, t) for k, t, _ in GOOD if not re.search(r"1e-6|!!binary", t)])
def test_the_schema_takes_what_load_takes(
    schema: jsonschema.Draft202012Validator, key: str, text: str
) -> None:
    schema.validate(nested(key, text))


SCHEMA_REFUSES = [
    ("zzz", "1"),
    ("listen", "19317"),
    ("listen", "[]"),
    ("web_config", "1"),
    ("filters", "[]"),
    ("filters.prot", "[]"),
    ("filters.pid", "7"),
    ("filters.pid", "[true]"),
    ("filters.pid", "{includes: []}"),
    ("filters.port", "[0]"),
    ("filters.port", "[70000]"),
    ("filters.port", "[http]"),
    ("filters.netns", "[a/b]"),
    ("filters.comm", "[sixteen-bytes-xy]"),
    ("filters.comm", "['']"),
    ("filters.uid", "[-1]"),
    ("filters.remote", "[example.com]"),
    ("filters.family", "ipv5"),
    ("filters.cgroup_map", "relative"),
    ("metrics.labels", "[comm, comm]"),
    ("metrics.labels", "[pid]"),
    ("metrics.max_series", "0"),
    ("metrics.max_series", "'9'"),
    ("metrics.series_ttl", "1w"),
    ("metrics.series_ttl", "5m1h"),
    ("metrics.buckets", "[1]"),
    ("metrics.buckets.accept_wait", "[]"),
    ("metrics.buckets.accept_wait", "[0]"),
    ("metrics.buckets.accept_wait", "[1, 1]"),
    ("events.types", "[]"),
    ("events.buffer", "1M"),
    ("log.level", "null"),
]


@pytest.mark.parametrize("key,text", SCHEMA_REFUSES)
def test_the_schema_refuses_what_load_refuses(
    schema: jsonschema.Draft202012Validator, tmp_path: Path, world: dict[str, Any], key: str, text: str
) -> None:
    assert faults(tmp_path, f"{key.replace('.', ': {')}: {text}" + "}" * key.count("."), **world)
    assert not schema.is_valid(nested(key, text))


def test_which_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one at the usual place counts, unless another is named; only if nothing is there, the defaults."""
    usual = tmp_path / "tcpmon.yaml"
    monkeypatch.setattr(configuration, "DEFAULT_PATH", str(usual))
    assert configuration.find("other.yaml") == "other.yaml"
    with pytest.raises(ConfigError, match="the file's name is empty"):
        configuration.find("")
    assert configuration.find(None) is None
    usual.symlink_to("nothing")  # what does not work must not pass for nothing at all
    assert configuration.find(None) == str(usual)
    usual.unlink()
    usual.write_text("")
    assert configuration.find(None) == str(usual)
    monkeypatch.setattr(configuration, "DEFAULT_PATH", f"{usual}/tcpmon.yaml")
    assert configuration.find(None) == f"{usual}/tcpmon.yaml"
