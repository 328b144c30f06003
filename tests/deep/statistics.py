"""Which samples are too unlikely? Bounds that hold for any number of shots.

Samples are judged by ``n · D(sampled ‖ exact)`` in nats, half of what a G-test uses. For ``k``
possible outcomes its moment generating function at ``λ`` is at most ``(1 - λ)^-(k - 1)`` (R. Agrawal,
"Finite-sample concentration of the multinomial in relative entropy", IEEE Trans. Inf. Theory 66,
2020), so Chernoff's bound gives ``P(n · D ≥ t) ≤ exp(-t) · (e · t / (k - 1))^(k - 1)`` for
``t > k - 1``, for one comparison and, with the sum of all ``k - 1``, for independent ones together.

Means of ``n`` values in a range of width ``r`` are judged by Hoeffding's inequality.

The chance that right samples fail anywhere in a deep run is below ``CHANCE``, whatever the seeds are.
"""

from __future__ import annotations

from math import exp, log, sqrt
from typing import TYPE_CHECKING

from scipy.optimize import brentq

if TYPE_CHECKING:
    from collections.abc import Mapping

#: of a false alarm in a whole deep run.
CHANCE = 1e-6
#: more than a deep run makes.
_COMPARISONS = 100_000
CHANCE_EACH = CHANCE / _COMPARISONS

#: What an outcome is given that the exact distribution does not have: it drops branches below 1e-9,
#: of which there are less than a hundred. Ten such samples of 2000 already fail.
_IMPOSSIBLE = 1e-7


def divergence(counts: Mapping[int, int], exact: Mapping[int, float]) -> tuple[float, int]:
    """Give ``n · D(sampled ‖ exact)``, and its degrees of freedom ``k - 1``."""
    shots = sum(counts.values())
    known = {outcome: count for outcome, count in counts.items() if outcome in exact}
    unknown = shots - sum(known.values())
    total = sum(count * log(count / shots / exact[outcome]) for outcome, count in known.items())
    if unknown:
        total += unknown * log(unknown / shots / _IMPOSSIBLE)
    return total, len(exact)


def allowed_divergence(freedom: int, chance: float = CHANCE_EACH) -> float:
    """Give what right samples exceed with less than this chance."""
    if not freedom:
        return 0.0

    def excess(t: float) -> float:
        return -t + freedom * log(exp(1) * t / freedom) - log(chance)

    upper = 2.0 * freedom - 10 * log(chance)
    return float(brentq(excess, freedom, upper))


def allowed_error(shots: int, width: float, chance: float = CHANCE_EACH) -> float:
    """Give how far the mean of ``shots`` values in a range of this width may be off."""
    return width * sqrt(log(2 / chance) / (2 * shots))
