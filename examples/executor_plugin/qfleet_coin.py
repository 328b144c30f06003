"""An executor for Qfleet: every measured bit is a fair coin."""

from collections import Counter
from random import Random

from app.errors import ExecutionError
from app.executors import Resources
from app.primitives.programs import CountsResult, Program, QasmProgram, Target


class CoinExecutor:
    """Tosses a coin for every bit; ``metadata@coin`` is every device, seen by one who guesses."""

    def __init__(self, *, resources: Resources) -> None:
        self._resources = resources

    def run(self, program: Program, target: Target) -> CountsResult:
        """Toss as often as ``program`` has shots."""
        if not isinstance(program, QasmProgram):
            raise ExecutionError("a coin runs OpenQASM tasks only")
        random, bits = Random(program.seed), program.circuit.num_clbits
        tosses = (format(random.getrandbits(bits), f"0{bits}b") for _ in range(program.shots))
        metadata = {"executor": "coin", "target": target.name, "shots": program.shots}
        return CountsResult(counts=dict(Counter(tosses)), metadata=metadata)
