"""How does a circuit become one whose gates and measurements are twirled?

Samplomatic puts its layers into boxes, and makes of them a template with angles for the random
gates, and a samplex that draws these.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from math import pi
from typing import TYPE_CHECKING, Any

import numpy as np
from qiskit import QuantumCircuit
from qiskit.circuit import Barrier, BoxOp, ClassicalRegister
from qiskit.circuit.library import RXGate, RZGate
from qiskit.exceptions import QiskitError
from samplomatic import ChangeBasis, InjectNoise, build
from samplomatic.exceptions import BuildError, SamplexError
from samplomatic.transpiler import generate_boxing_pass_manager
from samplomatic.utils import get_annotation

from app.errors import InvalidProgram
from app.primitives.programs import SamplexItem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import numpy.typing as npt
    from qiskit.circuit import CircuitInstruction, Gate, Operation
    from samplomatic.samplex import Samplex

    from app.executors.mitigation.resilience import Twirling
    from app.executors.noise.model import Noise

#: What Samplomatic raises at circuits that it has no twirls for.
_REFUSALS = (
    BuildError,
    SamplexError,
    QiskitError,
    ArithmeticError,
    LookupError,
    TypeError,
    ValueError,
)
#: basis → what a samplex calls it.
_BASES = {"Z": 1, "X": 2, "Y": 3}
_MESSAGE_CHARS = 200

#: gate on one qubit → rotations that are the same, up to a phase.
_ROTATIONS: dict[str, Callable[..., tuple[Gate, ...]]] = {
    "p": lambda angle: (RZGate(angle),),
    "u1": lambda angle: (RZGate(angle),),
    "r": lambda angle, axis: (RZGate(-axis), RXGate(angle), RZGate(axis)),
    "ry": lambda angle: (RZGate(-pi / 2), RXGate(angle), RZGate(pi / 2)),
    "u2": lambda phi, lam: (RZGate(lam - pi / 2), RXGate(pi / 2), RZGate(phi + pi / 2)),
    "u": lambda theta, phi, lam: (RZGate(lam - pi / 2), RXGate(theta), RZGate(phi + pi / 2)),
}
_ROTATIONS["u3"] = _ROTATIONS["u"]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A box of entangling gates, at which noise can be injected."""

    #: under which the samplex knows its noise.
    reference: str
    #: number that each of its qubits has in the circuit, ascending: the order of its noise map.
    qubits: tuple[int, ...]
    #: its entangling gates and their qubits, numbered as in the circuit.
    gates: tuple[tuple[Operation, tuple[int, ...]], ...]


@dataclass(frozen=True, kw_only=True)
class Boxed:
    """A circuit with parameters for everything that is drawn."""

    template: QuantumCircuit
    samplex: Samplex
    #: column of the parameter values that each of the samplex's own is.
    columns: tuple[int, ...]
    #: of the measurement whose basis is chosen; None: there is none.
    basis: str | None
    layers: tuple[Layer, ...]

    def item(
        self,
        values: npt.NDArray[np.float64],
        shape: tuple[int, ...],
        *,
        bases: npt.NDArray[np.uint8] | None = None,
        others: dict[str, Any] | None = None,
    ) -> SamplexItem:
        """Give what can be run.

        Args:
            values: shape ``(…, parameters)``.
            shape: of the item.
            bases: as ``basis_codes`` gives them, with the same axes in front as ``values``.
            others: more arguments of the samplex.
        """
        arguments = self.samplex.inputs().make_broadcastable()
        given: dict[str, Any] = {"parameter_values": values[..., self.columns], **(others or {})}
        for specification in arguments.specs:
            if specification.name == self.basis:
                arguments[specification.name] = bases
            elif specification.name.startswith("basis_changes."):
                arguments[specification.name] = np.zeros(specification.shape, dtype=np.uint8)
            elif specification.name in given:
                arguments[specification.name] = given[specification.name]
        return SamplexItem(
            circuit=self.template, samplex=self.samplex, arguments=arguments, shape=shape
        )


