"""An executor that does to its process what a hostile or broken circuit might."""

from __future__ import annotations

import ctypes
import os
import signal
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from app.executors import Resources
    from app.primitives.programs import CountsResult, Program, Target

EXIT_STATUS = 3
PIECE_BYTES = 1 << 26


class Death(IntEnum):
    """How a process ends; the seed says which."""

    KILL = 0
    SEGFAULT = 1
    ABORT = 2
    EXIT = 3
    #: takes memory until there is none.
    HUNGER = 4


class PoisonExecutor:
    """Ends its process, in the way that the seed says, or takes all memory there is."""

    def __init__(self, *, resources: Resources) -> None:
        self._resources = resources

    def run(self, program: Program, target: Target) -> CountsResult:
        match getattr(program, "seed", None):
            case Death.KILL:
                os.kill(os.getpid(), signal.SIGKILL)
            case Death.SEGFAULT:
                ctypes.string_at(0)
            case Death.ABORT:
                os.abort()
            case Death.EXIT:
                os._exit(EXIT_STATUS)
            case _:
                taken = []
                while True:
                    taken.append(bytearray(PIECE_BYTES))
        raise AssertionError("it should be dead")


def install(packages: Path) -> None:
    """Make it the executor ``poison`` of an environment; its code stays where it is.

    Args:
        packages: the environment's folder of packages.
    """
    information = packages / "qfleet_poison-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: qfleet-poison\nVersion: 1.0\n"
    )
    (information / "entry_points.txt").write_text(
        "[qfleet.executors]\npoison = tests.chaos.poison:PoisonExecutor\n"
    )
