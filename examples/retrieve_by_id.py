"""Read a job again, from anywhere, at any time: ``python retrieve_by_id.py JOB_ID``."""

import sys

from qiskit_ibm_runtime import QiskitRuntimeService

job = QiskitRuntimeService().job(sys.argv[1])

print(job.job_id(), job.status(), "on", job.backend().name, "since", job.creation_date)
print(len(job.inputs["pubs"]), "pubs, tags:", job.tags)
print("times:", job.metrics()["timestamps"])
print(job.result())
