"""How are parameter sets drawn from a samplex, where some of its arguments are swept?"""

from __future__ import annotations

from math import pi, prod
from typing import TYPE_CHECKING, Any

import numpy as np
from qiskit.exceptions import QiskitError
from samplomatic.exceptions import (
    ParameterError,
    SamplexError,
    SynthError,
    VirtualGateError,
)

from app.errors import ExecutionError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from app.primitives.programs import SamplexItem

#: What a samplex may raise: its nodes can name registers and places that do not exist.
_FAULTS = (
    ParameterError,
    SamplexError,
    SynthError,
    VirtualGateError,
    QiskitError,
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
)
#: A samplex gives angles in single precision. One this close to a quarter turn, in quarter turns,
#: is meant to be one: a circuit that was Clifford is so again.
_NEAR = 1e-6
_MESSAGE_CHARS = 200


def drawn(item: SamplexItem, rng: np.random.Generator) -> dict[str, npt.NDArray[Any]]:
    """Draw all outputs of a samplex.

    Axes of the arguments longer than 1 are swept over, all others count draws, as in
    ``qiskit_ibm_runtime.fake_provider.executor.broadcast_sample``.

    Returns:
        output → array of shape ``item.shape + (…)``.

    Raises:
        ExecutionError: it cannot be sampled.
    """
    padded = (1,) * (len(item.shape) - len(item.arguments.shape)) + tuple(item.arguments.shape)
    counted = tuple(length for length, given in zip(item.shape, padded, strict=True) if given == 1)
    outputs: dict[str, npt.NDArray[Any]] = {}
    for place in _places(padded):
        inner = place[len(padded) - len(item.arguments.shape) :]
        argument = tuple(0 if isinstance(index, slice) else index for index in inner)
        for name, values in _sampled(item, argument, prod(counted), rng).items():
            if name not in outputs:
                outputs[name] = np.empty((*item.shape, *values.shape[1:]), values.dtype)
            outputs[name][place] = values.reshape(*counted, *values.shape[1:])
    return outputs


def snapped(angles: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """Make angles that are quarter turns but for single precision exact."""
    turns = angles.astype(np.float64) / (pi / 2)
    nearest = np.rint(turns)
    return np.where(abs(turns - nearest) < _NEAR, nearest, turns) * (pi / 2)


def _places(lengths: tuple[int, ...]) -> Iterator[tuple[int | slice, ...]]:
    """Give the places along axes longer than 1, with all of the other axes."""
    for place in np.ndindex(*lengths):
        yield tuple(
            index if length > 1 else slice(None)
            for index, length in zip(place, lengths, strict=True)
        )


def _sampled(
    item: SamplexItem, place: tuple[int, ...], draws: int, rng: np.random.Generator
) -> dict[str, npt.NDArray[Any]]:
    try:
        # Its threads would only wait for each other.
        sampled = item.samplex.sample(item.arguments[place], draws, rng, max_workers=1)
    except _FAULTS as exc:
        why = str(exc)[:_MESSAGE_CHARS]
        message = f"the samplex cannot be sampled: {type(exc).__name__}: {why}"
        raise ExecutionError(message) from exc
    return dict(sampled)
