"""Sample a Bell state: on an ideal simulator as it stands, on a device's layout when transpiled."""

from qiskit import QuantumCircuit
from qiskit.transpiler import generate_preset_pass_manager
from qiskit_ibm_runtime import QiskitRuntimeService, SamplerV2

bell = QuantumCircuit(2)
bell.h(0)
bell.cx(0, 1)
bell.measure_all()

service = QiskitRuntimeService()

simulator = service.backend("simulator@aer")
job = SamplerV2(mode=simulator).run([bell], shots=1000)
print(job.job_id(), simulator.name, job.result()[0].data.meas.get_counts())

device = service.backend("fake_manila@aer")
isa_bell = generate_preset_pass_manager(backend=device, optimization_level=1).run(bell)
job = SamplerV2(mode=device).run([isa_bell], shots=1000)
print(job.job_id(), device.name, job.result()[0].data.meas.get_counts())
