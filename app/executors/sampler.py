"""How does a sampler's pub become samples?"""

from __future__ import annotations

from datetime import UTC, datetime
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from app.errors import InvalidProgram
from app.executors.admission import counts_bytes
from app.executors.circuits.angles import Angles
from app.executors.durations import Work
from app.executors.registers import Registers
from app.primitives.programs import ExecutionSpan, SamplerPubResult

if TYPE_CHECKING:
    import numpy.typing as npt

    from app.executors.circuits.reduction import Reduced
    from app.executors.noise.model import Noise
    from app.executors.simulation import Simulation
    from app.primitives.programs import SamplerPub

#: shots that are held at once when many parameter sets are.
_SHOTS_AT_ONCE = 2**21
#: bytes of a shot while it is put in random order and packed: its outcome three times.
_ORDERED_BYTES = 24


class SamplerRun:
    """One pub that is to be sampled."""

    def __init__(self, pub: SamplerPub, noise: Noise | None) -> None:
        """Look at the pub.

        Raises:
            InvalidProgram: its circuit has no classical registers.
        """
        self._pub = pub
        self._registers = Registers(pub.circuit)
        if not self._registers.width:
            message = "the circuit has no classical registers, so it has no result; measure it"
            raise InvalidProgram("no_classical_bits", message)
        self._circuit = pub.circuit if noise is None else noise.conforming(pub.circuit)[0]
        self._sets = prod(pub.shape)
        self._parts: tuple[list[Reduced], npt.NDArray[np.float64]] | None = None

    @property
    def result_bytes(self) -> int:
        """Size of the result, before it is encoded."""
        return self._sets * self._pub.shots * self._registers.width

    @property
    def working_bytes(self) -> int:
        """Memory that the run needs besides its result and a simulation."""
        shots = self._pub.shots * min(self._sets, max(1, _SHOTS_AT_ONCE // self._pub.shots))
        return shots * (_ORDERED_BYTES + self._registers.width) + counts_bytes(
            self._pub.shots, self._circuit.num_clbits
        )

    def work(self, simulation: Simulation) -> Work:
        """Estimate what the run takes."""
        components, values = self._prepared(simulation)
        shots = self._pub.shots
        return sum(
            (
                simulation.work(component, values, sets=self._sets, shots=shots)
                for component in components
            ),
            Work(),
        )

    @property
    def description(self) -> str:
        """Size of the run in words."""
        return f"{self._sets} × {self._pub.shots} shots of {8 * self._registers.width} bits"

    def result(
        self, simulation: Simulation, rng: np.random.Generator
    ) -> tuple[SamplerPubResult, dict[str, object]]:
        """Give the samples, and what was simulated."""
        pub, started = self._pub, datetime.now(UTC)
        components, values = self._prepared(simulation)
        at_once = 1
        if all(simulation.vectorises(component) for component in components):
            at_once = max(1, min(simulation.sets_at_once(components), _SHOTS_AT_ONCE // pub.shots))
        packed = np.zeros((self._sets, pub.shots, self._registers.width), dtype=np.uint8)
        for start in range(0, self._sets, at_once):
            chunk = slice(start, start + at_once)
            for component in components:
                samples = simulation.samples(
                    component,
                    values[chunk],
                    clbits=pub.circuit.num_clbits,
                    shots=pub.shots,
                    rng=rng,
                )
                rows = samples.in_random_order(rng)
                packed[chunk] |= self._registers.packed(samples)[rows]
        provenance = {
            "shots": pub.shots,
            "qubits_declared": pub.circuit.num_qubits,
            "qubits_simulated": sum(component.qubits for component in components),
            "component_qubits": [component.qubits for component in components],
        }
        result = SamplerPubResult(
            shape=pub.shape,
            registers=self._registers.apart(packed, pub.shape),
            metadata={"circuit_metadata": pub.circuit.metadata or {}},
            span=ExecutionSpan(started=started, finished=datetime.now(UTC)),
        )
        return result, provenance

    def _prepared(self, simulation: Simulation) -> tuple[list[Reduced], npt.NDArray[np.float64]]:
        """Give the components of the circuit, and the angles of their slots at every set.

        They are kept: what is estimated is what is run.
        """
        if self._parts is None:
            pub, angles = self._pub, Angles(self._pub.circuit.parameters)
            steps = simulation.steps(self._circuit, angles, pub.shots)
            components = [simulation.reduced(part) for part in simulation.components(steps)]
            values = pub.parameter_values.reshape(self._sets, pub.parameter_values.shape[-1])
            self._parts = components, angles.at(values)
        return self._parts
