"""`tcpmon events` on real journal files, as a process of its own."""

from __future__ import annotations

import json
import os
import random
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from eventrecords import address, record
from journalfiles import JournalFiles, Logged, logged, needs_remote
from journalsocket import ENOUGH_SECONDS, fields

from tcpmon import cli
from tcpmon.events.record import Kind

pytestmark = needs_remote

CLIENT, SERVER = 0, 1
KINDS = (Kind.CONNECT, Kind.CONNECT_FAILED, Kind.ACCEPT, Kind.CLOSE)
COMMS = (b"curl", b"nginx", b"a,b", b"\xff\xfe", "größe".encode())
SECOND_US = 1_000_000
HEADER = (
    "TIME                    TYPE           PID    COMM             IP SADDR            DADDR            "
    "SPORT  DPORT  NETNS      DETAIL"
)


def event(number: int, **more: int | bytes) -> bytes:
    """One that happened `number` ms after an hour ago."""
    given = {
        "ns": time.monotonic_ns() - (3_600_000 - number) * 1_000_000,
        "kind": Kind.CONNECT,
        "pid": 2810,
        "comm": b"curl",
        "thread_comm": b"curl",
        "local": address("192.168.1.7"),
        "remote": address("93.184.216.34"),
        "local_port": 41822,
        "remote_port": 443,
        "netns": 4026531840,
        "connection": number,
    }
    return record(**(given | more))


def some(number: int, chance: random.Random) -> bytes:
    kind = chance.choice(KINDS)
    return event(
        number,
        kind=kind,
        pid=chance.choice((7, 181, 2810)),
        comm=chance.choice(COMMS),
        local_port=chance.choice((22, 80, 443)),
        remote_port=chance.choice((22, 80, 443)),
        netns=chance.choice((4026531840, 4026532999)),
        role=SERVER if kind == Kind.ACCEPT else chance.choice((CLIENT, SERVER)),
        reason=chance.randrange(8) if kind == Kind.CONNECT_FAILED else 0,
    )


def run(arguments: Sequence[str | bytes], **more: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tcpmon", "events", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=ENOUGH_SECONDS, **more)


def numbers(directory: Path, *arguments: str | bytes) -> list[int]:
    """Which events are shown."""
    done = run(["--directory", str(directory), "--json", *arguments])
    assert done.returncode == 0, done.stderr
    assert bool(done.stderr) == (not done.stdout)
    return [int(json.loads(line)["connection"], 16) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Mapping[str, bytes]]]:
    """A directory, and what is in it: 199 events of all sorts between lines of others, a ms apart."""
    chance = random.Random(5)
    entries = logged([some(number, chance) for number in range(199)])
    between = [Logged(one.at_us, b"MESSAGE=hello\nTCPMON_EVENT=connect\nTCPMON_PID=7\n") for one in entries]
    files = JournalFiles(tmp_path_factory.mktemp("journal"))
    files.write([one for pair in zip(entries, between, strict=True) for one in pair])
    files.close()
    return files.directory, [fields(one.entry) for one in entries]


Fits = Callable[[Mapping[str, bytes]], bool]


def service(of: Mapping[str, bytes]) -> bytes:
    return of["TCPMON_DPORT" if of["TCPMON_ROLE"] == b"client" else "TCPMON_SPORT"]


