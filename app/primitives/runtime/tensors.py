"""How do arrays stand in the documents of quantum programs? As little-endian bytes, in C order."""

from __future__ import annotations

import base64
import math
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from app.primitives.runtime.blobs import read_base64, read_blob

if TYPE_CHECKING:
    import numpy.typing as npt

    from app.primitives.runtime.budget import Budget
    from app.primitives.runtime.document import Node

#: Types of elements, as ``ibm_quantum_schemas.common.tensor`` has them; eight ``bool`` are a byte,
#: the first one its lowest bit.
DTYPES = {
    "bool": np.dtype(np.bool_),
    **{f"{kind}{8 * size}": np.dtype(f"<{kind}{size}") for kind in "iu" for size in (1, 2, 4, 8)},
    **{f"f{8 * size}": np.dtype(f"<f{size}") for size in (2, 4, 8)},
    **{f"c{8 * size}": np.dtype(f"<c{size}") for size in (8, 16)},
}
#: Those that tensors had when they were not compressed.
FIRST_DTYPES = frozenset(("bool", "u8", "f64", "c128"))
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
#: Most axes of a tensor, and its longest one: without elements a shape costs no bytes.
_AXES = 16
_LONGEST_AXIS = 2**31
#: Samples hardly compress; the quickest level is as good as any.
_LEVEL = 1


def read_tensor(node: Node, budget: Budget, *, compressed: bool) -> npt.NDArray[Any]:
    """The array of a tensor.

    Raises:
        InvalidProgram: it is none, or not all of its elements are finite.
    """
    fields = node.fields()
    if fields.keys() != {"data", "shape", "dtype"}:
        raise node.refused("wrong_keys", "a tensor has data, shape and dtype")
    name = fields["dtype"].word(*(DTYPES if compressed else sorted(FIRST_DTYPES)))
    shape = read_shape(fields["shape"])
    read = read_blob if compressed else read_base64
    content = read(fields["data"], budget, "array_bytes")
    size = math.prod(shape)
    needed = (size + 7) // 8 if name == "bool" else size * DTYPES[name].itemsize
    if needed != len(content):
        message = f"a tensor of shape {shape} and type {name} does not have {len(content)} bytes"
        raise node.refused("tensor", message)
    if name == "bool":
        bits = np.frombuffer(content, np.uint8)
        elements = np.unpackbits(bits, count=size, bitorder="little").view(np.bool_)
    else:
        elements = np.frombuffer(content, DTYPES[name])
    if elements.dtype.kind in "fc" and not np.isfinite(elements).all():
        raise node.refused("not_finite", "not all elements are finite numbers")
    return elements.reshape(shape)


def read_shape(node: Node) -> tuple[int, ...]:
    """The shape of an array."""
    return tuple(length.integer(0, _LONGEST_AXIS) for length in node.elements(_AXES))


def has_dtype(dtype: np.dtype[Any], *, compressed: bool) -> bool:
    """Whether an array of this type can stand in a document."""
    name = _NAMES.get(dtype)
    return name is not None and (compressed or name in FIRST_DTYPES)


def encode_tensor(array: npt.NDArray[Any], *, compressed: bool) -> dict[str, Any]:
    """The tensor of an array whose type can stand in a document."""
    if array.dtype == np.bool_:
        content = np.packbits(array, bitorder="little").tobytes()
    else:
        content = array.tobytes()
    if compressed:
        content = zlib.compress(content, _LEVEL)
    return {
        "data": base64.b64encode(content).decode(),
        "shape": array.shape,
        "dtype": _NAMES[array.dtype],
    }
