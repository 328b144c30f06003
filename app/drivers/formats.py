"""How does a payload become the params of a job? OpenQASM 3 as it is; AQO JSON and QPY translated.

AQO JSON: ``{"version": "1.0", "qubits": 2, "clbits": 2, "parameters": {"theta": 0.5},
"operations": [{"gate": "RX", "qubits": [0], "angle": "theta/2"}, {"gate": "CX", "qubits": [0, 1]},
{"gate": "MEASURE", "qubits": [0], "clbits": [0]}]}``. Angles are radians: numbers, or expressions
of numbers, ``pi``, parameters, ``+ - * /`` and parentheses.
"""

from __future__ import annotations

import ast
import base64
import math
import operator
import zlib
from typing import TYPE_CHECKING, Any

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.drivers.proto import driver_manager_pb2 as pb
from app.errors import BodyTooLarge, FormatNotSupported, InvalidRequest, VersionMismatch
from app.primitives.params import QasmParams, encode_qasm_params
from app.primitives.programs import QASM3, SAMPLER

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: The only version of AQO JSON that is read.
AQO_VERSION = "1.0"
MOST_QUBITS = 1024
MOST_OPERATIONS = 200_000
ANGLE_CHARS = 256
#: The largest angle: beyond it nothing of a double is left of an angle.
LARGEST_ANGLE = 1e9
_ROTATIONS = {"RX": "rx", "RY": "ry", "RZ": "rz"}
_PAIR = 2


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class AqoOperation(_Part):
    """One operation."""

    gate: str = Field(min_length=1, max_length=32)
    qubits: list[int] = Field(min_length=1, max_length=2)
    clbits: list[int] = Field(default=[], max_length=1)
    angle: float | str | None = None


class AqoDocument(_Part):
    """A circuit."""

    version: str = Field(min_length=1, max_length=16)
    qubits: int = Field(ge=1, le=MOST_QUBITS)
    clbits: int = Field(default=0, ge=0, le=MOST_QUBITS)
    parameters: dict[str, float] = Field(default={}, max_length=1024)
    operations: list[AqoOperation] = Field(max_length=MOST_OPERATIONS)
    metadata: dict[str, Any] = {}


def invalid(field: str, message: str) -> InvalidRequest:
    """A fault of the request; ``field`` is its path."""
    return InvalidRequest(f"{field}: {message}", faults=[{"field": field, "message": message}])


def encode_payload(
    payload: pb.CircuitPayload,
    *,
    shots: int,
    seed: int | None,
    parameters: Mapping[str, float],
    most_bytes: int,
) -> tuple[str, bytes]:
    """Program id and params of the job that runs a payload.

    Raises:
        InvalidRequest: it is not valid; ``faults`` names the fields.
        FormatNotSupported: its format is not read.
        VersionMismatch: it is of a version that is not read.
        BodyTooLarge: it is too large.
    """
    if len(payload.data) > most_bytes:
        message = f"payload.data has {len(payload.data)} bytes, at most {most_bytes} are allowed"
        raise BodyTooLarge(message, sent=len(payload.data), allowed=most_bytes)
    if not payload.data:
        raise invalid("payload.data", "it is empty; send a circuit")
    match payload.format:
        case pb.QASM3_TEXT:
            source = _text(payload.data)
        case pb.AQO_JSON:
            source = qasm3_of(payload.data, parameters)
        case pb.BACKEND_NATIVE:
            return SAMPLER, _sampler_params(payload.data, shots=shots, seed=seed)
        case pb.CIRCUIT_FORMAT_UNSPECIFIED:
            raise invalid("payload.format", "name a format: QASM3_TEXT, AQO_JSON, BACKEND_NATIVE")
        case _:
            message = (
                f"circuits of format {payload.format} are not read;"
                " QASM3_TEXT, AQO_JSON and BACKEND_NATIVE (QPY) are"
            )
            raise FormatNotSupported(message)
    return QASM3, encode_qasm_params(QasmParams(source=source, shots=shots, seed=seed))


def qasm3_of(data: bytes, parameters: Mapping[str, float]) -> str:
    """The OpenQASM 3 source of an AQO JSON document.

    Args:
        data: the document.
        parameters: values that go before those in the document.

    Raises:
        InvalidRequest: it is not valid; ``faults`` names the fields.
        VersionMismatch: it is of another version.
    """
    try:
        raw = orjson.loads(data)
    except orjson.JSONDecodeError as exc:
        raise invalid("payload.data", f"this is no JSON: {exc}") from exc
    if not isinstance(raw, dict):
        raise invalid("payload.data", "an object is expected")
    version = raw.get("version")
    if version is None:
        raise invalid("payload.data.version", f"it is missing; send {AQO_VERSION!r}")
    if version != AQO_VERSION:
        message = f"AQO JSON of version {str(version)[:32]!r} is not read; send {AQO_VERSION!r}"
        raise VersionMismatch(message, sent=str(version)[:32], allowed=AQO_VERSION)
    try:
        document = AqoDocument.model_validate(raw)
    except ValidationError as exc:
        faults = [
            {"field": _path(fault["loc"]), "message": fault["msg"]}
            for fault in exc.errors(include_url=False, include_input=False)[:8]
        ]
        message = "; ".join(f"{fault['field']}: {fault['message']}" for fault in faults)
        raise InvalidRequest(message, faults=faults) from exc
    values = {**document.parameters, **parameters, "pi": math.pi}
    lines = ["OPENQASM 3.0;", 'include "stdgates.inc";', f"qubit[{document.qubits}] q;"]
    if document.clbits:
        lines.append(f"bit[{document.clbits}] c;")
    for index, operation in enumerate(document.operations):
        place = f"payload.data.operations[{index}]"
        lines.append(_statement(operation, document, values, place))
    return "\n".join(lines) + "\n"


