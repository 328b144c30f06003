"""How does QPY become a circuit? Looked at, loaded, and sanitised as every other circuit."""

from __future__ import annotations

import json
import re
import struct
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any

from ibm_quantum_schemas.common.annotation_serializer import AnnotationSerializer
from qiskit import QuantumCircuit, qpy

from app.primitives.qasm.place import Rejected
from app.primitives.runtime.blobs import read_blob
from app.primitives.runtime.document import Node, parse_at
from app.primitives.sanitise import sanitise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from qiskit.circuit.annotation import QPYSerializer

    from app.config import ProgramLimits
    from app.primitives.runtime.budget import Budget

#: The file's header, as every version from 13 on has it: magic, QPY version, version of Qiskit,
#: number of circuits, two bytes that say how the rest is encoded. From version 16 on, a table of
#: where the circuits begin follows. https://quantum.cloud.ibm.com/docs/api/qiskit/qpy
_FILE = struct.Struct("!6sB3xQ2x")
_MAGIC = b"QISKIT"
_TABLE_SINCE = 16
#: A circuit's header: its numbers of qubits and of classical bits are all that is looked at here.
_CIRCUIT = struct.Struct("!2x1x2xII")
#: The first version that is read without Python code that evaluates expressions.
_OLDEST = 13
#: Qiskit looks operations up by name, so no name may be one of Python's own. These are no such
#: names but keys of typed JSON in the metadata of circuits.
_RESERVED = re.compile(rb"__\w+__")
_KEYS = frozenset((b"__type__", b"__value__", b"__module__", b"__class__"))
_MESSAGE_CHARS = 200
#: What Qiskit 2.6 says where it reads such a delay; every version of QPY loses the unit.
_UNIT_LOST = "Unknown unit expr"
#: Namespace of the annotations that boxes of a quantum program may have → what makes their reader.
ANNOTATIONS = {"samplomatic": AnnotationSerializer}


def read_circuit(node: Node, budget: Budget) -> QuantumCircuit:
    """The circuit of a typed value; its user-defined operations are named ``user__…``.

    Raises:
        InvalidProgram: it is no circuit, uses what is not allowed, or is above a limit.
    """
    _, value, _ = node.typed("QuantumCircuit")
    content = read_blob(value, budget, "circuit_bytes")
    (circuit,) = load_circuits([node], content, budget)
    return circuit


def load_circuits(
    nodes: Sequence[Node],
    content: bytes,
    budget: Budget,
    annotations: Mapping[str, Callable[[], QPYSerializer]] | None = None,
) -> list[QuantumCircuit]:
    """The circuits in a QPY file.

    Args:
        nodes: what is blamed, one for each circuit; the first one for the whole file, too.
        content: the file.
        budget: what the circuits may use.
        annotations: namespace of annotations → what makes their reader.

    Raises:
        InvalidProgram: it has another number of circuits, or they use what is not allowed.
    """
    check_qpy(nodes, content, budget.limits)
    circuits = _loaded(nodes[0], content, annotations or {})
    for node, circuit in zip(nodes, circuits, strict=True):
        _sanitise(node, circuit, budget)
        _check_metadata(node, circuit, budget)
    return circuits


def check_qpy(nodes: Sequence[Node], content: bytes, limits: ProgramLimits) -> int:
    """Refuse what costs a lot to load: the reader makes as many bits as a header claims.

    Args:
        nodes: what is blamed, one for each circuit; the first one for the whole file, too.
        content: the file.
        limits: what a circuit may have.

    Returns:
        the version of the file.

    Raises:
        InvalidProgram: it has another number of circuits, one is too large, or it names something
            of Python's own.
    """
    version, starts = _starts(nodes, content)
    for node, start in zip(nodes, starts, strict=True):
        try:
            qubits, clbits = _CIRCUIT.unpack_from(content[start : start + _CIRCUIT.size])
        except struct.error as exc:
            raise node.refused("circuit", "not a circuit in QPY") from exc
        if qubits > limits.qubits:
            raise node.refused("too_many_qubits", f"{qubits} qubits; {limits.qubits} are allowed")
        if clbits > limits.clbits:
            message = f"{clbits} classical bits; {limits.clbits} are allowed"
            raise node.refused("too_many_bits", message)
    if any(name not in _KEYS for name in _RESERVED.findall(content)):
        message = "names that begin and end with two underscores are not allowed"
        raise nodes[0].refused("reserved_name", message)
    return version


