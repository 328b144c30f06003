"""What noise does a caller bring along? Noise models of Aer, and learned models of layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.primitives.runtime.blobs import read_array, read_complex
from app.primitives.runtime.circuits import read_circuit

if TYPE_CHECKING:
    from app.primitives.runtime.budget import Budget
    from app.primitives.runtime.document import Node

#: Where the classes of learned noise are, in clients before 0.48 and after.
_LEARNED = (
    "qiskit_ibm_runtime.utils.noise_learner_result",
    "qiskit_ibm_runtime.results.noise_learner",
)
_PAULI_LIST = ("qiskit.quantum_info.operators.symplectic.pauli_list",)
#: Most layers, and most generators of one.
_LAYERS = 1024
_GENERATORS = 100_000


def read_noise_model(node: Node, budget: Budget) -> dict[str, Any]:
    """A noise model as ``qiskit_aer.noise.NoiseModel.from_dict`` takes it.

    Raises:
        InvalidProgram: it holds other types than complex numbers and arrays.
    """
    model = node.typed("NoiseModel")[1] if node.is_typed() else node
    types = {
        "complex": read_complex,
        "ndarray": lambda array: read_array(array, budget, complex_too=True),
    }
    return {key: field.plain(types) for key, field in model.fields().items()}


def read_layer_noise_model(node: Node, budget: Budget) -> list[dict[str, Any]]:
    """The layers whose noise has been learned.

    Returns:
        for each layer ``circuit``, ``qubits`` (labels of the circuit's qubits) and ``error``: None
        or ``generators``, Pauli strings whose rightmost character is the circuit's qubit 0, and
        ``rates``, one for each.

    Raises:
        InvalidProgram: it is neither a list of layers nor the result of a noise learner.
    """
    layers = node
    if node.is_typed():
        result = node.typed("NoiseLearnerResult")[1].fields()
        if result.keys() != {"data", "metadata"}:
            raise node.refused("wrong_keys", "a result of a noise learner has data and metadata")
        result["metadata"].plain(types={})
        layers = result["data"]
    return [_layer(layer, budget) for layer in layers.elements(_LAYERS)]


def _layer(node: Node, budget: Budget) -> dict[str, Any]:
    fields = _instance(node, "_json", _LEARNED, "LayerError", ("circuit", "qubits", "error"))
    circuit = read_circuit(fields["circuit"], budget)
    qubits = [qubit.integer(0, 2**31) for qubit in fields["qubits"].elements(budget.limits.qubits)]
    if len(qubits) != circuit.num_qubits:
        message = f"{len(qubits)} labels for the {circuit.num_qubits} qubits of the circuit"
        raise fields["qubits"].refused("qubits", message)
    error = fields["error"]
    return {
        "circuit": circuit,
        "qubits": qubits,
        "error": None if error.value is None else _error(error, len(qubits), budget),
    }


def _error(node: Node, qubits: int, budget: Budget) -> dict[str, Any]:
    names = ("generators", "rates")
    fields = _instance(node, "_json", _LEARNED, "PauliLindbladError", names)
    paulis = _instance(fields["generators"], "settings", _PAULI_LIST, "PauliList", ("data",))
    generators = []
    for pauli in paulis["data"].elements(_GENERATORS):
        text = pauli.text()
        if len(text) != qubits or not set(text) <= set("IXYZ"):
            raise pauli.refused("pauli", f"must be {qubits} characters, each I, X, Y or Z")
        generators.append(text)
    rates = read_array(fields["rates"], budget)
    if rates.shape != (len(generators),):
        message = f"an array of shape {rates.shape} for {len(generators)} generators"
        raise fields["rates"].refused("rates", message)
    return {"generators": generators, "rates": rates.astype(float)}


def _instance(
    node: Node, kind: str, modules: tuple[str, ...], name: str, members: tuple[str, ...]
) -> dict[str, Node]:
    """What an instance of one class is made from."""
    _, value, keys = node.typed(kind, also=("__module__", "__class__"))
    keys["__module__"].word(*modules)
    keys["__class__"].word(name)
    fields = value.fields()
    if fields.keys() != set(members):
        message = f"a {name} is made from {', '.join(members)}"
        raise value.refused("wrong_keys", message)
    return fields
