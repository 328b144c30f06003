"""Do fits through values at several noise factors find what they were made from?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from app.executors.mitigation.extrapolation import fit, succeeded

if TYPE_CHECKING:
    from collections.abc import Callable

FACTORS = np.array([1.0, 1.5, 2.0, 3.0, 5.0])
ERRORS = np.array([0.01, 0.02, 0.01, 0.03, 0.02])
MODELS: dict[str, Callable[[Any], Any]] = {
    "linear": lambda at: 0.9 - 0.1 * at,
    "polynomial_degree_1": lambda at: 0.9 - 0.1 * at,
    "polynomial_degree_2": lambda at: 0.9 - 0.2 * at + 0.03 * at**2,
    "polynomial_degree_4": lambda at: 0.9 - 0.2 * at + 0.03 * at**2 - 0.001 * at**4,
    "exponential": lambda at: -0.8 * np.exp(-0.4 * at),
    "double_exponential": lambda at: 0.5 * np.exp(-0.1 * at) + 0.4 * np.exp(-0.9 * at),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_fit_finds_the_model_that_made_the_values(name: str) -> None:
    model = MODELS[name]

    fitted = fit(name, FACTORS, model(FACTORS), ERRORS, (0.0, 1.0, 4.0))

    assert fitted.values == pytest.approx(model(np.array([0.0, 1.0, 4.0])), abs=1e-5)


@pytest.mark.parametrize("name", [name for name in MODELS if name != "double_exponential"])
def test_the_gradient_is_how_a_fit_moves_with_its_points(name: str) -> None:
    values = MODELS[name](FACTORS)
    fitted = fit(name, FACTORS, values, ERRORS, (0.0, 2.0))

    step = 1e-5
    moved = [
        fit(name, FACTORS, values + step * unit, ERRORS, (0.0, 2.0)).values
        for unit in np.eye(len(FACTORS))
    ]

    numerical = (np.array(moved).T - fitted.values[:, np.newaxis]) / step
    assert fitted.gradient == pytest.approx(numerical, abs=1e-3)


def test_the_error_of_a_fit_is_the_spread_of_fits() -> None:
    rng = np.random.default_rng(5)
    values = MODELS["exponential"](FACTORS)
    said = fit("exponential", FACTORS, values, ERRORS, (0.0,)).error(ERRORS)[0]

    fits = [
        fit("exponential", FACTORS, values + rng.normal(scale=ERRORS), ERRORS, (0.0,)).values[0]
        for _ in range(1000)
    ]

    # 5 sigma of a standard deviation of 1000 samples are 11 %.
    assert np.std(fits) == pytest.approx(said, rel=0.11)


def test_fallback_is_the_value_at_the_least_noise() -> None:
    fitted = fit("fallback", FACTORS[::-1], np.arange(5.0), ERRORS[::-1], (0.0, 3.0))

    assert fitted.values.tolist() == [4, 4]
    assert fitted.error(ERRORS[::-1]).tolist() == [0.01, 0.01]


def test_points_without_any_error_are_fitted_all_the_same() -> None:
    fitted = fit("exponential", FACTORS, np.ones(5), np.zeros(5), (0.0,))

    assert fitted.values == pytest.approx([1.0])


@pytest.mark.parametrize(("slope", "success"), [(0.5, True), (3.0, False)])
def test_a_value_that_no_state_has_is_no_success(slope: float, success: bool) -> None:
    fitted = fit("linear", FACTORS, slope * (1 - FACTORS) + 0.5, ERRORS, (0.0,))

    assert succeeded(fitted, ERRORS) is success
