"""How do params become what is to be learned of noise, and what was learned a document?"""

from __future__ import annotations

import base64
import zlib
from io import BytesIO
from typing import TYPE_CHECKING, Any

import orjson
from qiskit import QuantumRegister, qpy

from app.primitives.programs import (
    BoxesProgram,
    BoxesResult,
    LayersProgram,
    LayersResult,
    LearningProtocol,
)
from app.primitives.runtime.blobs import encode_array, read_base64
from app.primitives.runtime.budget import Budget
from app.primitives.runtime.circuits import ANNOTATIONS, load_circuits, read_circuit
from app.primitives.runtime.document import parse
from app.primitives.runtime.options import read_boxes_options, read_layers_options
from app.primitives.runtime.tensors import encode_tensor

if TYPE_CHECKING:
    from qiskit import QuantumCircuit

    from app.config import ProgramLimits
    from app.primitives.programs import LearnedBox, LearnedLayer, PauliLindbladError
    from app.primitives.runtime.document import Node

#: Those of the client's ``NoiseLearnerOptions`` and ``NoiseLearnerV3Options``.
_DEFAULTS = {
    "shots_per_randomization": 128,
    "num_randomizations": 32,
    "layer_pair_depths": [0, 1, 2, 4, 16, 32],
}
_LAYERS_DEFAULTS = {"max_layers_to_learn": 4, "twirling_strategy": "active-accum"}
_SCHEMAS = ("v0.1", "v0.2", "v0.3")
#: Where the client has the classes of what was learned.
_MODULE = "qiskit_ibm_runtime.utils.noise_learner_result"
_PAULI_LIST_MODULE = "qiskit.quantum_info.operators.symplectic.pauli_list"
#: Version of QPY that the client of the first learner writes and reads.
_QPY_VERSION = 17


def decode_noise_learner(params: bytes, limits: ProgramLimits) -> LayersProgram | BoxesProgram:
    """The program of a noise learner; one for boxes says in which version it is written.

    Raises:
        InvalidProgram: it is not valid, or above a limit; the message begins with the place.
    """
    top = parse(params, limits)
    document = top.fields()
    if "schema_version" in document:
        return _boxes(top, document, Budget(limits))
    return _layers(top, document, Budget(limits))


def _layers(top: Node, document: dict[str, Node], budget: Budget) -> LayersProgram:
    _check_keys(top, document, {"circuits", "options"}, {"version"})
    if "version" in document:
        document["version"].integer(2, 2)
    nodes = document["circuits"].elements(budget.limits.pubs)
    if not nodes:
        raise document["circuits"].refused("no_circuits", "there is nothing to learn")
    options = read_layers_options(document["options"], budget)
    return LayersProgram(
        circuits=tuple(read_circuit(node, budget) for node in nodes),
        options=_DEFAULTS | _LAYERS_DEFAULTS | options,
    )


def _boxes(top: Node, document: dict[str, Node], budget: Budget) -> BoxesProgram:
    _check_keys(top, document, {"schema_version", "instructions", "options"}, {"version"})
    version = document["schema_version"].word(*_SCHEMAS)
    if "version" in document:
        document["version"].integer(3, 3)
    node = document["instructions"]
    fields = node.fields()
    _check_keys(node, fields, {"circuit_b64", "qpy_version"})
    content = read_base64(fields["circuit_b64"], budget, "circuit_bytes")
    fields["qpy_version"].integer(*content[6:7] * 2 or (0, 0))
    (circuit,) = load_circuits([node], content, budget, ANNOTATIONS)
    for place, instruction in enumerate(circuit.data):
        if instruction.name != "box":
            message = f"instruction {place} is no box but {instruction.name[:40]!r}"
            raise node.refused("no_box", message)
    if not circuit.data:
        raise node.refused("no_boxes", "there is nothing to learn")
    return BoxesProgram(
        schema_version=version,
        circuit=circuit,
        qubits=_device_qubits(node, circuit, budget.limits.qubits),
        options=_DEFAULTS | read_boxes_options(document["options"], budget),
    )


def _check_keys(
    node: Node, fields: dict[str, Node], needed: set[str], optional: set[str] | None = None
) -> None:
    known = needed | (optional or set())
    if not needed <= fields.keys() <= known:
        raise node.refused("wrong_keys", f"the keys are {', '.join(sorted(known))}")


def _device_qubits(node: Node, circuit: QuantumCircuit, most: int) -> tuple[int, ...]:
    """Numbers of qubits that are those of a device: of a register ``q``, in any order."""
    for size in range(circuit.num_qubits, most + 1):
        numbers = {qubit: number for number, qubit in enumerate(QuantumRegister(size, "q"))}
        if all(qubit in numbers for qubit in circuit.qubits):
            return tuple(numbers[qubit] for qubit in circuit.qubits)
    message = "the qubits of the boxes are not all of one register 'q', as a device's are"
    raise node.refused("qubits", message)


def encode_layers_result(result: LayersResult) -> bytes:
    """The document of ``GET /jobs/{id}/results``, as the client's ``NoiseLearnerResult``."""
    names = (*_LAYERS_DEFAULTS, *_DEFAULTS)
    options = {"max_execution_time": None, **{name: result.options[name] for name in names}}
    document = {
        "data": [_layer(layer) for layer in result.layers],
        "metadata": {"backend": result.backend, "input_options": options},
    }
    return orjson.dumps(document)


def _layer(layer: LearnedLayer) -> dict[str, Any]:
    generators = []
    for paulis, qubits in layer.error.generators:
        # The rightmost character is qubit 0.
        label = ["I"] * len(layer.qubits)
        for pauli, qubit in zip(paulis, qubits, strict=True):
            label[-1 - qubit] = pauli
        generators.append("".join(label))
    error = {
        "generators": {
            "__type__": "settings",
            "__module__": _PAULI_LIST_MODULE,
            "__class__": "PauliList",
            "__value__": {"data": generators},
        },
        "rates": encode_array(layer.error.rates),
    }
    value = {
        "circuit": _typed_circuit(layer.circuit),
        "qubits": layer.qubits,
        "error": _instance("PauliLindbladError", error),
    }
    return _instance("LayerError", value)


def _typed_circuit(circuit: QuantumCircuit) -> dict[str, str]:
    file = BytesIO()
    qpy.dump(circuit, file, version=_QPY_VERSION)
    content = base64.b64encode(zlib.compress(file.getvalue())).decode()
    return {"__type__": "QuantumCircuit", "__value__": content}


def _instance(name: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"__type__": "_json", "__module__": _MODULE, "__class__": name, "__value__": value}


def encode_boxes_result(result: BoxesResult) -> bytes:
    """The document of ``GET /jobs/{id}/results``, as the client's ``NoiseLearnerV3Results``."""
    data = [_box(box) for box in result.boxes]
    return orjson.dumps({"schema_version": result.schema_version, "data": data})


def _box(box: LearnedBox) -> dict[str, Any]:
    # Without a check, all shots are kept, and of none it is said how its check went.
    kept: Any = {} if box.protocol is LearningProtocol.LINDBLAD else 1.0
    return {
        "generators_sparse": [[generator] for generator in box.error.generators],
        "num_qubits": box.num_qubits,
        **_rates(box.error),
        "metadata": {
            "learning_protocol": box.protocol,
            "post_selection": {"fraction_kept": kept, "success_rates": {}},
        },
    }


def _rates(error: PauliLindbladError) -> dict[str, Any]:
    return {
        "rates": encode_tensor(error.rates, compressed=False),
        "rates_std": encode_tensor(error.stds, compressed=False),
    }
