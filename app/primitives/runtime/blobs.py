"""How do bytes and arrays stand in typed JSON? Base64 of zlib, of an array in NumPy's format.

The format is read by hand: NumPy's own reader evaluates the header, and believes it.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
import zlib
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from app.primitives.runtime.budget import Budget
    from app.primitives.runtime.document import Node

#: Types of elements, as a header names them: all little-endian, none with objects in it.
_REAL = frozenset(("|b1", "|i1", "|u1", "<i2", "<u2", "<f2"))
_REAL |= {f"<{kind}{size}" for kind in "iuf" for size in (4, 8)}
_COMPLEX = frozenset(("<c8", "<c16"))
#: Most axes of an array.
_AXES = 16
#: Longest header: what NumPy writes for so many axes is far below.
_HEADER_BYTES = 1024
_MAGIC = b"\x93NUMPY"
#: Version 1 has two bytes for the header's length, versions 2 and 3 four.
_LENGTH_BYTES = {1: 2, 2: 4, 3: 4}
#: NumPy's format, version 1.0: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
_HEADER = re.compile(
    r"\{ *'descr': *'([<|>=][a-zA-Z]\d{0,3})', *'fortran_order': *(True|False),"
    r" *'shape': *\(((?:\d{1,18}, *)*(?:\d{1,18})?)\),? *\} *\n?"
)
#: Samples and expectation values hardly compress; the quickest level is as good as any.
_LEVEL = 1


def read_blob(node: Node, budget: Budget, limit: str) -> bytes:
    """Bytes that stand as base64 of zlib; ``limit`` says how many there may be.

    Raises:
        InvalidProgram: they do not, or there are more.
    """
    compressed = _from_base64(node)
    stream = zlib.decompressobj()
    try:
        # One byte more than allowed shows that there is more.
        content = stream.decompress(compressed, budget.left(limit) + 1)
    except zlib.error as exc:
        raise node.refused("blob", "not compressed with zlib") from exc
    budget.spend(node, limit, len(content))
    if not stream.eof:
        raise node.refused("blob", "the compressed data ends too early")
    if stream.unused_data:
        raise node.refused("blob", "bytes follow the compressed data")
    return content


def read_base64(node: Node, budget: Budget, limit: str) -> bytes:
    """Bytes that stand as base64 only; ``limit`` says how many there may be.

    Raises:
        InvalidProgram: they do not, or there are more.
    """
    content = _from_base64(node)
    budget.spend(node, limit, len(content))
    return content


def read_array(node: Node, budget: Budget, *, complex_too: bool = False) -> npt.NDArray[Any]:
    """A numeric array: typed, or plain lists in lists, or a number.

    Raises:
        InvalidProgram: it is no such array, too large, or not all of its elements are finite.
    """
    if not node.is_typed():
        return _from_lists(node, complex_too=complex_too)
    _, array, _ = node.typed("ndarray")
    if not isinstance(array.value, str):
        return _from_lists(array, complex_too=complex_too)
    content = read_blob(array, budget, "array_bytes")
    elements = _from_npy(array, content, _REAL | _COMPLEX if complex_too else _REAL)
    if elements.dtype.kind in "fc" and not np.isfinite(elements).all():
        raise node.refused("not_finite", "not all elements are finite numbers")
    return elements


def read_complex(node: Node) -> complex:
    """A typed complex number."""
    _, value, _ = node.typed("complex")
    parts = value.elements(2)
    if len(parts) < 2:
        raise value.refused("wrong_type", "must be [real part, imaginary part]")
    return complex(*(part.number() for part in parts))


def encode_array(array: npt.NDArray[Any]) -> dict[str, str]:
    """A typed array."""
    file = BytesIO()
    np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)
    content = zlib.compress(file.getbuffer(), _LEVEL)
    return {"__type__": "ndarray", "__value__": base64.b64encode(content).decode()}


def _from_base64(node: Node) -> bytes:
    if not isinstance(node.value, str):
        raise node.refused("blob", "must be base64 text")
    try:
        return base64.b64decode(node.value, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise node.refused("blob", "not valid base64") from exc


def _from_lists(node: Node, *, complex_too: bool) -> npt.NDArray[Any]:
    shape, leaves = node.nested()
    if len(shape) > _AXES:
        raise node.refused("array", f"{len(shape)} axes; at most {_AXES} are allowed")
    values = [
        read_complex(leaf) if complex_too and leaf.is_typed() else leaf.number() for leaf in leaves
    ]
    return np.array(values, dtype=None if values else np.float64).reshape(shape)


def _from_npy(node: Node, content: bytes, types: frozenset[str]) -> npt.NDArray[Any]:
    version = content[6] if len(content) > 8 and content.startswith(_MAGIC) else 0
    if version not in _LENGTH_BYTES or content[7] != 0:
        raise node.refused("array", "not an array in NumPy's format 1.0 to 3.0")
    start = 8 + _LENGTH_BYTES[version]
    end = start + int.from_bytes(content[8:start], "little")
    if end > min(len(content), start + _HEADER_BYTES):
        raise node.refused("array", f"the header is longer than {_HEADER_BYTES} bytes or the data")
    header = _HEADER.fullmatch(content[start:end].decode("latin-1"))
    if header is None:
        raise node.refused("array", "the header is not as NumPy writes it")
    descr, fortran_order, lengths = header.groups()
    if descr not in types:
        message = f"elements of type {descr!r}; integers and floats, little-endian, are allowed"
        raise node.refused("array", message)
    shape = tuple(int(length) for length in lengths.split(",") if length.strip())
    dtype = np.dtype(descr)
    if len(shape) > _AXES:
        raise node.refused("array", f"{len(shape)} axes; at most {_AXES} are allowed")
    if math.prod(shape) * dtype.itemsize != len(content) - end:
        message = f"an array of shape {shape} does not have {len(content) - end} bytes"
        raise node.refused("array", message)
    # Without elements a shape costs no bytes, so it can have any length.
    if max(shape, default=0) >= 1 << 31:
        raise node.refused("array", "an axis is too long")
    elements = np.frombuffer(content, dtype, offset=end)
    return elements.reshape(shape, order="F" if fortran_order == "True" else "C")
