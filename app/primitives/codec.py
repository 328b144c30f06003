"""How do params become a program, and a result bytes? Runs in the sandbox only."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import orjson

from app.errors import InvalidProgram
from app.primitives.params import decode_qasm_params
from app.primitives.programs import (
    CALIBRATE,
    ESTIMATOR,
    EXECUTOR,
    NOISE_LEARNER,
    QASM3,
    QASM3_CHECK,
    SAMPLER,
    BoxesResult,
    CalibrationResult,
    CountsResult,
    LayersResult,
    PrimitiveResult,
    QasmProgram,
    QuantumResult,
)
from app.primitives.qasm.load import load_circuit
from app.primitives.runtime.calibration import decode_calibration, encode_calibration
from app.primitives.runtime.noise_learning import (
    decode_noise_learner,
    encode_boxes_result,
    encode_layers_result,
)
from app.primitives.runtime.pubs import decode_estimator, decode_sampler
from app.primitives.runtime.quantum_programs import decode_quantum_program
from app.primitives.runtime.quantum_results import encode_quantum_result
from app.primitives.runtime.results import encode_primitive_result

if TYPE_CHECKING:
    from qiskit import QuantumCircuit

    from app.config import ProgramLimits
    from app.primitives.programs import Program, Result


#: Programs up to this size are remembered, so many of them. A child serves one owner, so nobody
#: meets another's; reading a Bell circuit costs four times what running it does.
REMEMBERED_CHARS = 16 * 1024
REMEMBERED = 32


def decode_program(program_id: str, params: bytes, limits: ProgramLimits) -> Program:
    """The program in params, validated and sanitised.

    Raises:
        InvalidProgram: it is not valid, or above a limit; the failure says where.
    """
    if program_id in (QASM3, QASM3_CHECK):
        return _decode_task(params, limits)
    if program_id == SAMPLER:
        return decode_sampler(params, limits)
    if program_id == ESTIMATOR:
        return decode_estimator(params, limits)
    if program_id == EXECUTOR:
        return decode_quantum_program(params, limits)
    if program_id == NOISE_LEARNER:
        return decode_noise_learner(params, limits)
    if program_id == CALIBRATE:
        return decode_calibration(params, limits)
    raise InvalidProgram("program_id", f"there is no program {program_id[:64]!r}")


def _decode_task(params: bytes, limits: ProgramLimits) -> QasmProgram:
    task = decode_qasm_params(params)
    if not 1 <= task.shots <= limits.shots:
        message = f"{task.shots} shots; 1 to {limits.shots} are allowed"
        raise InvalidProgram("shots", message)
    load = _remembered if len(task.source) <= REMEMBERED_CHARS else load_circuit
    circuit = load(task.source, limits)
    return QasmProgram(circuit=circuit, shots=task.shots, seed=task.seed)


@lru_cache(maxsize=REMEMBERED)
def _remembered(source: str, limits: ProgramLimits) -> QuantumCircuit:
    """The circuit of a small program; executors never change a circuit."""
    return load_circuit(source, limits)


def encode_result(result: Result) -> bytes:
    """The stored form of a result.

    Of an OpenQASM task ``{"counts": {bitstring: occurrences}, "metadata": {…}}``, of a primitive
    the typed JSON that the client's decoder reads.
    """
    match result:
        case CountsResult():
            return orjson.dumps({"counts": result.counts, "metadata": result.metadata})
        case PrimitiveResult():
            return encode_primitive_result(result)
        case QuantumResult():
            return encode_quantum_result(result)
        case LayersResult():
            return encode_layers_result(result)
        case BoxesResult():
            return encode_boxes_result(result)
        case CalibrationResult():
            return encode_calibration(result)
