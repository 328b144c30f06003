"""How does the result of a quantum program stand in JSON? As the version of its params has it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import orjson

from app.primitives.runtime.schemas import SCHEMAS
from app.primitives.runtime.tensors import encode_tensor

if TYPE_CHECKING:
    from app.primitives.programs import ItemResult, QuantumResult
    from app.primitives.runtime.schemas import Schema


def encode_quantum_result(result: QuantumResult) -> bytes:
    """The document of ``GET /jobs/{id}/results``."""
    schema = SCHEMAS[result.schema_version]
    document: dict[str, Any] = {
        "schema_version": result.schema_version,
        "data": [_item(item, schema) for item in result.items],
        "metadata": {
            "chunk_timing": [_chunk(i, item, schema) for i, item in enumerate(result.items)]
        },
    }
    if "passthrough_data" in schema.program_keys:
        document["passthrough_data"] = orjson.Fragment(result.passthrough_data)
    if "semantic_role" in schema.program_keys:
        document["semantic_role"] = result.semantic_role
    return orjson.dumps(document)


def _item(item: ItemResult, schema: Schema) -> dict[str, Any]:
    arrays = {
        name: encode_tensor(array, compressed=schema.compressed)
        for name, array in item.arrays.items()
    }
    # A simulation schedules nothing.
    metadata = {"scheduler_timing": None, "stretch_values": None} if schema.item_metadata else None
    return {"results": arrays, "metadata": metadata}


def _chunk(index: int, item: ItemResult, schema: Schema) -> dict[str, Any]:
    """An item is run as one chunk, with all of its elements in order."""
    size = math.prod(item.shape)
    part: dict[str, Any] = {"idx_item": index, "size": size}
    if schema.element_ranges:
        part["permutation"] = list(range(len(item.shape)))
        part["element_range"] = [0, size, 1]
    return {
        "start": item.span.started.isoformat(),
        "stop": item.span.finished.isoformat(),
        "parts": [part],
    }