def _starts(nodes: Sequence[Node], content: bytes) -> tuple[int, Sequence[int]]:
    """Version of a file, and where its circuits begin."""
    file = nodes[0]
    try:
        magic, version, circuits = _FILE.unpack_from(content)
    except struct.error as exc:
        raise file.refused("circuit", "not a circuit in QPY") from exc
    if magic != _MAGIC:
        raise file.refused("circuit", "not a circuit in QPY")
    if not _OLDEST <= version <= qpy.common.QPY_VERSION:
        message = f"QPY version {version}; {_OLDEST} to {qpy.common.QPY_VERSION} are read here"
        raise file.refused("qpy_version", message)
    if circuits != len(nodes):
        wanted = "one is" if len(nodes) == 1 else f"{len(nodes)} are"
        raise file.refused("circuit", f"{circuits} circuits where {wanted} expected")
    if version < _TABLE_SINCE:
        if circuits > 1:
            message = f"several circuits in one file are read from QPY version {_TABLE_SINCE} on"
            raise file.refused("qpy_version", message)
        return version, (_FILE.size,)
    try:
        return version, struct.unpack_from(f"!{circuits}Q", content, _FILE.size)
    except struct.error as exc:
        raise file.refused("circuit", "not a circuit in QPY") from exc


def _loaded(
    node: Node, content: bytes, annotations: Mapping[str, Callable[[], QPYSerializer]]
) -> list[QuantumCircuit]:
    with _readable(node):
        circuits: list[QuantumCircuit] = qpy.load(
            BytesIO(content), annotation_factories=annotations
        )
    return circuits


def _sanitise(node: Node, circuit: QuantumCircuit, budget: Budget) -> None:
    # A definition may be made when it is first looked at.
    with _readable(node):
        sanitise(circuit, budget.limits)


@contextmanager
def _readable(node: Node) -> Iterator[None]:
    """Blame ``node`` for whatever goes wrong inside."""
    try:
        yield
    except Rejected as exc:
        raise node.refused(exc.reason, exc.message) from exc
    except RecursionError as exc:
        raise node.refused("too_deep", "the circuit is nested too deeply to be read") from exc
    except (MemoryError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as exc:  # Rust panics are no Exception
        # Errors of the reader go on with a backtrace in colours, quoted.
        why = re.split(r"\n|\\n", str(exc), maxsplit=1)[0].strip("\"': ")[:_MESSAGE_CHARS]
        message = f"Qiskit cannot read this circuit: {type(exc).__name__}: {why}"
        if _UNIT_LOST in why:
            message = (
                "a delay whose length is a parameter has lost its unit: Qiskit does not write it; "
                "assign the parameter before the circuit is submitted"
            )
        raise node.refused("circuit", message) from exc


def _check_metadata(node: Node, circuit: QuantumCircuit, budget: Budget) -> None:
    """The result gives it back as it came: it must be JSON that can be written."""
    top = Node(None, node, "metadata")
    encoded = json.dumps(circuit.metadata).encode()
    if len(encoded) > budget.limits.metadata_bytes:
        most = budget.limits.metadata_bytes
        raise top.refused("too_long", f"{len(encoded)} bytes; {most} are allowed")
    metadata: Any = parse_at(top, encoded, budget.limits)
    Node(metadata, node, "metadata").plain(types=None)