def boxed(
    circuit: QuantumCircuit, twirling: Twirling, *, reads: bool, injects: bool = False
) -> Boxed:
    """Twirl ``circuit``.

    Args:
        circuit: it may have parameters.
        twirling: what of it is twirled, and how.
        reads: whether the bases of the last measurements are to be chosen.
        injects: whether noise is to be injected after layers of entangling gates.

    Raises:
        InvalidProgram: it has operations that cannot be twirled.
    """
    annotations = "twirl"
    if reads:
        annotations = "all" if twirling.measure else "change_basis"
    try:
        boxes = generate_boxing_pass_manager(
            enable_gates=twirling.gates,
            enable_measures=reads or twirling.measure,
            measure_annotations=annotations,
            twirling_strategy=twirling.strategy.replace("-", "_"),
            inject_noise_targets="gates" if injects else "none",
            inject_noise_strategy="uniform_modification" if injects else "no_modification",
        ).run(circuit)
        template, samplex = build(_with_known_angles(boxes))
    except _REFUSALS as exc:
        why = str(exc).strip("\"'`")[:_MESSAGE_CHARS]
        raise InvalidProgram("twirling", f"it cannot be twirled: {why}") from exc
    parameters = list(circuit.parameters)
    return Boxed(
        template=template,
        samplex=samplex,
        columns=tuple(parameters.index(each) for each in boxes.parameters),
        basis=_basis(boxes) if reads else None,
        layers=tuple(_layers(boxes)),
    )


def basis_codes(bases: Sequence[dict[int, str]], width: int) -> npt.NDArray[np.uint8]:
    """Give a samplex's words for measurement bases, shape ``(bases, width)``; Z where none is."""
    codes = np.full((len(bases), width), _BASES["Z"], dtype=np.uint8)
    for row, basis in enumerate(bases):
        for qubit, name in basis.items():
            codes[row, qubit] = _BASES[name]
    return codes


def narrowed(circuit: QuantumCircuit, read: Iterable[int]) -> tuple[QuantumCircuit, list[int]]:
    """Leave out qubits that nothing acts on and nobody reads, and the global phase.

    Returns:
        the circuit, and the number that each of its qubits had before, ascending.
    """
    acted_on = {
        qubit
        for instruction in circuit.data
        if not isinstance(instruction.operation, Barrier)
        for qubit in instruction.qubits
    }
    numbers = set(read)
    kept = [
        index for index, qubit in enumerate(circuit.qubits) if qubit in acted_on or index in numbers
    ]
    narrow = QuantumCircuit([circuit.qubits[index] for index in kept], circuit.clbits)
    for register in circuit.cregs:
        narrow.add_register(register)
    left = set(narrow.qubits)
    for instruction in circuit.data:
        if isinstance(instruction.operation, Barrier):
            narrow.barrier([qubit for qubit in instruction.qubits if qubit in left])
        else:
            narrow.append(instruction)
    return narrow, kept


def conformed(item: SamplexItem, noise: Noise, places: Sequence[int], width: int) -> SamplexItem:
    """Put the qubits of an item back to ``places`` among ``width`` qubits, with gates of a device.

    Twirls are ``rz`` and ``sx``. Where these can be no gates of the device, they have no errors.
    """
    wide = _widened(item.circuit, places, width)
    with suppress(InvalidProgram):
        wide, _ = noise.conforming(wide)
    return replace(item, circuit=wide)


def _widened(circuit: QuantumCircuit, places: Sequence[int], width: int) -> QuantumCircuit:
    wide = QuantumCircuit(width)
    wide.add_bits(circuit.clbits)
    for register in circuit.cregs:
        wide.add_register(register)
    wide.compose(circuit, qubits=places, clbits=circuit.clbits, inplace=True)
    return wide


