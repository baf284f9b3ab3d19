"""Reads the events in the journal back: the only importer of systemd.journal."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from systemd import journal

from tcpmon.errors import TcpmonError
from tcpmon.events.fields import MESSAGE_IDS, PREFIX, TIMESTAMP
from tcpmon.events.record import Kind
from tcpmon.events.when import SECOND_US
from tcpmon.metrics.families import CLIENT, SERVER

FOLDERS = ("/run/log/journal", "/var/log/journal")
# How much later than it happened an event may have been written: it waits in the ring while the daemon is
# restarted. So much beyond the last time that is asked for is searched for events of that time.
_LATE_US = 60 * SECOND_US
_MEMBERS_HINT = "run it as root, or as a member of the group systemd-journal"
_SIGNATURE = b"LPKSHHRH"
_DAMAGE_HINT = "journalctl --verify shows damage"
_ABSENT_HINT = "systemd-journald keeps it; --directory names another place"
_DIRECTORY_HINT = "--directory names one of journal files, such as a host's under /var/log/journal/remote"


@dataclass(frozen=True)
class Query:
    """Which events: empty for all. `ports` are services'; times are microseconds since the epoch, inclusive;
    `directory` is one of journal files, in place of the machine's own journal."""

    kinds: tuple[Kind, ...] = ()
    comms: tuple[bytes, ...] = ()
    pids: tuple[int, ...] = ()
    ports: tuple[int, ...] = ()
    netns: tuple[int, ...] = ()
    since_us: int | None = None
    until_us: int | None = None
    directory: str | None = None


@dataclass(frozen=True)
class Entry:
    """When an event happened, in microseconds since the epoch, and its fields' values, by their names without
    the prefix. Anyone can write to the journal: nothing is certain of what is in them, nor that they are
    there."""

    time_us: int
    values: Mapping[str, bytes]


class _Bytes(journal.Reader):  # type: ignore[misc]  # the module has no types
    """Leaves values as they are: converting all of an entry's takes twice as long as reading it."""

    def _convert_entry(self, entry: dict[str, Any]) -> dict[str, Any]:
        return entry


class Events:
    """The events that a query asks for, from the oldest on."""

    def __init__(self, query: Query) -> None:
        """TcpmonError where there is no journal, or where it may not be read."""
        self._query = query
        self._reader = _open(query.directory)
        _match(self._reader, query)
        # Before anything is read, so that what comes later is noticed
        self.fd: int = self._reader.fileno()
        self.poll_events: int = self._reader.get_events()
        if query.since_us is None:
            self._reader.seek_head()
        else:
            self._reader.seek_realtime(query.since_us)

    def further(self) -> Iterator[Entry]:
        """Those that are there now and were not read yet."""
        while raw := self._read(self._reader.get_next):
            entry = _entry(raw)
            if self._fits(entry):
                yield entry
            elif self._query.until_us and raw["__REALTIME_TIMESTAMP"] > self._query.until_us + _LATE_US:
                return

    def rewind(self, count: int) -> None:
        """Goes back to before the last so many of those that are there now."""
        newest = oldest = ""
        self._seek_end()
        raw = self._read(self._reader.get_previous)
        if raw:
            newest = raw["__CURSOR"]
        while raw and count and raw["__REALTIME_TIMESTAMP"] >= (self._query.since_us or 0):
            if self._fits(_entry(raw)):
                oldest = raw["__CURSOR"]
                count -= 1
            raw = self._read(self._reader.get_previous)
        self._seek(oldest, newest)

    def _seek(self, first: str, last: str) -> None:
        """To before the entry of the cursor `first`; where there is none to behind `last`."""
        if first or last:
            self._reader.seek_cursor(first or last)
        else:
            self._reader.seek_head()
        if last and not first:
            self._read(self._reader.get_next)

    def wait_ms(self) -> int:
        """How long `fd` may be polled at most until process(); -1 for any time."""
        return int(self._reader.get_timeout_ms())

    def process(self) -> None:
        """After `fd` was readable, or the time was over."""
        self._reader.process()

    def _read(self, entry: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        try:
            return entry()
        except OSError as error:
            raise _unreadable(error) from None

    def _seek_end(self) -> None:
        if self._query.until_us is None:
            self._reader.seek_tail()
        else:
            self._reader.seek_realtime(self._query.until_us + _LATE_US)

    def _fits(self, entry: Entry) -> bool:
        since, until = self._query.since_us, self._query.until_us
        return (since is None or since <= entry.time_us) and (until is None or entry.time_us <= until)


def _entry(raw: Mapping[str, Any]) -> Entry:
    values = {
        name.removeprefix(PREFIX): value[0] if isinstance(value, list) else value
        for name, value in raw.items()
        if name.startswith(PREFIX)
    }
    at = values.get(TIMESTAMP, b"")
    return Entry(int(at) if at.isdigit() and len(at) < 20 else raw["__REALTIME_TIMESTAMP"], values)


def _match(reader: _Bytes, query: Query) -> None:
    """Asks the journal for what the query wants. Of one field's values any may be there, of different fields
    each must; an event's service port is its remote one or its local one, depending on its role."""
    reader.add_match(*(f"MESSAGE_ID={MESSAGE_IDS[kind]}" for kind in query.kinds or MESSAGE_IDS))
    reader.add_match(*(_wanted("COMM", comm) for comm in query.comms))
    reader.add_match(*(_wanted("PID", pid) for pid in query.pids))
    reader.add_match(*(_wanted("NETNS", inum) for inum in query.netns))
    if query.ports:
        reader.add_conjunction()
        for role, end in ((CLIENT, "DPORT"), (SERVER, "SPORT")):
            reader.add_match(_wanted("ROLE", role), *(_wanted(end, port) for port in query.ports))
            reader.add_disjunction()


def _wanted(name: str, value: object) -> bytes:
    return f"{PREFIX}{name}=".encode() + (value if isinstance(value, bytes) else str(value).encode())


def _open(directory: str | None) -> _Bytes:
    if directory is None:
        _require_files([Path(folder) for folder in FOLDERS], _ABSENT_HINT, "*/system*.journal")
    else:
        if not Path(directory).is_dir():
            raise TcpmonError(f"{directory} is no directory", _DIRECTORY_HINT)
        _require_files([Path(directory)], _DIRECTORY_HINT, "*.journal", "*/*.journal")
    try:
        return _Bytes(path=directory)
    except OSError as error:
        raise _unreadable(error) from None


def _require_files(folders: Sequence[Path], hint: str, *patterns: str) -> None:
    """libsystemd leaves out in silence what it may not read, or takes for no journal."""
    there = [folder for folder in folders if folder.is_dir()]
    files = [path for folder in there for pattern in patterns for path in folder.glob(pattern)]
    for path in (*there, *files):
        if not os.access(path, os.R_OK):
            raise TcpmonError(f"{path} may not be read", _MEMBERS_HINT)
    if not files:
        raise TcpmonError(f"no journal in {' or '.join(map(str, folders))}", hint)
    if not any(map(_is_journal, files)):
        raise TcpmonError(f"{files[0]} is no journal, or damaged", _DAMAGE_HINT)


def _is_journal(path: Path) -> bool:
    """By how it begins: struct Header of systemd's journal-def.h. One that is gone by now was."""
    try:
        with path.open("rb") as file:
            return file.read(len(_SIGNATURE)) == _SIGNATURE
    except FileNotFoundError:
        return True


def _unreadable(error: OSError) -> TcpmonError:
    return TcpmonError(f"the journal cannot be read: {error.strerror}", _DAMAGE_HINT)
