"""Reading a configuration file, or one that it names, whatever is found there."""

from __future__ import annotations

import os
import stat

# The largest sensible file, every filter list full, has a tenth of this.
MAX_FILE_BYTES = 1 << 20


def contents(path: str) -> bytes:
    """Of a regular file. Never waits, as opening a pipe would. OSError; ValueError where it is none, where it
    is larger than MAX_FILE_BYTES, or for a zero byte in the path."""
    number = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    mode = os.fstat(number).st_mode
    if not stat.S_ISREG(mode):
        os.close(number)
        raise ValueError("is a directory" if stat.S_ISDIR(mode) else "is not a regular file")
    with open(number, "rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"is larger than {MAX_FILE_BYTES >> 20} MiB")
    return data
