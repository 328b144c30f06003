"""Params of primitives as the client writes them, and as it never would."""

from __future__ import annotations

import base64
import io
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from qiskit import QuantumCircuit, qpy
from qiskit_ibm_runtime import RuntimeEncoder

from app.config import ProgramLimits
from app.primitives.codec import decode_program
from app.primitives.programs import EstimatorProgram, SamplerProgram

CORPUS = Path(__file__).parent.parent / "corpora/runtime"
LIMITS = ProgramLimits()


def bell(*, measured: bool = True) -> QuantumCircuit:
    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.cx(0, 1)
    if measured:
        circuit.measure_all()
    return circuit


def blob(content: bytes) -> str:
    return base64.b64encode(zlib.compress(content)).decode()


def typed(name: str, value: Any) -> dict[str, Any]:
    return {"__type__": name, "__value__": value}


def qpy_bytes(*circuits: QuantumCircuit, version: int = 17) -> bytes:
    file = io.BytesIO()
    qpy.dump(list(circuits), file, metadata_serializer=RuntimeEncoder, version=version)
    return file.getvalue()


def qpy_value(*circuits: QuantumCircuit, version: int = 17) -> dict[str, Any]:
    return typed("QuantumCircuit", blob(qpy_bytes(*circuits, version=version)))


def npy_bytes(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(array))
    return file.getvalue()


def npy_value(array: Any) -> dict[str, Any]:
    return typed("ndarray", blob(npy_bytes(array)))


def npy_claiming(header: str, payload: bytes = b"") -> dict[str, Any]:
    """An array in NumPy's format 1.0 with any header."""
    length = len(header).to_bytes(2, "little")
    return typed("ndarray", blob(b"\x93NUMPY\x01\x00" + length + header.encode() + payload))


def sampler_document(*pubs: Any, **options: Any) -> dict[str, Any]:
    return {"pubs": list(pubs), "options": options, "version": 2, "support_qiskit": True}


def encoded(document: Any) -> bytes:
    """As the client encodes it."""
    return json.dumps(document, cls=RuntimeEncoder).encode()


def sampler(
    *pubs: Any, limits: ProgramLimits = LIMITS, options: dict[str, Any] | None = None
) -> SamplerProgram:
    """The program of pubs, each a circuit, parameter values and shots."""
    params = encoded(sampler_document(*pubs, **(options or {})))
    program = decode_program("sampler", params, limits)
    assert isinstance(program, SamplerProgram)
    return program


def sampled(circuit: QuantumCircuit, limits: ProgramLimits = LIMITS) -> QuantumCircuit:
    """A circuit as it comes out of a sampler's pub."""
    values = np.zeros(circuit.num_parameters)
    return sampler([circuit, values, 1], limits=limits).pubs[0].circuit


def estimator(
    *pubs: Any,
    limits: ProgramLimits = LIMITS,
    level: int | None = None,
    options: dict[str, Any] | None = None,
) -> EstimatorProgram:
    """The program of pubs, each a circuit, observables, parameter values and precision."""
    document = sampler_document(*pubs, **(options or {}))
    if level is not None:
        document["resilience_level"] = level
    program = decode_program("estimator", encoded(document), limits)
    assert isinstance(program, EstimatorProgram)
    return program
