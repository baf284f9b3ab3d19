"""Other things from outside: times and filters on the command line, DNS packets, the manifest in systemd's
store, Accept-Encoding."""

from __future__ import annotations

import argparse
import copy
import email.message
import json
import os
from typing import Any

import dns.message
import pytest
from fuzzing import fuzz, refusal, tampered
from hypothesis import strategies as st

from tcpmon.events import verb, when
from tcpmon.kernel.source import Module, identity
from tcpmon.service import manager, store
from tcpmon.tools.dns import Names, _payload
from tcpmon.web.headers import accepts_gzip

TIMES = [
    "-1h",
    "2026-11-21 10:00",
    "10:00:01.5",
    "2 days ago",
    "@1.5",
    "+1h30min",
    "now",
    "yesterday",
    "2026-1-1Z",
]
PARTS = [
    "1",
    "99",
    "0",
    "9" * 30,
    ".",
    "-",
    "+",
    ":",
    " ",
    "T",
    "Z",
    "h",
    "min",
    "ago",
    " left",
    "@",
    "UTC",
    "\t",
    "٣",
]


@fuzz(
    300,
    text=st.one_of(
        st.text(max_size=30), st.lists(st.sampled_from([*TIMES, *PARTS]), max_size=9).map("".join)
    ),
)
def test_times(text: str) -> None:
    refused = refusal(ValueError, lambda: when.microseconds(text, now=1.8e9))
    assert "is no time" in refused or 0 <= when.microseconds(text, now=1.8e9) < 1 << 63


def test_a_time_of_digits() -> None:
    """Found by fuzzing: with each digit twice as long."""
    with pytest.raises(ValueError, match="is no time"):
        when.microseconds("-" + "1" * 90 + ".")


@fuzz(200, name=st.sampled_from(["-e", "-c", "-p", "-P", "-N", "-S", "-U", "-n"]), text=st.text(max_size=12))
def test_filters(name: str, text: str) -> None:
    parser = argparse.ArgumentParser(exit_on_error=False)
    verb.add_to(parser)
    arguments = [f"{name}{text or ','}"]
    if not refusal(argparse.ArgumentError, lambda: parser.parse_args(arguments)):
        assert verb.problem(parser.parse_args(arguments)) == ""


ANSWERS = [
    dns.message.from_text(f"id 1\nopcode QUERY\nrcode NOERROR\nflags QR RD\n;QUESTION\n{text}").to_wire()
    for text in (
        "w.example.org. IN A\n;ANSWER\nw.example.org. 60 IN A 192.0.2.1\nw.example.org. 60 IN A 192.0.2.2",
        "w.example.org. IN AAAA\n;ANSWER\nw.example.org. 60 IN AAAA 2001:db8::1",
        "a.example.org. IN A\n;ANSWER\na.example.org. 60 IN CNAME b.example.\nb.example. 60 IN A 192.0.2.3",
        "m.example.org. IN ANY\n;ANSWER\nm.example.org. 60 IN MX 10 mx.example.\nm.example.org. 60 IN TXT a",
        "m.ex. IN SVCB\n;ANSWER\nm.ex. 60 IN SVCB 1 . port=53\nm.ex. 60 IN LOC 1 N 1 E 1m",
    )
]
DNS_TOKENS = [
    b"\xc0\x0c",
    b"\xc0\x00",
    b"\xff\xff",
    b"\0\x01\0\x01",
    b"\0\x1c\0\x01",
    b"\0\xfa\0\xff",
    b"\0\x29",
    b"\x3f",
]


@fuzz(500, payload=st.one_of(tampered(st.sampled_from(ANSWERS), DNS_TOKENS), st.binary(max_size=80)))
def test_dns(payload: bytes) -> None:
    names = Names(lambda: 0)
    names.learn(payload)
    for address in names._names:
        assert len(address) == 16
        shown = names.query(address, 0)
        assert all(0x20 <= byte < 0x7F for byte in shown), shown


@fuzz(50, packet=st.binary(max_size=80))
def test_packets(packet: bytes) -> None:
    assert packet.endswith(_payload(packet))


MODULE = Module(bounds={"accept_wait": (1, 2)}, max_series=7, max_tracked=11, ring_bytes=4096)
IDENTITY = identity(MODULE, {})
LAYOUT = {"size": 8, "fields": {"a": [0, 8]}}
ANSWER = {
    "maps": ["series"],
    "programs": ["connect"],
    "links": 1,
    "probes": [],
    "layouts": {"series": {"key": LAYOUT, "value": LAYOUT}},
    "bcc": "0.26",
}
JUNK = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4), st.just(10**15)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=4,
)


class Forgetful(manager.Manager):
    """Of no systemd."""

    def __init__(self) -> None:
        self.present = False


def changed(path: list[str], junk: Any) -> bytes:
    """The manifest with something else at a place within the answer."""
    manifest: Any = {"identity": IDENTITY, "answer": copy.deepcopy(ANSWER)}
    place = manifest
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = junk
    return json.dumps(manifest).encode()


PATHS = st.sampled_from(
    [
        *(["answer", name] for name in ANSWER),
        *(["answer", "layouts", "series", name] for name in ("key", "value")),
        *(["answer", "layouts", "series", "key", name] for name in LAYOUT),
        ["answer"],
        ["identity"],
    ]
)
WHOLE = json.dumps({"identity": IDENTITY, "answer": ANSWER}).encode()


@fuzz(
    200,
    data=st.one_of(
        st.builds(changed, PATHS, JUNK),
        tampered(
            st.just(WHOLE), [b"[", b"{", b"]" * 9, b"9" * 5000, b"NaN", b"[" * 100_000, b'"\\ud800"', b"\xff"]
        ),
        st.binary(max_size=20),
    ),
)
def test_manifests(data: bytes) -> None:
    """The module is taken over, or given up with all that was kept of it."""
    kept = {
        name: os.memfd_create(name) for name in (store.MANIFEST, "map.series", "program.connect", "link.0")
    }
    os.write(kept[store.MANIFEST], data)
    loaded = store.take_back(Forgetful(), kept, MODULE, {})
    if loaded:
        loaded.close()
    else:
        for fd in kept.values():
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(fd)


@fuzz(100, text=st.one_of(st.text(max_size=6), st.text(st.sampled_from("0123456789²٣ -"), max_size=30)))
def test_the_watchdogs_time(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("WATCHDOG_PID", raising=False)
        patch.setattr(os, "environ", {"WATCHDOG_USEC": text})
        found = manager.watchdog_seconds()
    assert found is None or found > 0


@fuzz(100, text=st.text(st.sampled_from("gzip*;q=01. ,\tbr\xe9"), max_size=30), weight=st.integers(0, 1000))
def test_accept_encoding(text: str, weight: int) -> None:
    headers = email.message.Message()
    headers["Accept-Encoding"] = text
    assert accepts_gzip(headers) in (True, False)
    del headers["Accept-Encoding"]
    headers["Accept-Encoding"] = f"{text}, x/y, gzip;q={weight / 1000}"
    assert accepts_gzip(headers) == (weight > 0)
