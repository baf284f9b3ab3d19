"""What is known of the guest's kernel beforehand."""

from __future__ import annotations

import platform

_VERSION = tuple(int(number) for number in platform.release().split(".")[:2])
# Debian's have it since then; tcpmon wants the one of 6.14
HAS_FPROBE = _VERSION >= (6, 14)
