"""What is a driver? The interface that plugins implement, and the values they are given and give.

A plugin imports this module and nothing else of ours. Its instances live in processes of their own,
several of the same driver beside each other: an instance keeps nothing that another one needs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qiskit import QuantumCircuit

#: Gates of a device that names none.
COMMON_GATES = ("id", "rz", "sx", "x", "cx")


class DeviceState(StrEnum):
    """How a device is."""

    ONLINE = "online"
    OFFLINE = "offline"
    CALIBRATING = "calibrating"
    MAINTENANCE = "maintenance"
    ERROR = "error"


@dataclass(frozen=True, kw_only=True)
class Device:
    """What a driver says of one of its devices."""

    #: unique among all drivers: a lower case letter, then lower case letters, digits, underscores.
    id: str
    num_qubits: int
    #: for people; the id when empty.
    name: str = ""
    provider: str = ""
    #: ``simulator`` or ``qpu``.
    backend_type: str = "simulator"
    #: names of Qiskit's standard gates.
    basis_gates: tuple[str, ...] = COMMON_GATES
    #: pairs of qubits, in both directions if both are possible; None: all to all.
    coupling_map: tuple[tuple[int, int], ...] | None = None
    #: whatever else callers may want to know.
    capabilities: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Circuit:
    """A circuit without parameters, that was read, checked and written again by the service."""

    #: OpenQASM 3.
    qasm3: str
    num_qubits: int
    num_clbits: int

    def to_qiskit(self) -> QuantumCircuit:
        """The circuit; imports Qiskit."""
        from app.config import ProgramLimits  # noqa: PLC0415 - drivers that want no Qiskit get none
        from app.primitives.qasm.load import load_circuit  # noqa: PLC0415

        return load_circuit(self.qasm3, ProgramLimits())


@runtime_checkable
class BaseDriver(Protocol):
    """Access to devices. Made without arguments; every method may raise ``DriverError``.

    Two more methods are used if they are there: ``healthcheck() -> bool`` before an instance that
    has been idle is used again, and ``close()`` at its end.
    """

    def initialize(self, config: Mapping[str, Any]) -> None:
        """Connect. Called once, first; ``config`` is the driver's own part of the configuration."""

    def get_devices(self) -> Sequence[Device]:
        """The devices there are."""

    def execute_circuit(
        self, device_id: str, circuit: Circuit, shots: int, options: Mapping[str, str]
    ) -> Mapping[str, int]:
        """Sample a circuit.

        Args:
            device_id: one of the driver's devices.
            circuit: what to run.
            shots: samples.
            options: the caller's; ``seed`` makes the samples repeatable if the device can.

        Returns:
            bitstring → occurrences; leftmost character: the highest clbit; blanks do not count.
        """

    def get_device_status(self, device_id: str) -> DeviceState:
        """How a device is at this moment."""

    def calibrate_device(self, device_id: str) -> str:
        """Calibrate a device; gives a reference of the calibration."""


class DriverError(Exception):
    """What a driver may say went wrong. Any other exception is a fault of the driver."""


class DeviceUnavailable(DriverError):
    """The device or its provider does not answer at this moment; trying again may help."""


class InvalidCircuit(DriverError):
    """The device cannot run this circuit; trying again does not help."""
