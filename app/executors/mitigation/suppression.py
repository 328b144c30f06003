"""How is a primitive run where operations go wrong? With all that can be done about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.errors import InvalidProgram
from app.executors.estimator import EstimatorRun
from app.executors.locations import located
from app.executors.mitigation.resilience import (
    Resilience,
    Twirling,
    estimator_resilience,
    sampler_resilience,
)
from app.executors.sampler import SamplerRun
from app.primitives.programs import EstimatorProgram, SamplerPub

if TYPE_CHECKING:
    from app.executors.mitigation.estimator import MitigatedRun
    from app.executors.mitigation.sampler import TwirledSamplerRun
    from app.executors.noise.model import Noise
    from app.executors.options import Options
    from app.primitives.programs import EstimatorPub, SamplerProgram

    Run = SamplerRun | TwirledSamplerRun | EstimatorRun | MitigatedRun

_NONE = Resilience(twirling=Twirling())


class Suppression:
    """Makes the runs of a program, and knows what is in effect."""

    def __init__(
        self, program: SamplerProgram | EstimatorProgram, options: Options, noise: Noise | None
    ) -> None:
        """Look at the options.

        Raises:
            InvalidProgram: two of them exclude each other.
        """
        self._options = options
        self._noise = noise
        self._is_estimator = isinstance(program, EstimatorProgram)
        self._asked = (
            estimator_resilience(options, program.resilience_level)
            if isinstance(program, EstimatorProgram)
            else sampler_resilience(options)
        )
        #: option → why it has no effect for some pubs.
        self._given_up: dict[str, list[str]] = {}

    @property
    def in_effect(self) -> dict[str, object]:
        """What is done about noise."""
        document = (_NONE if self._noise is None else self._asked).document
        return document if self._is_estimator else {"twirling": document["twirling"]}

    @property
    def result_metadata(self) -> dict[str, object]:
        """What the result document of an estimator says of it; that of a sampler says nothing."""
        return self.in_effect if self._is_estimator else {}

    @property
    def without_effect(self) -> dict[str, str]:
        """Options that were set in vain, and why; none where nothing goes wrong."""
        if self._noise is None:
            return {}
        reasons = self._asked.without_effect(self._options)
        return reasons | {path: "; ".join(pubs) for path, pubs in self._given_up.items()}

    def run(self, pub: SamplerPub | EstimatorPub, index: int, seed: int) -> Run:
        """Give the run of a pub; what cannot be done for it is remembered.

        Raises:
            InvalidProgram: the pub cannot be run at all.
        """
        resilience = self._asked
        with located(f"pubs[{index}]"):
            while self._noise is not None and resilience.is_on:
                try:
                    return _run(pub, self._noise, resilience, seed)
                except InvalidProgram as exc:
                    lesser = resilience.without(exc.reason)
                    if lesser is None:
                        raise
                    path, resilience = lesser
                    reason = f"pubs[{index}]: {exc.message}"
                    self._given_up.setdefault(path, []).append(reason)
            if isinstance(pub, SamplerPub):
                return SamplerRun(pub, self._noise)
            return EstimatorRun(pub, self._noise)


def _run(pub: SamplerPub | EstimatorPub, noise: Noise, resilience: Resilience, seed: int) -> Run:
    if not isinstance(pub, SamplerPub) and not _reads(pub):
        return EstimatorRun(pub, noise)
    # Imported here because most runs need no twirls, and these imports take 0.3 s.
    if isinstance(pub, SamplerPub):
        from app.executors.mitigation.sampler import TwirledSamplerRun  # noqa: PLC0415

        return TwirledSamplerRun(pub, noise, resilience.twirling)
    from app.executors.mitigation.estimator import MitigatedRun  # noqa: PLC0415

    return MitigatedRun(pub, noise, resilience, seed)


def _reads(pub: EstimatorPub) -> bool:
    """Whether any qubit is measured at all."""
    return any(
        set(characters) != {"I"}
        for observable in pub.observables.ravel().tolist()
        for characters in observable
    )
