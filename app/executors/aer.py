"""How does Aer run a program on the CPU? Every circuit as it is, whatever the target."""

from __future__ import annotations

import secrets
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from app.errors import InvalidProgram
from app.executors.admission import (
    BASE_BYTES,
    require_encoded,
    require_memory,
    require_result,
    shots_bytes,
)
from app.executors.bitstrings import Bitstrings
from app.executors.estimator import EstimatorRun
from app.executors.locations import located
from app.executors.lowering import lower
from app.executors.methods import (
    COMMON_GATES,
    MATRIX_PRODUCT_STATE,
    NONE,
    STATEVECTOR,
    STATEVECTOR_GATES,
    Method,
)
from app.executors.native import Controller
from app.executors.options import BASIS_GATES, COUPLING_MAP, NOISE_MODEL, Options
from app.executors.reduction import Reduced, reduce
from app.executors.sampler import SamplerRun
from app.executors.simulation import SEEDS, Simulation
from app.primitives.programs import (
    CountsResult,
    EstimatorProgram,
    PrimitiveResult,
    QasmProgram,
    SamplerProgram,
    SamplerPub,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from app.executors import Resources
    from app.executors.noise import Noise
    from app.primitives.programs import EstimatorPub, Program, Result, Target

#: A drawn seed goes back to the caller as a JSON number, which many readers hold as a double.
_SEED_BITS = 53

#: Discarded weight at one cut of a matrix product state. Far above rounding noise, so bonds do not
#: grow by it, and even 200 000 operations change no probability by more than 2e-7.
_MPS_THRESHOLD = 1e-12

#: Version of the result documents of the runtime protocol.
_RESULT_VERSION = 2
#: What an estimator's result says was done about noise.
_NO_RESILIENCE = {
    "dynamical_decoupling": {"enable": False},
    "twirling": {"enable_gates": False, "enable_measure": False},
    "resilience": {"measure_mitigation": False, "zne_mitigation": False, "pec_mitigation": False},
}


class AerExecutor:
    """Runs programs with qiskit-aer's C++ core, which stays warm between runs."""

    def __init__(self, *, resources: Resources) -> None:
        self._resources = resources
        self._controller = Controller(
            threads=resources.threads,
            memory_bytes=resources.memory_bytes - BASE_BYTES,
            mps_threshold=_MPS_THRESHOLD,
        )
        self._versions = {name: version(name) for name in ("qiskit", "qiskit-aer")}

    def run(self, program: Program, target: Target) -> Result:
        """Run ``program``; ``target`` is only named in the result.

        Raises:
            InvalidProgram: a circuit has no classical bits, an observable does not fit, or an
                option is not valid.
            ProgramTooLarge: the run would need more memory, or give a larger result, than allowed.
            ExecutionError: Aer cannot run a circuit.
        """
        match program:
            case QasmProgram():
                return self._counts(program, target)
            case SamplerProgram() | EstimatorProgram():
                return self._primitive(program, target)

    def _counts(self, program: QasmProgram, target: Target) -> CountsResult:
        circuit = program.circuit
        if not circuit.num_clbits:
            message = "the program has no classical bits, so it has no result; add a measurement"
            raise InvalidProgram("no_classical_bits", message)
        seed = _seed(program.seed)
        simulation = Simulation(controller=self._controller, resources=self._resources)
        reduced = reduce(lower(circuit, STATEVECTOR_GATES))
        method = simulation.method(reduced, program.shots)
        if method.name == MATRIX_PRODUCT_STATE:
            reduced = reduce(lower(circuit, COMMON_GATES))
            method = replace(method, steps=reduced.steps)
        bitstrings = Bitstrings(circuit)
        self._admit_counts(reduced, method, shots=program.shots, width=bitstrings.width)
        started = perf_counter()
        outcomes, clbits = simulation.counts(
            reduced, method, clbits=circuit.num_clbits, shots=program.shots, seed=seed % SEEDS
        )
        time_taken_s = perf_counter() - started

        metadata: dict[str, object] = {
            **self._provenance(target, seed, time_taken_s, [method.name]),
            "method": method.name,
            "shots": program.shots,
            "qubits_declared": circuit.num_qubits,
            "qubits_simulated": reduced.qubits,
        }
        return CountsResult(counts=bitstrings.counts(outcomes, clbits), metadata=metadata)

    def _admit_counts(self, reduced: Reduced, method: Method, *, shots: int, width: int) -> None:
        written = len(reduced.written)
        require_result(shots=shots, written=written, width=width, resources=self._resources)
        # A state vector was chosen because it fits.
        if method.name not in (STATEVECTOR, NONE):
            require_memory(
                BASE_BYTES + shots_bytes(shots, written),
                self._resources,
                what=f"{shots} shots of {written} bits",
                remedy="Ask for fewer shots.",
            )

    def _primitive(
        self, program: SamplerProgram | EstimatorProgram, target: Target
    ) -> PrimitiveResult:
        options = Options(program.options)
        seed = _seed(options.seed if program.seed is None else program.seed)
        noise = self._noise(options, seed)
        pubs: Sequence[SamplerPub | EstimatorPub] = program.pubs
        runs: list[SamplerRun | EstimatorRun] = []
        for index, pub in enumerate(pubs):
            with located(f"pubs[{index}]"):
                runs.append(
                    SamplerRun(pub, noise)
                    if isinstance(pub, SamplerPub)
                    else EstimatorRun(pub, noise)
                )
        resources = self._admitted(runs)

        started = perf_counter()
        results = []
        provenances: list[dict[str, object]] = []
        methods: dict[str, None] = {}
        for index, run in enumerate(runs):
            simulation = Simulation(controller=self._controller, resources=resources, noise=noise)
            began = datetime.now(UTC)
            # Each pub has random numbers of its own, whatever the others are.
            rng = np.random.default_rng([seed % SEEDS, index])
            with located(f"pubs[{index}]"):
                result, provenance = run.result(simulation, rng)
            results.append(result)
            methods |= simulation.methods
            provenances.append(
                {
                    **provenance,
                    "methods": list(simulation.methods),
                    "started": began.isoformat(),
                    "finished": datetime.now(UTC).isoformat(),
                }
            )
        time_taken_s = perf_counter() - started

        level = program.resilience_level if isinstance(program, EstimatorProgram) else 0
        return PrimitiveResult(
            pub_results=tuple(results),
            result_metadata={
                **(_NO_RESILIENCE if isinstance(program, EstimatorProgram) else {}),
                "version": _RESULT_VERSION,
            },
            metadata={
                **self._provenance(target, seed, time_taken_s, methods),
                "noisy": noise is not None,
                "pubs": provenances,
                "options_without_effect": options.without_effect(
                    seed=seed, noisy=noise is not None, resilience_level=level
                ),
            },
        )

    def _noise(self, options: Options, seed: int) -> Noise | None:
        model = options.get(NOISE_MODEL)
        if model is None:
            return None
        # Noise is rare, and importing it takes 0.2 s.
        from app.executors.noise import Noise  # noqa: PLC0415

        return Noise(
            model,
            basis_gates=options.get(BASIS_GATES),
            coupling_map=options.get(COUPLING_MAP),
            seed=seed,
        )

    def _admitted(self, runs: Sequence[SamplerRun | EstimatorRun]) -> Resources:
        """Refuse what cannot fit, and give what is left for one simulation at a time."""
        result_bytes = sum(run.result_bytes for run in runs)
        what = "; ".join(f"pubs[{index}]: {run.description}" for index, run in enumerate(runs))
        require_encoded(result_bytes, self._resources, what=what)
        # The result is held twice: while a pub's samples are cut into registers, and encoded.
        held = 2 * result_bytes + max((run.working_bytes for run in runs), default=0)
        require_memory(
            BASE_BYTES + held,
            self._resources,
            what=what,
            remedy="Ask for fewer shots or parameter sets, or submit the pubs one by one.",
        )
        return replace(self._resources, memory_bytes=self._resources.memory_bytes - held)

    def _provenance(
        self, target: Target, seed: int, time_taken_s: float, methods: Iterable[str]
    ) -> dict[str, object]:
        provenance: dict[str, object] = {
            "executor": "aer",
            "target": target.name,
            "device": "CPU",
            "precision": "double",
            "seed": seed,
            "threads": self._resources.threads,
            "time_taken_s": time_taken_s,
            "versions": dict(self._versions),
        }
        if MATRIX_PRODUCT_STATE in methods:
            provenance["truncation_threshold"] = _MPS_THRESHOLD
        return provenance


def _seed(asked: int | None) -> int:
    return secrets.randbits(_SEED_BITS) if asked is None else asked
