"""What does a backend tell the Qiskit client of itself? Its configuration and its properties.

Numbers are served as they were recorded, digit by digit: nothing here decodes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING

import msgspec
import orjson

from app.backends.names import SIMULATOR

if TYPE_CHECKING:
    from collections.abc import Mapping

    from app.backends.recordings import Recording

#: Properties that are kept in memory; the largest have 0.7 MB.
KEPT_PROPERTIES = 12
#: Configurations of the simulator that are kept: it grows and shrinks with the fleet.
KEPT_SIMULATORS = 8
#: Of configurations: nine tenths of their bytes, for pulses, which no client can send any more.
PULSE = (
    "channels",
    "hamiltonian",
    "meas_lo_range",
    "qubit_channel_mapping",
    "qubit_lo_range",
    "u_channel_lo",
)
#: Names of their parameters → gates of the simulator; its executor decomposes what it must.
_GATES: dict[tuple[str, ...], str] = {
    (): "id x y z h s sdg t tdg sx sxdg cx cy cz ch cs csdg csx swap iswap dcx ecr"
    " ccx ccz cswap rccx rcccx c3sx",
    ("theta",): "p u1 rx ry rz rxx ryy rzz rzx cp cu1 crx cry crz",
    ("theta", "phi"): "r u2 xx_minus_yy xx_plus_yy",
    ("theta", "phi", "lambda"): "u u3 cu3",
    ("theta", "phi", "lambda", "gamma"): "cu",
}
SIMULATOR_GATES = {
    name: parameters for parameters, names in _GATES.items() for name in names.split()
}
CONTROL_FLOW = ("if_else", "for_loop", "while_loop", "switch_case")


@dataclass(frozen=True, kw_only=True)
class Document:
    """A document as it is sent."""

    body: bytes
    #: strong, quotes included.
    etag: str


class Documents:
    """The documents of all backends, read when they are first asked for."""

    def __init__(self, recordings: Mapping[str, Recording], *, version: str) -> None:
        """Make them.

        Args:
            recordings: what devices said of themselves, by metadata.
            version: of the simulator.
        """
        self._recordings = recordings
        self._version = version
        self._calibration = lru_cache(maxsize=None)(self._read_calibration)
        self._configuration = lru_cache(maxsize=None)(self._read_configuration)
        self._properties = lru_cache(maxsize=KEPT_PROPERTIES)(self._read_properties)
        self._simulator = lru_cache(maxsize=KEPT_SIMULATORS)(self._make_simulator)

    def calibration(self, metadata: str) -> str | None:
        """The id of the one calibration of a device; None when it has none."""
        return self._calibration(metadata) if metadata in self._recordings else None

    def configuration(self, metadata: str, *, name: str, num_qubits: int) -> Document:
        """The configuration of a backend called ``name``."""
        if metadata == SIMULATOR:
            return named(name, self._simulator(num_qubits))
        return named(name, self._configuration(metadata))

    def properties(self, metadata: str, *, name: str) -> Document:
        """The properties of a backend called ``name``; of the simulator there are none."""
        if metadata == SIMULATOR:
            return Document(body=b"{}", etag='"ideal"')
        return named(name, self._properties(metadata))

    def _read_calibration(self, metadata: str) -> str:
        return _digest(self._recordings[metadata].properties.read_bytes())

    def _read_configuration(self, metadata: str) -> Document:
        members = _members(self._recordings[metadata].configuration.read_bytes())
        for key in PULSE:
            members.pop(key, None)
        # Early clients would look for what was just left out.
        members["open_pulse"] = msgspec.Raw(b"false")
        return self._unnamed(metadata, members)

    def _read_properties(self, metadata: str) -> Document:
        return self._unnamed(metadata, _members(self._recordings[metadata].properties.read_bytes()))

    def _unnamed(self, metadata: str, members: dict[str, msgspec.Raw]) -> Document:
        del members["backend_name"]
        members["calibration_id"] = msgspec.Raw(orjson.dumps(self._calibration(metadata)))
        return tail(msgspec.json.encode(members))

    def _make_simulator(self, num_qubits: int) -> Document:
        configuration = {
            "backend_version": self._version,
            "n_qubits": num_qubits,
            "basis_gates": list(SIMULATOR_GATES),
            # Without a coupling map of its own, a gate can be applied to any qubits.
            "gates": [
                {"name": name, "parameters": parameters, "qasm_def": ""}
                for name, parameters in SIMULATOR_GATES.items()
            ],
            "coupling_map": None,
            "supported_instructions": [
                *SIMULATOR_GATES,
                *("measure", "reset", "delay"),
                *CONTROL_FLOW,
            ],
            "supported_features": ["qasm3", "dynamic_circuits"],
            "simulator": True,
            "local": False,
            "conditional": False,
            "open_pulse": False,
            "memory": True,
            "online_date": "2026-01-01T00:00:00Z",
            "description": "ideal simulator, every qubit coupled to every other",
        }
        return tail(orjson.dumps(configuration))


def _members(document: bytes) -> dict[str, msgspec.Raw]:
    """The members of an object, their values as they are written."""
    return msgspec.json.decode(document, type=dict[str, msgspec.Raw])


def tail(document: bytes) -> Document:
    """An object that still lacks its opening brace and its name."""
    return Document(body=document[1:], etag=f'"{_digest(document)}"')


def named(name: str, nameless: Document) -> Document:
    """The document of the backend of that name. Its address holds the name, its tag need not."""
    return Document(
        body=b'{"backend_name":%b,%b' % (orjson.dumps(name), nameless.body), etag=nameless.etag
    )


def _digest(content: bytes) -> str:
    return blake2b(content, digest_size=12).hexdigest()
