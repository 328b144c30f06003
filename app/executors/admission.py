"""Would a run fit? An estimate made before it starts, so that a refusal costs nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.errors import ProgramTooLarge

if TYPE_CHECKING:
    from app.executors import Resources

GIB = 2**30
#: the process itself: Python, Qiskit, Aer and their buffers; 120 MB when measured idle.
BASE_BYTES = 256 * 2**20
#: complex double.
AMPLITUDE_BYTES = 16
#: what Aer keeps for each shot, besides its outcome; measured 120 bytes.
SHOT_BYTES = 160
#: what JSON adds to a bitstring: quotes, colon, comma, and the digits of the count.
ENTRY_BYTES = 10


def statevector_bytes(qubits: int, states: int = 1) -> int:
    """Memory of a run that holds ``states`` state vectors at the same time."""
    return int(BASE_BYTES + AMPLITUDE_BYTES * 2**qubits * states)


def largest_statevector(memory_bytes: int) -> int:
    """Qubits of the largest state vector that fits; 0 when none does."""
    amplitudes = max(1, (memory_bytes - BASE_BYTES) // AMPLITUDE_BYTES)
    return amplitudes.bit_length() - 1


def shots_bytes(shots: int, clbits: int) -> int:
    """Memory of the outcomes of ``shots`` samples, while Aer collects them."""
    return shots * (SHOT_BYTES + (clbits + 7) // 8)


def counts_bytes(shots: int, clbits: int) -> int:
    """Memory of ``shots`` different outcomes, Aer's and ours; measured 360 bytes of 60 bits."""
    return 2 * shots_bytes(shots, clbits)


def require_memory(needed: int, resources: Resources, *, what: str, remedy: str) -> None:
    """Refuse a run that needs more memory than there is.

    Args:
        needed: estimate in bytes.
        resources: what is allowed.
        what: the run in the caller's words, e.g. ``100000 shots of 4000 bits``.
        remedy: what the caller can do.

    Raises:
        ProgramTooLarge: with all of that.
    """
    if needed > resources.memory_bytes:
        raise too_large(needed, resources, what=what, remedy=remedy)


def too_large(needed: int, resources: Resources, *, what: str, remedy: str) -> ProgramTooLarge:
    """Make the refusal of a run that needs more memory than there is."""
    message = (
        f"{what} would need {size_text(needed)} of memory; "
        f"{size_text(resources.memory_bytes)} are allowed. {remedy}"
    )
    # JSON integers end at 64 bits.
    reported = min(needed, 2**63 - 1)
    return ProgramTooLarge(message, needed_bytes=reported, allowed_bytes=resources.memory_bytes)


def require_result(*, shots: int, written: int, width: int, resources: Resources) -> None:
    """Refuse a run whose counts could be larger than a result may be.

    Args:
        shots: samples.
        written: classical bits that can be other than 0.
        width: characters of one bitstring, separators included.
        resources: what is allowed.

    Raises:
        ProgramTooLarge: in the worst case, where every outcome occurs, they are.
    """
    outcomes = min(shots, 2**written)
    needed = outcomes * (width + ENTRY_BYTES)
    if needed > resources.max_result_bytes:
        message = (
            f"up to {outcomes} different bitstrings of {width} characters may occur, "
            f"{needed} bytes; {resources.max_result_bytes} bytes are allowed. "
            "Ask for fewer shots or measure fewer bits."
        )
        raise ProgramTooLarge(
            message, needed_bytes=needed, allowed_bytes=resources.max_result_bytes
        )


def require_encoded(size: int, resources: Resources, *, what: str) -> None:
    """Refuse a run whose arrays would be larger, in base64, than a result may be.

    Random bits cannot be compressed.

    Args:
        size: bytes of all arrays.
        resources: what is allowed.
        what: the run in the caller's words.

    Raises:
        ProgramTooLarge: they would be.
    """
    needed = size * 4 // 3
    if needed > resources.max_result_bytes:
        message = (
            f"{what} would give a result of {needed} bytes; {resources.max_result_bytes} are "
            "allowed. Ask for fewer shots or parameter sets, or submit the pubs one by one."
        )
        raise ProgramTooLarge(
            message, needed_bytes=needed, allowed_bytes=resources.max_result_bytes
        )


def size_text(size: int) -> str:
    """Write a size in bytes as GiB."""
    # Exact integers: a float would overflow at a thousand qubits.
    if size >= GIB * 10**6:
        return f"2^{size.bit_length() - 1 - 30} GiB"
    return f"{size / GIB:.3g} GiB"
