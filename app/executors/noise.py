"""What goes wrong in a simulation? A noise model as the caller sent it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qiskit import transpile
from qiskit.exceptions import QiskitError
from qiskit_aer.noise import NoiseModel

from app.errors import InvalidProgram

if TYPE_CHECKING:
    from qiskit import QuantumCircuit

#: what Qiskit raises at values that make no sense to it.
_REFUSALS = (QiskitError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


class Noise:
    """A noise model, whose errors may belong to certain qubits."""

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
        self._models: dict[tuple[int, ...], NoiseModel] = {}
        try:
            _model(self._errors)
            # Places of errors are read here, too.
            self._renumbered(())
        except _REFUSALS as exc:
            message = "options.simulator.noise_model: this is no noise model of Qiskit Aer"
            raise InvalidProgram("noise_model", message) from exc

    def conforming(self, circuit: QuantumCircuit) -> tuple[QuantumCircuit, list[int] | None]:
        """Give ``circuit`` in the basis gates and along the couplings that were asked for.

        Returns:
            the circuit, and where each of its qubits ends; None if where it was.

        Raises:
            InvalidProgram: that is not possible.
        """
        if self._basis_gates is None and self._coupling_map is None:
            return circuit, None
        try:
            conforming = transpile(
                circuit,
                basis_gates=self._basis_gates,
                coupling_map=self._coupling_map,
                optimization_level=0,
                seed_transpiler=self._seed % 2**32,
            )
        except _REFUSALS as exc:
            message = (
                "options.simulator: the circuit cannot be brought to these basis gates and this "
                f"coupling map: {str(exc)[:200]}"
            )
            raise InvalidProgram("coupling_map", message) from exc
        if conforming.layout is None:
            return conforming, None
        return conforming, conforming.layout.final_index_layout()

    def on(self, qubits: tuple[int, ...]) -> NoiseModel:
        """Give the noise of a circuit whose qubit ``i`` is ``qubits[i]`` of the model."""
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


def _model(errors: list[Any]) -> NoiseModel:
    with warnings.catch_warnings():
        # Reading a model is deprecated, though the client sends it; there is nothing in its place.
        warnings.simplefilter("ignore", DeprecationWarning)
        return NoiseModel.from_dict({"errors": errors})
