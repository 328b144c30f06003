"""How does a job become circuits for a device, and counts a result? Runs in the sandbox only.

Drivers never see what a caller sent: it is read by the same front end as every other job's, and
written again.
"""

from __future__ import annotations

import sys
import traceback
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from qiskit import ClassicalRegister, QuantumCircuit, QuantumRegister, qasm3

from app.drivers.estimates import PubCircuits, estimated
from app.drivers.words import READ, RUN
from app.errors import (
    ExecutionError,
    InvalidProgram,
    MemoryLimitReached,
    ProgramTooLarge,
    ServiceError,
)
from app.executors.admission import ENTRY_BYTES, require_encoded, require_result
from app.executors.options import Options
from app.jobs.job import Failure
from app.primitives.codec import decode_program, encode_result
from app.primitives.programs import (
    ESTIMATOR,
    EstimatorProgram,
    ExecutionSpan,
    PrimitiveResult,
    QasmProgram,
    RegisterSamples,
    SamplerProgram,
    SamplerPubResult,
)
from app.sandbox import perform as sandboxed
from app.sandbox.protocol import Reply

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy.typing as npt

    from app.primitives.programs import EstimatorPubResult, SamplerPub
    from app.sandbox.protocol import Request

#: Circuits of one job.
MOST_CIRCUITS = 1000
#: How much larger than a result the counts may be that it is made of: they are text.
COUNTS_TO_RESULT = 8
#: Options that have an effect: pubs have their shots from some, the driver is given the seed.
HONOURED = frozenset(
    (
        "default_shots",
        "default_precision",
        "execution.meas_type",
        "seed_estimator",
        "simulator.seed_simulator",
    )
)

prepare = sandboxed.prepare


def perform(request: Request) -> Reply:
    """Read a job's program, write its result, or run it on an executor; never raises."""
    word, colon, program_id = request.program_id.partition(":")
    inner = replace(request, program_id=program_id)
    if word + colon == RUN:
        return sandboxed.perform(inner)
    try:
        result = _read(inner) if word + colon == READ else _write(program_id, inner.params)
    except ServiceError as exc:
        return _failed(exc)
    except MemoryError:
        allowed = request.resources.memory_bytes
        message = f"reading the program needed more than {allowed / 2**20:.0f} MiB of memory"
        return _failed(MemoryLimitReached(message, allowed_bytes=allowed))
    except BaseException as exc:  # noqa: BLE001 - the border of the process; Rust panics are BaseException
        traceback.print_exc(file=sys.stderr)
        message = "the program could not be translated for the device: an internal error"
        return _failed(ExecutionError(message, error=type(exc).__name__))
    return Reply(result=result, failure=None)


def _failed(error: ServiceError) -> Reply:
    failure = Failure(code=error.code, message=str(error), details=error.details)
    return Reply(result=None, failure=failure)


