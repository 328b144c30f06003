"""Circuits of everything that clients send: gates, parameters, registers, control flow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qiskit import ClassicalRegister, QuantumCircuit, QuantumRegister
from qiskit.circuit import CASE_DEFAULT, Parameter, ParameterVector
from qiskit.circuit.classical import expr
from qiskit.circuit.library import (
    HGate,
    PauliEvolutionGate,
    PauliGate,
    RYGate,
    RZXGate,
    SXGate,
    UnitaryGate,
)
from qiskit.quantum_info import SparsePauliOp, random_unitary

if TYPE_CHECKING:
    import numpy as np

ONE_QUBIT_GATES = ("h", "x", "y", "z", "s", "sdg", "t", "tdg", "sx", "sxdg", "id")
TWO_QUBIT_GATES = ("cx", "cy", "cz", "ch", "swap", "iswap", "ecr", "dcx", "csx", "cs", "csdg")
THREE_QUBIT_GATES = ("ccx", "cswap", "ccz", "rccx")
ONE_QUBIT_ROTATIONS = ("rx", "ry", "rz", "p")
TWO_QUBIT_ROTATIONS = ("rxx", "ryy", "rzz", "rzx", "cp", "crx", "cry", "crz")

#: Measurements and resets outside of ``while``: each may double the branches of the reference.
_SPLITS = 6
_NESTING = 2


def random_registers(rng: np.random.Generator, *, qubits: int) -> QuantumCircuit:
    """An empty circuit of up to so many qubits, in registers of every kind."""
    first = int(rng.integers(1, qubits))
    second = int(rng.integers(1, qubits - first + 1))
    sizes = [int(size) for size in rng.integers(1, 4, size=int(rng.integers(1, 4)))]
    return QuantumCircuit(
        QuantumRegister(first, "a"),
        QuantumRegister(second, "b"),
        *(ClassicalRegister(size, f"c{index}") for index, size in enumerate(sizes)),
    )


class CircuitWriter:
    """Adds random operations to a circuit."""

    def __init__(
        self,
        circuit: QuantumCircuit,
        rng: np.random.Generator,
        *,
        gate_names: tuple[str, ...] = ("h", "cx", "mine"),
    ) -> None:
        self.circuit = circuit
        self._rng = rng
        self._gate_names = gate_names
        # More than nine, so that their order is not that of their names as text.
        count = int(rng.choice([1, 2, 3, 11]))
        self._parameters = ParameterVector("θ", count)
        self._free: list[Any] = [*self._parameters, Parameter("α")]
        self._splits = _SPLITS
        self._whiles = 1

    def gates(self, count: int, *, but: int | None = None) -> None:
        """Add gates, on any qubits but one."""
        for _ in range(count):
            self._gate([q for q in range(self.circuit.num_qubits) if q != but])

    def operations(self, count: int, nesting: int = 0) -> None:
        """Add gates, measurements and control flow."""
        kinds = [self._measurement, self._reset, self._if, self._switch, self._for, self._while]
        for _ in range(count):
            kind = int(self._rng.integers(2 * len(kinds)))
            if kind >= len(kinds) or (kind > 1 and nesting == _NESTING):
                self.gates(1)
            elif kind < 2:
                kinds[kind](nesting)
            else:
                kinds[kind](nesting + 1)

    def measure_at_the_end(self) -> None:
        """Read some qubits, each once, into some bits."""
        circuit, rng = self.circuit, self._rng
        pairs = min(circuit.num_qubits, circuit.num_clbits)
        count = int(rng.integers(1, pairs + 1))
        if rng.random() < 0.3:
            circuit.barrier()
        circuit.measure(
            rng.permutation(circuit.num_qubits)[:count].tolist(),
            rng.permutation(circuit.num_clbits)[:count].tolist(),
        )

    def _pick(self, names: tuple[str, ...]) -> str:
        return names[int(self._rng.integers(len(names)))]

    def _below(self, count: int) -> int:
        return int(self._rng.integers(count))

    def _angle(self) -> Any:
        first, second = self._free[self._below(len(self._free))], self._free[0]
        return (
            float(self._rng.uniform(-3, 3)),
            first,
            2 * first - second / 3 + 1,
            first * second,
            first.sin() + 0.5,
        )[self._below(5)]

    def _gate(self, allowed: list[int]) -> None:
        circuit, rng = self.circuit, self._rng
        qubits = [allowed[index] for index in rng.permutation(len(allowed))]
        one, two, three = qubits[:1], qubits[:2], qubits[:3]
        kind = self._below(10)
        if kind < 2 or len(qubits) == 1:
            if kind % 2:
                getattr(circuit, self._pick(ONE_QUBIT_GATES))(*one)
            else:
                getattr(circuit, self._pick(ONE_QUBIT_ROTATIONS))(self._angle(), *one)
        elif kind == 2:
            getattr(circuit, self._pick(TWO_QUBIT_GATES))(*two)
        elif kind == 3:
            getattr(circuit, self._pick(TWO_QUBIT_ROTATIONS))(self._angle(), *two)
        elif kind == 4:
            circuit.cu(self._angle(), 0.3, self._angle(), -0.7, *two)
        elif kind == 5 and len(qubits) > 2:
            getattr(circuit, self._pick(THREE_QUBIT_GATES))(*three)
        elif kind == 6:
            circuit.append(UnitaryGate(random_unitary(4, seed=rng)), two)
        elif kind == 7:
            self._special(qubits)
        elif kind == 8:
            circuit.append(self._composite(len(two)), two)
        else:
            circuit.u(self._angle(), 0.3, self._angle(), *one)

    def _special(self, qubits: list[int]) -> None:
        """Gates that are more than a name and angles."""
        circuit, rng = self.circuit, self._rng
        kind = self._below(8)
        two = qubits[:2]
        if kind == 0:
            label = "".join(rng.choice(list("IXYZ"), size=len(qubits)))
            circuit.append(PauliGate(label), qubits)
        elif kind == 1:
            controls = len(qubits) - 1
            gate = RYGate(0.7).control(
                controls, ctrl_state=self._below(1 << controls), annotated=bool(self._below(2))
            )
            circuit.append(gate, qubits)
        elif kind == 2:
            circuit.mcx(qubits[1:], qubits[0])
        elif kind == 3:
            circuit.mcp(self._angle(), qubits[1:], qubits[0])
        elif kind == 4:
            circuit.append(RZXGate(0.4).inverse(), two)
        elif kind == 5:
            circuit.append(SXGate().power(0.5), two[:1])
        elif kind == 6:
            operator = SparsePauliOp(["XX", "ZZ"], [0.3, 0.4])
            circuit.append(PauliEvolutionGate(operator, time=0.5), two)
        else:
            circuit.append(HGate().control(1, ctrl_state=0, annotated=False), two)

    def _composite(self, qubits: int) -> Any:
        """A gate of the user, perhaps of the name of one of Qiskit's, with parameters inside."""
        inner = QuantumCircuit(qubits, name=self._pick(self._gate_names))
        # Of one parameter only: with two, and in a block that has one of them elsewhere too, Qiskit
        # 2.6 cannot bind the circuit that the reference needs.
        inner.ry(2 * self._free[self._below(len(self._free))] - 1, 0)
        inner.cx(0, qubits - 1)
        inner.global_phase = 0.4
        return inner.to_gate()

    def _takes_a_split(self) -> bool:
        self._splits -= 1
        return self._splits >= 0

    def _measurement(self, _: int) -> None:
        if self._takes_a_split():
            circuit = self.circuit
            circuit.measure(self._below(circuit.num_qubits), self._below(circuit.num_clbits))

    def _reset(self, _: int) -> None:
        if self._takes_a_split():
            self.circuit.reset(self._below(self.circuit.num_qubits))

    def _condition(self) -> Any:
        circuit = self.circuit
        bit, other = (circuit.clbits[self._below(circuit.num_clbits)] for _ in range(2))
        register = circuit.cregs[self._below(len(circuit.cregs))]
        value = self._below(1 << register.size)
        return (
            (bit, self._below(2)),
            (register, value),
            expr.logic_and(bit, expr.logic_not(other)),
            expr.logic_or(expr.equal(register, value), other),
            expr.less(register, value),
            expr.greater_equal(expr.bit_xor(register, value), 1),
            expr.not_equal(expr.bit_and(expr.bit_not(register), value), 0),
        )[self._below(7)]

    def _if(self, nesting: int) -> None:
        with self.circuit.if_test(self._condition()) as otherwise:
            self.operations(1 + self._below(2), nesting)
        if self._below(2):
            with otherwise:
                self.operations(1 + self._below(2), nesting)

    def _switch(self, nesting: int) -> None:
        circuit = self.circuit
        register = circuit.cregs[self._below(len(circuit.cregs))]
        values = self._rng.permutation(1 << register.size).tolist()
        target = register if self._below(2) else expr.bit_xor(register, values[0])
        with circuit.switch(target) as case:
            with case(*values[:2]):
                self.operations(1, nesting)
            for value in values[2:3]:
                with case(value):
                    self.operations(1, nesting)
            if self._below(2):
                with case(CASE_DEFAULT):
                    self.operations(1, nesting)

    def _for(self, nesting: int) -> None:
        circuit = self.circuit
        # A measurement inside would be several; two gates and what depends on a bit.
        with circuit.for_loop(self._rng.integers(-3, 4, size=3).tolist()) as turn:
            qubit = self._below(circuit.num_qubits)
            circuit.ry(turn * 0.3 + 0.1 * self._free[0], qubit)
            if self._below(2):
                with circuit.if_test(self._condition()):
                    (circuit.break_loop, circuit.continue_loop)[self._below(2)]()
            self.gates(2)

    def _while(self, nesting: int) -> None:
        """Until a measurement with even chances gives what it should."""
        if not self._whiles:
            self.gates(1)
            return
        self._whiles -= 1
        circuit = self.circuit
        qubit, clbit = self._below(circuit.num_qubits), circuit.clbits[0]
        ends = expr.logic_not(clbit) if self._below(2) else (clbit, 0)
        with circuit.while_loop(ends):
            circuit.reset(qubit)
            circuit.h(qubit)
            circuit.measure(qubit, clbit)
            # On the measured qubit they would make the reset of the next turn another split.
            self.gates(1, but=qubit)
