"""Which simulation method suits a circuit?"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi
from typing import TYPE_CHECKING

from qiskit_aer.backends.backend_utils import BASIS_GATES

from app.executors.admission import shots_bytes, statevector_bytes
from app.executors.circuits.angles import Slot
from app.executors.circuits.conditions import is_native
from app.executors.circuits.lowering import DELAY, JUMP, MARK, MEASURE, RESET, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from qiskit_aer.noise import NoiseModel

    from app.executors.circuits.reduction import Reduced

STATEVECTOR = "statevector"
STABILIZER = "stabilizer"
MATRIX_PRODUCT_STATE = "matrix_product_state"
DENSITY_MATRIX = "density_matrix"
#: nothing to simulate: every bit stays 0.
NONE = "none"

#: gates each method runs. ``diagonal`` and ``multiplexer`` are left out: with parameters of a wrong
#: size Aer reads past their end.
STATEVECTOR_GATES = frozenset(BASIS_GATES[STATEVECTOR]) - {"diagonal", "multiplexer"}
#: gates that a matrix product state runs as well.
COMMON_GATES = STATEVECTOR_GATES.intersection(BASIS_GATES[MATRIX_PRODUCT_STATE])
_DENSITY_MATRIX_STEPS = frozenset((*BASIS_GATES[DENSITY_MATRIX], DELAY))

_CLIFFORD_GATES = frozenset(
    ("x", "y", "z", "h", "s", "sdg", "sx", "sxdg", "cx", "cy", "cz", "swap", "ecr")
)
_CLIFFORD_ERRORS = _CLIFFORD_GATES | {"id", "pauli", RESET}
_IDLING = frozenset(("id", DELAY))
_CONTROL = frozenset((MEASURE, RESET, JUMP, MARK))
_Z_ROTATIONS = frozenset(("rz", "p", "u1"))
#: the gates a rotation about Z by 0, 1, 2 and 3 quarter turns is, up to a phase.
_QUARTER_TURNS = (None, "s", "z", "sdg")
_TOLERANCE = 1e-12

#: Clifford circuits up to this width run as a state vector all the same. Measured in ms with 1024
#: shots and, per qubit, 10 random Clifford gates and 10 CX, state vector against stabilizer: 2
#: qubits 0.7 : 1.3, 6 qubits 1.5 : 2.8, 10 qubits 3.3 : 5.1, 12 qubits 5.9 : 6.2, 14 qubits
#: 16 : 8. With feed-forward and all branches held at once: 27 : 29, 28 : 32, 32 : 36, 39 : 39,
#: 63 : 41.
_STATEVECTOR_CLIFFORD_QUBITS = 10

#: A noisy Clifford circuit is a density matrix up to so many amplitudes for every shot. Measured in
#: s with 8000 shots of some 60 noisy gates, density matrix against stabilizer: 10 qubits 0.5 : 1.1,
#: 11 qubits 0.8 to 1.3 : 1.1, 12 qubits 6.4 : 1.1; the first does not depend on the shots.
_MIXED_AMPLITUDES_PER_SHOT = 400

#: Up to this many outcomes are drawn from their probabilities, at a few ns each and nothing a shot.
#: Aer's own sampling costs 0.5 µs a shot: 0.5 of the 0.6 ms of a Bell circuit with 1024 shots.
_DRAWN_OUTCOMES = 2**16
_DRAWN_OUTCOMES_PER_SHOT = 16


@dataclass(frozen=True, kw_only=True)
class Method:
    """How a reduced circuit is to be simulated."""

    name: str
    steps: tuple[Step, ...]
    #: States held at the same time, more than 1 when all branches of a circuit are: 12 qubits with
    #: three mid-circuit measurements and 1024 shots take 27 ms so, and 1500 ms shot after shot.
    states: int = 1
    #: whether Aer gives probabilities to draw from; otherwise it gives samples.
    draws: bool = False


def choose(reduced: Reduced, *, shots: int, memory_bytes: int) -> Method:
    """Choose the fastest method that is exact and fits, and what it runs.

    A matrix product state is the last resort: it may need exponential time and memory, but a
    circuit with little entanglement runs at any width.
    """
    if not reduced.written:
        return Method(name=NONE, steps=())
    draws = draws_from_probabilities(reduced, shots)
    per_shot = 0 if draws else shots_bytes(shots, len(reduced.written))
    states = 1
    if reduced.readout is None:
        branches = _branches(reduced.steps, shots)
        if statevector_bytes(reduced.qubits, branches) + per_shot <= memory_bytes:
            states = branches
    again_for_each_shot = reduced.readout is None and states == 1 < shots
    clifford = _clifford(reduced.steps)
    if clifford is not None and (
        again_for_each_shot or reduced.qubits > _STATEVECTOR_CLIFFORD_QUBITS
    ):
        return Method(name=STABILIZER, steps=tuple(clifford))
    if statevector_bytes(reduced.qubits) + per_shot > memory_bytes:
        return Method(name=MATRIX_PRODUCT_STATE, steps=())
    return Method(name=STATEVECTOR, steps=reduced.steps, states=states, draws=draws)


def choose_noisy(
    reduced: Reduced, *, shots: int, memory_bytes: int, noise: Callable[[], NoiseModel]
) -> Method:
    """Choose how noisy shots are simulated: each on its own, or all as one density matrix.

    Gate errors are attached to gates by name, so these are replaced by others under that name only.

    Args:
        reduced: the circuit.
        shots: samples.
        memory_bytes: what may be used.
        noise: gives the errors of the circuit; only called where they matter.
    """
    if not reduced.written:
        return Method(name=NONE, steps=())
    per_shot = shots_bytes(shots, len(reduced.written))
    mixed = (
        reduced.readout is not None
        and 2**reduced.qubits <= shots
        and statevector_bytes(2 * reduced.qubits) + per_shot <= memory_bytes
        and all(step.name in _DENSITY_MATRIX_STEPS for step in reduced.steps)
    )
    if reduced.qubits > _STATEVECTOR_CLIFFORD_QUBITS and not (
        mixed and 4**reduced.qubits <= _MIXED_AMPLITUDES_PER_SHOT * shots
    ):
        clifford = _clifford(reduced.steps, noisy=True)
        if clifford is not None and _errors_are_clifford(noise()):
            return Method(name=STABILIZER, steps=tuple(clifford))
    if mixed:
        return Method(name=DENSITY_MATRIX, steps=reduced.steps)
    fits = statevector_bytes(reduced.qubits) + per_shot <= memory_bytes
    return Method(name=STATEVECTOR if fits else MATRIX_PRODUCT_STATE, steps=reduced.steps)


def _errors_are_clifford(noise: NoiseModel) -> bool:
    """Whether a stabilizer tableau can suffer all errors: none is a general channel."""
    return all(
        operation["name"] in _CLIFFORD_ERRORS
        for error in noise.to_dict()["errors"]
        if error["type"] == "qerror"
        for circuit in error["instructions"]
        for operation in circuit
    )


def draws_from_probabilities(reduced: Reduced, shots: int) -> bool:
    """Whether it is quicker to draw all shots from probabilities than to sample each."""
    if reduced.readout is None:
        return False
    outcomes = 1 << len(set(reduced.readout.values()))
    return outcomes <= min(_DRAWN_OUTCOMES, _DRAWN_OUTCOMES_PER_SHOT * shots)


def _branches(steps: Iterable[Step], shots: int) -> int:
    """How many different states the shots of a circuit can be in."""
    marked: set[str] = set()
    splits = 0
    for step in steps:
        if step.name == MARK:
            marked.update(step.params)
        elif step.name == JUMP and not marked.isdisjoint(step.params):
            return shots
        elif step.name in (MEASURE, RESET):
            splits += 1
    return min(shots, 1 << splits)


def is_clifford(steps: Iterable[Step]) -> bool:
    """Whether a stabilizer tableau runs all steps at every parameter set."""
    steps = tuple(steps)
    open_angles = any(isinstance(param, Slot) for step in steps for param in step.params)
    return not open_angles and _clifford(steps) is not None


def _clifford(steps: Iterable[Step], *, noisy: bool = False) -> list[Step] | None:
    """Give the steps in gates a stabilizer tableau runs, or None if that is not possible.

    Where they are ``noisy``, every gate is there, and known by the name it had.
    """
    clifford: list[Step] = []
    for step in steps:
        if step.name == JUMP and not is_native(step.condition):
            return None
        if step.name in _CLIFFORD_GATES or step.name in _CONTROL or step.name in _IDLING:
            clifford.append(step)
        elif step.name in _Z_ROTATIONS:
            turns = step.params[0] / (pi / 2)
            if abs(turns - round(turns)) > _TOLERANCE:
                return None
            name = _QUARTER_TURNS[round(turns) % 4]
            if noisy:
                label = step.label or step.name
                clifford.append(Step(name or "id", step.qubits, label=label))
            elif name is not None:
                clifford.append(Step(name, step.qubits))
        else:
            return None
    return clifford
