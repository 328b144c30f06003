"""A QPY file that is damaged anywhere is refused with a code, or runs as what it says.

Seeds are files of every version that is read, of circuits with parameters, gates of the user,
matrices and control flow. Each mutant goes as a sampler's pub into a real sandbox child. What is
checked of every mutant:

- it ends with a result or with a refusal whose code is about programs, and the zygote lives. A file
  may claim a length of gigabytes that Qiskit's reader then allocates: this ends the child, as
  ``memory_limit_reached``. Nothing else may end it, and few mutants do.
- a result is that of the circuit that Qiskit reads from the same bytes: its counts are compared with
  the exact distribution of that circuit, with the bound of ``statistics``. Qiskit reads it here, in
  the test's own process, only after the child has survived reading it.
- between mutants, a circuit that is not damaged gives its one right answer, so nothing that a mutant
  left behind changes what comes after it

100 mutants are sent, and 2,000 by ``make test-deep``; every seed is fixed.
"""

from __future__ import annotations

import io
import json
import warnings
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from qiskit import ClassicalRegister, QuantumCircuit, QuantumRegister, qpy
from qiskit.circuit import Parameter
from qiskit.circuit.library import UnitaryGate
from qiskit.primitives import BitArray
from qiskit.quantum_info import random_unitary
from qiskit_ibm_runtime import RuntimeDecoder

from app.config import ProgramLimits, SandboxLimits
from app.errors import MemoryLimitReached
from app.executors import Resources
from app.jobs.job import Failure
from app.sandbox.pool import PERFORM, SandboxPool, SandboxSlot
from app.sandbox.protocol import Reply, Request
from tests.deep.depth import depth
from tests.deep.statistics import allowed_divergence, divergence
from tests.unit.exact_distribution import exact_distribution
from tests.unit.runtime_params import blob, encoded, npy_value, qpy_bytes, sampler_document, typed

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20
RESOURCES = Resources(threads=1, memory_bytes=512 * MIB, max_result_bytes=4 * MIB)
SHOTS = 500
MUTANTS = 20
VERSIONS = range(qpy.QPY_COMPATIBILITY_VERSION, qpy.QPY_VERSION + 1)
#: What a mutant may be told.
REFUSALS = {"invalid_program", "program_too_large", "execution_error", "memory_limit_reached"}


def flat() -> QuantumCircuit:
    """Registers of both kinds, a parameter, a gate of the user, a matrix."""
    inner = QuantumCircuit(2, name="mine")
    inner.ry(0.4, 0)
    inner.cx(0, 1)
    circuit = QuantumCircuit(
        QuantumRegister(2, "a"), QuantumRegister(1, "b"), ClassicalRegister(3, "c")
    )
    circuit.h(0)
    circuit.rx(2 * Parameter("θ") + 0.1, 1)
    circuit.append(inner.to_gate(), [1, 2])
    circuit.append(UnitaryGate(random_unitary(2, seed=4)), [0])
    circuit.barrier()
    circuit.measure([0, 1, 2], [2, 0, 1])
    return circuit


def dynamic() -> QuantumCircuit:
    circuit = QuantumCircuit(2, 2)
    circuit.ry(Parameter("θ"), 0)
    circuit.measure(0, 0)
    with circuit.if_test((circuit.clbits[0], 1)) as otherwise:
        circuit.x(1)
    with otherwise:
        circuit.h(1)
    with circuit.for_loop(range(3)) as turn:
        circuit.rx(turn * 0.2, 1)
    with circuit.switch(circuit.cregs[0]) as case, case(1, 3):
        circuit.sx(1)
    circuit.measure(1, 1)
    return circuit


def bell() -> QuantumCircuit:
    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.cp(Parameter("θ"), 0, 1)
    circuit.cx(0, 1)
    circuit.measure_all()
    return circuit


SEEDS = [
    qpy_bytes(make(), version=version) for make in (bell, flat, dynamic) for version in VERSIONS
]


def mutant(rng: np.random.Generator) -> bytes:
    """A seed with up to three faults."""
    content = bytearray(SEEDS[int(rng.integers(len(SEEDS)))])
    for _ in range(int(rng.integers(1, 4))):
        FAULTS[int(rng.integers(len(FAULTS)))](content, rng)
    return bytes(content)


def flip(content: bytearray, rng: np.random.Generator) -> None:
    for place in rng.integers(len(content), size=int(rng.integers(1, 4))):
        content[place] ^= 1 << int(rng.integers(8))


def replace(content: bytearray, rng: np.random.Generator) -> None:
    content[int(rng.integers(len(content)))] = int(rng.choice([0, 1, 127, 128, 255, 99, 112]))


def truncate(content: bytearray, rng: np.random.Generator) -> None:
    del content[int(rng.integers(1, len(content))) :]


def cut_out(content: bytearray, rng: np.random.Generator) -> None:
    start = int(rng.integers(len(content)))
    del content[start : start + int(rng.integers(1, 20))]
    content.extend(b"\0" * (not content))


