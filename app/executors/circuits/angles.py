"""Which angles does a circuit have at each of many parameter sets?

A circuit is lowered once; where an angle depends on parameters, a ``Slot`` stands for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from qiskit.circuit.exceptions import CircuitError

from app.errors import ExecutionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from qiskit.circuit import Parameter, ParameterExpression


class Slot(NamedTuple):
    """An angle that may differ from parameter set to parameter set."""

    #: its column in ``Angles.at``.
    column: int


class Angles:
    """The distinct angles of one circuit that depend on its parameters."""

    def __init__(self, parameters: Sequence[Parameter] = ()) -> None:
        self.parameters = frozenset(parameters)
        self._columns = {parameter: index for index, parameter in enumerate(parameters)}
        self._slots: dict[ParameterExpression, Slot] = {}

    def slot(self, expression: ParameterExpression) -> Slot:
        """Give the slot of ``expression``; equal expressions share one."""
        return self._slots.setdefault(expression, Slot(len(self._slots)))

    def at(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Evaluate every slot at every parameter set.

        Args:
            values: shape ``(sets, parameters)``, in the order of the constructor's parameters.

        Returns:
            shape ``(sets, slots)``.

        Raises:
            ExecutionError: an angle is not a finite number for one of the sets.
        """
        angles = np.empty((len(values), len(self._slots)))
        for expression, slot in self._slots.items():
            angles[:, slot.column] = self._evaluated(expression, values)
        if not np.isfinite(angles).all():
            raise ExecutionError("an angle is not a finite number for every parameter set")
        return angles

    def _evaluated(
        self, expression: ParameterExpression, values: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float64]:
        parameters = list(expression.parameters)
        columns = values[:, [self._columns[parameter] for parameter in parameters]]
        try:
            if (slopes := _slopes(expression, parameters)) is not None:
                offset = float(expression.bind(dict.fromkeys(parameters, 0.0)))
                return columns @ slopes + offset
            return np.array(
                [
                    float(expression.bind(dict(zip(parameters, row, strict=True))))
                    for row in columns.tolist()
                ]
            )
        except (ArithmeticError, CircuitError, TypeError, ValueError) as exc:
            message = "an angle has no value for every parameter set: it divides by zero or so"
            raise ExecutionError(message) from exc


def _slopes(
    expression: ParameterExpression, parameters: Sequence[Parameter]
) -> npt.NDArray[np.float64] | None:
    """Give the derivatives of a linear expression, which nearly all are; None for any other."""
    try:
        slopes: list[Any] = [expression.gradient(parameter) for parameter in parameters]
    except RuntimeError:
        # Qiskit knows no derivative of a sign.
        return None
    if all(isinstance(slope, (int, float)) for slope in slopes):
        return np.array(slopes, dtype=np.float64)
    return None


def bound(params: tuple[Any, ...], angles: npt.NDArray[np.float64]) -> tuple[Any, ...]:
    """Put the angles of one parameter set, shape ``(slots,)``, in the place of their slots."""
    return tuple(
        float(angles[param.column]) if isinstance(param, Slot) else param for param in params
    )
