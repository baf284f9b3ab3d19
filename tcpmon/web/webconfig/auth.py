"""Basic authentication: passwords against bcrypt hashes, one at a time. The only importer of bcrypt."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Mapping

import bcrypt

from tcpmon.web.webconfig.turns import Turns

# Results kept of each kind, right and wrong: whoever guesses cannot push out who knows.
MAX_KEPT = 100
# What a bcrypt hash is made of; what comes after it was never looked at.
_PASSWORD_BYTES = 72
# The end of a hash that no password is known to have: what is compared for users that do not exist.
_NOBODYS = b"QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi"


class Passwords:
    """Checks passwords, and remembers results: a hash is made to be slow, and each scrape brings the same."""

    def __init__(self) -> None:
        self._secret = os.urandom(32)
        self._kept: dict[bool, dict[bytes, None]] = {True: {}, False: {}}
        self._turns = Turns()

    def check(self, users: Mapping[bytes, bytes], authorization: str, peer: str) -> bool:
        """Whether an Authorization header has one of `users` and its password. Takes as long for a user who
        does not exist. Raises Crowded when too many, or too many of `peer`'s, wait for that."""
        user, password = credentials(authorization)
        if password is None:
            return False
        hashed = users.get(user) or nobodys(users)
        key = self._key(user, hashed, password)
        if (known := self._known(key)) is not None:
            return known
        with self._turns.take(peer):
            if (known := self._known(key)) is None:  # whoever was before us may have asked the same
                known = bcrypt.checkpw(password, hashed) and user in users
                self._keep(key, known)
            return known

    def _key(self, *parts: bytes) -> bytes:
        """Stands for them, so that no password stays in memory."""
        lengths = b"".join(len(part).to_bytes(4, "big") for part in parts)
        return hashlib.blake2b(lengths + b"".join(parts), key=self._secret).digest()

    def _known(self, key: bytes) -> bool | None:
        return next((result for result, keys in self._kept.items() if key in keys), None)

    def _keep(self, key: bytes, result: bool) -> None:
        """Only within a turn, so by one thread at a time. The oldest goes."""
        keys = self._kept[result]
        while len(keys) >= MAX_KEPT:
            del keys[next(iter(keys))]
        keys[key] = None


def credentials(authorization: str) -> tuple[bytes, bytes | None]:
    """A user and, as far as bcrypt looks at it, a password; None for anything that is not Basic, or that no
    hash can be of."""
    scheme, _, encoded = authorization.partition(" ")
    try:
        decoded = base64.b64decode(encoded, validate=True) if scheme.lower() == "basic" else b""
    except (binascii.Error, ValueError):
        return b"", None
    user, colon, password = decoded.partition(b":")
    return user, password[:_PASSWORD_BYTES] if colon and b"\0" not in password else None


def nobodys(users: Mapping[bytes, bytes]) -> bytes:
    """A hash as slow as the slowest of the users'."""
    return b"$2b$" + max((hashed[4:6] for hashed in users.values()), default=b"10") + b"$" + _NOBODYS
