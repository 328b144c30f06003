"""What would a value be without noise? Fits through values at several noise factors.

Every fit is weighted with the known errors of its points, and comes with its derivative by each of
them: errors of values that share shots can then be propagated together. The fits of
``scipy.optimize.curve_fit`` estimate the errors anew from the residuals, which with three points
and two parameters means from one number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import least_squares

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

FALLBACK = "fallback"
_EXPONENTIALS = {"exponential": 1, "double_exponential": 2}
_DEGREE = "polynomial_degree_"
#: What stands for no error at all, so that every point has a weight.
_LEAST_ERROR = 1e-9


@dataclass(frozen=True, kw_only=True)
class Fit:
    """One model through some points, evaluated at others; all NaN where it could not be fitted."""

    #: shape ``(evaluated,)``.
    values: npt.NDArray[np.float64]
    #: derivative of each value by each point, shape ``(evaluated, points)``.
    gradient: npt.NDArray[np.float64]

    def error(self, errors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Standard errors of the values where the points are independent with ``errors``."""
        squares: npt.NDArray[np.float64] = self.gradient**2 @ errors**2
        return np.sqrt(squares)


def fit(
    name: str,
    factors: npt.NDArray[np.float64],
    values: npt.NDArray[np.float64],
    errors: npt.NDArray[np.float64],
    at: Sequence[float],
) -> Fit:
    """Fit one model.

    Args:
        name: an extrapolator of the client's options.
        factors: noise factors, shape ``(points,)``.
        values: shape ``(points,)``.
        errors: standard errors of ``values``.
        at: noise factors at which the fit is evaluated.
    """
    where = np.asarray(at, dtype=np.float64)
    weights = 1 / np.maximum(errors, max(_LEAST_ERROR, float(errors.max()) * _LEAST_ERROR))
    if name == FALLBACK:
        lowest = int(factors.argmin())
        gradient = np.zeros((len(where), len(factors)))
        gradient[:, lowest] = 1
        return Fit(values=np.full(len(where), values[lowest]), gradient=gradient)
    if name in _EXPONENTIALS:
        return _exponential(_EXPONENTIALS[name], factors, values, weights, where)
    degree = 1 if name == "linear" else int(name.removeprefix(_DEGREE))
    powers = np.arange(degree + 1)
    gradient = _propagated(
        factors[:, np.newaxis] ** powers, weights, where[:, np.newaxis] ** powers
    )
    return Fit(values=gradient @ values, gradient=gradient)


def succeeded(fitted: Fit, errors: npt.NDArray[np.float64]) -> bool:
    """Whether the first value of a fit can be that of an observable between -1 and 1.

    As the client's documentation has it, this is a heuristic: a value that is that of no state, by
    more than its error and 1, is taken for a failure.
    """
    value, error = float(fitted.values[0]), float(fitted.error(errors)[0])
    return bool(
        np.isfinite(value) and np.isfinite(error) and error <= 1 and abs(value) + error <= 2
    )


def _exponential(
    terms: int,
    factors: npt.NDArray[np.float64],
    values: npt.NDArray[np.float64],
    weights: npt.NDArray[np.float64],
    where: npt.NDArray[np.float64],
) -> Fit:
    """Fit a sum of decays, ``amplitude · exp(-rate · factor)`` with rates from 0 on."""

    def model(
        params: npt.NDArray[np.float64], at: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float64]:
        amplitudes, rates = params[:terms], params[terms:]
        decays: npt.NDArray[np.float64] = np.exp(-np.outer(at, rates)) @ amplitudes
        return decays

    def jacobian(
        params: npt.NDArray[np.float64], at: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float64]:
        amplitudes, rates = params[:terms], params[terms:]
        decays = np.exp(-np.outer(at, rates))
        return np.hstack([decays, -at[:, np.newaxis] * decays * amplitudes])

    largest = float(values[abs(values).argmax()])
    rate = _first_rate(factors, values)
    amplitude = largest * float(np.exp(rate * factors[abs(values).argmax()]))
    start = np.array([amplitude / terms] * terms + [rate * (1 + term) for term in range(terms)])
    bounds = ([-np.inf] * terms + [0.0] * terms, np.inf)
    found = least_squares(
        lambda params: weights * (model(params, factors) - values),
        start,
        jac=lambda params: weights[:, np.newaxis] * jacobian(params, factors),
        bounds=bounds,
        x_scale="jac",
    )
    gradient = _propagated(jacobian(found.x, factors), weights, jacobian(found.x, where))
    return Fit(values=model(found.x, where), gradient=gradient)


def _first_rate(factors: npt.NDArray[np.float64], values: npt.NDArray[np.float64]) -> float:
    """Rate at which the values decay from the first to the last, and at least a little."""
    first, last = factors.argmin(), factors.argmax()
    ratio = abs(values[first]) / max(abs(values[last]), 1e-6)
    decades = np.log(max(ratio, 1.0)) / (factors[last] - factors[first])
    return max(float(decades), 1e-3)


def _propagated(
    design: npt.NDArray[np.float64],
    weights: npt.NDArray[np.float64],
    evaluated: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """Derivative of the evaluated model by the points that it was fitted to."""
    inverse = np.linalg.pinv(design * weights[:, np.newaxis])
    gradient: npt.NDArray[np.float64] = evaluated @ (inverse * weights)
    return gradient
