"""What goes wrong in a simulation? The interface of noise, and a model that the caller sent."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from qiskit import transpile
from qiskit.exceptions import QiskitError
from qiskit_aer.noise import NoiseModel

from app.errors import InvalidProgram
from app.executors.observables import ROTATIONS
from app.executors.options import BASIS_GATES

if TYPE_CHECKING:
    from qiskit import QuantumCircuit

    from app.executors.circuits.reduction import Reduced
    from app.executors.observables import Rotations

_PAULIS = {"id": "I", "x": "X", "y": "Y", "z": "Z"}
#: what Qiskit raises at values that make no sense to it.
_REFUSALS = (QiskitError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


class Noise(Protocol):
    """What goes wrong; asked before a circuit is lowered, and with what is left of it then."""

    #: where it comes from, in words.
    source: str
    #: whether errors belong to the label of a gate instead of its name, where it has one.
    knows_labels: bool
    #: option of it that some circuit did not allow → why; grows with ``conforming``.
    unmet: dict[str, str]

    @property
    def rotations(self) -> Rotations:
        """Gates that turn a basis into Z, with the errors that they have."""
        ...

    def conforming(self, circuit: QuantumCircuit) -> tuple[QuantumCircuit, list[int] | None]:
        """Give ``circuit`` in gates and along couplings that the errors are about.

        Returns:
            the circuit, and where each of its qubits ends; None if where it was.

        Raises:
            InvalidProgram: that is not possible.
        """
        ...

    def on(self, reduced: Reduced) -> NoiseModel:
        """Give the noise of a circuit whose qubits are numbered anew."""
        ...


class SentNoise:
    """A noise model that the caller sent; its errors may belong to certain qubits."""

    source = "options.simulator.noise_model"
    knows_labels = True
    rotations = ROTATIONS

    def __init__(
        self, document: object, *, basis_gates: object, coupling_map: object, seed: int
    ) -> None:
        """Read a noise model.

        Args:
            document: as ``NoiseModel.to_dict`` gives it.
            basis_gates: names of the gates that circuits are translated to, or None.
            coupling_map: pairs of qubits that circuits are routed along, or None.
            seed: of the routing.

        Raises:
            InvalidProgram: it is no noise model.
        """
        errors = document.get("errors") if isinstance(document, Mapping) else None
        self._errors: list[Any] = errors if isinstance(errors, list) else [None]
        self._basis_gates = basis_gates
        self._coupling_map = coupling_map
        self._seed = seed
        self.unmet: dict[str, str] = {}
        self._models: dict[tuple[int, ...], NoiseModel] = {}
        try:
            self._errors = [_paulis_named(error) for error in self._errors]
            _model(self._errors)
            # Places of errors are read here, too.
            self._renumbered(())
        except _REFUSALS as exc:
            message = "options.simulator.noise_model: this is no noise model of Qiskit Aer"
            raise InvalidProgram("noise_model", message) from exc

    def conforming(self, circuit: QuantumCircuit) -> tuple[QuantumCircuit, list[int] | None]:
        """Give ``circuit`` in the basis gates and along the couplings that were asked for.

        Gates that cannot be made of the basis gates stay as they are: clients send a basis that
        goes with the noise and not with the circuit.

        Returns:
            the circuit, and where each of its qubits ends; None if where it was.

        Raises:
            InvalidProgram: that is not possible.
        """
        if self._basis_gates is None and self._coupling_map is None:
            return circuit, None
        if self._basis_gates is not None:
            try:
                return self._conformed(circuit, self._basis_gates)
            except _REFUSALS:
                self.unmet[BASIS_GATES] = "not every circuit can be made of these gates"
        try:
            return self._conformed(circuit, None)
        except _REFUSALS as exc:
            message = (
                "options.simulator.coupling_map: the circuit cannot be routed along it;"
                " it must connect as many qubits as the circuit has"
            )
            raise InvalidProgram("coupling_map", message) from exc

    def _conformed(
        self, circuit: QuantumCircuit, basis_gates: object
    ) -> tuple[QuantumCircuit, list[int] | None]:
        return conformed(
            circuit, basis_gates=basis_gates, coupling_map=self._coupling_map, seed=self._seed
        )

    def on(self, reduced: Reduced) -> NoiseModel:
        """Give the noise of a circuit whose qubit ``i`` is ``reduced.origins[i]`` of the model."""
        qubits = reduced.origins
        if qubits not in self._models:
            self._models[qubits] = self._renumbered(qubits)
        return self._models[qubits]

    def _renumbered(self, qubits: tuple[int, ...]) -> NoiseModel:
        places = {qubit: place for place, qubit in enumerate(qubits)}
        errors = []
        for error in self._errors:
            if error.get("gate_qubits") is None:
                errors.append(error)
                continue
            local = [
                [places[qubit] for qubit in group]
                for group in error["gate_qubits"]
                if places.keys() >= set(group)
            ]
            if local:
                errors.append({**error, "gate_qubits": local})
        return _model(errors)


def conformed(
    circuit: QuantumCircuit, *, basis_gates: object, coupling_map: object, seed: int
) -> tuple[QuantumCircuit, list[int] | None]:
    """Translate and route ``circuit``, and change nothing else of it.

    Returns:
        the circuit, and where each of its qubits ends; None if where it was.
    """
    conforming = transpile(
        circuit,
        basis_gates=basis_gates,
        coupling_map=coupling_map,
        optimization_level=0,
        seed_transpiler=seed % 2**32,
    )
    if conforming.layout is None:
        return conforming, None
    return conforming, conforming.layout.final_index_layout()


def _paulis_named(error: Any) -> Any:
    """Write X, Y, Z and I in an error as ``pauli``.

    Aer's reader makes matrices of them, which no stabilizer tableau runs.
    """
    if "instructions" not in error:
        return error
    circuits = [
        [
            {"name": "pauli", "qubits": operation["qubits"], "params": [_PAULIS[operation["name"]]]}
            if operation["name"] in _PAULIS
            else operation
            for operation in circuit
        ]
        for circuit in error["instructions"]
    ]
    return {**error, "instructions": circuits}


def _model(errors: list[Any]) -> NoiseModel:
    with warnings.catch_warnings():
        # Reading a model is deprecated, though the client sends it; there is nothing in its place.
        warnings.simplefilter("ignore", DeprecationWarning)
        return NoiseModel.from_dict({"errors": errors})
