"""What are expectation values, and their errors, where terms share shots and a calibration?

Every quantity is written as a sum of the means of all terms, with weights. Its error is that of the
same sum taken shot by shot, so that what terms have in common counts once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from app.executors.configurations import PlacedTerm
from app.executors.mitigation.extrapolation import fit, succeeded
from app.executors.observables import factor

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from app.executors.mitigation.extrapolation import Fit
    from app.executors.mitigation.resilience import ZeroNoise

#: What a readout that is right half of the time is taken for.
_LEAST_READOUT = 1e-3


@dataclass(frozen=True, kw_only=True)
class Readings:
    """What the qubits of a circuit read."""

    #: shape ``(randomizations, configurations, shots, qubits)``.
    bits: npt.NDArray[np.bool_]
    #: weight of every randomization, shape ``(randomizations, configurations)``.
    weights: npt.NDArray[np.float64]

    @property
    def shots(self) -> int:
        """Shots of all randomizations together."""
        return int(self.bits.shape[0] * self.bits.shape[2])

    def values(self, configuration: int, characters: dict[int, str]) -> npt.NDArray[np.float64]:
        """Give the value of a term in every shot, shape ``(randomizations, shots)``."""
        bits = self.bits[:, configuration]
        values = np.repeat(self.weights[:, configuration, np.newaxis], bits.shape[1], axis=1)
        for qubit, character in characters.items():
            values *= factor(character, bits[..., qubit])
        return values


@dataclass(frozen=True, kw_only=True)
class Estimates:
    """Some quantities, each array of shape ``(quantities,)``; the first one is the answer."""

    values: npt.NDArray[np.float64]
    #: standard errors, from the spread of randomizations and from that of all shots.
    stds: npt.NDArray[np.float64]
    ensemble_stds: npt.NDArray[np.float64]
    #: the extrapolator that was chosen for every term.
    chosen: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Sums:
    """Quantities as sums over terms, before coefficients and the correction of readout."""

    #: shape ``(quantities, terms)``.
    values: npt.NDArray[np.float64]
    #: derivative by the mean at every noise factor, shape ``(quantities, factors, terms)``.
    gradient: npt.NDArray[np.float64]
    chosen: tuple[str, ...] = ()


def estimated(
    terms: Sequence[PlacedTerm],
    readings: Sequence[Readings],
    *,
    calibration: Readings | None,
    zero_noise: ZeroNoise | None,
    factors: npt.NDArray[np.float64],
) -> Estimates:
    """Estimate an observable.

    Args:
        terms: of the observable.
        readings: at every noise factor.
        calibration: of qubits in |0>; None: readout is taken for right.
        zero_noise: how values are extrapolated; None: there is one noise factor only.
        factors: the noise factors that were reached.

    Returns:
        the value; with ``zero_noise`` then also the values at all noise factors, and those of
        every extrapolator at every point that it is evaluated at, the points of one first.
    """
    coefficients = np.array([term.coefficient for term in terms])
    readouts = _readouts(terms, calibration)
    means, errors = _means(terms, readings)
    if zero_noise is None:
        sums = _Sums(values=means, gradient=np.ones((1, 1, len(terms))))
    else:
        sums = _extrapolated(means, errors, factors, zero_noise)
    scales = coefficients / readouts
    ensemble, spread = _variances(terms, readings, sums.gradient * scales)
    if calibration is not None:
        weights = -coefficients * sums.values / readouts**2
        more = _variances(_in_z(terms), [calibration], weights[:, np.newaxis])
        ensemble, spread = ensemble + more[0], spread + more[1]
    return Estimates(
        values=sums.values @ scales,
        stds=np.sqrt(spread),
        ensemble_stds=np.sqrt(ensemble),
        chosen=sums.chosen,
    )


def _in_z(terms: Sequence[PlacedTerm]) -> list[PlacedTerm]:
    """What a calibration says of terms: there is one configuration, in Z."""
    return [
        PlacedTerm(coefficient=1.0, characters=dict.fromkeys(term.characters, "Z"), configuration=0)
        for term in terms
    ]


def _readouts(terms: Sequence[PlacedTerm], calibration: Readings | None) -> npt.NDArray[np.float64]:
    """By how much readout errors shrink each term: https://arxiv.org/abs/2012.09738."""
    if calibration is None:
        return np.ones(len(terms))
    means, _ = _means(_in_z(terms), [calibration])
    readouts: npt.NDArray[np.float64] = np.maximum(means[0], _LEAST_READOUT)
    return readouts


