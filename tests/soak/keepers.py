"""Long connections: opened and kept over many scenes, some of them for minutes."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import ExitStack
from random import Random

from helpers import parties
from helpers.parties import close, dial, serve, take

from .crew import Cast
from .ledger import Ledger
from .stage import Stage

_PORT = 4545
_MOST = 100
_TALK_EVERY_S = 5.0


class Keeper:
    """Two programs in a namespace, and their connections, for `life_s` seconds. To be closed."""

    def __init__(self, random: Random, cast: Cast, life_s: float) -> None:
        self._stage = Stage(random, cast.comms, cast.helpers)
        self._until = time.monotonic() + life_s
        self._talked = time.monotonic()
        self._count = random.randint(1, _MOST)
        with ExitStack() as made:
            self._ns = made.enter_context(self._stage.alone())
            self._server = made.enter_context(self._stage.party(self._ns))
            self._client = made.enter_context(self._stage.party(self._ns))
            self._made = made.pop_all()

    def open(self) -> Ledger:
        """What that did."""
        self._server.ask(serve, parties.IPV4, 0, _PORT)
        self._client.ask(dial, self._count, "127.0.0.1", _PORT)
        self._server.ask(take, self._count)
        self._stage.note(self._ns, self._client.comm, _PORT, attempts=self._count, connects=self._count)
        self._stage.note(self._ns, self._server.comm, _PORT, accepts=self._count)
        return Counter(self._stage.done)

    def talk(self) -> None:
        """Now and then a byte."""
        if time.monotonic() > self._talked + _TALK_EVERY_S:
            self._talked = time.monotonic()
            for side in (self._client, self._server):
                side.ask(parties.send, b"x")

    def is_over(self) -> bool:
        return time.monotonic() > self._until

    def close(self) -> Ledger:
        """The same of the end."""
        before = Counter(self._stage.done)
        self._server.tell(parties.read_close)
        self._client.ask(close)
        self._server.child.hear()
        self._stage.note(self._ns, self._client.comm, _PORT, closes_client=self._count)
        self._stage.note(self._ns, self._server.comm, _PORT, closes_server=self._count)
        self.leave()
        return self._stage.done - before

    def leave(self) -> None:
        """Without a word more."""
        self._made.close()
