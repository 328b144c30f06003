"""How is a circuit sampled part by part, when whole bitstrings are wanted?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from app.executors.circuits.angles import Angles

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qiskit import QuantumCircuit

    from app.executors.circuits.reduction import Reduced
    from app.executors.simulation import Simulation

#: bytes of a bit of a shot while the parts are put side by side and counted.
BIT_BYTES = 2


def parts_of(circuit: QuantumCircuit, simulation: Simulation, shots: int) -> list[Reduced]:
    """Give the parts of ``circuit`` that share no bit, each without what cannot be seen."""
    steps = simulation.steps(circuit, Angles(), shots)
    return [simulation.reduced(part) for part in simulation.components(steps)]


def counts_of(
    parts: Sequence[Reduced],
    simulation: Simulation,
    *,
    clbits: int,
    shots: int,
    rng: np.random.Generator,
) -> tuple[dict[int, int], list[int]]:
    """Sample every part, and put the shots side by side.

    Args:
        parts: parts of one circuit without parameters.
        simulation: what runs them.
        clbits: one more than the highest clbit.
        shots: samples.
        rng: where chance comes from.

    Returns:
        outcomes as integers with their occurrences, and the clbit that each bit stands for.
    """
    written = sorted(clbit for part in parts for clbit in part.written)
    places = {clbit: place for place, clbit in enumerate(written)}
    bits = np.zeros((shots, len(written)), dtype=np.uint8)
    for part in parts:
        samples = simulation.samples(
            part, np.empty((1, 0)), clbits=clbits, shots=shots, rng=rng
        ).of({clbit: places[clbit] for clbit in part.written})
        (rows,) = samples.in_random_order(rng)
        bits[:, samples.clbits] = samples.outcomes[rows]
    packed = np.packbits(bits, axis=1, bitorder="little")
    outcomes, occurrences = np.unique(packed, axis=0, return_counts=True)
    return {
        int.from_bytes(outcome.tobytes(), "little"): times
        for outcome, times in zip(outcomes, occurrences.tolist(), strict=True)
    }, written
