"""Expectation values over a sweep: two observables at five angles, in one job."""

import numpy as np
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from qiskit.quantum_info import SparsePauliOp
from qiskit.transpiler import generate_preset_pass_manager
from qiskit_ibm_runtime import EstimatorV2, QiskitRuntimeService

theta = Parameter("theta")
circuit = QuantumCircuit(2)
circuit.ry(theta, 0)
circuit.cx(0, 1)

service = QiskitRuntimeService()
backend = service.least_busy(min_num_qubits=100)
isa_circuit = generate_preset_pass_manager(backend=backend, optimization_level=1).run(circuit)
observables = [
    [SparsePauliOp(pauli).apply_layout(isa_circuit.layout)]  # one column: meets every angle
    for pauli in ("IZ", "XX")
]
angles = np.linspace(0, np.pi, 5)

job = EstimatorV2(mode=backend).run([(isa_circuit, observables, angles)], precision=0.02)
data = job.result()[0].data
print(backend.name)
print("IZ", data.evs[0].round(2), "+-", data.stds[0].round(2))
print("XX", data.evs[1].round(2), "+-", data.stds[1].round(2))
