"""How does Aer run a program on the CPU? Every circuit as it is, whatever the target."""

from __future__ import annotations

import secrets
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from time import perf_counter
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

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
from app.executors.circuits.lowering import lower
from app.executors.circuits.methods import (
    COMMON_GATES,
    MATRIX_PRODUCT_STATE,
    NONE,
    STATEVECTOR,
    STATEVECTOR_GATES,
    Method,
)
from app.executors.circuits.reduction import Reduced, reduce
from app.executors.classical import ClassicalCore
from app.executors.counts import BIT_BYTES, counts_of, parts_of
from app.executors.durations import Pace, Work, require_time, time_left_s
from app.executors.items import ItemRun
from app.executors.locations import located
from app.executors.mitigation.suppression import Suppression
from app.executors.native import Controller
from app.executors.noise.learning import learn_boxes, learn_layers
from app.executors.options import BASIS_GATES, COUPLING_MAP, NOISE_MODEL, Options
from app.executors.simulation import SEEDS, Simulation
from app.primitives.programs import (
    BoxesProgram,
    BoxesResult,
    CalibrationProgram,
    CalibrationResult,
    CountsResult,
    EstimatorProgram,
    ExecutionSpan,
    LayersProgram,
    LayersResult,
    PrimitiveResult,
    QasmProgram,
    QuantumProgram,
    QuantumResult,
    SamplerProgram,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from app.executors import Resources
    from app.executors.noise.model import Noise
    from app.primitives.programs import (
        EstimatorPub,
        EstimatorPubResult,
        Program,
        Result,
        SamplerPub,
        SamplerPubResult,
        Target,
    )

#: A drawn seed goes back to the caller as a JSON number, which many readers hold as a double.
_SEED_BITS = 53

#: Discarded weight at one cut of a matrix product state. Far above rounding noise, so bonds do not
#: grow by it, and even 200 000 operations change no probability by more than 2e-7.
_MPS_THRESHOLD = 1e-12

#: Version of the result documents of the runtime protocol.
_RESULT_VERSION = 2


_ResultT = TypeVar("_ResultT")
_ResultT_co = TypeVar("_ResultT_co", covariant=True)


class _Run(Protocol[_ResultT_co]):
    """A pub or item that is to be run."""

    @property
    def result_bytes(self) -> int: ...
    @property
    def working_bytes(self) -> int: ...
    @property
    def description(self) -> str: ...
    def result(
        self, simulation: Simulation, rng: np.random.Generator
    ) -> tuple[_ResultT_co, dict[str, object]]: ...


@runtime_checkable
class _Estimated(Protocol):
    """A run that knows beforehand what it takes."""

    def work(self, simulation: Simulation) -> Work: ...


class AerExecutor:
    """Runs programs with qiskit-aer's C++ core, which stays warm between runs."""

    #: whether the parts of a task's circuit that share no bit are simulated one by one.
    _apart = False
    #: options that this executor honours and others do not.
    _honoured: frozenset[str] = frozenset()

    def __init__(
        self,
        *,
        resources: Resources,
        name: str = "aer",
        noise_of: Callable[[Target], Noise | None] = lambda _: None,
        noiseless: str = "none",
    ) -> None:
        """Warm up.

        Args:
            resources: what one run may use.
            name: of the executor, for the metadata of results.
            noise_of: what goes wrong on a target, unless a program brings its own noise.
            noiseless: what the metadata says of noise when there is none.
        """
        self._name = name
        self._noise_of = noise_of
        self._noiseless = noiseless
        self._resources = resources
        self._controller = Controller(
            threads=resources.threads,
            memory_bytes=resources.memory_bytes - BASE_BYTES,
            mps_threshold=_MPS_THRESHOLD,
        )
        self._pace = Pace(self._controller)
        self._versions = {name: version(name) for name in ("qiskit", "qiskit-aer")}

    def run(self, program: Program, target: Target) -> Result:
        """Run ``program``; of ``target``, only the noise counts.

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
            case QuantumProgram():
                return self._quantum_program(program, target)
            case LayersProgram():
                return self._layers(program, target)
            case BoxesProgram():
                return self._boxes(program, target)
            case CalibrationProgram():
                return self._calibration(target)

    def _counts(self, program: QasmProgram, target: Target) -> CountsResult:
        circuit = program.circuit
        if not circuit.num_clbits:
            message = "the program has no classical bits, so it has no result; add a measurement"
            raise InvalidProgram("no_classical_bits", message)
        seed = _seed(program.seed)
        noise = self._noise_of(target)
        if noise is not None or self._apart:
            return self._counts_apart(program, target, noise, seed)
        simulation = self._simulation(self._resources, noise)
        reduced = reduce(lower(circuit, STATEVECTOR_GATES, stores=True))
        method = simulation.method(reduced, program.shots)
        if method.name == MATRIX_PRODUCT_STATE:
            reduced = reduce(lower(circuit, COMMON_GATES, stores=True))
            method = replace(method, steps=reduced.steps)
        bitstrings = Bitstrings(circuit)
        self._admit_counts(reduced, method, shots=program.shots, width=bitstrings.width)
        estimate = self._admit_time(
            simulation.work_of(reduced, method, sets=1, shots=program.shots),
            held=shots_bytes(program.shots, len(reduced.written)),
            what=f"{program.shots} shots of {reduced.qubits} qubits",
        )
        started = perf_counter()
        outcomes, clbits = simulation.counts(
            reduced, method, clbits=circuit.num_clbits, shots=program.shots, seed=seed % SEEDS
        )
        time_taken_s = perf_counter() - started

        metadata: dict[str, object] = {
            **self._provenance(target, seed, time_taken_s, [method.name]),
            **self._told(None),
            "estimate": estimate,
            "method": method.name,
            "shots": program.shots,
            "qubits_declared": circuit.num_qubits,
            "qubits_simulated": reduced.qubits,
        }
        return CountsResult(counts=bitstrings.counts(outcomes, clbits), metadata=metadata)

    def _counts_apart(
        self, program: QasmProgram, target: Target, noise: Noise | None, seed: int
    ) -> CountsResult:
        shots, bitstrings = program.shots, Bitstrings(program.circuit)
        circuit = program.circuit if noise is None else noise.conforming(program.circuit)[0]
        simulation = self._simulation(self._resources, noise)
        parts = parts_of(circuit, simulation, shots)
        written = sum(len(part.written) for part in parts)
        require_result(
            shots=shots, written=written, width=bitstrings.width, resources=self._resources
        )
        held = shots_bytes(shots, written) + BIT_BYTES * shots * written
        require_memory(
            BASE_BYTES + held,
            self._resources,
            what=f"{shots} shots of {written} bits",
            remedy="Ask for fewer shots.",
        )
        no_slots = np.empty((1, 0))
        works = (simulation.work(part, no_slots, sets=1, shots=shots) for part in parts)
        estimate = self._admit_time(
            sum(works, Work()),
            held=held,
            what=f"{shots} shots of {sum(part.qubits for part in parts)} qubits",
        )
        started = perf_counter()
        outcomes, clbits = counts_of(
            parts,
            simulation,
            clbits=circuit.num_clbits,
            shots=shots,
            rng=np.random.default_rng(seed % SEEDS),
        )
        time_taken_s = perf_counter() - started
        metadata: dict[str, object] = {
            **self._provenance(target, seed, time_taken_s, simulation.methods),
            **self._told(noise),
            "estimate": estimate,
            "methods": list(simulation.methods),
            "shots": shots,
            "qubits_declared": program.circuit.num_qubits,
            "qubits_simulated": sum(part.qubits for part in parts),
            "component_qubits": [part.qubits for part in parts],
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
        noise = self._noise(options, target, seed)
        pubs: Sequence[SamplerPub | EstimatorPub] = program.pubs
        suppression = Suppression(program, options, noise)
        runs: list[_Run[SamplerPubResult | EstimatorPubResult]] = [
            self._run_of(pub, index, seed, suppression) for index, pub in enumerate(pubs)
        ]
        results, metadata = self._run_all(runs, "pubs", seed=seed, noise=noise, target=target)
        level = program.resilience_level if isinstance(program, EstimatorProgram) else 0
        return PrimitiveResult(
            pub_results=tuple(results),
            result_metadata={**suppression.result_metadata, "version": _RESULT_VERSION},
            metadata={
                **metadata,
                **suppression.in_effect,
                "options_without_effect": {
                    **options.without_effect(
                        seed=seed,
                        noisy=noise is not None,
                        resilience_level=level,
                        honoured=self._honoured,
                    ),
                    **suppression.without_effect,
                    **({} if noise is None else noise.unmet),
                },
            },
        )

    def _quantum_program(self, program: QuantumProgram, target: Target) -> QuantumResult:
        options = Options(program.options)
        seed = _seed(options.seed if program.seed is None else program.seed)
        noise = self._noise_of(target)
        runs = []
        for index, item in enumerate(program.items):
            with located(f"items[{index}]"):
                runs.append(ItemRun(item, shots=program.shots, noise=noise))
        results, metadata = self._run_all(runs, "items", seed=seed, noise=noise, target=target)
        return QuantumResult(
            schema_version=program.schema_version,
            items=tuple(results),
            semantic_role=program.semantic_role,
            passthrough_data=program.passthrough_data,
            metadata={
                **metadata,
                "options_without_effect": options.without_effect(
                    seed=seed, honoured=self._honoured
                ),
            },
        )

    def _layers(self, program: LayersProgram, target: Target) -> LayersResult:
        options, started = Options(program.options), perf_counter()
        noise = self._noise(options, target, seed=0)
        layers = learn_layers(program, noise)
        return LayersResult(
            layers=layers,
            backend=f"{target.name}@{self._name}",
            options=program.options,
            metadata=self._told_of(target, started) | {"layers": len(layers)},
        )

    def _boxes(self, program: BoxesProgram, target: Target) -> BoxesResult:
        started = perf_counter()
        boxes = learn_boxes(program, self._noise_of(target))
        return BoxesResult(
            schema_version=program.schema_version,
            boxes=boxes,
            metadata=self._told_of(target, started) | {"boxes": len(boxes)},
        )

    def _calibration(self, target: Target) -> CalibrationResult:
        """A simulation is calibrated at once."""
        now, started = datetime.now(UTC), perf_counter()
        return CalibrationResult(
            span=ExecutionSpan(started=now, finished=datetime.now(UTC)),
            metadata=self._told_of(target, started),
        )

    def _run_all(
        self,
        runs: Sequence[_Run[_ResultT]],
        kind: str,
        *,
        seed: int,
        noise: Noise | None,
        target: Target,
    ) -> tuple[list[_ResultT], dict[str, object]]:
        """Run pubs or items, as ``kind`` says, one after another."""
        resources = self._admitted(runs, kind)
        estimate = self._estimated(runs, kind, resources, noise)
        started = perf_counter()
        results = []
        provenances: list[dict[str, object]] = []
        methods: dict[str, None] = {}
        for index, run in enumerate(runs):
            simulation = self._simulation(resources, noise)
            began = datetime.now(UTC)
            # Each has random numbers of its own, whatever the others are.
            rng = np.random.default_rng([seed % SEEDS, index])
            with located(f"{kind}[{index}]"):
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
        metadata = {
            **self._provenance(target, seed, time_taken_s, methods),
            **self._told(noise),
            "estimate": estimate,
            kind: provenances,
        }
        return results, metadata

    def _simulation(self, resources: Resources, noise: Noise | None) -> Simulation:
        core = ClassicalCore(aer=self._controller, resources=resources)
        return Simulation(controller=core, resources=resources, noise=noise)

    def _run_of(
        self, pub: SamplerPub | EstimatorPub, index: int, seed: int, suppression: Suppression
    ) -> _Run[SamplerPubResult | EstimatorPubResult]:
        return suppression.run(pub, index, seed)

    def _noise(self, options: Options, target: Target, seed: int) -> Noise | None:
        model = options.get(NOISE_MODEL)
        if model is None:
            return self._noise_of(target)
        # Noise is rare, and importing it takes 0.2 s.
        from app.executors.noise.model import SentNoise  # noqa: PLC0415

        return SentNoise(
            model,
            basis_gates=options.get(BASIS_GATES),
            coupling_map=options.get(COUPLING_MAP),
            seed=seed,
        )

    def _admitted(self, runs: Sequence[_Run[object]], kind: str) -> Resources:
        """Refuse what cannot fit, and give what is left for one simulation at a time."""
        result_bytes = sum(run.result_bytes for run in runs)
        what = "; ".join(f"{kind}[{index}]: {run.description}" for index, run in enumerate(runs))
        require_encoded(result_bytes, self._resources, what=what)
        # The result is held twice: while samples are cut into registers, and encoded.
        held = 2 * result_bytes + max((run.working_bytes for run in runs), default=0)
        require_memory(
            BASE_BYTES + held,
            self._resources,
            what=what,
            remedy=f"Ask for fewer shots or parameter sets, or submit the {kind} one by one.",
        )
        return replace(self._resources, memory_bytes=self._resources.memory_bytes - held)

    def _estimated(
        self,
        runs: Sequence[_Run[object]],
        kind: str,
        resources: Resources,
        noise: Noise | None,
    ) -> dict[str, object]:
        """Refuse what would take far too long, and give what all is expected to need."""
        total = Work()
        for index, run in enumerate(runs):
            with located(f"{kind}[{index}]"):
                total += (
                    run.work(self._simulation(resources, noise))
                    if isinstance(run, _Estimated)
                    else Work(is_unknown=True)
                )
        return self._admit_time(
            total,
            held=self._resources.memory_bytes - resources.memory_bytes,
            what="; ".join(f"{kind}[{index}]: {run.description}" for index, run in enumerate(runs)),
        )

    def _admit_time(self, work: Work, *, held: int, what: str) -> dict[str, object]:
        time_s = self._pace.seconds(work)
        require_time(time_s, time_left_s(self._resources.threads), what=what)
        return {
            "memory_bytes": BASE_BYTES + held + work.state_bytes,
            "time_s": None if time_s is None else float(f"{time_s:.2g}"),
        }

    def _told_of(self, target: Target, started: float) -> dict[str, object]:
        """What a result says that nothing was simulated for."""
        return {
            "executor": self._name,
            "target": target.name,
            "time_taken_s": perf_counter() - started,
            "versions": dict(self._versions),
        }

    def _told(self, noise: Noise | None) -> dict[str, object]:
        """What a result says of its noise."""
        return {
            "noisy": noise is not None,
            "noise": self._noiseless if noise is None else noise.source,
        }

    def _provenance(
        self, target: Target, seed: int, time_taken_s: float, methods: Iterable[str]
    ) -> dict[str, object]:
        provenance: dict[str, object] = {
            "executor": self._name,
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
