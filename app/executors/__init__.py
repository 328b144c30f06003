"""What runs a program? The interface of every executor, and what one run may use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from app.primitives.programs import Program, Result, Target


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one slot of a worker may use."""

    #: threads one run may start.
    threads: int
    #: memory of the whole process.
    memory_bytes: int
    #: encoded result of one run.
    max_result_bytes: int


class Executor(Protocol):
    """Runs a program in this process, and remembers nothing between two runs.

    The sandbox calls it, one run at a time. Nothing is known here of jobs, users or queues.
    """

    def run(self, program: Program, target: Target) -> Result:
        """Run ``program`` as ``target`` would.

        Raises:
            InvalidProgram: a circuit has no classical bits to report, its observables and
                parameter values do not fit together, or an option is not valid.
            ProgramTooLarge: the run would need more than the resources of this executor.
            ExecutionError: the program cannot be run here.
        """
        ...
