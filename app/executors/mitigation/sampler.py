"""How does a sampler's pub become samples of a twirled circuit?"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from app.executors.items import ItemRun
from app.executors.mitigation.boxes import boxed, conformed, narrowed
from app.primitives.programs import RegisterSamples, SamplerPubResult

if TYPE_CHECKING:
    import numpy.typing as npt

    from app.executors.mitigation.resilience import Twirling
    from app.executors.noise.model import Noise
    from app.executors.simulation import Simulation
    from app.primitives.programs import SamplerPub

FLIPS = "measurement_flips."


class TwirledSamplerRun:
    """One pub that is to be sampled with random Paulis."""

    def __init__(self, pub: SamplerPub, noise: Noise, twirling: Twirling) -> None:
        """Twirl the pub.

        Raises:
            InvalidProgram: its circuit cannot be twirled, or has no classical registers.
        """
        self._pub = pub
        circuit, _ = noise.conforming(pub.circuit)
        narrow, kept = narrowed(circuit, ())
        twirled = boxed(narrow, twirling, reads=False)
        self._randomizations, self._shots_each = twirling.split(pub.shots)
        item = twirled.item(pub.parameter_values, (self._randomizations, *pub.shape))
        item = conformed(item, noise, kept, circuit.num_qubits)
        self._run = ItemRun(item, shots=self._shots_each, noise=None)

    @property
    def result_bytes(self) -> int:
        """Size of the result, before it is encoded."""
        return self._run.result_bytes

    @property
    def working_bytes(self) -> int:
        """Memory that the run needs besides its result and a simulation."""
        return self._run.working_bytes

    @property
    def description(self) -> str:
        """Size of the run in words."""
        return self._run.description

    def result(
        self, simulation: Simulation, rng: np.random.Generator
    ) -> tuple[SamplerPubResult, dict[str, object]]:
        """Give the samples, and what was simulated."""
        pub = self._pub
        outcome, provenance = self._run.result(simulation, rng)
        registers = {
            register.name: self._samples(outcome.arrays, register.name)
            for register in pub.circuit.cregs
        }
        result = SamplerPubResult(
            shape=pub.shape,
            registers=registers,
            span=replace(outcome.span, twirls=(self._randomizations, self._shots_each)),
            metadata={
                "circuit_metadata": pub.circuit.metadata or {},
                "num_randomizations": self._randomizations,
            },
        )
        return result, {**provenance, "num_randomizations": self._randomizations}

    def _samples(self, arrays: dict[str, npt.NDArray[Any]], name: str) -> RegisterSamples:
        bits = arrays[name]
        if FLIPS + name in arrays:
            bits = bits ^ arrays[FLIPS + name]
        # All randomizations of a parameter set, one after another, as far as shots were asked for.
        bits = np.moveaxis(bits, 0, -3)
        bits = bits.reshape(*self._pub.shape, -1, bits.shape[-1])[..., : self._pub.shots, :]
        packed = np.packbits(bits, axis=-1, bitorder="little")[..., ::-1]
        return RegisterSamples(array=np.ascontiguousarray(packed), num_bits=bits.shape[-1])
