"""What did real devices say of themselves? The recordings that ship in Qiskit's runtime client.

The package is never imported: that would bring Qiskit into the gateway. Its data files are read as
they are, and which of them belong together is read from its sources.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from app.errors import ConfigurationInvalid

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = "qiskit_ibm_runtime"


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One device, on the day its properties were recorded."""

    #: the metadata half of the names of backends that claim to be this device.
    metadata: str
    configuration: Path
    properties: Path
    version: str
    num_qubits: int
    #: couplers and qubits that only help included.
    physical_qubits: int
    #: ``family``, ``revision`` and ``segment``, as far as they are known.
    processor_type: dict[str, Any] | None


class _Summary(msgspec.Struct):
    """What is read of a configuration when the catalog is made."""

    n_qubits: int
    backend_version: str
    processor_type: dict[str, Any] | None = None


_SUMMARY = msgspec.json.Decoder(_Summary)


def find_recordings() -> dict[str, Recording]:
    """Every recording of the installed package, by metadata, sorted.

    Raises:
        ConfigurationInvalid: the package is not installed.
    """
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        message = (
            f"the package {PACKAGE} is not installed: it holds what devices say of themselves;"
            " pip install --no-deps --requirement requirements-devices.txt"
        )
        raise ConfigurationInvalid(message)
    folder = Path(spec.origin).parent / "fake_provider" / "backends"
    found = [recording for path in folder.glob("*/fake_*.py") for recording in _read(path)]
    return {recording.metadata: recording for recording in sorted(found, key=lambda r: r.metadata)}


def _read(source: Path) -> Iterator[Recording]:
    """The recordings that a source file's classes name."""
    for node in ast.parse(source.read_bytes()).body:
        constants = _constants(node) if isinstance(node, ast.ClassDef) else {}
        if "conf_filename" not in constants:
            continue
        configuration = source.parent / constants["conf_filename"]
        summary = _SUMMARY.decode(configuration.read_bytes())
        yield Recording(
            metadata=constants["backend_name"],
            configuration=configuration,
            properties=source.parent / constants["props_filename"],
            version=summary.backend_version,
            num_qubits=summary.n_qubits,
            physical_qubits=constants.get("_physical_qubits", summary.n_qubits),
            processor_type=summary.processor_type,
        )


def _constants(node: ast.ClassDef) -> dict[str, Any]:
    """The class variables whose values are written out."""
    return {
        target.id: item.value.value
        for item in node.body
        if isinstance(item, ast.Assign) and isinstance(item.value, ast.Constant)
        for target in item.targets
        if isinstance(target, ast.Name)
    }
