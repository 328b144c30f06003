"""Programs of primitives, made as the codec makes them, and what the executor ``aer`` answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from qiskit.primitives import BitArray

from app.executors import Resources
from app.executors.aer import AerExecutor
from app.primitives.programs import (
    EstimatorProgram,
    EstimatorPub,
    EstimatorPubResult,
    PrimitiveResult,
    SamplerProgram,
    SamplerPub,
    SamplerPubResult,
    Target,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from qiskit import QuantumCircuit

MIB = 2**20
RESOURCES = Resources(threads=1, memory_bytes=1024 * MIB, max_result_bytes=32 * MIB)
AER = AerExecutor(resources=RESOURCES)
TARGET = Target(name="fake_manila")


def values_of(circuit: QuantumCircuit, values: Any) -> npt.NDArray[np.float64]:
    if values is not None:
        return np.asarray(values, dtype=np.float64)
    assert not circuit.num_parameters
    return np.empty((0,))


def sampler_pub(circuit: QuantumCircuit, values: Any = None, *, shots: int = 4000) -> SamplerPub:
    return SamplerPub(circuit=circuit, parameter_values=values_of(circuit, values), shots=shots)


def estimator_pub(
    circuit: QuantumCircuit, observables: Any, values: Any = None, *, shots: int = 4096
) -> EstimatorPub:
    return EstimatorPub(
        circuit=circuit,
        observables=observable_array(observables),
        parameter_values=values_of(circuit, values),
        precision=shots**-0.5,
        shots=shots,
    )


def observable_array(observables: Any) -> npt.NDArray[np.object_]:
    """Nested lists of ``Observable`` as an array of objects."""
    shape: list[int] = []
    level = observables
    while isinstance(level, list):
        shape.append(len(level))
        level = level[0]
    array = np.empty(shape, dtype=object)
    for index in np.ndindex(*shape):
        element = observables
        for place in index:
            element = element[place]
        array[index] = element
    return array


def sample(
    *pubs: SamplerPub,
    seed: int | None = 7,
    options: dict[str, object] | None = None,
    aer: AerExecutor = AER,
) -> PrimitiveResult:
    result = aer.run(SamplerProgram(pubs=pubs, options=options or {}, seed=seed), TARGET)
    assert isinstance(result, PrimitiveResult)
    return result


def estimate(
    *pubs: EstimatorPub,
    seed: int | None = 7,
    options: dict[str, object] | None = None,
    level: int = 1,
    aer: AerExecutor = AER,
) -> PrimitiveResult:
    program = EstimatorProgram(pubs=pubs, options=options or {}, resilience_level=level, seed=seed)
    result = aer.run(program, TARGET)
    assert isinstance(result, PrimitiveResult)
    return result


def registers(result: PrimitiveResult, pub: int = 0) -> dict[str, BitArray]:
    answer = result.pub_results[pub]
    assert isinstance(answer, SamplerPubResult)
    return {
        name: BitArray(samples.array, samples.num_bits)
        for name, samples in answer.registers.items()
    }


def joined_counts(
    result: PrimitiveResult, pub: int = 0, index: tuple[int, ...] = ()
) -> dict[str, int]:
    """Counts of all registers side by side, the last declared leftmost."""
    whole = BitArray.concatenate_bits(list(registers(result, pub).values()))
    return dict((whole[index] if index else whole).get_counts())


def values(result: PrimitiveResult, name: str = "evs", pub: int = 0) -> npt.NDArray[np.float64]:
    answer = result.pub_results[pub]
    assert isinstance(answer, EstimatorPubResult)
    assert answer.values[name].shape == answer.shape
    return answer.values[name]


def provenance(result: PrimitiveResult, pub: int = 0) -> dict[str, Any]:
    pubs: Sequence[dict[str, Any]] = result.metadata["pubs"]  # type: ignore[assignment]
    return pubs[pub]
