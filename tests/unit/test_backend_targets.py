"""The real client reads our documents and sees the device that it would see without us."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from qiskit.quantum_info import Operator
from qiskit.transpiler import generate_preset_pass_manager
from qiskit_ibm_runtime import IBMBackend
from qiskit_ibm_runtime.fake_provider import backends as fakes
from qiskit_ibm_runtime.fake_provider.fake_backend import FakeBackendV2
from qiskit_ibm_runtime.utils.backend_decoder import configuration_from_server_data

from app.backends.catalog import Catalog

if TYPE_CHECKING:
    from qiskit.transpiler import Target

EXECUTORS = ("aer",)
CLASSES = {
    value.backend_name: value
    for value in vars(fakes).values()
    if isinstance(value, type) and issubclass(value, FakeBackendV2)
}
#: Small and large, old and new, with faulty couplers, fractional gates, instructions of their own.
DEVICES = (
    *("fake_armonk", "fake_yorktown", "fake_manila", "fake_fractional", "fake_rochester"),
    *("fake_prague", "fake_sherbrooke", "fake_torino", "fake_fez", "fake_miami"),
)


class Api:
    """What a backend asks the service for."""

    def __init__(self, properties: bytes) -> None:
        self.properties = properties

    def backend_properties(self, name: str, **_: object) -> Any:
        return json.loads(self.properties)


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return Catalog.load(aliases={}, max_qubits=4)


def client_backend(catalog: Catalog, name: str, *, fractional: bool | None) -> IBMBackend:
    backend = catalog.resolve(name, EXECUTORS)
    configuration = configuration_from_server_data(
        json.loads(catalog.configuration(backend).body), use_fractional_gates=fractional
    )
    assert configuration is not None
    made = IBMBackend(
        configuration=configuration, service=None, api_client=Api(catalog.properties(backend).body)
    )
    made.options.use_fractional_gates = fractional
    return made


def facts(target: Target) -> dict[str, dict[tuple[int, ...] | None, tuple[float, float] | None]]:
    """Operation → where it can be applied → error and duration."""
    return {
        name: {
            qubits: properties and (properties.error, properties.duration)
            for qubits, properties in target[name].items()
        }
        for name in target.operation_names
    }


def coherence(target: Target) -> list[tuple[float | None, ...]]:
    """T1, T2 and frequency of each qubit."""
    return [(qubit.t1, qubit.t2, qubit.frequency) for qubit in target.qubit_properties]


@pytest.mark.parametrize("metadata", DEVICES)
def test_the_target_is_the_local_fake_backends(catalog: Catalog, metadata: str) -> None:
    served = client_backend(catalog, f"{metadata}@aer", fractional=None)
    local = CLASSES[metadata]().target

    assert served.name == f"{metadata}@aer"
    assert served.target.num_qubits == local.num_qubits
    assert served.target.dt == local.dt
    assert facts(served.target) == facts(local)
    assert coherence(served.target) == coherence(local)


@pytest.mark.parametrize("metadata", ["fake_fractional", "fake_fez"])
def test_without_fractional_gates_the_target_has_all_others(
    catalog: Catalog, metadata: str
) -> None:
    local = CLASSES[metadata]().target

    served = client_backend(catalog, f"{metadata}@aer", fractional=False)

    assert {*served.target.operation_names} == {*local.operation_names} - {"rx", "rzz"}


@pytest.mark.parametrize("fractional", [True, False, None])
def test_the_client_transpiles_to_the_simulator(catalog: Catalog, fractional: bool | None) -> None:
    backend = client_backend(catalog, "simulator@aer", fractional=fractional)
    angle = Parameter("angle")
    circuit = QuantumCircuit(4)
    circuit.h(0)
    circuit.cx(0, 3)
    circuit.cu(0.1, 0.2, 0.3, 0.4, 1, 2)
    circuit.rzz(angle, 0, 2)
    circuit.ccx(3, 0, 1)

    passes = generate_preset_pass_manager(optimization_level=2, backend=backend, seed_transpiler=1)
    isa = passes.run(circuit)

    assert {*isa.count_ops()} <= {*backend.target.operation_names}
    assert Operator.from_circuit(isa.assign_parameters([0.7])).equiv(
        circuit.assign_parameters([0.7])
    )


def test_the_simulator_knows_control_flow_and_needs_no_properties(catalog: Catalog) -> None:
    backend = client_backend(catalog, "simulator@aer", fractional=False)

    assert backend.configuration().simulator
    assert backend.properties() is None
    assert backend.coupling_map is None
    assert {
        *("measure", "reset", "delay", "if_else", "for_loop", "while_loop", "switch_case"),
    } <= {*backend.target.operation_names}
    assert "dynamic_circuits" in backend.configuration().supported_features
