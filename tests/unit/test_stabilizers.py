"""Are the outcomes of stabilizer states drawn as they occur?"""

from __future__ import annotations

import numpy as np
import pytest
from qiskit import QuantumCircuit
from qiskit.quantum_info import Statevector
from scipy.stats import chisquare

from app.executors import stabilizers
from app.executors.circuits.lowering import Step
from app.executors.circuits.methods import _CLIFFORD_GATES

SHOTS = 20_000
TWO_QUBITS = frozenset(("cx", "cy", "cz", "swap", "ecr"))


def random_steps(rng: np.random.Generator, qubits: int, count: int) -> list[Step]:
    steps = []
    for name in rng.choice(sorted(_CLIFFORD_GATES), count).tolist():
        acted_on = rng.permutation(qubits)[: 2 if name in TWO_QUBITS else 1]
        steps.append(Step(name, tuple(acted_on.tolist())))
    return steps


def state_of(steps: list[Step], qubits: int) -> Statevector:
    circuit = QuantumCircuit(qubits)
    for step in steps:
        getattr(circuit, step.name)(*step.qubits)
    return Statevector(circuit)


@pytest.mark.parametrize("seed", range(40))
def test_outcomes_are_those_of_the_state_each_as_likely(seed: int) -> None:
    rng = np.random.default_rng(seed)
    qubits = int(rng.integers(2, 7))
    steps = random_steps(rng, qubits, 30)
    read = rng.permutation(qubits)[: rng.integers(1, qubits + 1)].tolist()
    chances = state_of(steps, qubits).probabilities(read)
    possible = np.flatnonzero(chances > 1e-9)

    flips = stabilizers.flips(steps, qubits)
    assert flips is not None
    counts = stabilizers.sampled(
        int(possible[-1]), stabilizers.columns(flips, read), shots=SHOTS, rng=rng
    )

    assert set(counts) <= set(possible.tolist())
    seen = np.array([counts.get(outcome, 0) for outcome in possible.tolist()])
    assert seen.sum() == SHOTS
    expected = chances[possible] / chances[possible].sum() * SHOTS
    assert len(possible) == 1 or chisquare(seen, expected).pvalue > 1e-6


def test_many_shots_are_drawn_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stabilizers, "_BITS_AT_ONCE", 64)
    flips = stabilizers.flips([Step("h", (0,)), Step("cx", (0, 69))], 70)
    assert flips is not None

    counts = stabilizers.sampled(1 << 5, flips, shots=1001, rng=np.random.default_rng(1))

    assert set(counts) == {1 << 5, 1 << 5 | 1 | 1 << 69}
    assert sum(counts.values()) == 1001


@pytest.mark.parametrize("name", ["t", "reset", "measure"])
def test_what_is_no_clifford_gate_is_left_to_aer(name: str) -> None:
    assert stabilizers.flips([Step("h", (0,)), Step(name, (0,))], 1) is None