@pytest.mark.parametrize(
    "arguments, fits",
    [
        ([], lambda of: True),
        (["--event", "close"], lambda of: of["TCPMON_EVENT"] == b"close"),
        (["--event", "connect,accept"], lambda of: of["TCPMON_EVENT"] in (b"connect", b"accept")),
        (
            ["-e", "connect", "--event", "connect_failed"],
            lambda of: of["TCPMON_EVENT"].startswith(b"connect"),
        ),
        (["--comm", "curl"], lambda of: of["TCPMON_COMM"] == b"curl"),
        (["-c", "curl, nginx"], lambda of: of["TCPMON_COMM"] in (b"curl", b"nginx")),
        (["--comm", r"curl,a\,b"], lambda of: of["TCPMON_COMM"] in (b"curl", b"a,b")),
        (["--comm", b"\xff\xfe"], lambda of: of["TCPMON_COMM"] == b"\xff\xfe"),
        (["--comm", "größe"], lambda of: of["TCPMON_COMM"] == "größe".encode()),
        (
            ["--comm", "curl", "-p", "181"],
            lambda of: (of["TCPMON_COMM"], of["TCPMON_PID"]) == (b"curl", b"181"),
        ),
        (["--pid", "7,181"], lambda of: of["TCPMON_PID"] in (b"7", b"181")),
        (["--netns", "4026532999"], lambda of: of["TCPMON_NETNS"] == b"4026532999"),
        (["--port", "443"], lambda of: service(of) == b"443"),
        (["-P", "443,22"], lambda of: service(of) in (b"443", b"22")),
        (
            ["--port", "80", "--pid", "7", "--event", "connect,close", "--netns", "4026531840"],
            lambda of: (
                (service(of), of["TCPMON_PID"], of["TCPMON_NETNS"]) == (b"80", b"7", b"4026531840")
                and of["TCPMON_EVENT"] in (b"connect", b"close")
            ),
        ),
        (["--pid", "4194303"], lambda of: False),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_filters(
    written: tuple[Path, list[Mapping[str, bytes]]], arguments: list[str | bytes], fits: Fits
) -> None:
    directory, entries = written
    expected = [number for number, of in enumerate(entries) if fits(of)]
    assert numbers(directory, *arguments) == expected
    assert numbers(directory, *arguments, "-n", "7") == expected[-7:]


def at(entries: list[Mapping[str, bytes]], number: int, plus_us: int = 0) -> str:
    us = int(entries[number]["TCPMON_TIMESTAMP"]) + plus_us
    return f"@{us // SECOND_US}.{us % SECOND_US:06d}"


def test_since_and_until(written: tuple[Path, list[Mapping[str, bytes]]]) -> None:
    """To the microsecond, both ends included."""
    directory, entries = written
    assert numbers(directory, "--since", at(entries, 150)) == list(range(150, 199))
    assert numbers(directory, "--since", at(entries, 150, 1)) == list(range(151, 199))
    assert numbers(directory, "-U", at(entries, 13)) == list(range(14))
    assert numbers(directory, "-U", at(entries, 13, -1)) == list(range(13))
    both = ["-S", at(entries, 7), "-U", at(entries, 23)]
    assert numbers(directory, *both) == list(range(7, 24))
    assert numbers(directory, *both, "-n", "3") == [21, 22, 23]
    assert numbers(directory, *both, "-n", "1000") == list(range(7, 24))
    assert numbers(directory, "-n", "3", "--until", at(entries, 13)) == [11, 12, 13]


def test_times_of_day(written: tuple[Path, list[Mapping[str, bytes]]]) -> None:
    directory, _entries = written
    assert len(numbers(directory, "--since", "-2h")) == 199
    assert len(numbers(directory, "--since", "2 hours ago", "--until", "now")) == 199
    assert numbers(directory, "--since", "-30min") == []
    assert numbers(directory, "--until", "2 hours ago") == []
    assert len(numbers(directory, "--since", "@0", "--until", "tomorrow")) == 199


def test_last_of_none(written: tuple[Path, list[Mapping[str, bytes]]]) -> None:
    done = run(["-D", str(written[0]), "-n", "0"])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_events_that_were_written_late(tmp_path: Path) -> None:
    """As after a restart: what counts is when they happened."""
    entries = logged([event(number) for number in range(13)], delay_us=30 * SECOND_US)
    files = JournalFiles(tmp_path / "journal")
    files.write(entries)
    files.close()
    times = [fields(one.entry) for one in entries]
    assert numbers(files.directory, "--until", at(times, 6)) == list(range(7))
    assert numbers(files.directory, "--until", at(times, 6), "-n", "2") == [5, 6]
    assert numbers(files.directory, "--since", at(times, 6)) == list(range(6, 13))


def table(files: JournalFiles, *arguments: str, zone: str = "UTC") -> list[str]:
    done = run(["-D", str(files.directory), *arguments], env={**os.environ, "TZ": zone})
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_the_table(tmp_path: Path) -> None:
    entries = logged(
        [
            event(0),
            event(
                1,
                kind=Kind.CONNECT_FAILED,
                reason=2,
                local=address("0.0.0.0"),
                local_port=0,
                comm=b"a\n\x1b[2Jb",
            ),
            event(2, kind=Kind.ACCEPT, role=SERVER, local=address("::1"), remote=address("2001:db8::2")),
            event(
                3,
                kind=Kind.CLOSE,
                pid=4194303,
                comm=b"\xff\xfe",
                duration_ns=1_234_567_890,
                sent_bytes=517,
                received_bytes=2**64 - 1,
                retransmits=3,
            ),
        ]
    )
    files = JournalFiles(tmp_path / "journal")
    files.write(entries)
    files.close()
    seconds = time.gmtime(entries[0].at_us // SECOND_US)
    header, *lines = table(files)
    assert header == HEADER
    assert lines[0].startswith(time.strftime("%Y-%m-%dT%H:%M:%S.", seconds))
    assert [int(line[20:23]) for line in lines] == [one.at_us // 1000 % 1000 for one in entries]
    ipv4, ports, netns = "4  192.168.1.7      93.184.216.34    ", "41822  443    ", "4026531840"
    assert [line[24:] for line in lines] == [
        f"connect        2810   curl             {ipv4}{ports}{netns}",
        "connect_failed 2810   a??[2Jb          4  0.0.0.0          93.184.216.34    "
        f"0      443    {netns} unreachable",
        f"accept         2810   curl             6  [::1]            [2001:db8::2]    {ports}{netns}",
        f"close          4194303 \ufffd\ufffd               {ipv4}{ports}{netns} "
        "1.234567s sent=517 received=18446744073709551615 retransmits=3",
    ]
    (east,) = table(files, "-n", "1", zone="XXX-3")[1:]
    assert int(east[11:13]) == (int(lines[3][11:13]) + 3) % 24


def test_json_has_all_fields(tmp_path: Path) -> None:
    ended = {"duration_ns": 1999, "sent_bytes": 2**64 - 1, "received_bytes": 0, "retransmits": 1}
    entries = logged(
        [
            event(0x1F, kind=Kind.CLOSE, tid=2811, uid=1000, comm=b'a"\n\xff', **ended),
            event(2, kind=Kind.CONNECT_FAILED, reason=5),
        ]
    )
    files = JournalFiles(tmp_path / "journal")
    files.write(entries)
    files.close()
    closed, failed = (json.loads(line) for line in table(files, "--json"))
    assert closed == {
        "event": "close",
        "timestamp": entries[0].at_us,
        "pid": 2810,
        "tid": 2811,
        "uid": 1000,
        "comm": 'a"\n\\xff',
        "thread_comm": "curl",
        "ip": 4,
        "saddr": "192.168.1.7",
        "sport": 41822,
        "daddr": "93.184.216.34",
        "dport": 443,
        "netns": 4026531840,
        "role": "client",
        "connection": "000000000000001f",
        "duration_us": 1,
        "sent_bytes": 2**64 - 1,
        "received_bytes": 0,
        "retransmits": 1,
    }
    assert (failed["event"], failed["reason"]) == ("connect_failed", "no_port")
    assert "duration_us" not in failed


FORGED = (
    b"MESSAGE_ID=56b5d51ee1e84cf3b78b5bca73257761\nTCPMON_PID=abc\nTCPMON_PID=7\nTCPMON_TIMESTAMP=soon\n"
    b"TCPMON_DURATION_US=" + b"9" * 5000 + b"\nTCPMON_SADDR=\x1b[2J\nTCPMON_IP\n"
    b"\x05\0\0\0\0\0\0\0\n\xff\n\0x\nTCPMON_OWN=1\n"
)


@pytest.mark.parametrize("arguments", [[], ["--json"], ["-n", "1"]])
def test_what_anyone_may_have_written(tmp_path: Path, arguments: list[str]) -> None:
    """An entry that only looks like an event: a line, and no more."""
    files = JournalFiles(tmp_path / "journal")
    files.write([Logged(1_790_000_000_123_456, FORGED)])
    files.close()
    lines = table(files, *arguments)
    assert all(line.isprintable() for line in lines)
    assert len(lines) == (1 if arguments == ["--json"] else 2)
    if arguments == ["--json"]:
        assert "own" not in json.loads(lines[0])
    else:
        assert lines[1].startswith("2026-09-21T14:13:20.123 ")


class Following:
    """`tcpmon events -f` at work, and its output so far."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "tcpmon", "events", "-f", *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self._seen = b""

    def lines(self, count: int) -> list[str]:
        assert self.process.stdout
        deadline = time.monotonic() + ENOUGH_SECONDS
        while self._seen.count(b"\n") < count:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0, deadline - time.monotonic()))
            more = os.read(self.process.stdout.fileno(), 1 << 16) if ready else b""
            assert more, f"after {self._seen[-500:]!r}"
            self._seen += more
        *found, self._seen = self._seen.split(b"\n", count)
        return [line.decode() for line in found]

    def numbers(self, count: int) -> list[int]:
        return [int(json.loads(line)["connection"], 16) for line in self.lines(count)]

    def wait(self) -> tuple[int, bytes, bytes]:
        said, complaints = self.process.communicate(timeout=ENOUGH_SECONDS)
        return self.process.returncode, self._seen + said, complaints


@pytest.fixture
def files(tmp_path: Path) -> Iterator[JournalFiles]:
    made = JournalFiles(tmp_path / "journal")
    yield made
    made.close()


@pytest.fixture
def follow(files: JournalFiles) -> Iterator[Callable[..., Following]]:
    started: list[Following] = []

    def start(*arguments: str) -> Following:
        started.append(Following("--directory", str(files.directory), *arguments))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
        one.process.communicate()


def now(number: int, **more: int | bytes) -> bytes:
    return event(number, ns=time.monotonic_ns(), **more)


def settle(files: JournalFiles, count: int) -> None:
    """Until so many are in the file."""
    deadline = time.monotonic() + ENOUGH_SECONDS
    while run(["-D", str(files.directory), "--json"]).stdout.count("\n") < count:
        assert time.monotonic() < deadline


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_follow(files: JournalFiles, follow: Callable[..., Following], number: int) -> None:
    """The last 10, then what comes, of what fits; a signal ends it in peace."""
    files.write(logged([now(one) for one in range(13)]))
    settle(files, 13)
    following = follow("--json", "--comm", "curl")
    assert following.numbers(10) == list(range(3, 13))
    for one in range(13, 17):
        files.write(logged([now(one), now(1000, comm=b"other")]))
        assert following.numbers(1) == [one]
    following.process.send_signal(number)
    assert following.wait() == (0, b"", b"")


def test_follow_where_there_is_none_yet(files: JournalFiles, follow: Callable[..., Following]) -> None:
    files.write(logged([now(0, comm=b"other")]))
    settle(files, 1)
    following = follow("--comm", "curl")
    assert following.lines(1) == [HEADER]
    files.write(logged([now(1)]))
    (line,) = following.lines(1)
    assert re.search(r" connect +2810 +curl ", line)


@pytest.mark.parametrize("arguments, first", [(["-n", "3"], 10), (["-n", "0"], 13), (["--since", "-2h"], 0)])
def test_follow_from(
    files: JournalFiles, follow: Callable[..., Following], arguments: list[str], first: int
) -> None:
    files.write(logged([now(one) for one in range(13)]))
    settle(files, 13)
    following = follow("--json", *arguments)
    assert following.numbers(13 - first) == list(range(first, 13))
    if first < 13:  # else nobody knows from when on it looks
        files.write(logged([now(13)]))
        assert following.numbers(1) == [13]


def test_follow_until_nobody_reads(files: JournalFiles, follow: Callable[..., Following]) -> None:
    """At once, without waiting for one event more."""
    files.write(logged([now(0)]))
    settle(files, 1)
    following = follow()
    following.lines(2)
    assert following.process.stdout
    following.process.stdout.close()
    assert following.process.wait(ENOUGH_SECONDS) == 0
    assert following.process.stderr
    assert following.process.stderr.read() == b""


def test_a_reader_that_has_had_enough(tmp_path: Path) -> None:
    files = JournalFiles(tmp_path / "journal")
    files.write(logged([event(number) for number in range(2003)]))
    files.close()
    command = [sys.executable, "-m", "tcpmon", "events", "-D", str(files.directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline() == f"{HEADER}\n".encode()
        process.stdout.close()
        assert (process.wait(ENOUGH_SECONDS), process.stderr.read()) == (0, b"")


def test_a_full_disk(written: tuple[Path, list[Mapping[str, bytes]]]) -> None:
    command = [sys.executable, "-m", "tcpmon", "events", "-D", str(written[0])]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=ENOUGH_SECONDS)
    assert done.returncode == 1
    assert done.stderr.startswith(b"tcpmon: the output cannot be written: no space left on device\nhint: ")


def test_no_events(written: tuple[Path, list[Mapping[str, bytes]]]) -> None:
    done = run(["-D", str(written[0]), "--pid", "1"])
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "tcpmon events: the journal holds no such events\n"


@pytest.mark.parametrize("place", ["nowhere", "empty"])
def test_no_journal(tmp_path: Path, place: str) -> None:
    (tmp_path / "empty").mkdir()
    done = run(["-D", str(tmp_path / place)])
    assert (done.returncode, done.stdout) == (1, "")
    what = f"no journal in {tmp_path / place}" if place == "empty" else f"{tmp_path / place} is no directory"
    hint = "--directory names one of journal files, such as a host's under /var/log/journal/remote"
    assert done.stderr == f"tcpmon: {what}\nhint: {hint}\n"


def test_a_file_that_is_no_journal(tmp_path: Path) -> None:
    (tmp_path / "system.journal").write_bytes(bytes(4096))
    done = run(["-D", str(tmp_path)])
    assert (done.returncode, done.stdout) == (1, "")
    damaged = f"{tmp_path}/system.journal is no journal, or damaged"
    assert done.stderr == f"tcpmon: {damaged}\nhint: journalctl --verify shows damage\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
def test_a_journal_that_may_not_be_read(tmp_path: Path) -> None:
    files = JournalFiles(tmp_path / "journal")
    files.write(logged([event(1)]))
    files.close()
    files.directory.chmod(0o755)
    (path,) = files.directory.iterdir()
    path.chmod(0o640)
    command = ["-D", str(files.directory)]
    script = (
        "import os; from tcpmon import cli; from tcpmon.events import show;"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534);"
        f"cli.main(['events', *{command!r}])"
    )
    for folder in tmp_path.parents:
        if folder.name.startswith("pytest-"):
            folder.chmod(0o755)
    tmp_path.chmod(0o755)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=Path.cwd())
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"tcpmon: {path} may not be read\nhint: run it as root, or as a member of the group systemd-journal\n"
    )


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        (["--event", "closed"], "'closed' is none of connect, connect_failed, accept, close"),
        (["--comm", "sixteen_chars_xx"], "the kernel keeps 1 to 15 bytes of a name"),
        (["--comm", "curl,"], "the kernel keeps 1 to 15 bytes of a name"),
        (["--pid", "0"], "process ids run from 1 to"),
        (["--port", "80,http"], "ports run from 1 to 65535"),
        (["--netns", "no such"], "neither an inum nor a name"),
        (["--since", "noon"], "'noon' is no time; write it like"),
        (["-n", "-3"], "numbers of lines run from 0 to"),
        (["-f", "--until", "now"], "-f and --until exclude each other"),
        (["extra"], "unrecognized arguments: extra"),
    ],
)
def test_bad_usage(arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        cli.main(["events", *arguments])
    assert raised.value.code == 2
    assert complaint in capsys.readouterr().err


def test_the_names_of_namespaces() -> None:
    own = os.stat("/proc/self/ns/net").st_ino
    assert cli.parser("events").parse_args(["events", "--netns", "self,1"]).netns == [own, 1]
