"""Processes that play scenes, one after the other, and say what they did."""

from __future__ import annotations

import ctypes
import multiprocessing
import signal
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from random import Random

from harness.helpers import Helpers
from harness.workload import PR_SET_PDEATHSIG

from .ledger import Ledger
from .scenes import SCENES
from .stage import Stage

_fork = multiprocessing.get_context("fork")
_END_S = 10.0
# The longest scene waits 3 s for SYNs that nobody answers; this is for a machine that does much else
_SCENE_S = 120.0


class SceneError(Exception):
    """A scene did not go as it should; its traceback."""


@dataclass(frozen=True)
class Cast:
    """What all scenes have in common."""

    comms: list[str]
    helpers: Helpers
    scale: float


class Crew:
    """One such process. Not daemonic, as workload.Child is: it has children of its own."""

    def __init__(self, cast: Cast) -> None:
        self._pipe, theirs = _fork.Pipe()
        self._process = _fork.Process(target=_main, args=(theirs, cast))
        self._process.start()
        theirs.close()
        self.busy = False

    def play(self, seed: int) -> None:
        """Begins a scene; which, and how, the seed says."""
        self._pipe.send(seed)
        self.busy = True

    def done(self, wait: bool = False) -> Ledger | None:
        """What the scene did; None where it goes on."""
        if not self.busy or not self._pipe.poll(_SCENE_S if wait else 0):
            if wait and self.busy:
                raise SceneError(f"a scene did not end within {_SCENE_S:.0f} s")
            return None
        self.busy = False
        name, found, fault = self._pipe.recv()
        if fault:
            raise SceneError(f"scene {name}:\n{fault}")
        return found  # type: ignore[no-any-return]

    def end(self) -> None:
        self._pipe.close()
        self._process.join(_END_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _main(pipe: Connection, cast: Cast) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    while True:
        try:
            seed = pipe.recv()
        except EOFError:
            return
        random = Random(seed)
        scene = _choice(random)
        stage = Stage(random, cast.comms, cast.helpers, cast.scale)
        fault = ""
        try:
            scene(stage)
        except Exception:  # noqa: BLE001 - whatever it was, the soak must hear of it
            fault = traceback.format_exc()
        pipe.send((scene.__name__, stage.done, fault))


def _choice(random: Random) -> Callable[[Stage], None]:
    names: Sequence[Callable[[Stage], None]] = list(SCENES)
    return random.choices(names, weights=list(SCENES.values()))[0]
