"""An hour of mixed traffic in ten minutes, counted exactly all along: `python -m tests.soak -h`.

What it is made of (daemon, namespaces, parties, witness) is the truth suite's, by the names it has there.
"""

import sys
from pathlib import Path

_TESTS = Path(__file__).parents[1]
sys.path += [str(folder) for folder in (_TESTS / "live", _TESTS / "unit") if str(folder) not in sys.path]
