"""How does an item of a quantum program become samples? As a pub of a sampler, once it is bound."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from app.executors.draws import drawn, snapped
from app.executors.sampler import SamplerRun
from app.primitives.programs import ExecutionSpan, ItemResult, SamplerPub, SamplexItem
from app.primitives.runtime.samplexes import PARAMETER_VALUES, output_bytes

if TYPE_CHECKING:
    import numpy.typing as npt

    from app.executors.durations import Work
    from app.executors.noise.model import Noise
    from app.executors.simulation import Simulation
    from app.primitives.programs import CircuitItem, RegisterSamples


class ItemRun:
    """One item that is to be run."""

    def __init__(self, item: CircuitItem | SamplexItem, *, shots: int, noise: Noise | None) -> None:
        """Look at the item.

        Raises:
            InvalidProgram: its circuit has no classical registers.
        """
        self._item = item
        self._noise = noise
        circuit = item.circuit
        if isinstance(item, SamplexItem):
            # Angles are drawn when the item's turn comes; their number is known.
            values = np.broadcast_to(np.float64(0), (*item.shape, circuit.num_parameters))
        else:
            values = item.parameter_values
        self._pub = SamplerPub(circuit=circuit, parameter_values=values, shots=shots)
        self._run = SamplerRun(self._pub, noise)

    @property
    def result_bytes(self) -> int:
        """Size of the result, before it is encoded."""
        return self._run.result_bytes + self._drawn_bytes

    @property
    def working_bytes(self) -> int:
        """Memory that the run needs besides its result and a simulation."""
        # Every bit of the result is a byte for a while.
        return self._run.working_bytes + 8 * self._run.result_bytes + 3 * self._drawn_bytes

    def work(self, simulation: Simulation) -> Work:
        """Estimate what the run takes."""
        return self._run.work(simulation)

    @property
    def description(self) -> str:
        """Size of the run in words."""
        return self._run.description

    def result(
        self, simulation: Simulation, rng: np.random.Generator
    ) -> tuple[ItemResult, dict[str, object]]:
        """Give the samples, and what was simulated."""
        started = datetime.now(UTC)
        run, outputs = self._run, {}
        if isinstance(self._item, SamplexItem):
            outputs = drawn(self._item, rng)
            values = outputs.pop(PARAMETER_VALUES, np.empty((*self._item.shape, 0)))
            run = SamplerRun(replace(self._pub, parameter_values=snapped(values)), self._noise)
        sampled, provenance = run.result(simulation, rng)
        registers = {name: _bits(samples) for name, samples in sampled.registers.items()}
        span = ExecutionSpan(started=started, finished=datetime.now(UTC))
        result = ItemResult(shape=self._item.shape, arrays=registers | outputs, span=span)
        return result, provenance

    @property
    def _drawn_bytes(self) -> int:
        if isinstance(self._item, SamplexItem):
            return output_bytes(self._item.samplex, int(np.prod(self._item.shape)))
        return 0


def _bits(samples: RegisterSamples) -> npt.NDArray[Any]:
    """Give every bit an element of its own, bit 0 first."""
    unpacked = np.unpackbits(samples.array[..., ::-1], axis=-1, bitorder="little")
    return unpacked[..., : samples.num_bits].view(np.bool_)
