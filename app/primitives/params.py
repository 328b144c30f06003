"""How is an OpenQASM task encoded between gateway and sandbox? One JSON document."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import orjson

from app.errors import InvalidProgram


@dataclass(frozen=True, kw_only=True)
class QasmParams:
    """An OpenQASM task that nobody has read yet."""

    source: str
    shots: int
    seed: int | None


def encode_qasm_params(params: QasmParams) -> bytes:
    """The params of a job with ``program_id`` ``qasm3``."""
    return orjson.dumps(asdict(params))


def decode_qasm_params(params: bytes) -> QasmParams:
    """The task in params.

    Raises:
        InvalidProgram: they are no task.
    """
    try:
        document = orjson.loads(params)
        source, shots, seed = (document[name] for name in ("source", "shots", "seed"))
    except (orjson.JSONDecodeError, KeyError, TypeError) as exc:
        raise InvalidProgram("params", "the params are no OpenQASM task") from exc
    if not (isinstance(source, str) and type(shots) is int and (seed is None or type(seed) is int)):
        raise InvalidProgram("params", "source must be text; shots and seed must be integers")
    return QasmParams(source=source, shots=shots, seed=seed)
