"""Reading requests from and writing replies to a client's socket, within deadlines and a number of bytes."""

from __future__ import annotations

import contextlib
import http.client
import io
import select
import socket
import struct
import time
from typing import TYPE_CHECKING

from tcpmon.web.connections import Connection, Connections, Phase

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

    from tcpmon.web.webconfig.tls import Tls

# What is written in one call: large enough for few system calls, small enough to tell a stall by.
CHUNK_BYTES = 32 * 1024
# A client that has not taken one chunk by then is not reading.
WRITE_TIMEOUT_SECONDS = 30.0
# After the last reply, what the client still sends is read and dropped: closing over unread data makes the
# kernel send a reset, which can destroy the reply on its way.
LINGER_SECONDS = 2.0
LINGER_BYTES = 256 * 1024


class Hangup(Exception):
    """The connection is over at once: the client left, was too slow, or must see a broken reply."""


class Channel:
    """A client's bytes, as they are on the socket; where `tls` is set, a subclass has what is within that."""

    def __init__(self, connection: Connection, connections: Connections, tls: Tls | None = None) -> None:
        self.connection = connection
        self.tls = tls
        self._connections = connections

    def receive_into(self, buffer: WriteableBuffer, deadline: float) -> int:
        """Waits for bytes until `deadline` (time.monotonic); 0 at the end of the stream. Raises Hangup.

        Says that it has ended waiting before it takes the bytes: others see a connection that is ready or at
        work, and not one that seems to wait for its client.
        """
        self._connections.go_on(self.connection, Phase.READING)
        wait_readable(self.connection.sock, deadline)
        self._connections.go_on(self.connection, Phase.WORKING)
        return receive_into(self.connection.sock, buffer, deadline)

    def send(self, data: ReadableBuffer) -> None:
        """All of it, or OSError."""
        send_all(self.connection.sock, data, WRITE_TIMEOUT_SECONDS)

    def say_goodbye(self) -> None:
        """Tell the client that no more comes, and wait a little for it to leave."""
        self._connections.enter(self.connection, Phase.LEAVING)
        say_goodbye(self.connection.sock)


class RequestReader(io.BufferedReader):
    """A socket's incoming bytes. `expect` sets what may come and until when; all else raises Hangup, or
    http.client.LineTooLong (which http.server answers) for too many bytes."""

    def __init__(self, channel: Channel) -> None:
        self._input = _Input(channel)
        self._bytes_left = 0
        super().__init__(self._input, 8192)

    def expect(self, seconds: float) -> None:
        """The deadline for everything read from now on, however little comes at a time."""
        self._input.deadline = time.monotonic() + seconds

    def allow(self, number: int) -> None:
        """The number of bytes that the lines from now on may have together."""
        self._bytes_left = number

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(self._bytes_left)
        self._bytes_left -= len(line)
        if line.endswith(b"\n"):
            return line
        if self._bytes_left == 0:
            raise http.client.LineTooLong("request")
        raise Hangup("closed in the middle of a request")


class _Input(io.RawIOBase):
    """What BufferedReader reads from."""

    deadline = 0.0

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        return self._channel.receive_into(buffer, self.deadline)


class ReplyWriter(io.BufferedIOBase):
    """A socket's outgoing bytes, unbuffered. After a failure, closing the socket resets it: the kernel is to
    keep nothing for a client that does not read."""

    def __init__(self, channel: Channel, connections: Connections) -> None:
        self._channel = channel
        self._connection = channel.connection
        self._connections = connections

    def writable(self) -> bool:
        return True

    def write(self, data: ReadableBuffer, /) -> int:
        view = memoryview(data)
        self._connections.enter(self._connection, Phase.WRITING)
        try:
            for start in range(0, len(view), CHUNK_BYTES):
                self._channel.send(view[start : start + CHUNK_BYTES])
        except OSError as error:
            reset_on_close(self._connection.sock)
            raise Hangup(f"writing: {error}") from error
        self._connections.enter(self._connection, Phase.WORKING)
        return len(view)


def send_all(sock: socket.socket, data: ReadableBuffer, seconds: float) -> None:
    """Raises OSError, also where the client has not taken all of it in that time."""
    sock.settimeout(seconds)
    sock.sendall(data)


def wait_readable(sock: socket.socket, deadline: float) -> None:
    """Returns when there are bytes, the end or an error to read; raises Hangup at `deadline`."""
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise Hangup("took too long to send a request")


def raise_if_gone(sock: socket.socket) -> None:
    """Raises Hangup where the client has reset the connection: nothing need be made for it."""
    poller = select.poll()
    poller.register(sock, 0)
    if poller.poll(0):
        raise Hangup("reset")


def receive_into(sock: socket.socket, buffer: WriteableBuffer, deadline: float) -> int:
    """recv_into until `deadline` (time.monotonic); 0 at the end of the stream."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise Hangup("took too long to send a request")
    try:
        sock.settimeout(left)
        return sock.recv_into(buffer)
    except OSError as error:
        raise Hangup(f"reading: {error}") from error


def reset_on_close(sock: socket.socket) -> None:
    """Closing will drop what is unsent and reset the connection: no client can take it for a proper end."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def say_goodbye(sock: socket.socket) -> None:
    """The same for a bare socket."""
    deadline = time.monotonic() + LINGER_SECONDS
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
    scrap = bytearray(4096)
    received = 0
    while received < LINGER_BYTES and (number := receive_into(sock, scrap, deadline)):
        received += number