def _means(
    terms: Sequence[PlacedTerm], readings: Sequence[Readings]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Means of terms and their standard errors, each of shape ``(factors, terms)``."""
    means, errors = np.empty((2, len(readings), len(terms)))
    for row, reading in enumerate(readings):
        for column, term in enumerate(terms):
            values = reading.values(term.configuration, term.characters)
            means[row, column] = values.mean()
            # No difference among the shots is no proof that there is none.
            errors[row, column] = max(values.std() / np.sqrt(reading.shots), 1 / reading.shots)
    return means, errors


def _extrapolated(
    means: npt.NDArray[np.float64],
    errors: npt.NDArray[np.float64],
    factors: npt.NDArray[np.float64],
    zero_noise: ZeroNoise,
) -> _Sums:
    """Extrapolate every term by itself, with the first extrapolator that succeeds."""
    points = len(zero_noise.evaluated_at)
    rows = 1 + len(factors) + len(zero_noise.extrapolators) * points
    values = np.empty((rows, means.shape[1]))
    gradient = np.empty((rows, len(factors), means.shape[1]))
    measured = slice(1, 1 + len(factors))
    values[measured] = means
    gradient[measured] = np.eye(len(factors))[..., np.newaxis]
    chosen = []
    for term in range(means.shape[1]):
        fits = [
            fit(name, factors, means[:, term], errors[:, term], (0.0, *zero_noise.evaluated_at))
            for name in zero_noise.extrapolators
        ]
        for index, each in enumerate(fits):
            first = 1 + len(factors) + index * points
            values[first : first + points, term] = each.values[1:]
            gradient[first : first + points, :, term] = each.gradient[1:]
        best = _best(fits, errors[:, term])
        values[0, term] = fits[best].values[0]
        gradient[0, :, term] = fits[best].gradient[0]
        chosen.append(zero_noise.extrapolators[best])
    return _Sums(values=values, gradient=gradient, chosen=tuple(chosen))


def _best(fits: Sequence[Fit], errors: npt.NDArray[np.float64]) -> int:
    """Give the first fit that succeeded, or else that with the least error."""
    for index, each in enumerate(fits):
        if succeeded(each, errors):
            return index
    return int(np.argmin([each.error(errors)[0] for each in fits]))


def _variances(
    terms: Sequence[PlacedTerm], readings: Sequence[Readings], weights: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Variances of weighted sums of means, from all shots and from the spread of randomizations.

    Args:
        terms: those in one configuration share its shots; configurations are independent.
        readings: at every noise factor, independent of each other.
        weights: shape ``(quantities, factors, terms)``.
    """
    ensemble, spread = np.zeros((2, len(weights)))
    configurations = {term.configuration for term in terms}
    for row, reading in enumerate(readings):
        randomizations = len(reading.bits)
        for configuration in configurations:
            total = np.zeros((len(weights), randomizations, reading.bits.shape[2]))
            for column, term in enumerate(terms):
                if term.configuration == configuration and term.characters:
                    values = reading.values(configuration, term.characters)
                    total += weights[:, row, column, np.newaxis, np.newaxis] * values
            shots = total.reshape(len(weights), -1)
            pooled = shots.var(axis=1, ddof=min(1, reading.shots - 1)) / reading.shots
            ensemble += pooled
            if randomizations == 1:
                spread += pooled
            else:
                spread += total.mean(axis=2).var(axis=1, ddof=1) / randomizations
    return ensemble, spread
