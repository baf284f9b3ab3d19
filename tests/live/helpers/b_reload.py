"""SIGHUP with a file that the daemon must take, whatever came of the one before."""

from __future__ import annotations

import os
import signal
from typing import Any

from harness.daemon import Daemon
from harness.polling import eventually

STAMP = "tcpmon_config_last_reload_success_timestamp_seconds"


def reload(daemon: Daemon, config: dict[str, Any]) -> None:
    """Write the file, send SIGHUP, and wait until the daemon says that it is in force."""
    before = daemon.scrape(STAMP).value(STAMP)
    daemon.write_config(config)
    os.kill(daemon.pid, signal.SIGHUP)

    def taken() -> None:
        assert daemon.scrape(STAMP).value(STAMP) != before, daemon.stderr()[-1000:]

    eventually(taken)
