"""Which executor suits a program? Decided from its circuits and from who lives, with the reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.executors.circuits.angles import Angles
from app.executors.circuits.lowering import MEASURE, Step, lower
from app.executors.circuits.methods import STATEVECTOR_GATES, is_clifford
from app.executors.circuits.reduction import components, reduce
from app.executors.options import NOISE_MODEL, Options
from app.primitives.programs import (
    BoxesProgram,
    CalibrationProgram,
    Choice,
    EstimatorProgram,
    LayersProgram,
    QasmProgram,
    QuantumProgram,
    SamplerProgram,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from qiskit import QuantumCircuit

    from app.primitives.programs import Program, Target

    _Simulated = QasmProgram | SamplerProgram | EstimatorProgram | QuantumProgram

AER, NOISY, CUSTATEVEC = "aer", "noisy", "custatevec"

#: Below this width a run is over before a GPU has begun, if no worker has measured where that is.
_GPU_QUBITS = 18


@dataclass(frozen=True, kw_only=True)
class _Shape:
    """What counts of a program's circuits."""

    #: qubits of the largest part that shares no bit with others.
    qubits: int
    #: whether no part needs a state vector for its gates.
    clifford: bool
    #: whether anything is measured and then acted on.
    dynamic: bool
    #: of all parameter sets together, at most.
    shots: int


def choose(
    program: Program,
    target: Target,
    live: Mapping[str, int],
    worth_from: Mapping[str, int] | None = None,
) -> Choice:
    """Choose among the executors that live.

    Args:
        program: what is to be run.
        target: what its backend claims to be; a recorded device asks for its noise.
        live: executor → qubits of the largest state vector that a live worker of it can hold.
        worth_from: executor → fewest qubits at which it is quicker than Aer, where a live worker
            has measured that.

    Returns:
        the executor and the reason; ``aer`` when no other suits, whether it lives or not.
    """
    if _brings_noise(program):
        return Choice(executor=AER, because="the options bring a noise model")
    without = ""
    if target.recording is not None:
        if NOISY in live:
            return Choice(executor=NOISY, because=f"{target.name} has recorded noise")
        without = f"; without the noise of {target.name}, because no live worker serves {NOISY}"
    match program:
        case LayersProgram() | BoxesProgram() | CalibrationProgram():
            because, suits = "what is learned of a backend is learned on a CPU", False
        case _:
            least = (worth_from or {}).get(CUSTATEVEC, _GPU_QUBITS)
            because, suits = _gpu(_shape(program), live.get(CUSTATEVEC), least)
    return Choice(executor=CUSTATEVEC if suits else AER, because=because + without)


def _gpu(shape: _Shape, largest: int | None, least: int) -> tuple[str, bool]:
    """Whether a graphics card is worth it, reason first."""
    size = f"{shape.qubits} qubits that belong together"
    if largest is None:
        return f"{size}, and no live worker has a GPU", False
    if shape.clifford:
        return f"{size}, and only Clifford gates: a stabilizer tableau does", False
    if shape.dynamic:
        return f"{size}, and what is measured is acted on again, {shape.shots} times", False
    if shape.qubits < least:
        return f"{size}, fewer than the {least} from which on a GPU is worth it", False
    if shape.qubits > largest:
        return f"{size}, more than the {largest} that a GPU here can hold", False
    return f"{size}, enough for a GPU to be worth it", True


def _brings_noise(program: Program) -> bool:
    return (
        isinstance(program, (SamplerProgram, EstimatorProgram))
        and Options(program.options).get(NOISE_MODEL) is not None
    )


def _shape(program: _Simulated) -> _Shape:
    parts = [
        reduce(part)
        for circuit, estimated in _circuits(program)
        for part in components(_steps(circuit, estimated=estimated))
    ]
    return _Shape(
        qubits=max((part.qubits for part in parts), default=0),
        clifford=all(is_clifford(part.steps) for part in parts),
        dynamic=any(part.readout is None for part in parts),
        shots=_shots(program),
    )


def _circuits(program: _Simulated) -> Iterable[tuple[QuantumCircuit, bool]]:
    """Every circuit, and whether an estimator reads it."""
    match program:
        case QasmProgram():
            return [(program.circuit, False)]
        case QuantumProgram():
            return [(item.circuit, False) for item in program.items]
        case SamplerProgram():
            return [(pub.circuit, False) for pub in program.pubs]
        case EstimatorProgram():
            return [(pub.circuit, True) for pub in program.pubs]


def _shots(program: _Simulated) -> int:
    if isinstance(program, (QasmProgram, QuantumProgram)):
        return program.shots
    return max((pub.shots for pub in program.pubs), default=0)


def _steps(circuit: QuantumCircuit, *, estimated: bool) -> list[Step]:
    steps = lower(circuit, STATEVECTOR_GATES, Angles(circuit.parameters), stores=True)
    if not estimated:
        return steps
    # Observables may read any qubit; an idle one costs nothing.
    touched = sorted({qubit for step in steps for qubit in step.qubits})
    read = [Step(MEASURE, (qubit,), (circuit.num_clbits + qubit,)) for qubit in touched]
    return [*steps, *read]
