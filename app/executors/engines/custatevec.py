"""How does a GPU hold a state vector? cuStateVec Ex queues gates, fuses and applies them.

NVIDIA's library aborts the process when a gate is queued where there is no driver, so the driver is
asked first. Amplitudes are in the order of qubits as long as one device holds them all.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np

from app.errors import ExecutionError, ProgramTooLarge
from app.executors.admission import GIB, size_text
from app.executors.engines import Gate, bindings, devices
from app.executors.engines.gates import SWAP, TO_Z, gates_at, parities

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    import numpy.typing as npt

    from app.executors.circuits.lowering import Step
    from app.executors.engines import Kept, Pauli

#: precision → ``cudaDataType``, and bytes of an amplitude.
_TYPES = {"single": (4, 8), "double": (5, 16)}
#: ``cudaDataType`` of the matrices that are queued, for states of either precision.
_MATRIX_TYPE = 5
_ROW_MAJOR = 1
#: turns |0> into |0> + |1>.
_BOTH = np.array([[1, 0], [1, 1]], dtype=np.complex128)
_PAULIS = {"I": 0, "X": 1, "Y": 2, "Z": 3}

#: What the library keeps for itself, and the driver for its context: the larger of the two, the
#: second as a share of the GPU's memory. Not measured yet: docs/reference/gpu.md.
_RESERVED_BYTES = GIB
_RESERVED_SHARE = 0.03
#: Matrices wait in host memory until they are applied; no more than this of them.
_QUEUED_BYTES = 64 * 2**20
#: Threads of the host that fuse gates; the library's documentation calls 4 to 16 good.
_MOST_THREADS = 16
_SAID_CHARS = 200


class _Place(NamedTuple):
    """Where a state lies, and what works on it there."""

    #: of the amplitudes, in the GPU's memory.
    pointer: int
    stream: int
    #: of the library's plain interface.
    handle: int


class CustatevecEngine:
    """A state vector on one GPU, or on a power of two of them."""

    name = "custatevec"

    def __init__(
        self,
        *,
        precision: str = "double",
        gpus: Sequence[int] = (0,),
        threads: int = 1,
        fusion: int | None = None,
    ) -> None:
        """Make the updater; the first state makes the library start, which takes about a second.

        Args:
            precision: ``single`` or ``double``.
            gpus: indices of GPUs that reach each other's memory; more than one is untried.
            threads: of the host, for fusing gates.
            fusion: qubits of a fused matrix, 1 to 10; None: as the library likes.

        Raises:
            ExecutionError: there is no such GPU.
        """
        try:
            found = devices.find()
        except devices.NoGpu as exc:
            raise ExecutionError(f"this worker has no GPU: {exc}") from exc
        if max(gpus) >= len(found):
            message = f"this worker has {len(found)} GPUs; there is no GPU {max(gpus)}"
            raise ExecutionError(message)
        loaded = bindings.load()
        self._plain, self._ex, self._error = loaded.plain, loaded.ex, loaded.error
        self._gpus = [found[index] for index in gpus]
        self.precision = precision
        self.device = ", ".join(f"GPU {gpu.index}: {gpu.name}" for gpu in self._gpus)
        self._type, self._amplitude_bytes = _TYPES[precision]
        self._qubits = 0
        #: the state that is worked on, and others of the same width that are not in use.
        self._state: int | None = None
        self._spare: list[int] = []
        self._all: list[int] = []
        #: matrices that wait: nothing says that the library has copies of its own.
        self._queued: list[npt.NDArray[np.complex128]] = []
        self._queued_bytes = 0
        self._updater = self._new_updater(min(threads, _MOST_THREADS), fusion)

    @property
    def largest_qubits(self) -> int:
        """Qubits of the largest state that the GPUs hold when nobody else uses them."""
        most = sum(gpu.memory_bytes - self._reserved(gpu) for gpu in self._gpus)
        return max(1, most // self._amplitude_bytes).bit_length() - 1

    def start(self, qubits: int, kept: Kept | None = None) -> None:
        """Be |0…0>, or what was kept.

        Raises:
            ProgramTooLarge: the GPU has not enough memory.
            ExecutionError: the GPU does not work.
        """
        with self._understood():
            self._start(qubits, kept)

    def apply(self, gate: Gate) -> None:
        """Queue a gate."""
        matrix = gate.matrix
        kinds = self._ex.MatrixType
        self._ex.sv_updater_enqueue_matrix(
            self._updater,
            matrix.ctypes.data,
            _MATRIX_TYPE,
            kinds.DIAGONAL if matrix.ndim == 1 else kinds.DENSE,
            _ROW_MAJOR,
            0,
            gate.targets,
            len(gate.targets),
            gate.controls,
            0,
            len(gate.controls),
        )
        self._queued.append(matrix)
        self._queued_bytes += matrix.nbytes
        if self._queued_bytes > _QUEUED_BYTES:
            with self._understood():
                self._applied()

    def probabilities(self, qubits: Sequence[int]) -> npt.NDArray[np.float64]:
        """Squared norms for all outcomes."""
        with self._understood():
            state, sums = self._applied(), np.empty(2 ** len(qubits))
            self._ex.abs2sum_array(state, sums.ctypes.data, list(qubits), len(qubits), 0, 0, 0)
            self._ex.state_vector_synchronize(state)
        return sums

    def sample(
        self, qubits: Sequence[int], points: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.int64]:
        """Read qubits once for every point."""
        points = np.ascontiguousarray(points, dtype=np.float64)
        with self._understood():
            state, outcomes = self._applied(), np.empty(len(points), dtype=np.int64)
            # Amplitudes that lie in another order would be walked in that one.
            self._order(state)
            self._ex.sample(
                state,
                outcomes.ctypes.data,
                list(qubits),
                len(qubits),
                points.ctypes.data,
                len(points),
                int(self._plain.SamplerOutput.RANDNUM_ORDER),
                0,
            )
            self._ex.state_vector_synchronize(state)
        return outcomes

    def expectations(self, paulis: Sequence[Pauli]) -> npt.NDArray[np.float64]:
        """Expectation value of every Pauli, in one call."""
        # The library reads the arrays during the call: they must live as long.
        codes = [np.array([_PAULIS[each] for each in p.values()], dtype=np.int32) for p in paulis]
        wires = [np.array(list(pauli), dtype=np.int32) for pauli in paulis]
        with self._understood():
            state, values = self._applied(), np.empty(len(paulis))
            self._ex.compute_expectation_on_pauli_basis(
                state,
                values.ctypes.data,
                [array.ctypes.data for array in codes],
                len(paulis),
                [array.ctypes.data for array in wires],
                [len(array) for array in wires],
            )
            self._ex.state_vector_synchronize(state)
        return values

    def batch_probabilities(
        self,
        steps: Sequence[Step],
        qubits: int,
        angles: npt.NDArray[np.float64],
        read: Sequence[int],
    ) -> npt.NDArray[np.float64]:
        """Probabilities of the outcomes of some qubits at every parameter set."""
        with self._understood(), self._batch(steps, qubits, angles) as (batch, wires):
            squares = batch.squares([wires[qubit] for qubit in read])
        # In single precision they add up to 1 but for 1e-6 or so.
        totals = squares.sum(axis=1, keepdims=True)
        normalised: npt.NDArray[np.float64] = squares / totals
        return normalised

    def batch_expectations(
        self,
        steps: Sequence[Step],
        qubits: int,
        angles: npt.NDArray[np.float64],
        paulis: Sequence[Pauli],
    ) -> npt.NDArray[np.float64]:
        """Expectation value of every Pauli at every parameter set.

        The library's call for Paulis knows no batches. Here all states are turned into one basis
        after another, and of each Pauli's qubits the parities are summed up.
        """
        values = np.empty((len(paulis), len(angles)))
        with self._understood(), self._batch(steps, qubits, angles) as (batch, wires):
            for basis, members in _by_basis(paulis):
                turned = [
                    (wires[qubit], TO_Z[each]) for qubit, each in basis.items() if each != "Z"
                ]
                for wire, matrix in turned:
                    batch.apply(matrix[np.newaxis], [wire])
                for member in members:
                    squares = batch.squares([wires[qubit] for qubit in paulis[member]])
                    values[member] = squares @ parities(len(paulis[member])) / squares.sum(axis=1)
                for wire, matrix in turned:
                    batch.apply(np.ascontiguousarray(matrix.conj().T)[np.newaxis], [wire])
        return values

    def keep(self) -> Kept | None:
        """Put a copy of the state aside, in the memory of the same GPU."""
        if len(self._gpus) > 1:
            return None
        with self._understood():
            state = self._applied()
            if not self._spare:
                if self._missing_bytes(self._qubits) > 0:
                    return None
                self._spare.append(self._new_state())
            copy = self._spare.pop()
            self._order(state)
            # What it held before may have left it in another order.
            in_order = list(range(self._qubits))
            self._ex.state_vector_reassign_wire_ordering(copy, in_order, self._qubits)
            source, to = self._place(state), self._place(copy)
            self._ex.state_vector_synchronize(state)
            devices.copy(
                self._gpus[0].index,
                to=to.pointer,
                source=source.pointer,
                size=self._amplitude_bytes << self._qubits,
                stream=to.stream,
            )
            self._ex.state_vector_synchronize(copy)
        return copy

    def wait(self) -> None:
        """Apply what is queued, and return when that is done: for those who take the time."""
        with self._understood():
            self._ex.state_vector_synchronize(self._applied())

    def wire_order(self) -> list[int]:
        """Give the wire that is bit ``i`` of an amplitude's index, as the library has left them."""
        with self._understood():
            order: list[int] = self._wire_order(self._applied()).tolist()
        return order

    def close(self) -> None:
        """Give all memory back; the engine is of no use any more."""
        self._give_back()
        self._ex.sv_updater_destroy(self._updater)

    @contextmanager
    def _understood(self) -> Iterator[None]:
        """Say what errors of the library and the driver mean."""
        try:
            yield
        except self._error as exc:
            if self._is_want_of_memory(exc):
                raise self._too_large(self._qubits, str(exc)) from exc
            message = f"the GPU failed with {self._qubits} qubits: {str(exc)[:_SAID_CHARS]}"
            raise ExecutionError(message) from exc
        except devices.NoMemory as exc:
            raise self._too_large(self._qubits, str(exc)) from exc
        except devices.NoGpu as exc:
            raise ExecutionError(f"the GPU failed: {exc}") from exc

    def _is_want_of_memory(self, error: Exception) -> bool:
        status, known = getattr(error, "status", None), self._plain.Status
        if status != known.CUDA_ERROR:
            return status in (known.ALLOC_FAILED, known.DEVICE_ALLOCATOR_ERROR)
        # That is whatever the driver may refuse. A GPU that answers, and is all but full, is full.
        needed = 0 if self._state is not None else self._share(self._qubits)
        try:
            return any(
                devices.free_bytes(gpu.index) < needed + 2 * self._reserved(gpu)
                for gpu in self._gpus
            )
        except devices.NoGpu:
            return False

    def _start(self, qubits: int, kept: Kept | None) -> None:
        self._forget()
        if kept is not None:
            if self._state is not None:
                self._spare.append(self._state)
            self._state = cast("int", kept)
            return
        if self._state is None or qubits != self._qubits:
            self._give_back()
            self._qubits = qubits
            self._require_memory(qubits)
            self._state = self._new_state()
            return
        # A run that failed may have left states that it kept.
        self._spare = [state for state in self._all if state != self._state]
        self._ex.state_vector_set_zero_state(self._state)

    @contextmanager
    def _batch(
        self, steps: Sequence[Step], qubits: int, angles: npt.NDArray[np.float64]
    ) -> Iterator[tuple[_Batch, list[int]]]:
        """Give the states that a circuit ends in, and the wire of every qubit.

        They are the parts of a larger state: its upper qubits number the parameter sets.

        Raises:
            ProgramTooLarge: there is no memory for all of them.
        """
        if len(self._gpus) > 1:
            raise ExecutionError("states side by side have to be on one GPU")
        sets = len(angles)
        upper = (sets - 1).bit_length()
        self._start(qubits + upper, None)
        for qubit in range(qubits, qubits + upper):
            # Not unitary: every part is to be |0…0> with norm 1.
            self.apply(Gate(_BOTH, (qubit,)))
        state = self._applied()
        self._order(state)
        place = self._place(state)
        batch = _Batch(
            self._plain,
            place,
            data_type=self._type,
            qubits=qubits,
            sets=sets,
            gpu=self._gpus[0].index,
            synchronise=lambda: self._ex.state_vector_synchronize(state),
        )
        wires = list(range(qubits))
        try:
            for step in steps:
                if step.name == SWAP:
                    first, second = step.qubits
                    wires[first], wires[second] = wires[second], wires[first]
                else:
                    batch.apply(gates_at(step, angles), [wires[qubit] for qubit in step.qubits])
            yield batch, wires
        finally:
            batch.close()

    def _place(self, state: int) -> _Place:
        _, pointer, stream, handle = self._ex.state_vector_get_resources_from_device_sub_sv(
            state, 0
        )
        return _Place(pointer=pointer, stream=stream, handle=handle)

    def _order(self, state: int) -> None:
        """Have wire ``i`` be bit ``i`` of the index of an amplitude, as the library may differ."""
        wires = self._wire_order(state)
        if (wires != np.arange(self._qubits)).any():
            scatter = int(self._ex.PermutationType.SCATTER)
            self._ex.state_vector_permute_index_bits(state, wires, self._qubits, scatter)

    def _wire_order(self, state: int) -> npt.NDArray[np.int32]:
        wires = np.empty(self._qubits, dtype=np.int32)
        ordering = int(self._ex.StateVectorProperty.WIRE_ORDERING)
        self._ex.state_vector_get_property(state, ordering, wires.ctypes.data, wires.nbytes)
        return wires

    def _give_back(self) -> None:
        for state in self._all:
            self._ex.state_vector_destroy(state)
        self._state, self._spare, self._all = None, [], []

    def _applied(self) -> int:
        """Apply what is queued, and give the state."""
        if self._state is None:
            raise ExecutionError("the engine was asked before it was started")
        if self._queued:
            try:
                self._ex.sv_updater_apply(self._updater, self._state, 0, 0)
            finally:
                self._forget()
        return self._state

    def _forget(self) -> None:
        if self._queued:
            self._ex.sv_updater_clear(self._updater)
            self._queued.clear()
            self._queued_bytes = 0

    def _new_updater(self, threads: int, fusion: int | None) -> int:
        names = self._ex.SVUpdaterConfigName
        item = self._ex.SVUpdaterConfigItem
        items = [item(names.MAX_NUM_HOST_THREADS, threads)]
        if fusion is not None:
            items.append(item(names.DENSE_FUSION_SIZE, fusion))
        settings = self._ex.configure_sv_updater(self._type, items)
        try:
            return int(self._ex.sv_updater_create(settings, 0))
        finally:
            self._ex.dictionary_destroy(settings)

    def _new_state(self) -> int:
        settings = self._settings()
        try:
            # On the default stream, as all else: work on two states is done in turn.
            state = int(self._ex.state_vector_create_single_process(settings, 0, 0, 0))
        finally:
            self._ex.dictionary_destroy(settings)
        self._all.append(state)
        self._be_exact(state)
        return state

    def _be_exact(self, state: int) -> None:
        """Forbid emulated single precision: whether there is any differs from GPU to GPU."""
        statuses = self._plain.Status
        try:
            self._ex.state_vector_set_math_mode(
                state, self._plain.MathMode.DISALLOW_FP32_EMULATED_BF16X9
            )
        except self._error as exc:
            # A GPU that has none may say so.
            if getattr(exc, "status", None) not in (statuses.NOT_SUPPORTED, statuses.ARCH_MISMATCH):
                raise

    def _settings(self) -> int:
        indices = [gpu.index for gpu in self._gpus]
        if len(indices) == 1:
            return int(
                self._ex.configure_state_vector_single_device(
                    self._type, self._qubits, self._qubits, indices[0], 0
                )
            )
        return int(
            self._ex.configure_state_vector_multi_device(
                self._type,
                self._qubits,
                self._qubits - len(indices).bit_length() + 1,
                indices,
                len(indices),
                int(self._plain.DeviceNetworkType.SWITCH),
                0,
            )
        )

    def _require_memory(self, qubits: int) -> None:
        if self._missing_bytes(qubits) > 0:
            raise self._too_large(qubits)

    def _missing_bytes(self, qubits: int) -> int:
        """How much more memory the fullest GPU would have to have for another state."""
        return max(
            self._share(qubits) + self._reserved(gpu) - devices.free_bytes(gpu.index)
            for gpu in self._gpus
        )

    def _share(self, qubits: int) -> int:
        """Memory of a state on each GPU."""
        share: int = self._amplitude_bytes * 2**qubits // len(self._gpus)
        return share

    def _reserved(self, gpu: devices.Gpu) -> int:
        reserved = max(_RESERVED_BYTES, int(gpu.memory_bytes * _RESERVED_SHARE))
        # A GPU with less than that is one of the tests, or a slice of one.
        return min(reserved, gpu.memory_bytes // 8)

    def _too_large(self, qubits: int, said: str = "") -> ProgramTooLarge:
        needed = self._amplitude_bytes * 2**qubits
        free = sum(devices.free_bytes(gpu.index) for gpu in self._gpus)
        remedies = ["use fewer qubits that belong together"]
        if self.precision == "double":
            remedies.append("ask for single precision, which takes half of that")
        remedies.append("or run it on a backend …@aer")
        message = (
            f"{qubits} qubits in {self.precision} precision would need {size_text(needed)} of"
            f" GPU memory; {size_text(free)} are free on {self.device}"
            f"{f' ({said[:_SAID_CHARS]})' if said else ''}: {', '.join(remedies)}"
        )
        reported = min(needed, 2**63 - 1)
        return ProgramTooLarge(message, needed_bytes=reported, allowed_bytes=free)


class _Batch:
    """States side by side in the memory of one, through the library's plain interface.

    Every call returns before it is done: what it reads must live until the state is synchronised.
    """

    def __init__(
        self,
        plain: Any,
        place: _Place,
        *,
        data_type: int,
        qubits: int,
        sets: int,
        gpu: int,
        synchronise: Callable[[], None],
    ) -> None:
        self._plain = plain
        self._where = (place.handle, place.pointer, data_type, qubits, sets, 1 << qubits)
        self._sets = sets
        self._synchronise = synchronise
        self._indices = np.arange(sets, dtype=np.int32)
        self._read: list[npt.NDArray[np.complex128]] = []
        self._read_bytes = 0
        self._workspace = devices.Workspace(gpu)

    def apply(self, matrices: npt.NDArray[np.complex128], targets: Sequence[int]) -> None:
        """Multiply every state by its matrix, or all by the only one.

        Args:
            matrices: shape ``(sets, 2 ** k, 2 ** k)``, or 1 in the place of ``sets``.
            targets: the wires, the first the least significant bit of an index of a matrix.
        """
        if self._read_bytes > _QUEUED_BYTES:
            self._wait()
        self._read.append(matrices)
        self._read_bytes += matrices.nbytes
        kinds = self._plain.MatrixMapType
        which = (
            int(kinds.BROADCAST if len(matrices) == 1 else kinds.MATRIX_INDEXED),
            *(self._indices.ctypes.data, matrices.ctypes.data, _MATRIX_TYPE, _ROW_MAJOR, 0),
            len(matrices),
        )
        compute = int(self._plain.ComputeType.COMPUTE_DEFAULT)
        handle, _, *state = self._where
        size = self._plain.apply_matrix_batched_get_workspace_size(
            handle, *state, *which, len(targets), 0, compute
        )
        self._plain.apply_matrix_batched(
            *self._where,
            *which,
            *(list(targets), len(targets), 0, 0, 0, compute),
            *(self._workspace.of(size), size),
        )

    def squares(self, wires: Sequence[int]) -> npt.NDArray[np.float64]:
        """Squared norms for all outcomes of some wires, shape ``(sets, 2 ** len(wires))``."""
        sums = np.empty((self._sets, 2 ** len(wires)))
        self._plain.abs2sum_array_batched(
            *self._where,
            *(sums.ctypes.data, sums.shape[1], list(wires), len(wires), 0, 0, 0),
        )
        self._wait()
        return sums

    def close(self) -> None:
        """Give the workspace back, once nothing uses it."""
        try:
            self._wait()
        finally:
            self._workspace.close()

    def _wait(self) -> None:
        self._synchronise()
        self._read.clear()
        self._read_bytes = 0


def _by_basis(paulis: Sequence[Pauli]) -> list[tuple[dict[int, str], list[int]]]:
    """Give bases, qubit by qubit, and the indices of the Paulis that are read in each."""
    bases: list[tuple[dict[int, str], list[int]]] = []
    for index, pauli in enumerate(paulis):
        fitting = (
            each
            for each in bases
            if all(each[0].get(q, letter) == letter for q, letter in pauli.items())
        )
        basis, members = next(fitting, ({}, []))
        if not members:
            bases.append((basis, members))
        basis.update(pauli)
        members.append(index)
    return bases
