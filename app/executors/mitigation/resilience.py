"""Which twirling and error mitigation is in effect, and which options of them decide nothing?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Any

from app.errors import InvalidProgram

if TYPE_CHECKING:
    from app.executors.options import Options

AUTO = "auto"
PEA = "pea"
#: Both randomizations and their shots are chosen here: at most so many, of at least so many shots.
_RANDOMIZATIONS = 32
_SHOTS_EACH = 64
_FOLDED = "gate_folding"

#: extrapolator → points that it takes; a polynomial takes one more than its degree.
_POINTS = {
    "linear": 2,
    "exponential": 2,
    "double_exponential": 4,
    "fallback": 1,
    **{f"polynomial_degree_{degree}": degree + 1 for degree in range(1, 8)},
}

_NOT_LEARNED = "the noise of layers is read off the noise of this run; nothing has to be learned"


@dataclass(frozen=True, kw_only=True)
class Twirling:
    """Random Paulis around layers of gates, and random flips before measurements."""

    gates: bool = False
    measure: bool = False
    #: None: as many as the shots suggest.
    randomizations: int | None = None
    #: of every randomization; None: as many as the randomizations leave.
    shots_each: int | None = None
    strategy: str = "active-accum"

    @property
    def is_on(self) -> bool:
        """Whether anything is twirled."""
        return self.gates or self.measure

    def split(self, shots: int, *, cancels: bool = False) -> tuple[int, int]:
        """Give the number of randomizations, and the shots of each; they are ``shots`` or more.

        Args:
            shots: samples asked for.
            cancels: whether errors are cancelled, for which many randomizations are better.
        """
        if not (self.is_on or cancels):
            return 1, shots
        randomizations, shots_each = self.randomizations, self.shots_each
        if randomizations is None:
            if shots_each is None:
                shots_each = _SHOTS_EACH
                if not cancels:
                    shots_each = max(shots_each, ceil(shots / _RANDOMIZATIONS))
                shots_each = min(shots_each, shots)
            randomizations = ceil(shots / shots_each)
        elif shots_each is None:
            shots_each = ceil(shots / randomizations)
        # The shots of a pub are always obeyed, say IBM's schemas.
        return max(randomizations, ceil(shots / shots_each)), shots_each

    @property
    def document(self) -> dict[str, object]:
        """What a result says of it."""
        if not self.is_on:
            return {"enable_gates": False, "enable_measure": False}
        return {
            "enable_gates": self.gates,
            "enable_measure": self.measure,
            "num_randomizations": self.randomizations or AUTO,
            "shots_per_randomization": self.shots_each or AUTO,
            "strategy": self.strategy,
        }


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How it is measured how often a readout is wrong."""

    randomizations: int = 32
    #: None: as many as a randomization of the pub has.
    shots_each: int | None = None

    @property
    def document(self) -> dict[str, object]:
        """What a result says of it."""
        return {
            "num_randomizations": self.randomizations,
            "shots_per_randomization": self.shots_each or AUTO,
        }


@dataclass(frozen=True, kw_only=True)
class ZeroNoise:
    """Extrapolation of values at amplified noise to no noise."""

    amplifier: str = _FOLDED
    noise_factors: tuple[float, ...] = (1.0, 3.0, 5.0)
    #: to be tried in this order.
    extrapolators: tuple[str, ...] = ("exponential", "linear")
    #: noise factors at which every extrapolator is evaluated.
    evaluated_at: tuple[float, ...] = (0.0, 1.0, 3.0, 5.0)

    @property
    def document(self) -> dict[str, object]:
        """What a result says of it."""
        return {
            "amplifier": self.amplifier,
            "noise_factors": list(self.noise_factors),
            "extrapolator": list(self.extrapolators),
            "extrapolated_noise_factors": list(self.evaluated_at),
        }


