"""How does an estimator's pub become expectation values that errors have been taken out of?"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log, prod
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from qiskit import QuantumCircuit

from app.executors.boxes import basis_codes, boxed, conformed, folded, narrowed, with_readout
from app.executors.configurations import Configurations
from app.executors.estimates import Readings, estimated
from app.executors.items import ItemRun
from app.executors.layer_noise import noise_maps
from app.executors.observables import pauli_terms
from app.executors.resilience import Twirling
from app.executors.simulation import SEEDS
from app.executors.twirled_sampler import FLIPS
from app.primitives.programs import EstimatorPubResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from qiskit.quantum_info import PauliLindbladMap

    from app.executors.boxes import Boxed
    from app.executors.estimates import Estimates
    from app.executors.noise import Noise
    from app.executors.resilience import Cancellation, Resilience
    from app.executors.simulation import Simulation
    from app.primitives.programs import EstimatorPub, ItemResult, Observable, SamplexItem

#: what a samplex says of randomizations that count negative.
_SIGNS = "pauli_signs"
#: stands for qubits that were left out.
_UNREAD = -1
_FOLDING = "gate_folding_"
#: bytes of the value of a shot: some quantities, a term of them, and its factors.
_VALUE_BYTES = 256


@dataclass(frozen=True, kw_only=True)
class _Amplified:
    """A circuit at one noise factor."""

    boxed: Boxed
    factor: float
    #: how the noise of layers is injected: arguments of the samplex.
    injected: dict[str, Any]


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
        numbers = {qubit: number for number, qubit in enumerate(kept)}
        self._configurations = Configurations(
            observables,
            pub.parameter_values.shape[:-1],
            [numbers.get(qubit, _UNREAD) for qubit in qubits],
        )
        self._circuits = _Circuits(
            narrow, kept, resilience, noise, np.random.default_rng(seed % SEEDS)
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
                factors=self._circuits.factors,
            )
            for terms in self._configurations.terms()
        ]
        return self._result(estimates), self._provenance(provenances)

    def _items(self) -> list[tuple[SamplexItem, int]]:
        """Give what is run, and the shots of every randomization of it."""
        configurations, circuits = self._configurations, self._circuits
        values = self._pub.parameter_values
        values = values.reshape(prod(values.shape[:-1]), -1)[configurations.sets]
        width = circuits.width
        bases = basis_codes(configurations.bases, width)
        shape = (self._randomizations, len(configurations))
        items = [
            (
                each.boxed.item(values, shape, bases=bases, others=each.injected),
                self._shots_each,
            )
            for each in circuits.amplified
        ]
        calibration = self._resilience.calibration
        if calibration is not None:
            item = circuits.calibration.item(
                np.empty((1, 0)), (calibration.randomizations, 1), bases=basis_codes([{}], width)
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
        resilience: dict[str, object] = {}
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
            names = [_common(each.chosen) for each in estimates]
            resilience["zne"] = {
                "extrapolator": np.array(names, dtype=object).reshape(shape).tolist(),
                "noise_factors": self._circuits.factors.tolist(),
            }
        if self._resilience.cancellation is not None:
            resilience["pec"] = {
                "gamma": self._circuits.gamma,
                "noise_gain": self._circuits.noise_gain,
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


class _Circuits:
    """The circuits of a pub: one for every noise factor, and one that calibrates readout."""

    def __init__(
        self,
        narrow: QuantumCircuit,
        qubits: Sequence[int],
        resilience: Resilience,
        noise: Noise,
        rng: np.random.Generator,
    ) -> None:
        """Make them.

        Args:
            narrow: the circuit without idle qubits.
            qubits: number that each of its qubits has on the device.
            resilience: what is done about noise.
            noise: what goes wrong.
            rng: chooses gates that are folded.
        """
        self._resilience = resilience
        self._noise = noise
        self.width = narrow.num_qubits
        #: by which all values are multiplied, because randomizations count negative.
        self.gamma = 1.0
        #: part of the noise that is kept.
        self.noise_gain = 1.0
        #: how many times as many randomizations are taken.
        self.overhead = 1.0
        self._maps: dict[str, PauliLindbladMap] = {}
        self.register = _unused_register(narrow)
        circuit = with_readout(narrow, self.register)
        if resilience.injects:
            self.amplified = self._injected(circuit, qubits)
        else:
            self.amplified = self._folded(circuit, rng)
        #: noise factors that were reached.
        self.factors = np.array([each.factor for each in self.amplified])
        idle = QuantumCircuit(narrow.num_qubits)
        flips = Twirling(measure=True, strategy=resilience.twirling.strategy)
        self.calibration = boxed(with_readout(idle, self.register), flips, reads=True)

    def _folded(self, circuit: QuantumCircuit, rng: np.random.Generator) -> list[_Amplified]:
        zero_noise, twirling = self._resilience.zero_noise, self._resilience.twirling
        if zero_noise is None:
            each = boxed(circuit, twirling, reads=True)
            return [_Amplified(boxed=each, factor=1.0, injected={})]
        order = zero_noise.amplifier.removeprefix(_FOLDING)
        amplified = []
        for asked in zero_noise.noise_factors:
            repeated, factor = folded(circuit, asked, order, rng)
            each = boxed(repeated, twirling, reads=True)
            amplified.append(_Amplified(boxed=each, factor=factor, injected={}))
        return amplified

    def _injected(self, circuit: QuantumCircuit, qubits: Sequence[int]) -> list[_Amplified]:
        resilience = self._resilience
        each = boxed(circuit, resilience.twirling, reads=True, injects=True)
        maps = noise_maps(each.layers, qubits, learned=resilience.layers, noise=self._noise)
        factors = resilience.zero_noise.noise_factors if resilience.zero_noise else (1.0,)
        if resilience.cancellation is not None:
            self._cancel(resilience.cancellation, [maps[layer.reference] for layer in each.layers])
            factors = (self.noise_gain,)
        return [
            _Amplified(
                boxed=each,
                factor=factor,
                injected={
                    **{f"noise_scales.{name}": np.float64(factor - 1) for name in maps},
                    **{f"pauli_lindblad_maps.{name}": each for name, each in maps.items()},
                },
            )
            for factor in factors
        ]

    def _cancel(self, cancellation: Cancellation, maps: Sequence[PauliLindbladMap]) -> None:
        """Choose how much noise is cancelled, and at what price."""
        most = cancellation.max_overhead
        full = prod(each.scale_rates(-1.0).gamma() for each in maps) ** 2
        gain = cancellation.noise_gain
        if gain is None:
            gain = 0.0
            if most is not None and full > 1:
                gain = min(1.0, max(0.0, 1 - log(max(most, 1.0)) / log(full)))
        self.noise_gain = gain
        self.gamma = prod(each.scale_rates(gain - 1).gamma() for each in maps)
        self.overhead = self.gamma**2 if most is None else min(most, self.gamma**2)


def _unused_register(circuit: QuantumCircuit) -> str:
    names = {register.name for register in circuit.cregs}
    name = "_meas"
    while name in names:
        name += "_"
    return name


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


def _common(names: Sequence[str]) -> str:
    """One name for the extrapolators of all terms."""
    return names[0] if len(set(names)) == 1 else "multiple"
