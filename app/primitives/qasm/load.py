"""How does source become a circuit? Scan, parse, unroll, bound, convert, sanitise: in order."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING

from app.primitives.qasm.budget import check_budget
from app.primitives.qasm.converter import convert
from app.primitives.qasm.parser import parse
from app.primitives.qasm.place import Rejected, invalid
from app.primitives.qasm.prescan import prescan
from app.primitives.qasm.unroll import unroll
from app.primitives.sanitise import sanitise

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qiskit import QuantumCircuit

    from app.config import ProgramLimits


def load_circuit(source: str, limits: ProgramLimits) -> QuantumCircuit:
    """The circuit of an OpenQASM 3 program.

    User-defined gates are named ``user__…``; a scalar bit is a register of one bit.

    Raises:
        InvalidProgram: the program is not valid, uses what is not supported, or is above a limit.
    """
    try:
        source = prescan(source, limits)
        with _garbage_collection_paused():
            program = unroll(parse(source), limits)
            check_budget(program, limits)
            return sanitise(convert(program), limits)
    except Rejected as exc:
        raise invalid(source, exc) from exc
    except RecursionError as exc:
        message = "the program is nested too deeply to be read"
        raise invalid(source, Rejected("too_deep", message)) from exc


@contextmanager
def _garbage_collection_paused() -> Iterator[None]:
    """Look for no garbage in a tree under construction: it takes a third of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
