"""What is a backend that a driver brings? What the driver says of it, and its configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, cast

import orjson

from app.backends.documents import SIMULATOR_GATES, Document, named, tail

if TYPE_CHECKING:
    from collections.abc import Mapping

#: A driver tells nothing of errors and durations: its devices look ideal to a client.
NO_PROPERTIES = Document(body=b"{}", etag='"ideal"')

#: Gates of two qubits; they stand on couplings.
_PAIRS = "cx cy cz ch cs csdg csx swap iswap dcx ecr rxx ryy rzz rzx cp cu1 crx cry crz cu cu3"
PAIR_GATES = frozenset((*_PAIRS.split(), "xx_minus_yy", "xx_plus_yy"))


@dataclass(frozen=True, kw_only=True)
class DriverDevice:
    """A device, as the driver manager reports it to everybody."""

    num_qubits: int
    backend_type: str
    basis_gates: tuple[str, ...]
    #: None: every qubit is coupled to every other.
    coupling_map: tuple[tuple[int, int], ...] | None
    #: of the driver.
    version: str
    #: whether it runs circuits at this moment.
    is_online: bool

    @classmethod
    def of(cls, told: Mapping[str, object]) -> Self:
        """The device in a worker's report."""
        fields = cast("Mapping[str, Any]", told)
        couplings = fields["coupling_map"]
        return cls(
            num_qubits=fields["num_qubits"],
            backend_type=fields["backend_type"],
            basis_gates=tuple(fields["basis_gates"]),
            coupling_map=None if couplings is None else tuple(map(tuple, couplings)),
            version=fields["version"],
            is_online=fields["is_online"],
        )


def device_configuration(device: DriverDevice, *, name: str, version: str) -> Document:
    """What a device tells a Qiskit client of its qubits, gates and couplings."""
    couplings = device.coupling_map
    gates: list[dict[str, object]] = []
    for gate in device.basis_gates:
        entry: dict[str, object] = {
            "name": gate,
            "parameters": SIMULATOR_GATES.get(gate, ()),
            "qasm_def": "",
        }
        if couplings is not None:
            is_pair = gate in PAIR_GATES
            entry["coupling_map"] = (
                couplings if is_pair else [[qubit] for qubit in range(device.num_qubits)]
            )
        gates.append(entry)
    configuration = {
        "backend_version": version,
        "n_qubits": device.num_qubits,
        "basis_gates": device.basis_gates,
        "gates": gates,
        "coupling_map": couplings,
        "supported_instructions": [*device.basis_gates, "measure", "reset", "delay"],
        "supported_features": ["qasm3"],
        "simulator": device.backend_type == "simulator",
        "local": False,
        "conditional": False,
        "open_pulse": False,
        "memory": True,
        "online_date": "2026-01-01T00:00:00Z",
        "description": "a device of a driver",
    }
    return named(name, tail(orjson.dumps(configuration)))
