"""How does QPY become a circuit? Looked at, loaded, and sanitised as every other circuit."""

from __future__ import annotations

import json
import re
from io import BytesIO
from typing import TYPE_CHECKING, Any

from qiskit import QuantumCircuit, qpy

from app.primitives.qasm.place import Rejected
from app.primitives.runtime.blobs import read_blob
from app.primitives.runtime.document import Node, parse_at
from app.primitives.sanitise import sanitise

if TYPE_CHECKING:
    from app.primitives.runtime.budget import Budget

_MAGIC = b"QISKIT"
#: Up to here: magic, QPY version, three bytes of Qiskit's version, number of circuits.
_HEADER_BYTES = 18
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
    _check_header(node, content)
    if any(name not in _KEYS for name in _RESERVED.findall(content)):
        message = "names that begin and end with two underscores are not allowed"
        raise node.refused("reserved_name", message)
    circuit = _loaded(node, content, budget)
    _check_metadata(node, circuit, budget)
    return circuit


def _check_header(node: Node, content: bytes) -> None:
    if len(content) < _HEADER_BYTES or not content.startswith(_MAGIC):
        raise node.refused("circuit", "not a circuit in QPY")
    version = content[len(_MAGIC)]
    if not _OLDEST <= version <= qpy.common.QPY_VERSION:
        message = f"QPY version {version}; {_OLDEST} to {qpy.common.QPY_VERSION} are read here"
        raise node.refused("qpy_version", message)
    circuits = int.from_bytes(content[10:_HEADER_BYTES], "big")
    if circuits != 1:
        raise node.refused("circuit", f"{circuits} circuits where one is expected")


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
        why = next(iter(str(exc).strip("\"' \n").splitlines()), "")
        message = f"Qiskit cannot read this circuit: {type(exc).__name__}: {why[:_MESSAGE_CHARS]}"
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
