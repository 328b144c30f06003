"""A session: jobs that depend on each other run before those of others on the same backend."""

from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from qiskit.quantum_info import SparsePauliOp
from qiskit.transpiler import generate_preset_pass_manager
from qiskit_ibm_runtime import EstimatorV2, QiskitRuntimeService, Session

theta = Parameter("theta")
circuit = QuantumCircuit(1)
circuit.ry(theta, 0)

service = QiskitRuntimeService()
backend = service.backend("fake_manila@aer")
isa_circuit = generate_preset_pass_manager(backend=backend, optimization_level=1).run(circuit)
observable = SparsePauliOp("Z").apply_layout(isa_circuit.layout)

low, high = 0.0, 3.0
with Session(backend=backend, max_time="10m") as session:
    estimator = EstimatorV2(mode=session)
    while high - low > 0.1:  # where does the expectation value change its sign?
        middle = (low + high) / 2
        job = estimator.run([(isa_circuit, observable, [middle])])
        low, high = (middle, high) if job.result()[0].data.evs > 0 else (low, middle)
    print(session.session_id, session.status())
print(f"the sign changes near {(low + high) / 2:.2f}")
