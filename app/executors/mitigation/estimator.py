"""How does an estimator's pub become expectation values that errors have been taken out of?"""

from __future__ import annotations

from math import ceil, prod
from typing import TYPE_CHECKING, cast

import numpy as np

from app.executors.configurations import Configurations
from app.executors.estimates import Readings, estimated
from app.executors.estimator import require_broadcast
from app.executors.items import ItemRun
from app.executors.mitigation.amplification import circuits_of
from app.executors.mitigation.boxes import basis_codes, conformed, narrowed
from app.executors.mitigation.sampler import FLIPS
from app.executors.observables import pauli_terms
from app.executors.simulation import SEEDS
from app.primitives.programs import EstimatorPubResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from app.executors.estimates import Estimates
    from app.executors.mitigation.resilience import Resilience
    from app.executors.noise.model import Noise
    from app.executors.simulation import Simulation
    from app.primitives.programs import EstimatorPub, ItemResult, Observable, SamplexItem

#: what a samplex says of randomizations that count negative.
_SIGNS = "pauli_signs"
#: stands for qubits that were left out.
_UNREAD = -1
#: bytes of the value of a shot: some quantities, a term of them, and its factors.
_VALUE_BYTES = 256


class MitigatedRun:
    """One pub that is to be estimated, with twirling and error mitigation."""

    def __init__(self, pub: EstimatorPub, noise: Noise, resilience: Resilience, seed: int) -> None:
        """Make the circuits.

        Args:
            pub: what is estimated.
            noise: what goes wrong.
            resilience: what is done about it.
            seed: of the choice of gates that are folded.

        Raises:
            InvalidProgram: observables and parameter sets do not fit together, the circuit cannot
                be twirled, or the noise of a layer is not known.
        """
        self._pub = pub
        self._resilience = resilience
        require_broadcast(pub)
        circuit, places = noise.conforming(pub.circuit)
        qubits = range(pub.circuit.num_qubits) if places is None else places
        observables = pub.observables
        if resilience.calibration is not None:
            observables = _in_paulis(observables)
        read = {
            qubits[index]
            for observable in observables.ravel()
            for characters in observable
            for index, character in enumerate(reversed(characters))
            if character != "I"
        }
        narrow, kept = narrowed(circuit, read)
        self._width = len(kept)
        numbers = {qubit: number for number, qubit in enumerate(kept)}
        self._configurations = Configurations(
            observables,
            pub.parameter_values.shape[:-1],
            [numbers.get(qubit, _UNREAD) for qubit in qubits],
        )
        self._circuits = circuits_of(
            narrow,
            kept,
            resilience=resilience,
            noise=noise,
            rng=np.random.default_rng(seed % SEEDS),
        )
        self._randomizations, self._shots_each = resilience.twirling.split(
            pub.shots, cancels=resilience.cancellation is not None
        )
        self._randomizations = ceil(self._randomizations * self._circuits.overhead)
        self._runs = [
            ItemRun(conformed(item, noise, kept, circuit.num_qubits), shots=shots, noise=None)
            for item, shots in self._items()
        ]

    @property
    def result_bytes(self) -> int:
        """Size of the result, before it is encoded."""
        quantities = 1
        if self._resilience.zero_noise is not None:
            zero_noise = self._resilience.zero_noise
            points = len(zero_noise.extrapolators) * len(zero_noise.evaluated_at)
            quantities += len(zero_noise.noise_factors) + points
        return 24 * quantities * prod(self._configurations.shape)

    @property
    def working_bytes(self) -> int:
        """Memory that the run needs besides its result and a simulation."""
        # Every bit is a byte; all noise factors are held at the same time.
        held = 8 * sum(run.result_bytes for run in self._runs)
        values = _VALUE_BYTES * self._randomizations * self._shots_each
        return held + values + max(run.working_bytes for run in self._runs)

    @property
    def description(self) -> str:
        """Size of the run in words."""
        shots = self._randomizations * self._shots_each
        return (
            f"{len(self._circuits.amplified)} × {len(self._configurations)} configurations of "
            f"{shots} shots each"
        )

    def result(
        self, simulation: Simulation, rng: np.random.Generator
    ) -> tuple[EstimatorPubResult, dict[str, object]]:
        """Give the expectation values, and what was simulated."""
        results, provenances = zip(
            *(run.result(simulation, rng) for run in self._runs), strict=True
        )
        register, gamma = self._circuits.register, self._circuits.gamma
        amplified = len(self._circuits.amplified)
        readings = [_readings(result, register, gamma) for result in results[:amplified]]
        calibrations = [_readings(result, register) for result in results[amplified:]]
        estimates = [
            estimated(
                terms,
                readings,
                calibration=calibrations[0] if calibrations else None,
                zero_noise=self._resilience.zero_noise,
                factors=np.array(self._circuits.factors),
            )
            for terms in self._configurations.terms()
        ]
        return self._result(estimates), self._provenance(provenances)

    def _items(self) -> list[tuple[SamplexItem, int]]:
        """Give what is run, and the shots of every randomization of it."""
        configurations, circuits = self._configurations, self._circuits
        values = self._pub.parameter_values
        values = values.reshape(prod(values.shape[:-1]), values.shape[-1])[configurations.sets]
        bases = basis_codes(configurations.bases, self._width)
        shape = (self._randomizations, len(configurations))
        items = [
            (
                each.boxed.item(values, shape, bases=bases, others=each.injected),
                self._shots_each,
            )
            for each in circuits.amplified
        ]
        calibration = self._resilience.calibration
        if calibration is not None and circuits.calibration is not None:
            item = circuits.calibration.item(
                np.empty((1, 0)),
                (calibration.randomizations, 1),
                bases=basis_codes([{}], self._width),
            )
            items.append((item, calibration.shots_each or self._shots_each))
        return items

    def _result(self, estimates: list[Estimates]) -> EstimatorPubResult:
        pub, zero_noise, shape = self._pub, self._resilience.zero_noise, self._configurations.shape
        values = np.array([each.values for each in estimates])
        stds = np.array([each.stds for each in estimates])
        ensemble = np.array([each.ensemble_stds for each in estimates])
        arrays = {
            "evs": values[:, 0].reshape(shape),
            "stds": stds[:, 0].reshape(shape),
            "ensemble_standard_error": ensemble[:, 0].reshape(shape),
        }
        resilience = dict(self._circuits.document)
        if zero_noise is not None:
            points = 1 + len(zero_noise.noise_factors)
            factors = (*shape, len(zero_noise.noise_factors))
            evaluated = (*shape, len(zero_noise.extrapolators), len(zero_noise.evaluated_at))
            arrays |= {
                "evs_noise_factors": values[:, 1:points].reshape(factors),
                "stds_noise_factors": stds[:, 1:points].reshape(factors),
                "ensemble_stds_noise_factors": ensemble[:, 1:points].reshape(factors),
                "evs_extrapolated": values[:, points:].reshape(evaluated),
                "stds_extrapolated": stds[:, points:].reshape(evaluated),
            }
            used = {name for each in estimates for name in each.chosen}
            resilience["zne"] = {
                "extrapolator": [name for name in zero_noise.extrapolators if name in used],
                "noise_factors": list(self._circuits.factors),
            }
        return EstimatorPubResult(
            shape=shape,
            values=arrays,
            metadata={
                "shots": self._randomizations * self._shots_each,
                "target_precision": pub.precision,
                "circuit_metadata": pub.circuit.metadata or {},
                "resilience": resilience,
                "num_randomizations": self._randomizations,
            },
        )

    def _provenance(self, provenances: Sequence[dict[str, object]]) -> dict[str, object]:
        return {
            **provenances[0],
            "shots": self._randomizations * self._shots_each,
            "num_randomizations": self._randomizations,
            "measurement_bases": len(self._configurations),
            "circuits": len(provenances),
        }


def _readings(result: ItemResult, register: str, gamma: float = 1.0) -> Readings:
    """Undo the flips of twirled measurements, and look which randomizations count negative."""
    bits = result.arrays[register]
    if FLIPS + register in result.arrays:
        bits = bits ^ result.arrays[FLIPS + register]
    weights = np.full(bits.shape[:2], gamma)
    if _SIGNS in result.arrays:
        weights *= 1 - 2.0 * (result.arrays[_SIGNS].sum(axis=-1) % 2)
    return Readings(bits=bits, weights=weights)


def _in_paulis(observables: npt.NDArray[np.object_]) -> npt.NDArray[np.object_]:
    written = np.empty_like(observables)
    for index, observable in np.ndenumerate(observables):
        written[index] = pauli_terms(cast("Observable", observable))
    return written