@dataclass(frozen=True, kw_only=True)
class Cancellation:
    """Probabilistic error cancellation."""

    #: how many times as many randomizations may be taken; None: as many as it needs.
    max_overhead: float | None = 100.0
    #: the part of the noise that is kept; None: the least that ``max_overhead`` allows.
    noise_gain: float | None = None

    @property
    def document(self) -> dict[str, object]:
        """What a result says of it."""
        gain = AUTO if self.noise_gain is None else self.noise_gain
        return {"max_overhead": self.max_overhead, "noise_gain": gain}


@dataclass(frozen=True, kw_only=True)
class Resilience:
    """Everything that is done about noise."""

    twirling: Twirling
    #: None: errors of measurements are not mitigated.
    calibration: Calibration | None = None
    #: None: nothing is extrapolated.
    zero_noise: ZeroNoise | None = None
    #: None: nothing is cancelled.
    cancellation: Cancellation | None = None
    #: layers whose noise the caller has learned, as the options have them.
    layers: tuple[dict[str, Any], ...] = ()

    @property
    def is_on(self) -> bool:
        """Whether anything is done."""
        return bool(self.twirling.is_on or self.calibration or self.zero_noise or self.cancellation)

    @property
    def injects(self) -> bool:
        """Whether the noise of layers has to be known, so that more or less of it is injected."""
        amplifies = self.zero_noise is not None and self.zero_noise.amplifier == PEA
        return amplifies or self.cancellation is not None

    def without(self, reason: str) -> tuple[str, Resilience] | None:
        """Give up what cannot be done for some circuit.

        Args:
            reason: of the ``InvalidProgram`` that said so.

        Returns:
            the option that has no effect then, and the rest; None if the reason is another.
        """
        if reason == "layer_noise":
            if self.cancellation is not None:
                return "resilience.pec_mitigation", replace(self, cancellation=None)
            return "resilience.zne.amplifier", replace(self, zero_noise=None)
        if reason == "projectors":
            return "resilience.measure_mitigation", replace(self, calibration=None)
        if reason != "twirling":
            return None
        if self.injects:
            return self.without("layer_noise")
        if self.twirling.gates:
            twirling = replace(self.twirling, gates=False)
            return "twirling.enable_gates", replace(self, twirling=twirling)
        if self.zero_noise is not None:
            return "resilience.zne_mitigation", replace(self, zero_noise=None)
        return "twirling.enable_measure", Resilience(twirling=Twirling())

    @property
    def document(self) -> dict[str, object]:
        """What the result of an estimator says of it."""
        parts = {
            "measure_noise_learning": self.calibration,
            "zne": self.zero_noise,
            "pec": self.cancellation,
        }
        return {
            "dynamical_decoupling": {"enable": False},
            "twirling": self.twirling.document,
            "resilience": {
                "measure_mitigation": self.calibration is not None,
                "zne_mitigation": self.zero_noise is not None,
                "pec_mitigation": self.cancellation is not None,
                **{name: part.document for name, part in parts.items() if part is not None},
            },
        }

    def without_effect(self, options: Options) -> dict[str, str]:
        """Give the options that decide nothing, and why."""
        reasons = {
            path: reason
            for path, value in options.items()
            if value is not None
            and value is not False
            and (reason := self._reason(path)) is not None
        }
        for path, twirled in (
            ("twirling.enable_gates", self.twirling.gates),
            ("twirling.enable_measure", self.twirling.measure),
        ):
            if twirled and options.get(path) is False:
                reasons[path] = "the error mitigation that is on needs this twirling"
        return reasons

    def _reason(self, path: str) -> str | None:
        section, _, name = path.rpartition(".")
        if section == "twirling" and not name.startswith("enable_"):
            if name == "strategy":
                return None if self.twirling.gates else "gates are not twirled"
            return None if self.twirling.is_on or self.cancellation else "nothing is twirled"
        if section == "resilience.measure_noise_learning":
            return None if self.calibration else "errors of measurements are not mitigated"
        if section == "resilience.zne":
            return None if self.zero_noise else "zne_mitigation is off"
        if section == "resilience.pec":
            return None if self.cancellation else "pec_mitigation is off"
        if section == "resilience.layer_noise_learning":
            return _NOT_LEARNED if self.injects else "neither PEC nor PEA is on"
        if path == "resilience.layer_noise_model":
            return None if self.injects else "neither PEC nor PEA is on"
        return None


