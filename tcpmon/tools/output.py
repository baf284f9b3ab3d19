"""Output that a reader sees at once."""

from __future__ import annotations

import os
import select

from tcpmon.errors import OutputError

STDOUT = 1


def write(text: bytes) -> None:
    """To stdout, all of it and at once; past Python's buffer, which would keep what a full disk does not take
    and fail again at the end. BrokenPipeError where nobody reads it any more."""
    left = memoryview(text)
    while left:
        try:
            left = left[os.write(STDOUT, left) :]
        except BlockingIOError:  # whoever shares the terminal has made it so
            select.select([], [STDOUT], [])
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(error) from None
