"""The rate limit: a token bucket."""

from __future__ import annotations

import threading
import time


class Bucket:
    """Holds up to `burst` tokens, gains one each `interval_s` seconds, and starts full. An interval of 0 is
    no limit. (As exporter-toolkit has it; so a burst of 0 lets nothing through.)"""

    def __init__(self, interval_s: float = 0.0, burst: int = 0) -> None:
        self.limits = (interval_s, burst)
        self._tokens = float(burst)
        self._filled_at = time.monotonic()
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Whether there was a token."""
        interval_s, burst = self.limits
        if not interval_s:
            return True
        with self._lock:
            now = time.monotonic()
            self._tokens = min(float(burst), self._tokens + (now - self._filled_at) / interval_s)
            self._filled_at = now
            if self._tokens < 1:
                return False
            self._tokens -= 1
            return True