def splice(content: bytearray, rng: np.random.Generator) -> None:
    """Go on with another seed."""
    other = SEEDS[int(rng.integers(len(SEEDS)))]
    content[int(rng.integers(len(content))) :] = other[int(rng.integers(len(other) - 1)) :]


def repeat(content: bytearray, rng: np.random.Generator) -> None:
    start, length = int(rng.integers(len(content))), int(rng.integers(1, 60))
    content[start:start] = content[start : start + length]


def relength(content: bytearray, rng: np.random.Generator) -> None:
    """Change an integer of two, four or eight bytes, as lengths and counts are."""
    size = int(rng.choice([2, 4, 8]))
    place = int(rng.integers(len(content)))
    value = int.from_bytes(content[place : place + size], "big")
    small = (value + int(rng.choice([-1, 1, 7]))) % (1 << 8 * size)
    extreme = int(rng.choice([0, 1, (1 << 8 * size - 1) - 1]))
    changed = small if rng.random() < 0.7 else extreme
    content[place : place + size] = changed.to_bytes(size, "big")


FAULTS = (flip, flip, replace, relength, relength, truncate, cut_out, splice, repeat)


@pytest.fixture(scope="module")
def pool() -> Iterator[SandboxPool]:
    pool = SandboxPool(
        # A child for as many as possible: a mutant that poisons it would be found out.
        limits=SandboxLimits(
            memory_bytes=512 * MIB, jobs_per_child=100_000, growth_bytes=400 * MIB
        ),
        resources=RESOURCES,
        slots=1,
        perform=PERFORM,
    )
    yield pool
    pool.close()


@pytest.fixture
def slot(pool: SandboxPool) -> SandboxSlot:
    return pool.slots[0]


def sent(slot: SandboxSlot, content: bytes, values: Any) -> Reply:
    pub = [typed("QuantumCircuit", blob(content)), npy_value(np.asarray(values, float)), SHOTS]
    request = Request(
        job_id="id",
        program_id="sampler",
        target="simulator",
        executor="aer",
        params=encoded(sampler_document(pub, simulator={"seed_simulator": 3})),
        limits=ProgramLimits(),
        resources=RESOURCES,
    )
    try:
        return slot.run(owner="alice", request=request, time_limit_s=20)
    except MemoryLimitReached as exc:
        return Reply(result=None, failure=Failure(code=exc.code, message=exc.message))


def counts_of(reply: Reply) -> dict[int, int]:
    """Outcomes of all registers, the first in the lowest bits."""
    assert reply.result is not None
    (pub,) = json.loads(reply.result, cls=RuntimeDecoder)
    bits = BitArray.concatenate_bits(list(pub.data.values()))
    return {int(outcome, 2): count for outcome, count in bits.get_counts().items()}


def assert_is_what_qiskit_reads(reply: Reply, content: bytes, values: list[float]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (circuit,) = qpy.load(io.BytesIO(content))
    exact = exact_distribution(circuit.assign_parameters(values))
    found, freedom = divergence(
        counts_of(reply), {int(bits, 2): chance for bits, chance in exact.items()}
    )
    assert found <= allowed_divergence(freedom), circuit.draw()


def assert_the_next_one_is_right(slot: SandboxSlot) -> None:
    circuit = QuantumCircuit(3, 3)
    circuit.x([0, 2])
    circuit.cx(0, 1)
    circuit.x(2)
    circuit.measure(range(3), range(3))
    assert counts_of(sent(slot, qpy_bytes(circuit), [])) == {3: SHOTS}


@pytest.mark.parametrize("block", range(0, depth(100, 2000), MUTANTS))
def test_mutants_are_refused_or_run_as_what_they_say(
    pool: SandboxPool, slot: SandboxSlot, block: int
) -> None:
    assert_the_next_one_is_right(slot)
    zygote = pool.zygote_pid
    seen: Counter[str] = Counter()

    for number in range(block, block + MUTANTS):
        rng = np.random.default_rng(number)
        content, values = mutant(rng), [0.7]
        reply = sent(slot, content, values)
        if reply.failure is None:
            seen["result"] += 1
            assert_is_what_qiskit_reads(reply, content, values)
        else:
            seen[reply.failure.code] += 1
            assert reply.result is None
            assert reply.failure.code in REFUSALS, (number, reply.failure)
            assert reply.failure.message.isprintable()
        assert pool.zygote_pid == zygote, number

    assert_the_next_one_is_right(slot)
    assert pool.zygote_pid == zygote
    assert seen["invalid_program"], seen
    assert seen["memory_limit_reached"] <= MUTANTS // 5, seen


def test_seeds_that_are_not_damaged_run(slot: SandboxSlot) -> None:
    for content in SEEDS:
        assert_is_what_qiskit_reads(sent(slot, content, [0.7]), content, [0.7])