def _read(request: Request) -> bytes:
    program = decode_program(request.program_id, request.params, request.limits)
    document: dict[str, Any] = {"circuits": [], "seed": getattr(program, "seed", None)}
    match program:
        case QasmProgram():
            runs: Iterator[tuple[QuantumCircuit, int]] = iter(((program.circuit, program.shots),))
            widths = document["widths"] = _widths(program.circuit)
            require_result(
                shots=program.shots,
                written=sum(widths),
                width=sum(widths) + len(widths) - 1,
                resources=request.resources,
            )
        case SamplerProgram():
            runs = _sampled(program.pubs)
            require_encoded(
                sum(map(_sampled_bytes, program.pubs)), request.resources, what="the samples"
            )
            document["pubs"] = [_layout(pub) for pub in program.pubs]
            document["without_effect"] = _without_effect(program.options)
        case EstimatorProgram():
            gates = tuple(request.target.split())
            measured = [PubCircuits(pub, gates) for pub in program.pubs]
            runs = (
                (circuit, pub.shots)
                for pub, circuits in zip(program.pubs, measured, strict=True)
                for circuit in circuits
            )
            document["pubs"] = [circuits.layout for circuits in measured]
            document["without_effect"] = _without_effect(
                {**program.options, "resilience_level": program.resilience_level}
            )
        case _:
            message = (
                "a driver's device runs OpenQASM tasks, samplers and estimators;"
                " run this program on a simulator or a recorded device"
            )
            raise ExecutionError(message)
    document["circuits"] = _written(runs, request.resources.max_result_bytes)
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def _written(
    runs: Iterator[tuple[QuantumCircuit, int]], max_result_bytes: int
) -> list[dict[str, Any]]:
    """Circuits as the driver gets them.

    Raises:
        InvalidProgram: there are too many, or one measures nothing.
        ProgramTooLarge: they, or their counts, would not fit into the manager's memory.
    """
    circuits: list[dict[str, Any]] = []
    written, counted = 0, 0
    for circuit, shots in runs:
        if len(circuits) == MOST_CIRCUITS:
            message = (
                f"a driver's device takes at most {MOST_CIRCUITS} circuits in a job: one for each"
                " parameter set, and for each basis that observables are measured in"
            )
            raise InvalidProgram("circuits", message)
        text = _text(_measured(circuit))
        written += len(text)
        counted += min(shots, 2**circuit.num_clbits) * (circuit.num_clbits + ENTRY_BYTES)
        _require_room(written, max_result_bytes // 2, "circuits")
        _require_room(counted, max_result_bytes * COUNTS_TO_RESULT, "counts")
        circuits.append(
            {
                "qasm3": text,
                "num_qubits": circuit.num_qubits,
                "num_clbits": circuit.num_clbits,
                "shots": shots,
            }
        )
    return circuits


def _require_room(needed: int, allowed: int, what: str) -> None:
    if needed > allowed:
        message = (
            f"all {what} of the job together may have more than the {allowed} bytes that are"
            " allowed; submit the pubs one by one, or use fewer shots or parameter sets"
        )
        raise ProgramTooLarge(message, needed_bytes=needed, allowed_bytes=allowed)


def _sampled_bytes(pub: SamplerPub) -> int:
    each: int = sum((register.size + 7) // 8 for register in pub.circuit.cregs)
    return int(np.prod(pub.shape, dtype=int)) * pub.shots * each


def _sampled(pubs: Sequence[SamplerPub]) -> Iterator[tuple[QuantumCircuit, int]]:
    for pub in pubs:
        sets = int(np.prod(pub.shape, dtype=int))
        for values in pub.parameter_values.reshape(sets, pub.circuit.num_parameters):
            yield pub.circuit.assign_parameters(values.tolist(), inplace=False), pub.shots


def _without_effect(options: Mapping[str, object]) -> dict[str, str]:
    """Options that were set in vain, and the reason: the driver is given a seed, and no more."""
    return {
        path: "a driver's device runs circuits as they are"
        for path, value in Options(options).items()
        if path not in HONOURED and value is not None and value is not False and value != 0
    }


def _measured(circuit: QuantumCircuit) -> QuantumCircuit:
    if not circuit.num_clbits:
        message = "the circuit has no classical bits, so it has no result; measure it"
        raise InvalidProgram("no_classical_bits", message)
    return circuit


def _text(circuit: QuantumCircuit) -> str:
    """OpenQASM 3 whose classical bits are declared in the order of ``circuit.clbits``."""
    plain = circuit.copy()
    # With a layout, qubits would be written as those of the hardware it was compiled for.
    plain._layout = None  # noqa: SLF001 - there is no public way to drop it
    plain.metadata = {}
    if [bit for register in circuit.cregs for bit in register] != list(circuit.clbits):
        flat = QuantumCircuit(
            QuantumRegister(circuit.num_qubits, "q"), ClassicalRegister(circuit.num_clbits, "c")
        )
        plain = flat.compose(plain, range(circuit.num_qubits), range(circuit.num_clbits))
    try:
        return str(qasm3.dumps(plain))
    except qasm3.QASM3ExporterError as exc:
        raise ExecutionError(f"the circuit cannot be written as OpenQASM 3: {exc}") from exc


def _widths(circuit: QuantumCircuit) -> list[int]:
    """Bits of the parts of a bitstring, leftmost first: registers, if these are the clbits."""
    if [bit for register in circuit.cregs for bit in register] != list(circuit.clbits):
        return [circuit.num_clbits]
    return [register.size for register in reversed(circuit.cregs)]


def _layout(pub: SamplerPub) -> dict[str, Any]:
    where = {bit: index for index, bit in enumerate(pub.circuit.clbits)}
    return {
        "shape": list(pub.shape),
        "registers": [[r.name, [where[bit] for bit in r]] for r in pub.circuit.cregs],
        "metadata": pub.circuit.metadata or {},
    }


def _write(program_id: str, params: bytes) -> bytes:
    """The result of a sampler or an estimator.

    Args:
        program_id: which.
        params: JSON: ``pubs`` as ``_read`` gave them, ``counts`` of every circuit in order,
            ``seed``, ``metadata``, and ``started`` and ``finished`` in seconds since 1970.
    """
    document = orjson.loads(params)
    rng = np.random.default_rng(document["seed"])
    counts = iter(document["counts"])
    pubs: tuple[SamplerPubResult | EstimatorPubResult, ...]
    if program_id == ESTIMATOR:
        pubs = tuple(estimated(pub, counts, rng) for pub in document["pubs"])
    else:
        span = ExecutionSpan(
            started=datetime.fromtimestamp(document["started"], UTC),
            finished=datetime.fromtimestamp(document["finished"], UTC),
        )
        pubs = tuple(_pub_result(pub, counts, span, rng) for pub in document["pubs"])
    result = PrimitiveResult(
        pub_results=pubs, result_metadata={"version": 2}, metadata=document["metadata"]
    )
    return encode_result(result)


def _pub_result(
    pub: dict[str, Any],
    counts: Iterator[dict[str, int]],
    span: ExecutionSpan,
    rng: np.random.Generator,
) -> SamplerPubResult:
    shape = tuple(pub["shape"])
    bits = [_bits(next(counts), rng) for _ in range(int(np.prod(shape, dtype=int)))]
    registers: dict[str, RegisterSamples] = {}
    for name, clbits in pub["registers"]:
        packed = np.stack([_packed(one[:, clbits]) for one in bits])
        registers[name] = RegisterSamples(
            array=packed.reshape(*shape, *packed.shape[1:]), num_bits=len(clbits)
        )
    return SamplerPubResult(
        shape=shape,
        registers=registers,
        span=span,
        metadata={"circuit_metadata": pub["metadata"]},
    )


def _bits(counts: dict[str, int], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Shape ``(shots, clbits)``, in random order; index ``k`` of the last axis is clbit ``k``."""
    outcomes = np.array([[int(bit) for bit in reversed(text)] for text in counts], dtype=np.uint8)
    return rng.permutation(np.repeat(outcomes, list(counts.values()), axis=0))


def _packed(bits: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Shape ``(shots, ceil(bits / 8))``: big-endian, padded with zeros on the left."""
    padding = -bits.shape[1] % 8
    descending = np.pad(bits[:, ::-1], ((0, 0), (padding, 0)))
    return np.packbits(descending, axis=1)
