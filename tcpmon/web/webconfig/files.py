"""The files that a web configuration is made of, and what tells that one of them has changed."""

from __future__ import annotations

import hashlib
import os
import pwd
import time
from collections.abc import Mapping

from tcpmon.config.file import contents
from tcpmon.config.yamlmap import Node, printable
from tcpmon.errors import ConfigError, Fault

# A file that changed is read when it has been left alone for this long: not while somebody writes it.
REST_SECONDS = 1.0

# Device, inode, size and times of change; of a file that cannot be looked at, the error's number.
Stamp = tuple[int, ...]


class Files:
    """Reads files, and keeps what each looked like just before, in `seen`, by path. `contents` is equal where
    the same was read."""

    def __init__(self) -> None:
        self.seen: dict[str, Stamp] = {}
        self._contents = hashlib.sha256()

    @property
    def contents(self) -> bytes:
        return self._contents.digest()

    def read(self, path: str, named_by: Node | None = None) -> bytes:
        """The contents. Raises ConfigError, at the place of the value that names the file if there is one."""
        self.seen[path] = stamp(path)
        try:
            data = contents(path)
        except PermissionError:
            problem = f'cannot be read by the user {_user()}; see "The key" in docs/web-config.md'
        except OSError as error:
            problem = str(error.strerror).lower()
        except ValueError as error:
            problem = str(error)
        else:
            self._contents.update(hashlib.sha256(data).digest())
            return data
        if named_by:
            raise ConfigError([named_by.fault(f"{printable(path)}: {problem}")])
        raise ConfigError([Fault(path, 0, 0, "", problem)])


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def stamp(path: str) -> Stamp:
    try:
        found = os.stat(path)
    except OSError as error:
        return (error.errno or 0,)
    except ValueError:
        return (0,)
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def have_changed(seen: Mapping[str, Stamp], seen_at: float) -> bool:
    """Whether any looks other than it did at `seen_at` (time.time), or might, and all are at rest by now."""
    now = {path: stamp(path) for path in seen}
    newest = max((found[-1] / 1e9 for found in now.values() if len(found) > 1), default=0.0)
    # Two changes in one tick of the kernel's clock look the same: what was read fresh is read once more
    if now == seen and not _fresh(newest, seen_at):
        return False
    return not _fresh(newest, time.time())


def _fresh(changed_at: float, now: float) -> bool:
    return now - REST_SECONDS < changed_at <= now
