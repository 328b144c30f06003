"""How long does a person with Qiskit's client wait for a Bell circuit?

``python -m benchmarks.client`` starts a local stack of its own and runs itself in the environment
of a client, which times ``run`` and ``result`` together, one job after another.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

VERSION = "0.51.0"
BACKEND = "simulator@aer"
REPETITIONS = 50
WARM_UP = 5


def measure() -> None:
    """Time the jobs, with the client; prints JSON."""
    from qiskit import QuantumCircuit, __version__
    from qiskit_ibm_runtime import QiskitRuntimeService, SamplerV2

    # That the sampler is to be replaced is no news here.
    warnings.simplefilter("ignore", DeprecationWarning)
    bell = QuantumCircuit(2)
    bell.h(0)
    bell.cx(0, 1)
    bell.measure_all()
    sampler = SamplerV2(mode=QiskitRuntimeService().backend(BACKEND))
    times = []
    for _ in range(WARM_UP + REPETITIONS):
        began = time.perf_counter()
        result = sampler.run([bell], shots=1024).result()
        times.append(time.perf_counter() - began)
        if sum(result[0].data.meas.get_counts().values()) != 1024:
            raise RuntimeError(f"not what was asked for: {result}")
    ordered = sorted(times[WARM_UP:])
    figures = {
        "client": VERSION,
        "qiskit": __version__,
        "cores": len(os.sched_getaffinity(0)),
        "repetitions": REPETITIONS,
        "p50_ms": round(ordered[len(ordered) // 2] * 1000, 1),
        "p99_ms": round(ordered[len(ordered) * 99 // 100] * 1000, 1),
    }
    sys.stdout.write(json.dumps(figures) + "\n")


def main() -> None:
    """Start a stack, have a client measure it."""
    from benchmarks.tasks import local_stack

    with local_stack(1, "everysec") as (port, _):
        url = f"http://127.0.0.1:{port}"
        environment = os.environ | {
            "IAM_URL": url,
            "GLOBAL_SEARCH_URL": url,
            "GLOBAL_CATALOG_URL": f"{url}/catalog",
            "QISKIT_IBM_URL": f"{url}/experimental/api/v1",
            "QISKIT_IBM_TOKEN": "any-word",
            "QISKIT_IBM_INSTANCE": "default",
        }
        python = Path(sys.prefix) / "clients" / VERSION / "bin/python"
        subprocess.run([python, __file__, "measure"], env=environment, check=True)


if __name__ == "__main__":
    measure() if sys.argv[1:] == ["measure"] else main()
