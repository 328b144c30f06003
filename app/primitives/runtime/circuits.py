"""How does QPY become a circuit? Looked at, loaded, and sanitised as every other circuit."""

from __future__ import annotations

import json
import re
import struct
from io import BytesIO
from typing import TYPE_CHECKING, Any

from qiskit import QuantumCircuit, qpy

from app.primitives.qasm.place import Rejected
from app.primitives.runtime.blobs import read_blob
from app.primitives.runtime.document import Node, parse_at
from app.primitives.sanitise import sanitise

if TYPE_CHECKING:
    from app.config import ProgramLimits
    from app.primitives.runtime.budget import Budget

#: The file's header, as every version from 13 on has it: magic, QPY version, version of Qiskit,
#: number of circuits, two bytes that say how the rest is encoded. From version 16 on, a table of
#: where the circuits begin follows. https://quantum.cloud.ibm.com/docs/api/qiskit/qpy
_FILE = struct.Struct("!6sB3xQ2x")
_MAGIC = b"QISKIT"
_TABLE_SINCE = 16
_TABLE_ENTRY = struct.Struct("!Q")
#: A circuit's header: its numbers of qubits and of classical bits are all that is looked at here.
_CIRCUIT = struct.Struct("!2x1x2xII")
#: The first version that is read without Python code that evaluates expressions.
_OLDEST = 13
#: Qiskit looks operations up by name, so no name may be one of Python's own. These are no such
#: names but keys of typed JSON in the metadata of circuits.
_RESERVED = re.compile(rb"__\w+__")
_KEYS = frozenset((b"__type__", b"__value__", b"__module__", b"__class__"))
_MESSAGE_CHARS = 200


def read_circuit(node: Node, budget: Budget) -> QuantumCircuit:
    """The circuit of a typed value; its user-defined operations are named ``user__…``.

    Raises:
        InvalidProgram: it is no circuit, uses what is not allowed, or is above a limit.
    """
    _, value, _ = node.typed("QuantumCircuit")
    content = read_blob(value, budget, "circuit_bytes")
    _check_header(node, content, budget.limits)
    if any(name not in _KEYS for name in _RESERVED.findall(content)):
        message = "names that begin and end with two underscores are not allowed"
        raise node.refused("reserved_name", message)
    circuit = _loaded(node, content, budget)
    _check_metadata(node, circuit, budget)
    return circuit


def _check_header(node: Node, content: bytes, limits: ProgramLimits) -> None:
    """Refuse what costs a lot to load: the reader makes as many bits as a header claims."""
    try:
        magic, version, circuits = _FILE.unpack_from(content)
        start = _FILE.size
        if version >= _TABLE_SINCE:
            (start,) = _TABLE_ENTRY.unpack_from(content, start)
        qubits, clbits = _CIRCUIT.unpack_from(content[start:])
    except struct.error as exc:
        raise node.refused("circuit", "not a circuit in QPY") from exc
    if magic != _MAGIC:
        raise node.refused("circuit", "not a circuit in QPY")
    if not _OLDEST <= version <= qpy.common.QPY_VERSION:
        message = f"QPY version {version}; {_OLDEST} to {qpy.common.QPY_VERSION} are read here"
        raise node.refused("qpy_version", message)
    if circuits != 1:
        raise node.refused("circuit", f"{circuits} circuits where one is expected")
    if qubits > limits.qubits:
        raise node.refused("too_many_qubits", f"{qubits} qubits; {limits.qubits} are allowed")
    if clbits > limits.clbits:
        raise node.refused("too_many_bits", f"{clbits} classical bits; {limits.clbits} are allowed")


def _loaded(node: Node, content: bytes, budget: Budget) -> QuantumCircuit:
    try:
        (circuit,) = qpy.load(BytesIO(content))
        return sanitise(circuit, budget.limits)
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
