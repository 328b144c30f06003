"""How do samples become the packed bits of classical registers?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from app.primitives.programs import RegisterSamples

if TYPE_CHECKING:
    import numpy.typing as npt
    from qiskit import QuantumCircuit

    from app.executors.samples import Samples


class Registers:
    """The classical registers of one circuit, side by side in whole bytes."""

    def __init__(self, circuit: QuantumCircuit) -> None:
        places = {clbit: index for index, clbit in enumerate(circuit.clbits)}
        self._registers = {register.name: register.size for register in circuit.cregs}
        #: clbit of every packed bit, or one past the last clbit where zeros are padded.
        self._clbits: list[int] = []
        for register in circuit.cregs:
            self._clbits += [len(places)] * (-register.size % 8)
            self._clbits += [places[bit] for bit in reversed(list(register))]
        self._padding = len(places)

    @property
    def width(self) -> int:
        """Bytes of one shot."""
        return len(self._clbits) // 8

    def packed(self, samples: Samples) -> npt.NDArray[np.uint8]:
        """Pack the distinct outcomes, shape ``(outcomes, width)``; other clbits are 0."""
        columns = np.zeros((len(samples.outcomes), self._padding + 1), dtype=np.uint8)
        columns[:, list(samples.clbits)] = samples.outcomes
        return np.packbits(columns[:, self._clbits], axis=1)

    def apart(
        self, packed: npt.NDArray[np.uint8], shape: tuple[int, ...]
    ) -> dict[str, RegisterSamples]:
        """Cut shots, shape ``(sets, shots, width)``, into registers of the pub's ``shape``."""
        shots = packed.shape[1]
        apart: dict[str, RegisterSamples] = {}
        start = 0
        for name, size in self._registers.items():
            stop = start + (size + 7) // 8
            array = np.ascontiguousarray(packed[..., start:stop])
            apart[name] = RegisterSamples(
                array=array.reshape(*shape, shots, stop - start), num_bits=size
            )
            start = stop
        return apart
