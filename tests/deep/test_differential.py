"""Random programs, as the client sends and reads them, give what the references say.

- Samplers: every parameter set against the exact distribution; for circuits without feed-forward,
  ``StatevectorSampler`` is held to the same distribution, and its result has the same form.
- Estimators: every value against ``StatevectorEstimator`` without shots.
- Quantum programs: every place of an item against the exact distribution, and the client's own
  simulation of the same program too. Twirls are undone with the flips that come with them.

What is allowed, and how often a right answer would fail, is said in ``statistics``. 200 programs are
run, and 2,000 by ``make test-deep``; every seed is fixed.
"""

from __future__ import annotations

import io
import json
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from qiskit import QuantumCircuit, qpy, transpile
from qiskit.circuit import Parameter
from qiskit.primitives import BitArray, StatevectorEstimator, StatevectorSampler
from qiskit.primitives.containers.observables_array import ObservablesArray
from qiskit.quantum_info import SparseObservable, SparsePauliOp
from qiskit_ibm_runtime import RuntimeDecoder
from qiskit_ibm_runtime.quantum_program import QuantumProgram
from samplomatic import ChangeBasis, Twirl, build

from app.primitives.codec import encode_result
from tests.deep.depth import depth
from tests.deep.random_circuits import CircuitWriter, random_registers
from tests.deep.statistics import CHANCE_EACH, allowed_divergence, allowed_error, divergence
from tests.unit.exact_distribution import exact_distribution
from tests.unit.primitive_programs import AER, TARGET
from tests.unit.quantum_programs import VERSIONS, reference, run
from tests.unit.runtime_params import estimator, qpy_bytes, sampler

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy.typing as npt

    from app.primitives.programs import EstimatorProgram, SamplerProgram

# Qiskit's evolution of Pauli sums, in the references.
pytestmark = pytest.mark.filterwarnings("ignore::scipy.sparse.SparseEfficiencyWarning")

#: Programs of one test.
BLOCK = 10
SHOTS = 4000
DYNAMIC_SHOTS = 2000
#: Of an estimator: a value of terms that add up to 1 may be off by 0.015.
PRECISION = 100_000**-0.5

# What is compared


class Comparison:
    """How far samples are from what is exact, one by one and all together."""

    def __init__(self) -> None:
        self._divergence = 0.0
        self._freedom = 0

    def add(self, counts: Mapping[int, int], exact: Mapping[int, float], what: str) -> None:
        found, freedom = divergence(counts, exact)
        assert found <= allowed_divergence(freedom), (what, counts, exact)
        self._divergence += found
        self._freedom += freedom

    def close(self) -> None:
        """A small error everywhere is one as well."""
        assert self._divergence <= allowed_divergence(self._freedom, CHANCE_EACH)


def answer(program: SamplerProgram | EstimatorProgram) -> Any:
    """What the client reads."""
    return json.loads(encode_result(AER.run(program, TARGET)), cls=RuntimeDecoder)


def exact_outcomes(
    circuit: QuantumCircuit, values: npt.NDArray[np.float64]
) -> npt.NDArray[np.object_]:
    """Outcome of all registers, the first in the lowest bits → probability, at every set."""
    exact = np.empty(values.shape[:-1], dtype=object)
    content = qpy_bytes(circuit)
    for place in np.ndindex(exact.shape):
        # Every set has a copy of its own: Qiskit 2.6 binds a gate of the user that is inside of a
        # block in the original, and in deep copies of it, too.
        (copy,) = qpy.load(io.BytesIO(content))
        distribution = exact_distribution(copy.assign_parameters(values[place]))
        exact[place] = {int(bits, 2): chance for bits, chance in distribution.items()}
    return exact


