"""In which circuits is a pub measured? At one noise factor, or more, and one that calibrates."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import log, prod
from typing import TYPE_CHECKING, Any

import numpy as np
from qiskit import QuantumCircuit

from app.executors.mitigation.boxes import boxed, folded, with_readout
from app.executors.mitigation.resilience import Twirling
from app.executors.noise.layers import noise_maps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qiskit.quantum_info import PauliLindbladMap

    from app.executors.mitigation.boxes import Boxed
    from app.executors.mitigation.resilience import Cancellation, Resilience
    from app.executors.noise.model import Noise

_FOLDING = "gate_folding_"


@dataclass(frozen=True, kw_only=True)
class Amplified:
    """A circuit at one noise factor."""

    boxed: Boxed
    #: the noise factor that was reached.
    factor: float
    #: how the noise of layers is injected: arguments of the samplex.
    injected: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Circuits:
    """The circuits of a pub."""

    #: one for every noise factor.
    amplified: tuple[Amplified, ...]
    #: reads qubits that nothing was done to; None: readout is not calibrated.
    calibration: Boxed | None
    #: the register that reads all qubits.
    register: str
    #: by which all values are multiplied, because randomizations count negative.
    gamma: float = 1.0
    #: how many times as many randomizations are taken.
    overhead: float = 1.0
    #: what a result says of ``pec`` and ``layer_noise``.
    document: dict[str, object] = field(default_factory=dict)

    @property
    def factors(self) -> tuple[float, ...]:
        """The noise factors that were reached."""
        return tuple(each.factor for each in self.amplified)


def circuits_of(
    circuit: QuantumCircuit,
    qubits: Sequence[int],
    *,
    resilience: Resilience,
    noise: Noise,
    rng: np.random.Generator,
) -> Circuits:
    """Make the circuits of a pub.

    Args:
        circuit: without idle qubits.
        qubits: number that each of its qubits has on the device.
        resilience: what is done about noise.
        noise: what goes wrong.
        rng: chooses gates that are folded.

    Raises:
        InvalidProgram: the circuit cannot be twirled, or the noise of its layers is not known.
    """
    register = _unused_register(circuit)
    calibration = None
    if resilience.calibration is not None:
        idle = with_readout(QuantumCircuit(circuit.num_qubits), register)
        calibration = boxed(idle, Twirling(measure=True), reads=True)
    measured = with_readout(circuit, register)
    if not resilience.injects:
        amplified = _folded(measured, resilience, rng)
        return Circuits(amplified=amplified, calibration=calibration, register=register)

    twirled = boxed(measured, resilience.twirling, reads=True, injects=True)
    maps = noise_maps(twirled.layers, qubits, learned=resilience.layers, noise=noise)
    along = [maps[layer.reference] for layer in twirled.layers]
    factors: Sequence[float] = (1.0,)
    gamma, overhead = 1.0, 1.0
    document: dict[str, object] = {"layer_noise": _layer_noise(along, maps)}
    if resilience.zero_noise is not None:
        factors = resilience.zero_noise.noise_factors
    elif resilience.cancellation is not None:
        most = resilience.cancellation.max_overhead
        gain = _gain(resilience.cancellation, _gamma(along, -1.0) ** 2)
        factors = (gain,)
        gamma = _gamma(along, gain - 1)
        overhead = max(1.0, min(gamma**2, gamma**2 if most is None else most))
        document["pec"] = {"num_randomizations_scaling": overhead, "noise_gain": gain}
    return Circuits(
        amplified=tuple(
            Amplified(boxed=twirled, factor=factor, injected=_injected(maps, factor - 1))
            for factor in factors
        ),
        calibration=calibration,
        register=register,
        gamma=gamma,
        overhead=overhead,
        document=document,
    )


def _folded(
    circuit: QuantumCircuit, resilience: Resilience, rng: np.random.Generator
) -> tuple[Amplified, ...]:
    zero_noise = resilience.zero_noise
    if zero_noise is None:
        return (Amplified(boxed=boxed(circuit, resilience.twirling, reads=True), factor=1.0),)
    order = zero_noise.amplifier.removeprefix(_FOLDING)
    amplified = []
    for asked in zero_noise.noise_factors:
        repeated, factor = folded(circuit, asked, order, rng)
        twirled = boxed(repeated, resilience.twirling, reads=True)
        amplified.append(Amplified(boxed=twirled, factor=factor))
    return tuple(amplified)


def _injected(maps: dict[str, PauliLindbladMap], scale: float) -> dict[str, Any]:
    scales = {f"noise_scales.{name}": np.float64(scale) for name in maps}
    return scales | {f"pauli_lindblad_maps.{name}": each for name, each in maps.items()}


def _gamma(maps: Sequence[PauliLindbladMap], scale: float) -> float:
    """By how much the injection of noise, scaled so, makes values smaller."""
    return float(prod(each.scale_rates(scale).gamma() for each in maps))


def _gain(cancellation: Cancellation, overhead: float) -> float:
    """Give the part of the noise that is kept, as the client's documentation has it.

    Args:
        cancellation: what was asked for.
        overhead: of the cancellation of all noise.
    """
    if cancellation.noise_gain is not None:
        return cancellation.noise_gain
    most = cancellation.max_overhead
    if most is None or overhead <= most:
        return 0.0
    return min(1.0, 1 - log(max(most, 1.0)) / log(overhead))


def _layer_noise(
    along: Sequence[PauliLindbladMap], maps: dict[str, PauliLindbladMap]
) -> dict[str, object]:
    overheads = [_gamma([each], -1.0) ** 2 for each in maps.values() if len(each)]
    return {
        "noise_overhead": _gamma(along, -1.0) ** 2,
        "total_mitigated_layers": sum(len(each) > 0 for each in along),
        "unique_mitigated_layers": len(overheads),
        "unique_mitigated_layers_noise_overhead": overheads,
    }


def _unused_register(circuit: QuantumCircuit) -> str:
    names = {register.name for register in circuit.cregs}
    name = "_meas"
    while name in names:
        name += "_"
    return name