def with_readout(circuit: QuantumCircuit, name: str) -> QuantumCircuit:
    """Measure all qubits at the end; bit ``i`` of a new register ``name`` reads qubit ``i``."""
    register = ClassicalRegister(circuit.num_qubits, name)
    measured = circuit.copy()
    measured.add_register(register)
    measured.barrier()
    measured.measure(measured.qubits, register)
    return measured


def folded(
    circuit: QuantumCircuit, factor: float, order: str, rng: np.random.Generator
) -> tuple[QuantumCircuit, float]:
    """Repeat entangling gates with their inverses, so that their noise is amplified.

    Args:
        circuit: gates inside of its blocks stay as they are.
        factor: 1 or more. What is not odd is reached by folding some gates once more.
        order: which these are: the first ones (``front``), the last ones (``back``), or any.
        rng: chooses among any.

    Returns:
        the circuit, and the factor that its number of entangling gates has grown by: with few of
        them, not every factor can be reached.
    """
    places = [
        place for place, instruction in enumerate(circuit.data) if _is_entangling(instruction)
    ]
    pairs, rest = divmod(factor - 1, 2)
    more = min(len(places), max(1, round(rest / 2 * len(places)))) if rest else 0
    if order == "front":
        chosen = places[:more]
    elif order == "back":
        chosen = places[len(places) - more :]
    else:
        chosen = rng.choice(places, more, replace=False).tolist() if more else []
    repeated = circuit.copy_empty_like()
    for place, instruction in enumerate(circuit.data):
        repeated.append(instruction)
        if _is_entangling(instruction):
            inverse = instruction.operation.inverse()
            for _ in range(int(pairs) + (place in chosen)):
                repeated.append(inverse, instruction.qubits)
                repeated.append(instruction)
    return repeated, 1 + 2 * (pairs + more / len(places)) if places else factor


def _with_known_angles(boxes: QuantumCircuit) -> QuantumCircuit:
    """Write gates with parameters as ``rz`` and ``rx``: a samplex knows no others.

    Only those in boxes: they are merged into random gates. Others stay, and have their own noise.
    """
    known = boxes.copy_empty_like()
    for instruction in boxes.data:
        operation = instruction.operation
        if isinstance(operation, BoxOp):
            body = operation.body.copy_empty_like()
            for gate in operation.body.data:
                if gate.name in _ROTATIONS and gate.is_parameterized():
                    for rotation in _ROTATIONS[gate.name](*gate.params):
                        body.append(rotation, gate.qubits)
                else:
                    body.append(gate)
            operation = BoxOp(body, annotations=operation.annotations)
        known.append(instruction.replace(operation=operation))
    return known


def _is_entangling(instruction: CircuitInstruction) -> bool:
    return len(instruction.qubits) > 1 and instruction.is_standard_gate()


def _basis(boxes: QuantumCircuit) -> str | None:
    for instruction in reversed(boxes.data):
        if isinstance(instruction.operation, BoxOp):
            annotation = get_annotation(instruction.operation, ChangeBasis)
            if annotation is not None:
                return f"basis_changes.{annotation.ref}"
    return None


def _layers(boxes: QuantumCircuit) -> Iterator[Layer]:
    numbers = {qubit: index for index, qubit in enumerate(boxes.qubits)}
    for instruction in boxes.data:
        if not isinstance(instruction.operation, BoxOp):
            continue
        annotation = get_annotation(instruction.operation, InjectNoise)
        if annotation is None:
            continue
        body = instruction.operation.body
        inner = {
            qubit: numbers[outer]
            for qubit, outer in zip(body.qubits, instruction.qubits, strict=True)
        }
        yield Layer(
            reference=annotation.ref,
            qubits=tuple(sorted(inner.values())),
            gates=tuple(
                (gate.operation, tuple(inner[qubit] for qubit in gate.qubits))
                for gate in body.data
                if _is_entangling(gate)
            ),
        )
