"""Quantum programs, written by the client's own converters, and what they give when they are run."""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from qiskit.quantum_info import PauliLindbladMap
from qiskit_ibm_runtime.decoders.executor.decoder import AVAILABLE_DECODERS
from qiskit_ibm_runtime.options_models.executor import ExecutorOptions
from qiskit_ibm_runtime.quantum_program import QuantumProgram
from qiskit_ibm_runtime.quantum_program.params_converters import QUANTUM_PROGRAM_PARAMS_CONVERTERS
from samplomatic import ChangeBasis, InjectNoise, Twirl, build

from app.primitives.codec import decode_program, encode_result
from app.primitives.programs import QuantumProgram as Decoded
from app.primitives.programs import QuantumResult
from tests.unit.primitive_programs import AER, TARGET
from tests.unit.runtime_params import LIMITS

if TYPE_CHECKING:
    import numpy.typing as npt
    from qiskit_ibm_runtime.results import QuantumProgramResult

VERSIONS = tuple(QUANTUM_PROGRAM_PARAMS_CONVERTERS)


def encoded(
    program: QuantumProgram, version: str = "v2.0", options: ExecutorOptions | None = None
) -> dict[str, Any]:
    """The params that a client of this version sends."""
    converter = QUANTUM_PROGRAM_PARAMS_CONVERTERS[version]
    model = converter.encoder(program, options or ExecutorOptions())
    return dict(model.model_dump(mode="json"))


def decoded(params: dict[str, Any]) -> Decoded:
    program = decode_program("executor", json.dumps(params).encode(), LIMITS)
    assert isinstance(program, Decoded)
    return program


def ran(params: dict[str, Any]) -> tuple[QuantumResult, dict[str, Any]]:
    """The result, and its document."""
    result = AER.run(decoded(params), TARGET)
    assert isinstance(result, QuantumResult)
    return result, json.loads(encode_result(result))


def read(document: dict[str, Any]) -> QuantumProgramResult:
    """The document as the client reads it; IBM's schema holds."""
    decoder, schema = AVAILABLE_DECODERS[document["schema_version"]]
    return decoder(schema.model_validate_json(json.dumps(document)))


def run(program: QuantumProgram, version: str = "v2.0", seed: int = 11) -> QuantumProgramResult:
    """What the client gets for a program."""
    options = ExecutorOptions()
    params = encoded(program, version, options)
    if version != "v0.1":
        params["options"]["experimental"] = {"seed_simulator": seed}
    return read(ran(params)[1])


def measured_bell() -> QuantumCircuit:
    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.measure_all()
    return circuit


def rotated() -> QuantumCircuit:
    circuit = QuantumCircuit(2)
    circuit.ry(Parameter("a"), 0)
    circuit.cx(0, 1)
    circuit.ry(Parameter("b"), 1)
    circuit.measure_all()
    return circuit


def twirled(*, noise: bool = False) -> QuantumCircuit:
    """Two layers in boxes, the measurement in a basis that is chosen later."""
    circuit = QuantumCircuit(3, 3)
    annotations = [Twirl(), InjectNoise("r", "m")] if noise else [Twirl()]
    with circuit.box(annotations):
        circuit.rx(Parameter("a"), 0)
        circuit.cx(0, 1)
        circuit.noop(2)
    with circuit.box([Twirl()]):
        circuit.rx(Parameter("b"), 2)
        circuit.cz(1, 2)
        circuit.noop(0)
    with circuit.box([Twirl(), ChangeBasis(ref="x")]):
        circuit.measure(range(3), range(3))
    return circuit


def samplex_arguments(
    circuit: QuantumCircuit, rng: np.random.Generator, *, sweep: tuple[int, ...], noise: bool
) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "parameter_values": rng.uniform(-3, 3, (*sweep, circuit.num_parameters)),
        "basis_changes": {"x": rng.integers(0, 4, (*sweep, 3), dtype=np.uint8)},
    }
    if noise:
        terms = [("XX", [0, 1], 0.05), ("Z", [2], 0.1), ("Y", [0], 0.03)]
        arguments["pauli_lindblad_maps"] = {"r": PauliLindbladMap.from_sparse_list(terms, 3)}
        arguments["noise_scales"] = {"m": -1.0}
    return arguments


def twirled_program(
    *, seed: int, sweep: tuple[int, ...], draws: int, shots: int, noise: bool = False
) -> QuantumProgram:
    """One item that is swept, each place of the sweep with draws of its own."""
    rng = np.random.default_rng(seed)
    circuit = twirled(noise=noise)
    template, samplex = build(circuit)
    program = QuantumProgram(shots=shots)
    program.append_samplex_item(
        template,
        samplex,
        samplex_arguments(circuit, rng, sweep=sweep, noise=noise),
        shape=(draws, *sweep),
    )
    return program


def reference(program: QuantumProgram, seed: int = 5) -> QuantumProgramResult:
    """What the client's own simulation of a quantum program gives."""
    from qiskit_aer import AerSimulator
    from qiskit_ibm_runtime.fake_provider.executor.run_quantum_program import run_quantum_program
    from qiskit_ibm_runtime.options_models.simulator import SimulatorOptions

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return run_quantum_program(AerSimulator(), program, SimulatorOptions(seed_simulator=seed))


def outcomes(item: Any, register: str) -> npt.NDArray[np.int64]:
    """Outcomes without the flips of twirled measurements, shape ``(draws, …, shots)``."""
    bits = item[register] ^ item.get(f"measurement_flips.{register}", False)
    return (bits @ (1 << np.arange(bits.shape[-1]))).astype(np.int64)
