"""How does a GPU run a program? As Aer's executor does, with cuStateVec in the place of Aer.

One state vector, without noise; what needs another method is refused. Circuits of a few qubits are
simulated in NumPy, where the GPU would only wait.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import TYPE_CHECKING

from app.errors import ConfigurationInvalid, InvalidProgram
from app.executors.aer import AerExecutor
from app.executors.engines import bindings
from app.executors.engines.custatevec import CustatevecEngine
from app.executors.engines.simulation import EngineSimulation
from app.executors.expectations import ExactRun
from app.executors.locations import located
from app.executors.options import NOISE_MODEL, PRECISION, Options
from app.primitives.programs import EstimatorProgram, QuantumProgram, SamplerProgram, SamplerPub

if TYPE_CHECKING:
    from collections.abc import Iterable

    from app.executors import Resources
    from app.executors.engines import StateVectorEngine
    from app.executors.mitigation.suppression import Run, Suppression
    from app.executors.noise.model import Noise
    from app.primitives.programs import EstimatorPub, Program, Result, Target

#: Gives the engine of a precision; memory of one that was given before may go.
Engines = Callable[[str], "StateVectorEngine"]

NAME = "custatevec"
SINGLE, DOUBLE = "single", "double"
_PACKAGE = "cuquantum-python-cu13"


def custatevec_executor(*, resources: Resources) -> EngineExecutor:
    """Make the executor of the first GPU that this process may use; it is touched by the first run.

    Raises:
        ConfigurationInvalid: the bindings of cuStateVec are not installed.
    """
    try:
        bindings.load()
    except ImportError as exc:
        raise ConfigurationInvalid(f"the executor {NAME!r} cannot be made: {exc}") from exc
    return EngineExecutor(
        resources=resources,
        name=NAME,
        engines=_Gpu(threads=resources.threads),
        versions={_PACKAGE: version(_PACKAGE)},
    )


class EngineExecutor(AerExecutor):
    """Runs programs on a state vector engine."""

    _apart = True
    _honoured = frozenset((PRECISION,))

    def __init__(
        self,
        *,
        resources: Resources,
        name: str,
        engines: Engines,
        versions: dict[str, str],
    ) -> None:
        """Remember what there is; nothing is started.

        Args:
            resources: what one run may use of the host.
            name: of the executor, for the metadata of results.
            engines: gives the engine of a precision.
            versions: of what the engine comes with, for the metadata of results.
        """
        super().__init__(resources=resources, name=name)
        self._engines = engines
        self._versions |= versions
        self._precision = DOUBLE

    def run(self, program: Program, target: Target) -> Result:
        """Run ``program``; of ``target``, only the name counts.

        Raises:
            InvalidProgram: a circuit has no classical bits, an observable does not fit, or an
                option is not valid; noise is among these.
            ProgramTooLarge: the GPU or the host has not enough memory.
            ExecutionError: a circuit cannot be run.
        """
        self._precision = DOUBLE
        if isinstance(program, (SamplerProgram, EstimatorProgram, QuantumProgram)):
            self._precision = _precision(Options(program.options))
        return super().run(program, target)

    def _simulation(self, resources: Resources, _noise: Noise | None) -> EngineSimulation:
        return EngineSimulation(engine=self._engines(self._precision), resources=resources)

    def _run_of(
        self, pub: SamplerPub | EstimatorPub, index: int, seed: int, suppression: Suppression
    ) -> Run | ExactRun:
        if isinstance(pub, SamplerPub):
            return suppression.run(pub, index, seed)
        with located(f"pubs[{index}]"):
            return ExactRun(pub)

    def _noise(self, options: Options, target: Target, seed: int) -> Noise | None:
        if options.get(NOISE_MODEL) is not None:
            message = (
                f"options.{NOISE_MODEL}: the executor {self._name!r} has no noise; leave the model"
                " out, or run the job on a backend …@aer"
            )
            raise InvalidProgram("noise_model", message)
        return super()._noise(options, target, seed)

    def _provenance(
        self, target: Target, seed: int, time_taken_s: float, methods: Iterable[str]
    ) -> dict[str, object]:
        engine = self._engines(self._precision)
        provenance = super()._provenance(target, seed, time_taken_s, methods)
        used = engine.name in methods
        return {
            **provenance,
            "device": engine.device if used else "CPU",
            "precision": engine.precision if used else DOUBLE,
        }


class _Gpu:
    """The engine of one GPU: made when first needed, kept as long as its precision is asked for."""

    def __init__(self, *, threads: int) -> None:
        self._threads = threads
        self._engine: CustatevecEngine | None = None

    def __call__(self, precision: str) -> CustatevecEngine:
        """Give the engine."""
        if self._engine is None or self._engine.precision != precision:
            if self._engine is not None:
                # Before another is made, which may fail: a closed engine is of no use.
                closing, self._engine = self._engine, None
                closing.close()
            self._engine = CustatevecEngine(precision=precision, threads=self._threads)
        return self._engine


def _precision(options: Options) -> str:
    asked = options.get(PRECISION)
    if asked not in (None, SINGLE, DOUBLE):
        message = f"options.{PRECISION}: {str(asked)[:40]!r}; {SINGLE!r} and {DOUBLE!r} are allowed"
        raise InvalidProgram("precision", message)
    return SINGLE if asked == SINGLE else DOUBLE
