"""In which ways has the document of a quantum program been written? One entry per version."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Schema:
    """What distinguishes one version, as ``ibm_quantum_schemas.executor`` defines it."""

    #: whether circuits and tensors are compressed.
    compressed: bool = False
    #: whether every item has its circuit, in a file of its own; otherwise one file has them all.
    circuits_apart: bool = False
    #: newest version of a samplex.
    newest_samplex: int
    #: keys of a program besides shots, items and circuits.
    program_keys: frozenset[str] = frozenset()
    #: whether results say of which circuits scheduling was asked.
    item_metadata: bool = True
    #: whether chunks say which elements of an item they ran, and not only how many.
    element_ranges: bool = True


_MEASURED = frozenset(("meas_level", "passthrough_data"))
_WITH_ROLE = _MEASURED | {"semantic_role"}

SCHEMAS = {
    "v0.1": Schema(
        circuits_apart=True, newest_samplex=1, item_metadata=False, element_ranges=False
    ),
    "v0.2": Schema(
        circuits_apart=True, newest_samplex=2, program_keys=_MEASURED, element_ranges=False
    ),
    "v1.0": Schema(newest_samplex=3, program_keys=_WITH_ROLE),
    "v1.1": Schema(newest_samplex=4, program_keys=_WITH_ROLE),
    "v2.0": Schema(compressed=True, newest_samplex=4, program_keys=_WITH_ROLE),
}
