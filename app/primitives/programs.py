"""What is a program, once it is decoded, and what is its result? Frozen values, nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt
    from qiskit import QuantumCircuit
    from samplomatic.samplex import Samplex
    from samplomatic.tensor_interface import TensorInterface

#: ``program_id`` of an OpenQASM 3 task.
QASM3 = "qasm3"
#: ``program_id`` of a parse without a run: the answer of ``POST /tasks?validate=true``.
QASM3_CHECK = "qasm3-check"
#: ``program_id`` of the runtime protocol's primitives.
SAMPLER = "sampler"
ESTIMATOR = "estimator"

EXECUTOR = "executor"
NOISE_LEARNER = "noise-learner"
CALIBRATE = "calibrate"

#: Programs that callers of the runtime API may name.
RUNTIME_PROGRAMS = (SAMPLER, ESTIMATOR, EXECUTOR, NOISE_LEARNER, CALIBRATE)


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


@dataclass(frozen=True, kw_only=True)
class CircuitItem:
    """A circuit to run, at every parameter set of an array."""

    #: the sanitised circuit.
    circuit: QuantumCircuit
    #: shape ``item.shape + (circuit.num_parameters,)``, order as in ``SamplerPub``.
    parameter_values: npt.NDArray[np.float64]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the item: of the array of parameter sets."""
        return self.parameter_values.shape[:-1]


@dataclass(frozen=True, kw_only=True)
class SamplexItem:
    """A circuit to run, at parameter sets that are drawn."""

    #: the sanitised circuit.
    circuit: QuantumCircuit
    #: finalised; what parameter sets, and what goes with each of them, are drawn from.
    samplex: Samplex
    #: complete; their axes in front, of length above 1, are swept over.
    arguments: TensorInterface
    #: axes that are not swept over count draws.
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class QuantumProgram:
    """What an executor job runs."""

    #: of params and result, e.g. ``v2.0``.
    schema_version: str
    #: samples per parameter set.
    shots: int
    items: tuple[CircuitItem | SamplexItem, ...]
    #: the caller's options as sent, checked; what was not set is not there.
    options: Mapping[str, object] = field(default_factory=dict)
    #: what the caller's client makes of the result; given back.
    semantic_role: str | None = None
    #: JSON, given back byte for byte.
    passthrough_data: bytes = b"null"
    #: RNG seed, or None: one is drawn and reported.
    seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class LayersProgram:
    """What a NoiseLearner job learns: the noise of the layers that circuits are made of."""

    #: sanitised.
    circuits: tuple[QuantumCircuit, ...]
    #: the caller's options, with the default of each that was not set.
    options: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class BoxesProgram:
    """What a NoiseLearnerV3 job learns: the noise of boxes."""

    #: of params and result, e.g. ``v0.3``.
    schema_version: str
    #: sanitised; its instructions are the boxes.
    circuit: QuantumCircuit
    #: number that each of its qubits has on the device.
    qubits: tuple[int, ...]
    #: the caller's options, with the default of each that was not set.
    options: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class CalibrationProgram:
    """What a calibrate job does: have the backend calibrate itself."""

    #: the caller's options as sent.
    options: Mapping[str, object] = field(default_factory=dict)


#: Every program an executor may be given.
Program = (
    QasmProgram
    | SamplerProgram
    | EstimatorProgram
    | QuantumProgram
    | LayersProgram
    | BoxesProgram
    | CalibrationProgram
)


@dataclass(frozen=True, kw_only=True)
class DeviceFiles:
    """Where lies what a device said of itself? Two JSON files of Qiskit's runtime client."""

    configuration: Path
    properties: Path


@dataclass(frozen=True, kw_only=True)
class Target:
    """What the metadata half of a backend name stands for."""

    #: the metadata half, e.g. ``simulator``.
    name: str
    #: None: it is no device, and ideal.
    recording: DeviceFiles | None = None


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which executor shall run a program, if the caller left that open."""

    executor: str
    #: the reason, in words.
    because: str


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
    #: randomizations and shots of each, if the pub was twirled; the last may have some to spare.
    twirls: tuple[int, int] | None = None


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


@dataclass(frozen=True, kw_only=True)
class ItemResult:
    """What one item of a quantum program gave."""

    #: shape of the item.
    shape: tuple[int, ...]
    #: classical register → ``bool`` array of shape ``item.shape + (shots, bits)``, index ``k`` of
    #: the last axis is bit ``k``; and by name what was drawn with the parameter sets, each with the
    #: item's shape in front.
    arrays: dict[str, npt.NDArray[Any]]
    #: when it ran.
    span: ExecutionSpan


@dataclass(frozen=True, kw_only=True)
class QuantumResult:
    """What a quantum program gave: one result for every item, in order."""

    #: of the program.
    schema_version: str
    items: tuple[ItemResult, ...]
    #: as in the program.
    semantic_role: str | None = None
    #: as in the program.
    passthrough_data: bytes = b"null"
    #: what ran and how: executor, method, effective options, seed, versions, timings.
    metadata: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PauliLindbladError:
    """Noise that is generated by Paulis: each of them happens at its rate."""

    #: Paulis and the qubits that they act on, e.g. ``("XZ", (0, 3))``; without the identity.
    generators: tuple[tuple[str, tuple[int, ...]], ...]
    #: shape ``(len(generators),)``.
    rates: npt.NDArray[np.float64]
    #: standard errors of the rates.
    stds: npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class LearnedLayer:
    """What was learned of a layer."""

    #: the entangling gates of the layer.
    circuit: QuantumCircuit
    #: number that each of its qubits has on the device.
    qubits: tuple[int, ...]
    error: PauliLindbladError


@dataclass(frozen=True, kw_only=True)
class LayersResult:
    """What a NoiseLearner job gave, the most frequent layer first."""

    layers: tuple[LearnedLayer, ...]
    #: the backend's name.
    backend: str
    #: of the program.
    options: Mapping[str, Any]
    #: what ran and how.
    metadata: dict[str, object] = field(default_factory=dict)


class LearningProtocol(StrEnum):
    """How the noise of a box is learned."""

    #: of gates: https://arxiv.org/abs/2201.09866.
    LINDBLAD = "lindblad"
    #: of measurements: twirled readout.
    TREX = "trex"


@dataclass(frozen=True, kw_only=True)
class LearnedBox:
    """What was learned of a box; its qubits are numbered as they are on the device."""

    protocol: LearningProtocol
    num_qubits: int
    error: PauliLindbladError


@dataclass(frozen=True, kw_only=True)
class BoxesResult:
    """What a NoiseLearnerV3 job gave: one result for every box, in order."""

    #: of the program.
    schema_version: str
    boxes: tuple[LearnedBox, ...]
    #: what ran and how.
    metadata: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class CalibrationResult:
    """When a calibration took place."""

    span: ExecutionSpan
    #: what ran and how.
    metadata: dict[str, object] = field(default_factory=dict)


#: Every result an executor may give.
Result = (
    CountsResult | PrimitiveResult | QuantumResult | LayersResult | BoxesResult | CalibrationResult
)