def _statement(
    operation: AqoOperation, document: AqoDocument, values: Mapping[str, float], place: str
) -> str:
    gate = operation.gate.upper()
    wanted = _PAIR if gate == "CX" else 1
    if gate not in (*_ROTATIONS, "CX", "MEASURE"):
        message = f"there is no gate {operation.gate!r}; RX, RY, RZ, CX and MEASURE are known"
        raise invalid(f"{place}.gate", message)
    if len(operation.qubits) != wanted or len(set(operation.qubits)) != wanted:
        raise invalid(f"{place}.qubits", f"{gate} acts on {wanted} different qubits")
    for qubit in operation.qubits:
        if not 0 <= qubit < document.qubits:
            message = f"there is no qubit {qubit}; they are 0 to {document.qubits - 1}"
            raise invalid(f"{place}.qubits", message)
    if (gate in _ROTATIONS) != (operation.angle is not None):
        says = "needs an angle" if gate in _ROTATIONS else "has no angle"
        raise invalid(f"{place}.angle", f"{gate} {says}")
    if (gate == "MEASURE") != bool(operation.clbits):
        says = "needs one clbit" if gate == "MEASURE" else "has no clbits"
        raise invalid(f"{place}.clbits", f"{gate} {says}")
    if gate == "MEASURE":
        (clbit,) = operation.clbits
        if not 0 <= clbit < document.clbits:
            message = f"there is no clbit {clbit}; the circuit has {document.clbits}"
            raise invalid(f"{place}.clbits", message)
        return f"c[{clbit}] = measure q[{operation.qubits[0]}];"
    if gate == "CX":
        control, controlled = operation.qubits
        return f"cx q[{control}], q[{controlled}];"
    angle = angle_of(operation.angle, values, f"{place}.angle")
    return f"{_ROTATIONS[gate]}({angle!r}) q[{operation.qubits[0]}];"


_OPERATORS: dict[type[ast.AST], Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}


def angle_of(angle: float | str | None, values: Mapping[str, float], place: str) -> float:
    """The value of an angle, radians.

    Raises:
        InvalidRequest: it is no expression, a parameter has no value, or it is not finite.
    """
    if isinstance(angle, str):
        if len(angle) > ANGLE_CHARS:
            raise invalid(place, f"{len(angle)} characters; at most {ANGLE_CHARS} are allowed")
        try:
            value = _value(ast.parse(angle.strip(), mode="eval").body, values, place)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as exc:
            raise invalid(place, f"{angle[:64]!r} is no expression") from exc
        except (ZeroDivisionError, OverflowError) as exc:
            raise invalid(place, f"{angle[:64]!r} has no value: {exc}") from exc
    else:
        value = float(angle or 0.0)
    if not math.isfinite(value) or abs(value) > LARGEST_ANGLE:
        raise invalid(place, f"the angle must be finite, at most {LARGEST_ANGLE:g}")
    return value


def _value(node: ast.expr, values: Mapping[str, float], place: str) -> float:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return float(number)
        case ast.Name(id=name):
            if name not in values:
                message = f"parameter {name[:64]!r} has no value; send it in `parameters`"
                raise invalid(place, message)
            return values[name]
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_value(operand, values, place))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_value(left, values, place), _value(right, values, place))
    raise invalid(place, "only numbers, pi, parameters, + - * / and parentheses are allowed")


def _sampler_params(qpy: bytes, *, shots: int, seed: int | None) -> bytes:
    """A sampler of one circuit; QPY is read in the sandbox, and nowhere else."""
    circuit = {
        "__type__": "QuantumCircuit",
        "__value__": base64.b64encode(zlib.compress(qpy, 1)).decode(),
    }
    options = {} if seed is None else {"simulator": {"seed_simulator": seed}}
    return orjson.dumps(
        {"pubs": [[circuit, [], shots]], "options": options, "version": 2, "support_qiskit": True}
    )


def decode_sampler_counts(result: bytes) -> dict[str, int]:
    """The counts in the result of a sampler of one pub without parameters, over all registers."""
    from io import BytesIO  # noqa: PLC0415 - with NumPy, which only QPY needs

    import numpy as np  # noqa: PLC0415 - as above

    document = orjson.loads(result)
    data = document["__value__"]["pub_results"][0]["__value__"]["data"]["__value__"]
    columns = []
    for name in reversed(data["field_names"]):
        bits = data["fields"][name]["__value__"]
        packed = zlib.decompress(base64.b64decode(bits["array"]["__value__"]))
        array = np.load(BytesIO(packed), allow_pickle=False)
        unpacked = np.unpackbits(array, axis=-1)[..., -bits["num_bits"] :]
        columns.append(["".join(map(str, row)) for row in unpacked.tolist()])
    counts: dict[str, int] = {}
    for parts in zip(*columns, strict=True):
        bitstring = " ".join(parts)
        counts[bitstring] = counts.get(bitstring, 0) + 1
    return counts


def _text(data: bytes) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError as exc:
        raise invalid("payload.data", f"this is no UTF-8: byte {exc.start} is not valid") from exc
    if "\x00" in text:
        raise invalid("payload.data", "text must not hold a NUL character")
    if not text.strip():
        raise invalid("payload.data", "it is blank; send OpenQASM 3 source")
    return text


def _path(location: tuple[int | str, ...]) -> str:
    path = "payload.data"
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path
