"""How do params become a quantum program? Item by item; nothing in them is believed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from app.errors import InvalidProgram
from app.primitives.programs import CircuitItem, QuantumProgram, SamplexItem
from app.primitives.qasm.load import load_circuit
from app.primitives.runtime.blobs import read_base64, read_blob
from app.primitives.runtime.budget import Budget
from app.primitives.runtime.circuits import ANNOTATIONS, load_circuits
from app.primitives.runtime.document import Node, parse
from app.primitives.runtime.samplexes import read_arguments, read_samplex
from app.primitives.runtime.schemas import SCHEMAS
from app.primitives.runtime.tensors import read_shape, read_tensor

if TYPE_CHECKING:
    from qiskit import QuantumCircuit

    from app.config import ProgramLimits
    from app.primitives.runtime.schemas import Schema

#: Seconds between two shots.
_REP_DELAY_S = 1.0
_LARGEST_SEED = 2**63 - 1
#: Where the client's sampler and estimator leave the seed they are given.
_SEED_PATH = ("post_processor", "options", "simulator", "seed_simulator")


class _Program(msgspec.Struct):
    passthrough_data: msgspec.Raw = msgspec.Raw(b"null")


class _Params(msgspec.Struct):
    quantum_program: _Program


_RAW = msgspec.json.Decoder(_Params)


def decode_quantum_program(params: bytes, limits: ProgramLimits) -> QuantumProgram:
    """The program of an executor.

    Raises:
        InvalidProgram: it is not valid, or above a limit; the message begins with the place.
    """
    budget = Budget(limits)
    document = _members(parse(params, limits), "schema_version", "quantum_program", "options")
    version = document["schema_version"].word(*SCHEMAS)
    schema = SCHEMAS[version]
    options = _options(document["options"])
    program = document["quantum_program"]
    circuits = set() if schema.circuits_apart else {"circuits"}
    fields = _members(program, "shots", "items", *circuits, optional=schema.program_keys)
    if "meas_level" in fields:
        _check_measured(fields["meas_level"])
    role = fields.get("semantic_role", Node(None))
    passthrough = fields.get("passthrough_data", Node(None))
    # It is given back as it came, whatever texts are in it.
    passthrough.plain(types=None, chars=len(params))
    items = _items(fields, budget, schema)
    shots = fields["shots"].integer(1, limits.shots)
    for node, item in zip(fields["items"].elements(), items, strict=True):
        sets = math.prod(item.shape)
        if not sets:
            raise node.refused("shape", f"shape {item.shape} has no elements")
        budget.spend(node, "parameter_sets", sets)
        budget.spend(node, "total_shots", sets * shots)
    return QuantumProgram(
        schema_version=version,
        shots=shots,
        items=tuple(items),
        options=options,
        semantic_role=None if role.value is None else role.text(),
        passthrough_data=bytes(_RAW.decode(params).quantum_program.passthrough_data),
        seed=_seed(passthrough),
    )


def _members(node: Node, *needed: str, optional: frozenset[str] = frozenset()) -> dict[str, Node]:
    fields = node.fields()
    for name in sorted(set(needed) - fields.keys()):
        raise node.refused("missing", f"there is no {name!r}")
    for name in sorted(fields.keys() - set(needed) - optional):
        message = f"not known; {', '.join(sorted({*needed, *optional}))} are"
        raise fields[name].refused("unknown_key", message)
    return fields


def _check_measured(node: Node) -> None:
    level = node.word("classified", "kerneled", "avg_kerneled", "both")
    if level != "classified":
        message = f"{level!r} data comes from hardware; a simulation has 'classified' bits only"
        raise node.refused("meas_level", message)


def _options(node: Node) -> dict[str, Any]:
    """The options as the client's ``ExecutorOptions`` has them."""
    fields = node.fields()
    execution: dict[str, Any] = {}
    experimental: dict[str, Any] = {}
    for name, field in fields.items():
        if name in ("init_qubits", "scheduler_timing", "stretch_values"):
            execution[name] = field.boolean()
        elif name == "rep_delay":
            execution[name] = None if field.value is None else field.number(0.0, _REP_DELAY_S)
        elif name == "experimental":
            experimental = field.plain(types={})
            _check_seed(field.fields().get("seed_simulator", Node(None)))
        else:
            raise field.refused("unknown_option", "there is no such option here")
    return {"execution": execution, "experimental": experimental}


def _seed(passthrough: Node) -> int | None:
    """The seed that the client's sampler or estimator was given."""
    value = passthrough.value
    for name in _SEED_PATH:
        value = value.get(name) if isinstance(value, dict) else None
    return value if type(value) is int and 0 <= value <= _LARGEST_SEED else None


def _check_seed(node: Node) -> None:
    if node.value is not None:
        node.integer(0, _LARGEST_SEED)


