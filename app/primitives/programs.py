"""What is a program, once it is decoded, and what is its result? Frozen values, nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    import numpy as np
    import numpy.typing as npt
    from qiskit import QuantumCircuit

#: ``program_id`` of an OpenQASM 3 task.
QASM3 = "qasm3"
#: ``program_id`` of a parse without a run: the answer of ``POST /tasks?validate=true``.
QASM3_CHECK = "qasm3-check"
#: ``program_id`` of the runtime protocol's primitives.
SAMPLER = "sampler"
ESTIMATOR = "estimator"

#: Programs that callers of the runtime API may name.
RUNTIME_PROGRAMS = (SAMPLER, ESTIMATOR)


@dataclass(frozen=True, kw_only=True)
class QasmProgram:
    """One OpenQASM 3 circuit to sample."""

    #: the sanitised circuit: every user-defined operation is renamed, every limit is checked.
    circuit: QuantumCircuit
    #: samples, 1 to ``ProgramLimits.shots``.
    shots: int
    #: RNG seed, or None: one is drawn and reported.
    seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class SamplerPub:
    """A circuit to sample, at every parameter set of an array."""

    #: the sanitised circuit.
    circuit: QuantumCircuit
    #: shape ``pub.shape + (circuit.num_parameters,)``, last axis in the order of
    #: ``circuit.parameters``; ``(0,)`` after ``pub.shape`` when there are none.
    parameter_values: npt.NDArray[np.float64]
    #: samples per parameter set.
    shots: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the pub: of the array of parameter sets."""
        return self.parameter_values.shape[:-1]


@dataclass(frozen=True, kw_only=True)
class SamplerProgram:
    """What a SamplerV2 job runs."""

    pubs: tuple[SamplerPub, ...]
    #: the caller's options as sent, checked; what was not set is not there.
    options: Mapping[str, object] = field(default_factory=dict)
    #: RNG seed, or None: one is drawn and reported.
    seed: int | None = None


#: One observable: Pauli string (rightmost character is qubit 0; characters I, X, Y, Z, and the
#: projectors 0, 1, +, -, r, l) → real coefficient.
Observable = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class EstimatorPub:
    """A circuit whose observables are measured, at every parameter set of an array."""

    #: the sanitised circuit.
    circuit: QuantumCircuit
    #: object array of ``Observable``; broadcast against the array of parameter sets.
    observables: npt.NDArray[np.object_]
    #: shape ``parameter_shape + (circuit.num_parameters,)``, order as in ``SamplerPub``.
    parameter_values: npt.NDArray[np.float64]
    #: standard error asked for.
    precision: float
    #: samples that precision stands for.
    shots: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the pub: observables and parameter sets, broadcast against each other."""
        import numpy as np  # noqa: PLC0415 - the gateway reads this file too, and has no numpy

        return np.broadcast_shapes(self.observables.shape, self.parameter_values.shape[:-1])


@dataclass(frozen=True, kw_only=True)
class EstimatorProgram:
    """What an EstimatorV2 job runs."""

    pubs: tuple[EstimatorPub, ...]
    #: the caller's options as sent, checked; what was not set is not there.
    options: Mapping[str, object] = field(default_factory=dict)
    #: 0, 1 or 2; 1 when the caller does not say.
    resilience_level: int = 1
    #: RNG seed, or None: one is drawn and reported.
    seed: int | None = None


#: Every program an executor may be given.
Program = QasmProgram | SamplerProgram | EstimatorProgram


@dataclass(frozen=True, kw_only=True)
class Target:
    """What the metadata half of a backend name stands for."""

    #: the metadata half, e.g. ``simulator``.
    name: str


@dataclass(frozen=True, kw_only=True)
class CountsResult:
    """What sampling one circuit gave."""

    #: bitstring → occurrences; leftmost character is the highest clbit, registers separated by one
    #: space, last declared register first, as Qiskit prints them.
    counts: dict[str, int]
    #: what ran and how: executor, method, effective shots and seed, versions.
    metadata: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RegisterSamples:
    """Samples of one classical register."""

    #: ``uint8``, shape ``pub.shape + (shots, ceil(num_bits / 8))``; last axis packed bits,
    #: big-endian, padded with zeros on the left; bit 0 of the register is the least significant.
    array: npt.NDArray[np.uint8]
    #: bits of the register.
    num_bits: int


@dataclass(frozen=True, kw_only=True)
class ExecutionSpan:
    """When all parameter sets and shots of one pub ran; aware UTC."""

    started: datetime
    finished: datetime


@dataclass(frozen=True, kw_only=True)
class SamplerPubResult:
    """What one pub of a sampler gave."""

    #: shape of the pub.
    shape: tuple[int, ...]
    #: register name → its samples, in the order in which the circuit declares them.
    registers: dict[str, RegisterSamples]
    #: when it ran.
    span: ExecutionSpan | None = None
    #: JSON values.
    metadata: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class EstimatorPubResult:
    """What one pub of an estimator gave."""

    #: shape of the pub.
    shape: tuple[int, ...]
    #: name → ``float64`` array of shape ``pub.shape`` (``evs``, ``stds``,
    #: ``ensemble_standard_error``) or ``pub.shape + (…)`` (what zero-noise extrapolation adds).
    values: dict[str, npt.NDArray[np.float64]]
    #: JSON values.
    metadata: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PrimitiveResult:
    """What a sampler or an estimator gave: one pub result for every pub, in order."""

    pub_results: tuple[SamplerPubResult | EstimatorPubResult, ...]
    #: of the result document; JSON values.
    result_metadata: dict[str, object] = field(default_factory=dict)
    #: what ran and how: executor, method, effective options, seed, versions, timings.
    metadata: dict[str, object] = field(default_factory=dict)


#: Every result an executor may give.
Result = CountsResult | PrimitiveResult
