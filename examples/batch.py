"""A batch: many jobs that do not depend on each other, submitted at once, listed by its id."""

from qiskit import QuantumCircuit
from qiskit.transpiler import generate_preset_pass_manager
from qiskit_ibm_runtime import Batch, QiskitRuntimeService, SamplerV2


def cat_state(num_qubits: int) -> QuantumCircuit:
    """All qubits 0 and all qubits 1, in superposition."""
    circuit = QuantumCircuit(num_qubits)
    circuit.h(0)
    for qubit in range(1, num_qubits):
        circuit.cx(qubit - 1, qubit)
    circuit.measure_all()
    return circuit


service = QiskitRuntimeService()
backend = service.backend("fake_manila@aer")
pass_manager = generate_preset_pass_manager(backend=backend, optimization_level=1)

with Batch(backend=backend) as batch:
    sampler = SamplerV2(mode=batch)
    jobs = [sampler.run([pass_manager.run(cat_state(n))], shots=1000) for n in range(2, 6)]

for job in jobs:
    print(job.job_id(), job.result()[0].data.meas.get_counts())
print(len(service.jobs(session_id=batch.session_id)), "jobs in", batch.session_id)
