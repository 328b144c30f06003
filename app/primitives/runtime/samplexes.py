"""How does JSON become a samplex: what draws the angles of a circuit, and what goes with them?

Its own reader believes what it reads, so everything that it looks at is looked at here first.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from qiskit.quantum_info import PauliLindbladMap
from samplomatic.serialization import samplex_from_json
from samplomatic.tensor_interface import TensorSpecification

from app.primitives.runtime.blobs import read_base64
from app.primitives.runtime.circuits import check_qpy
from app.primitives.runtime.document import Node, parse_at
from app.primitives.runtime.tensors import has_dtype, read_tensor

if TYPE_CHECKING:
    from qiskit import QuantumCircuit
    from samplomatic.samplex import Samplex
    from samplomatic.tensor_interface import TensorInterface

    from app.primitives.runtime.budget import Budget
    from app.primitives.runtime.schemas import Schema

#: The output that a circuit is bound to, and the name of its axis of draws.
PARAMETER_VALUES = "parameter_values"
DRAWS = "num_randomizations"
#: Other names under which a samplex may give something.
_OUTPUTS = ("measurement_flips.", "pauli_signs")
#: Most terms of a noise map.
_TERMS = 100_000
_MESSAGE_CHARS = 200


def read_samplex(node: Node, circuit: QuantumCircuit, budget: Budget, schema: Schema) -> Samplex:
    """The samplex of an item, ready to be sampled.

    Raises:
        InvalidProgram: it is none, or none for ``circuit``.
    """
    fields = node.fields()
    if fields.keys() != {"ssv", "samplex_json"}:
        raise node.refused("wrong_keys", "a samplex has ssv and samplex_json")
    version = fields["ssv"].integer(1, schema.newest_samplex)
    source = fields["samplex_json"]
    text = source.text(budget.left("samplex_bytes"))
    budget.spend(source, "samplex_bytes", len(text))
    _check(source, text, version, budget)
    try:
        samplex = samplex_from_json(text).finalize()
    except (MemoryError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as exc:  # it is read by Rust, too
        raise source.refused("samplex", f"cannot be read: {_why(exc)}") from exc
    _check_outputs(source, samplex, circuit, schema)
    return samplex


def read_arguments(node: Node, samplex: Samplex, budget: Budget, schema: Schema) -> TensorInterface:
    """The arguments of a samplex; arrays may have axes in front, over which they are swept.

    Raises:
        InvalidProgram: one is missing, or does not fit.
    """
    arguments = samplex.inputs().make_broadcastable()
    known = {specification.name for specification in arguments.specs}
    for name, field in node.fields().items():
        if name not in known:
            message = f"the samplex has no such argument; it has {', '.join(sorted(known))}"
            raise field.refused("unknown_argument", message[:_MESSAGE_CHARS])
        try:
            arguments[name] = _argument(field, budget, schema)
        except (TypeError, ValueError) as exc:
            raise field.refused("argument", _why(exc)) from exc
    missing = {
        specification.name
        for specification in arguments.specs
        if not specification.optional and specification.name not in arguments
    }
    if missing:
        raise node.refused("missing", f"there is no {', '.join(map(repr, sorted(missing)))}")
    return arguments


def _check(source: Node, text: str, version: int, budget: Budget) -> None:
    """Look at a graph whose nodes are numbered, and at the circuit in it, before they are read."""
    graph = Node(parse_at(source, text.encode(), budget.limits), source, "samplex").fields()
    for name in sorted({"attrs", "nodes", "links"} - graph.keys()):
        raise source.refused("samplex", f"there is no {name!r}")
    attributes = graph["attrs"].fields()
    if attributes.get("ssv", Node("1")).value != str(version):
        raise source.refused("samplex_version", f"is not of version {version}, as ssv says")
    nodes = graph["nodes"].elements(budget.limits.operations)
    for place, each in enumerate(nodes):
        fields = each.fields()
        if fields.keys() != {"id", "data"}:
            raise each.refused("samplex", "a node has id and data")
        # Identifiers are places in a table, which is as long as the largest of them says.
        fields["id"].integer(place, place)
        for value in fields["data"].fields().values():
            value.text(budget.limits.samplex_bytes)
    for each in graph["links"].elements(4 * budget.limits.operations):
        ends = each.fields()
        for name in ("source", "target"):
            if name not in ends:
                raise each.refused("samplex", f"there is no {name!r}")
            ends[name].integer(0, len(nodes) - 1)
    if "param_table" not in attributes:
        raise graph["attrs"].refused("samplex", "there is no 'param_table'")
    table = _inner(attributes["param_table"], budget)
    if "circuit_base64" not in table:
        raise attributes["param_table"].refused("samplex", "there is no 'circuit_base64'")
    expressions = table["circuit_base64"]
    content = read_base64(expressions, budget, "circuit_bytes")
    check_qpy([expressions], content, budget.limits)


def _inner(node: Node, budget: Budget) -> dict[str, Node]:
    """The members of an object that stands as text."""
    text = node.text(budget.limits.samplex_bytes)
    return Node(parse_at(node, text.encode(), budget.limits), node.above, node.key).fields()


def _check_outputs(source: Node, samplex: Samplex, circuit: QuantumCircuit, schema: Schema) -> None:
    parameters = 0
    for output in samplex.outputs().specs:
        name = str(output.name)
        if not isinstance(output, TensorSpecification) or not set(output.free_dimensions) <= {
            DRAWS
        }:
            raise source.refused("samplex_output", f"{name[:64]!r} is no array")
        if output.shape[:1] != (DRAWS,) or any(
            not isinstance(length, int) or length < 0 for length in output.shape[1:]
        ):
            message = f"{name[:64]!r} does not have one element for every draw"
            raise source.refused("samplex_output", message)
        if name == PARAMETER_VALUES:
            if output.dtype.kind != "f" or len(output.shape) != 2:
                raise source.refused("samplex_output", f"{name!r} is no list of numbers")
            parameters = output.shape[1]
        elif not name.startswith(_OUTPUTS) or not has_dtype(
            output.dtype, compressed=schema.compressed
        ):
            message = f"{name[:64]!r} of type {output.dtype.name} cannot be given"
            raise source.refused("samplex_output", message)
    if parameters != circuit.num_parameters:
        message = (
            f"draws {parameters} parameter values for the {circuit.num_parameters} parameters of "
            "its circuit"
        )
        raise source.refused("samplex_output", message)


def _argument(node: Node, budget: Budget, schema: Schema) -> Any:
    if isinstance(node.value, bool):
        return node.value
    if isinstance(node.value, int):
        return node.integer()
    if "sparse_terms" in node.fields():
        return _noise_map(node, budget)
    return read_tensor(node, budget, compressed=schema.compressed)


def _noise_map(node: Node, budget: Budget) -> PauliLindbladMap:
    fields = node.fields()
    if fields.keys() != {"sparse_terms", "num_qubits"}:
        raise node.refused("wrong_keys", "a noise map has sparse_terms and num_qubits")
    qubits = fields["num_qubits"].integer(0, budget.limits.qubits)
    terms = []
    for each in fields["sparse_terms"].elements(_TERMS):
        parts = each.elements(3)
        if len(parts) < 3:
            raise each.refused("noise_map", "a term is [Paulis, qubits, rate]")
        paulis = parts[0].text(qubits)
        places = [place.integer(0, qubits - 1) for place in parts[1].elements(qubits)]
        if len(places) != len(paulis) or len(set(places)) < len(places):
            raise each.refused("noise_map", "every Pauli needs a qubit of its own")
        if not set(paulis) <= set("IXYZ"):
            raise parts[0].refused("noise_map", "the Paulis are I X Y Z")
        terms.append((paulis, places, parts[2].number()))
    return PauliLindbladMap.from_sparse_list(terms, qubits)


def output_bytes(samplex: Samplex, draws: int) -> int:
    """Size of all that so many draws give."""
    return sum(
        math.prod(output.shape[1:]) * np.dtype(output.dtype).itemsize * draws
        for output in samplex.outputs().specs
    )


def _why(exc: BaseException) -> str:
    line = next(iter(str(exc).splitlines()), "").strip("\"': ")[:_MESSAGE_CHARS]
    return f"{type(exc).__name__}: {line}"