def sampler_resilience(options: Options) -> Resilience:
    """Everything that the options of a sampler ask for."""
    return Resilience(twirling=_twirling(options, gates=False, measure=False))


def estimator_resilience(options: Options, level: int) -> Resilience:
    """Everything that a level asks for, and what the options of an estimator change about it.

    Raises:
        InvalidProgram: two methods exclude each other, or one has too few noise factors.
    """
    zero_noise = _zero_noise(options) if _flag(options, "zne_mitigation", level == 2) else None
    cancellation = (
        _cancellation(options) if _flag(options, "pec_mitigation", default=False) else None
    )
    if zero_noise and cancellation:
        message = (
            "options.resilience: PEC and ZNE exclude each other; level 2 switches ZNE on unless "
            "zne_mitigation is false"
        )
        raise InvalidProgram("exclusive_options", message)
    calibrates = _flag(options, "measure_mitigation", level >= 1)
    twirling = _twirling(options, gates=level == 2, measure=level >= 1)
    layers: Any = options.get("resilience.layer_noise_model") or ()
    injects = cancellation is not None or (zero_noise is not None and zero_noise.amplifier == PEA)
    return Resilience(
        twirling=Twirling(
            gates=twirling.gates or injects,
            measure=twirling.measure or injects or calibrates,
            randomizations=twirling.randomizations,
            shots_each=twirling.shots_each,
            strategy=twirling.strategy,
        ),
        calibration=_calibration(options) if calibrates else None,
        zero_noise=zero_noise,
        cancellation=cancellation,
        layers=tuple(layers),
    )


def _flag(options: Options, name: str, default: bool) -> bool:  # noqa: FBT001 - reads as a default
    value = options.get(f"resilience.{name}")
    return default if value is None else bool(value)


def _or_none(value: Any) -> Any:
    return None if value == AUTO else value


def _twirling(options: Options, *, gates: bool, measure: bool) -> Twirling:
    asked = options.section("twirling")
    return Twirling(
        gates=asked.get("enable_gates", gates),
        measure=asked.get("enable_measure", measure),
        randomizations=_or_none(asked.get("num_randomizations")),
        shots_each=_or_none(asked.get("shots_per_randomization")),
        strategy=asked.get("strategy", Twirling.strategy),
    )


def _calibration(options: Options) -> Calibration:
    asked = options.section("resilience.measure_noise_learning")
    return Calibration(
        randomizations=asked.get("num_randomizations", Calibration.randomizations),
        shots_each=_or_none(asked.get("shots_per_randomization")),
    )


def _zero_noise(options: Options) -> ZeroNoise:
    asked = options.section("resilience.zne")
    factors = tuple(asked.get("noise_factors", ZeroNoise.noise_factors))
    extrapolators = asked.get("extrapolator", ZeroNoise.extrapolators)
    if isinstance(extrapolators, str):
        extrapolators = (extrapolators,)
    for name in extrapolators:
        if len(set(factors)) < _POINTS[name]:
            message = (
                f"options.resilience.zne: {name!r} takes {_POINTS[name]} different noise factors; "
                f"there are {len(set(factors))}"
            )
            raise InvalidProgram("noise_factors", message)
    points = _or_none(asked.get("extrapolated_noise_factors", AUTO))
    return ZeroNoise(
        amplifier=asked.get("amplifier", ZeroNoise.amplifier),
        noise_factors=factors,
        extrapolators=tuple(extrapolators),
        evaluated_at=(0.0, *factors) if points is None else tuple(points),
    )


def _cancellation(options: Options) -> Cancellation:
    asked = options.section("resilience.pec")
    return Cancellation(
        max_overhead=asked.get("max_overhead", Cancellation.max_overhead),
        noise_gain=_or_none(asked.get("noise_gain")),
    )