def counted(bits: npt.NDArray[np.bool_]) -> dict[int, int]:
    """Counts of outcomes; the last axis of ``bits`` is clbits, the first of them the lowest bit."""
    outcomes = bits @ (1 << np.arange(bits.shape[-1]))
    values, counts = np.unique(outcomes, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def joined(registers: Iterable[BitArray], place: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    arrays = [register.to_bool_array(order="little")[place] for register in registers]
    return np.concatenate(arrays, axis=-1)


def random_shape(rng: np.random.Generator) -> tuple[int, ...]:
    return ((), (), (3,), (1,), (2, 1), (1, 2, 2))[int(rng.integers(6))]


def blocks(usual: int, deep: int) -> pytest.MarkDecorator:
    """Seeds of so many programs."""
    return pytest.mark.parametrize("block", range(0, depth(usual, deep), BLOCK))


# Samplers


def random_sampler_pub(
    rng: np.random.Generator, *, dynamic: bool
) -> tuple[QuantumCircuit, npt.NDArray[np.float64], int]:
    writer = CircuitWriter(random_registers(rng, qubits=4 if dynamic else 5), rng)
    if dynamic:
        writer.operations(int(rng.integers(4, 10)))
    else:
        writer.gates(int(rng.integers(4, 16)))
    writer.measure_at_the_end()
    circuit = writer.circuit
    values = rng.uniform(-4, 4, size=(*random_shape(rng), circuit.num_parameters))
    return circuit, values, DYNAMIC_SHOTS if dynamic else SHOTS


def compare_sampler(seed: int, comparison: Comparison, *, dynamic: bool) -> None:
    rng = np.random.default_rng([seed, dynamic])
    pubs = [random_sampler_pub(rng, dynamic=dynamic) for _ in range(int(rng.integers(1, 3)))]
    options = {"simulator": {"seed_simulator": seed}}

    ours = answer(sampler(*(list(pub) for pub in pubs), options=options))
    theirs = None if dynamic else StatevectorSampler(seed=seed).run(pubs).result()

    for index, (circuit, values, shots) in enumerate(pubs):
        data = ours[index].data
        assert list(data) == [register.name for register in circuit.cregs]
        assert data.shape == values.shape[:-1]
        exact = exact_outcomes(circuit, values)
        for place in np.ndindex(data.shape):
            what = f"program {seed}, pub {index}, set {place}"
            bits = joined(data.values(), place)
            assert bits.shape == (shots, circuit.num_clbits)
            comparison.add(counted(bits), exact[place], what)
            if theirs is not None:
                same = joined(theirs[index].data.values(), place)
                assert same.shape == bits.shape
                comparison.add(counted(same), exact[place], f"Qiskit, {what}")


@blocks(70, 700)
def test_samplers_without_feed_forward(block: int) -> None:
    comparison = Comparison()

    for seed in range(block, block + BLOCK):
        compare_sampler(seed, comparison, dynamic=False)

    comparison.close()


@blocks(50, 500)
def test_samplers_with_feed_forward(block: int) -> None:
    comparison = Comparison()

    for seed in range(block, block + BLOCK):
        compare_sampler(seed, comparison, dynamic=True)

    comparison.close()


# Estimators


def random_observables(rng: np.random.Generator, qubits: int) -> Any:
    """An array of observables, as the client sends it."""
    shape = ((), (2,), (3, 1), (1, 2), (1,))[int(rng.integers(5))]
    array = np.empty(shape, dtype=object)
    for place in np.ndindex(*shape):
        alphabet = list("IXYZ") if rng.random() < 0.7 else list("IXYZ01+-rl")
        terms = {
            "".join(rng.choice(alphabet, size=qubits)): float(rng.uniform(-1, 1))
            for _ in range(int(rng.integers(1, 5)))
        }
        array[place] = terms
    return ObservablesArray.coerce(array if shape else array[()])


def as_paulis(observable: Mapping[str, float]) -> SparsePauliOp:
    sparse = SparseObservable.from_list(list(observable.items()))
    return SparsePauliOp.from_sparse_observable(sparse)


def random_estimator_pub(rng: np.random.Generator) -> tuple[QuantumCircuit, Any, Any]:
    circuit = QuantumCircuit(int(rng.integers(2, 6)))
    CircuitWriter(circuit, rng).gates(int(rng.integers(3, 16)))
    observables = random_observables(rng, circuit.num_qubits)
    # Whatever can be broadcast against all of those.
    shape = ((), (1,), (2,), (3, 2), (3, 1))[int(rng.integers(5))]
    if not broadcasts(shape, observables.shape):
        shape = ()
    return circuit, observables, rng.uniform(-4, 4, size=(*shape, circuit.num_parameters))


def broadcasts(*shapes: tuple[int, ...]) -> bool:
    try:
        np.broadcast_shapes(*shapes)
    except ValueError:
        return False
    return True


def compare_estimator(seed: int) -> tuple[float, int]:
    """Give the sum of the squares of errors in units of their standard errors, and their number."""
    rng = np.random.default_rng([seed, 2])
    pubs = [random_estimator_pub(rng) for _ in range(int(rng.integers(1, 3)))]
    options = {"simulator": {"seed_simulator": seed}}

    sent = [
        [circuit, observables.tolist(), values, PRECISION] for circuit, observables, values in pubs
    ]
    ours = answer(estimator(*sent, options=options))
    squares, number = 0.0, 0
    for index, (circuit, observables, values) in enumerate(pubs):
        paulis = np.empty(observables.shape, dtype=object)
        widths = np.empty(observables.shape)
        for place in np.ndindex(observables.shape):
            # No sum of eigenvalues is farther from 0 than the sum of the coefficients.
            widths[place] = 2 * sum(abs(value) for value in observables[place].values())
            paulis[place] = as_paulis(observables[place])
        pub = (circuit, paulis if observables.shape else paulis[()], values)
        exact = np.asarray(StatevectorEstimator().run([pub], precision=0).result()[0].data.evs)
        evs, stds = np.asarray(ours[index].data.evs), np.asarray(ours[index].data.stds)
        assert evs.shape == stds.shape == exact.shape
        shots = round(PRECISION**-2)
        assert (abs(evs - exact) <= allowed_error(shots, widths)).all(), (seed, index, evs, exact)
        # The normal approximation needs outcomes that are not rare.
        usual = stds > 0.02 * widths * shots**-0.5
        squares += float((((evs - exact)[usual] / stds[usual]) ** 2).sum())
        number += int(usual.sum())
    return squares, number


@blocks(40, 400)
def test_estimators(block: int) -> None:
    compared = [compare_estimator(seed) for seed in range(block, block + BLOCK)]

    # Standard errors are what they are called: squares of normal numbers have mean 1, variance 2.
    squares, numbers = (sum(column) for column in zip(*compared, strict=True))
    assert numbers > BLOCK
    assert abs(squares - numbers) < 7 * (2 * numbers) ** 0.5


# Quantum programs


def random_boxes(
    rng: np.random.Generator,
) -> tuple[QuantumCircuit, QuantumCircuit, npt.NDArray[np.uint8]]:
    """A circuit of twirled boxes, the same with its measurement in some basis, and that basis."""
    qubits = int(rng.integers(2, 5))
    boxed = QuantumCircuit(qubits, qubits)
    angles = [Parameter("a"), Parameter("b")]
    for _ in range(int(rng.integers(1, 4))):
        with boxed.box([Twirl(dressing="left")]):
            for qubit in range(qubits):
                kind = int(rng.integers(4))
                if kind == 0:
                    boxed.rx(angles[int(rng.integers(2))], qubit)
                elif kind == 1:
                    boxed.h(qubit)
                elif kind == 2:
                    boxed.rz(float(rng.uniform(-3, 3)), qubit)
                else:
                    boxed.sx(qubit)
            places = rng.permutation(qubits).tolist()
            for first, second in zip(places[::2], places[1::2], strict=False):
                getattr(boxed, ("cx", "cz", "ecr")[int(rng.integers(3))])(first, second)
            boxed.noop(*range(qubits))
    plain = boxed.copy_empty_like()
    for box in boxed:
        plain.compose(box.operation.body, box.qubits, inplace=True)
    order = rng.permutation(qubits).tolist()
    with boxed.box([Twirl(), ChangeBasis(ref="basis")]):
        boxed.measure(range(qubits), order)
    basis = rng.integers(0, 4, size=qubits, dtype=np.uint8)
    for qubit, letter in enumerate(basis.tolist()):
        # 0 to 3 are I, Z, X, Y.
        if letter == 3:
            plain.sdg(qubit)
        if letter > 1:
            plain.h(qubit)
    plain.measure(range(qubits), order)
    return boxed, plain, basis


def compare_quantum_program(seed: int, comparison: Comparison) -> None:
    rng = np.random.default_rng([seed, 3])
    program, transpiled = QuantumProgram(shots=500), QuantumProgram(shots=500)
    exact: list[tuple[str, npt.NDArray[Any], int]] = []
    for _ in range(int(rng.integers(1, 3))):
        # Aer and the transpiler take a gate of the user for what its name says.
        empty = random_registers(rng, qubits=4)
        writer = CircuitWriter(empty, rng, gate_names=("mine", "yours"))
        writer.gates(int(rng.integers(3, 12)))
        writer.measure_at_the_end()
        # The client's simulation gives zeros where a circuit without parameters has a shape.
        circuit = writer.circuit
        shape = random_shape(rng) if circuit.num_parameters else ()
        values = rng.uniform(-4, 4, size=(*shape, circuit.num_parameters))
        program.append_circuit_item(circuit, circuit_arguments=values)
        # The client's simulation knows only what Aer knows by name.
        simple = transpile(circuit, basis_gates=["u", "cx"], optimization_level=0)
        transpiled.append_circuit_item(simple, circuit_arguments=values)
        exact.append(("circuit", exact_outcomes(circuit, values), 0))

    boxed, plain, basis = random_boxes(rng)
    template, samplex = build(boxed)
    draws, sweep = int(rng.integers(2, 6)), ((), (2,))[int(rng.integers(2))]
    values = rng.uniform(-3, 3, size=(*sweep, boxed.num_parameters))
    arguments: dict[str, Any] = {
        "basis_changes": {"basis": np.broadcast_to(basis, (*sweep, len(basis)))}
    }
    if boxed.num_parameters:
        arguments["parameter_values"] = values
    for each in (program, transpiled):
        each.append_samplex_item(template, samplex, arguments, shape=(draws, *sweep))
    exact.append(("samplex", exact_outcomes(plain, values), 1))

    version = VERSIONS[seed % len(VERSIONS)]
    ours = run(program, version if version != "v0.1" else VERSIONS[-1], seed)
    for who, result in (("ours", ours), ("the client's", reference(transpiled, seed))):
        for index, (kind, distributions, drawn) in enumerate(exact):
            bits = bits_of(result[index], program.items[index].circuit)
            assert bits.shape[drawn:-2] == distributions.shape, (who, bits.shape)
            for place in np.ndindex(distributions.shape):
                at = (slice(None), *place) if drawn else place
                samples = bits[at].reshape(-1, bits.shape[-1])
                assert len(samples) == program.shots * (draws if drawn else 1)
                what = f"{who}, program {seed}, {kind} item {index}, place {place}"
                comparison.add(counted(samples), distributions[place], what)


def bits_of(item: Any, circuit: QuantumCircuit) -> npt.NDArray[np.bool_]:
    """All registers side by side, without the flips of twirled measurements."""
    arrays = [
        item[register.name] ^ item.get(f"measurement_flips.{register.name}", False)
        for register in circuit.cregs
    ]
    return np.concatenate(arrays, axis=-1)


@blocks(40, 400)
def test_quantum_programs(block: int) -> None:
    comparison = Comparison()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for seed in range(block, block + BLOCK):
            compare_quantum_program(seed, comparison)

    comparison.close()


# The yardstick


def test_the_bound_tells_samples_that_are_slightly_wrong() -> None:
    exact = {0: 0.25, 1: 0.25, 2: 0.25, 3: 0.25}
    rng = np.random.default_rng(1)

    right = rng.multinomial(SHOTS, [0.25] * 4)
    wrong = rng.multinomial(SHOTS, [0.31, 0.25, 0.25, 0.19])

    allowed = allowed_divergence(3)
    assert divergence(dict(enumerate(right.tolist())), exact)[0] < allowed / 3
    assert divergence(dict(enumerate(wrong.tolist())), exact)[0] > allowed


def test_the_moment_generating_function_is_below_its_bound() -> None:
    # The case of two outcomes, from which the others follow, summed up exactly.
    for shots, chance in ((1, 0.5), (10, 0.03), (100, 0.5), (1000, 0.001)):
        for power in (0.3, 0.6, 0.9):
            assert moment(shots, chance, power) <= 1 / (1 - power)


def moment(shots: int, chance: float, power: float) -> float:
    """The mean of ``exp(power · n · D)``."""
    from scipy.stats import binom

    ones = np.arange(shots + 1)
    values = [
        divergence({0: shots - one, 1: one}, {0: 1 - chance, 1: chance})[0]
        if 0 < one < shots
        else -shots * np.log(chance if one else 1 - chance)
        for one in ones.tolist()
    ]
    return float(np.exp(binom.logpmf(ones, shots, chance) + power * np.array(values)).sum())
