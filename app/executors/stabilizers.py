"""Which outcomes has a stabilizer state? Shots cost a product of bits; Aer measures for each anew.

Every outcome in the Z basis is as likely as every other: they are ``one ⊕ r · X``, where ``one`` is
any of them, the rows of ``X`` are the X parts of generators of the state, and ``r`` is any bits
(Dehaene and De Moor, https://arxiv.org/abs/quant-ph/0304125). Signs of generators only matter for
``one``.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from app.executors.circuits.lowering import DELAY

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt

    from app.executors.circuits.lowering import Step

_NO_CHANGE = frozenset(("id", DELAY, "x", "y", "z"))
#: Bits of outcomes and generators that are held at once.
_BITS_AT_ONCE = 2**21


def flips(steps: Iterable[Step], qubits: int) -> npt.NDArray[np.uint8] | None:
    """Give the X parts of generators of the state that gates make of |0…0>.

    Returns:
        0 and 1, shape ``(generators, qubits)``, those without an X left out; None where a step is
        no gate that is known here.
    """
    # Of every qubit, the generators with an X there and those with a Z, a bit for each generator.
    x, z = [0] * qubits, [1 << qubit for qubit in range(qubits)]
    for step in steps:
        if step.name in _NO_CHANGE:
            continue
        one, other = step.qubits[0], step.qubits[-1]
        match step.name:
            case "h":
                x[one], z[one] = z[one], x[one]
            case "s" | "sdg":
                z[one] ^= x[one]
            case "sx" | "sxdg":
                x[one] ^= z[one]
            case "cx":
                x[other] ^= x[one]
                z[one] ^= z[other]
            case "cy":
                z[one] ^= z[other] ^ x[other]
                x[other] ^= x[one]
                z[other] ^= x[one]
            case "cz":
                z[other] ^= x[one]
                z[one] ^= x[other]
            case "swap":
                x[one], x[other] = x[other], x[one]
                z[one], z[other] = z[other], z[one]
            case "ecr":
                # Up to signs, a quarter turn about Z X: what does not commute takes it on.
                turned = x[one] ^ z[other]
                z[one] ^= turned
                x[other] ^= turned
            case _:
                return None
    size = (qubits + 7) // 8
    columns = np.frombuffer(b"".join(each.to_bytes(size, "little") for each in x), dtype=np.uint8)
    bits = np.unpackbits(columns.reshape(qubits, size), axis=1, count=qubits, bitorder="little").T
    return bits[bits.any(axis=1)]


def sampled(
    one: int, rows: npt.NDArray[np.uint8], *, shots: int, rng: np.random.Generator
) -> dict[int, int]:
    """Draw outcomes.

    Args:
        one: an outcome that occurs; bit ``i`` is that of column ``i``.
        rows: what ``flips`` gives, of the columns that are read, shape ``(generators, bits)``.
        shots: how many.
        rng: where chance comes from.

    Returns:
        outcome → occurrences.
    """
    generators, width = rows.shape
    # Sums of bits are exact in single precision, and there is a fast product for it.
    weights = rows.astype(np.float32)
    found: Counter[bytes] = Counter()
    at_once = max(1, _BITS_AT_ONCE // max(generators, width))
    for start in range(0, shots, at_once):
        chosen = rng.integers(2, size=(min(at_once, shots - start), generators), dtype=np.uint8)
        odd = (chosen.astype(np.float32) @ weights).astype(np.int32).astype(np.uint8) & 1
        packed = np.packbits(odd, axis=1, bitorder="little")
        found.update(packed.view(f"V{packed.shape[1]}").ravel().tolist())
    return {one ^ int.from_bytes(each, "little"): times for each, times in found.items()}


def columns(rows: npt.NDArray[np.uint8], qubits: Sequence[int]) -> npt.NDArray[np.uint8]:
    """Keep the qubits that are read, in their order, and the generators that flip one of them."""
    kept = rows[:, list(qubits)]
    return kept[kept.any(axis=1)]