def _items(
    fields: dict[str, Node], budget: Budget, schema: Schema
) -> list[CircuitItem | SamplexItem]:
    nodes = fields["items"].elements(budget.limits.pubs)
    if not nodes:
        raise fields["items"].refused("no_items", "there is nothing to run")
    if schema.circuits_apart:
        return [_item(node, None, budget, schema) for node in nodes]
    circuits = _circuits(fields["circuits"], len(nodes), budget, schema)
    return [
        _item(node, circuit, budget, schema) for node, circuit in zip(nodes, circuits, strict=True)
    ]


def _circuits(node: Node, count: int, budget: Budget, schema: Schema) -> list[QuantumCircuit]:
    """The circuits of all items."""
    fields = node.fields()
    if schema.compressed and fields.keys() == {"data"}:
        sources = fields["data"].elements()
        if len(sources) != count:
            message = f"{len(sources)} circuits for {count} items"
            raise node.refused("circuit", message)
        return [_from_qasm(source, budget) for source in sources]
    fields = _members(node, "b64_data", "qpy_version", "num_programs")
    fields["num_programs"].integer(count, count)
    read = read_blob if schema.compressed else read_base64
    content = read(fields["b64_data"], budget, "circuit_bytes")
    nodes = [Node(None, node, place) for place in range(count)]
    _check_version(fields["qpy_version"], content)
    return load_circuits(nodes, content, budget, ANNOTATIONS)


def _circuit_apart(node: Node, budget: Budget) -> QuantumCircuit:
    fields = _members(node, "circuit_b64", "qpy_version")
    content = read_base64(fields["circuit_b64"], budget, "circuit_bytes")
    _check_version(fields["qpy_version"], content)
    (circuit,) = load_circuits([node], content, budget, ANNOTATIONS)
    return circuit


def _check_version(node: Node, content: bytes) -> None:
    if node.integer() != int.from_bytes(content[6:7]):
        raise node.refused("qpy_version", "is not the version in the circuits")


def _from_qasm(node: Node, budget: Budget) -> QuantumCircuit:
    try:
        return load_circuit(node.text(budget.limits.source_bytes), budget.limits)
    except InvalidProgram as exc:
        raise node.refused(str(exc.details["reason"]), str(exc)) from exc


def _item(
    node: Node, circuit: QuantumCircuit | None, budget: Budget, schema: Schema
) -> CircuitItem | SamplexItem:
    fields = node.fields()
    if "item_type" not in fields:
        raise node.refused("missing", "there is no 'item_type'")
    is_samplex = fields["item_type"].word("circuit", "samplex") == "samplex"
    needed = {"samplex", "samplex_arguments", "shape"} if is_samplex else {"circuit_arguments"}
    if circuit is None:
        needed.add("circuit")
    else:
        needed.add("shape")
    fields = _members(node, "item_type", *needed, optional=frozenset(("chunk_size",)))
    if "chunk_size" in fields and fields["chunk_size"].value != "auto":
        fields["chunk_size"].integer(1)
    if circuit is None:
        circuit = _circuit_apart(fields["circuit"], budget)
    if not circuit.cregs:
        message = "the circuit has no classical registers, so it has no result; measure it"
        raise node.refused("no_classical_bits", message)
    if is_samplex:
        return _samplex_item(node, fields, circuit, budget, schema)
    return _circuit_item(node, fields, circuit, budget, schema)


def _circuit_item(
    node: Node,
    fields: dict[str, Node],
    circuit: QuantumCircuit,
    budget: Budget,
    schema: Schema,
) -> CircuitItem:
    values = read_tensor(fields["circuit_arguments"], budget, compressed=schema.compressed)
    wanted = circuit.num_parameters
    if values.dtype != np.float64 or not values.ndim or values.shape[-1] != wanted:
        message = (
            f"a {values.dtype} tensor of shape {values.shape}; the circuit has {wanted} parameters,"
            f" so it must be of type f64 and its last axis of length {wanted}"
        )
        raise fields["circuit_arguments"].refused("circuit_arguments", message)
    asked = read_shape(fields["shape"]) if "shape" in fields else ()
    shape = _broadcast(node, asked, values.shape[:-1])
    return CircuitItem(circuit=circuit, parameter_values=np.broadcast_to(values, (*shape, wanted)))


def _samplex_item(
    node: Node,
    fields: dict[str, Node],
    circuit: QuantumCircuit,
    budget: Budget,
    schema: Schema,
) -> SamplexItem:
    samplex = read_samplex(fields["samplex"], circuit, budget, schema)
    arguments = read_arguments(fields["samplex_arguments"], samplex, budget, schema)
    return SamplexItem(
        circuit=circuit,
        samplex=samplex,
        arguments=arguments,
        shape=_broadcast(node, read_shape(fields["shape"]), arguments.shape),
    )


def _broadcast(node: Node, asked: tuple[int, ...], of: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of an item."""
    try:
        return np.broadcast_shapes(asked, of)
    except ValueError as exc:
        message = f"shape {asked} and arguments of shape {of} cannot be broadcast together"
        raise node.refused("broadcast", message) from exc
