"""How long will a run take? A rough estimate, made before it starts.

It is meant to find what is out of the question, so it errs towards too short: gates are taken for
equal, caches and the turns of a ``while`` loop are not looked at.
"""

from __future__ import annotations

import math
import resource
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

from app.errors import ProgramTooLarge
from app.executors.circuits.lowering import Step
from app.executors.native import Run

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

#: A run is refused if its estimate is above what it may take by this factor.
SAFETY = 10

#: s for one amplitude and gate, of Aer and of arrays of small states. The first is only used until
#: it is measured.
_AER_AMPLITUDE_S = 2e-9
_ARRAY_AMPLITUDE_S = 4e-9
#: s for one simulation besides its gates and shots; measured 0.3e-3 to 0.6e-3.
_RUN_S = 5e-4
#: s for each gate of a simulation besides its amplitudes.
_GATE_S = 2e-6
#: s for one shot that is drawn or sampled, and put in order.
_SHOT_S = 4e-7

#: Estimates from here on are worth measuring Aer here.
_WORTH_MEASURING_S = 0.5
_MEASURED_QUBITS = 17
_MEASURED_LAYERS = 3
_MEASUREMENTS = 5
#: A measurement beside other work may be far off, and nobody shall be refused for that.
_SLOWEST_AMPLITUDE_S = 1e-8


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a run will do; that of several runs is their sum."""

    #: amplitudes times gates: of Aer, and of arrays of small states.
    amplitudes: float = 0.0
    array_amplitudes: float = 0.0
    #: simulations that are started.
    runs: float = 0.0
    #: gates of all these, again for every shot that starts anew.
    gates: float = 0.0
    shots: float = 0.0
    #: of the states that are held at the same time.
    state_bytes: int = 0
    #: whether nobody can tell: a matrix product state costs as much as it is entangled.
    is_unknown: bool = False

    def __add__(self, other: Work) -> Work:
        """Do one after the other."""
        return Work(
            amplitudes=self.amplitudes + other.amplitudes,
            array_amplitudes=self.array_amplitudes + other.array_amplitudes,
            runs=self.runs + other.runs,
            gates=self.gates + other.gates,
            shots=self.shots + other.shots,
            state_bytes=max(self.state_bytes, other.state_bytes),
            is_unknown=self.is_unknown or other.is_unknown,
        )


class _Core(Protocol):
    def probabilities(self, run: Run, qubits: Sequence[int]) -> npt.NDArray[np.float64]: ...


class Pace:
    """How fast this process is; measured when it first matters."""

    def __init__(self, core: _Core) -> None:
        self._core = core
        self._amplitude_s: float | None = None

    def seconds(self, work: Work) -> float | None:
        """How long the work takes, or None if nobody can tell."""
        if work.is_unknown:
            return None
        estimate = _seconds(work, self._amplitude_s or _AER_AMPLITUDE_S)
        if self._amplitude_s is None and estimate > _WORTH_MEASURING_S:
            self._amplitude_s = self._measured()
            estimate = _seconds(work, self._amplitude_s)
        return estimate

    def _measured(self) -> float:
        qubits = range(_MEASURED_QUBITS)
        layer = [
            *(Step("ry", (qubit,), params=(0.1 + qubit,)) for qubit in qubits),
            *(Step("cx", (qubit, qubit + 1)) for qubit in qubits[:-1]),
        ]
        steps = layer * _MEASURED_LAYERS
        run = Run(steps=steps, qubits=_MEASURED_QUBITS, method="statevector", seed=0)
        taken = []
        for _ in range(_MEASUREMENTS):
            began = perf_counter()
            self._core.probabilities(run, [0])
            taken.append(perf_counter() - began)
        # The first run starts Aer's threads, any of them may have to wait for a core.
        amplitude_s = min(taken) / (len(steps) << _MEASURED_QUBITS)
        return min(amplitude_s, _SLOWEST_AMPLITUDE_S)


def _seconds(work: Work, amplitude_s: float) -> float:
    return (
        work.amplitudes * amplitude_s
        + work.array_amplitudes * _ARRAY_AMPLITUDE_S
        + work.runs * _RUN_S
        + work.gates * _GATE_S
        + work.shots * _SHOT_S
    )


def time_left_s(threads: int) -> float:
    """How long this process may still compute; infinity where nothing limits it.

    The sandbox gives a job its time limit, times the threads of a simulation, as processor time.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_CPU)
    if limit == resource.RLIM_INFINITY:
        return math.inf
    used = resource.getrusage(resource.RUSAGE_SELF)
    return max(0.0, limit - used.ru_utime - used.ru_stime) / threads


def require_time(estimate_s: float | None, allowed_s: float, *, what: str) -> None:
    """Refuse a run that would take far longer than it may.

    Args:
        estimate_s: how long it would take, or None if nobody can tell.
        allowed_s: how long it may take.
        what: the run in the caller's words.

    Raises:
        ProgramTooLarge: the estimate is more than ``SAFETY`` times what is allowed.
    """
    if estimate_s is None or estimate_s <= SAFETY * allowed_s:
        return
    message = (
        f"{what} would take about {_duration(estimate_s)}; this job is stopped before "
        f"{_duration(allowed_s)}. Use fewer qubits, gates, shots or parameter sets, measure at the "
        "end only, or ask for a longer limit (max_execution_time) where the service allows one."
    )
    raise ProgramTooLarge(message, needed_s=round(min(estimate_s, 1e15)), allowed_s=allowed_s)


def _duration(seconds: float) -> str:
    if seconds < 2 * 3600:
        return f"{seconds:.3g} s"
    if seconds < 3 * 86400:
        return f"{seconds / 3600:.3g} hours"
    return f"{seconds / 86400:.3g} days"
