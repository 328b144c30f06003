"""Which of a caller's options does a simulation honour, and why not the others?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from app.errors import InvalidProgram

if TYPE_CHECKING:
    from collections.abc import ItemsView, Iterator

NOISE_MODEL = "simulator.noise_model"
COUPLING_MAP = "simulator.coupling_map"
BASIS_GATES = "simulator.basis_gates"
#: of amplitudes: ``single`` or ``double``.
PRECISION = "experimental.precision"
#: in the order in which they are looked for.
_SEEDS = ("simulator.seed_simulator", "seed_estimator", "experimental.seed_simulator")

#: what is in effect whenever it is set: the pubs have their shots and precision from there.
_HONOURED = frozenset(("default_shots", "default_precision", "execution.meas_type", NOISE_MODEL))
#: path of an option, or of the options above it → why it has no effect.
_REASONS = {
    "dynamical_decoupling": "a simulation schedules nothing, so no qubit waits for another",
    "twirling": "nothing goes wrong in this run, so twirls would change nothing",
    "resilience": "nothing goes wrong in this run, so there is nothing to mitigate",
    "resilience_level": "nothing goes wrong in this run, so there is nothing to mitigate",
    "execution.init_qubits": "every shot of a simulation starts with all qubits in |0>",
    "execution.rep_delay": "no time passes between two shots of a simulation",
    "execution.scheduler_timing": "a simulation schedules nothing",
    "execution.stretch_values": "a simulation schedules nothing",
    COUPLING_MAP: "circuits are routed for a noise model of the options only",
    BASIS_GATES: "circuits are translated for a noise model of the options only",
    "experimental": "this executor has no experimental options",
}
#: sections that are about noise.
_ABOUT_NOISE = ("twirling", "resilience", "resilience_level")
_UNKNOWN = "this executor has no such option"
_CLASSIFIED = "classified"


class Options:
    """The options of one program."""

    def __init__(self, options: Mapping[str, object]) -> None:
        """Look at the options.

        Raises:
            InvalidProgram: one asks for another kind of result than there is.
        """
        self._values = dict(_leaves(options))
        measured = self._values.get("execution.meas_type", _CLASSIFIED)
        if measured not in (None, _CLASSIFIED):
            message = (
                f"options.execution.meas_type: a simulation has no {str(measured)[:40]!r} "
                f"measurements, only {_CLASSIFIED!r} ones"
            )
            raise InvalidProgram("meas_type", message)

    def items(self) -> ItemsView[str, object]:
        """Give the path and the value of every option that is set."""
        return self._values.items()

    def section(self, path: str) -> dict[str, Any]:
        """Give the options below ``path`` that are set."""
        above = f"{path}."
        return {
            name.removeprefix(above): value
            for name, value in self._values.items()
            if name.startswith(above)
        }

    def get(self, path: str) -> object:
        """Give the value of one option, None if it is not set."""
        return self._values.get(path)

    @property
    def seed(self) -> int | None:
        """The seed that the options ask for."""
        for path in _SEEDS:
            seed = self.get(path)
            if isinstance(seed, int):
                return seed
        return None

    def without_effect(
        self,
        *,
        seed: int,
        noisy: bool = False,
        resilience_level: int = 0,
        honoured: frozenset[str] = frozenset(),
    ) -> dict[str, str]:
        """Give the path of every option that was set in vain, and the reason.

        Args:
            seed: of the run.
            noisy: whether something goes wrong, so that options that are about it have an effect.
            resilience_level: of an estimator.
            honoured: options of the executor's own.
        """
        values = dict(self._values)
        if resilience_level:
            values["resilience_level"] = resilience_level
        routed = self.get(NOISE_MODEL) is not None
        return {
            path: reason
            for path, value in values.items()
            if path not in honoured
            and not (noisy and path.partition(".")[0] in _ABOUT_NOISE)
            and (reason := _reason(path, value, seed=seed, routed=routed)) is not None
        }


def _reason(path: str, value: object, *, seed: int, routed: bool) -> str | None:
    if path in _HONOURED or (routed and path in (COUPLING_MAP, BASIS_GATES)):
        return None
    if path in _SEEDS:
        return None if value == seed else f"the seed of this run was {seed}"
    if path == "execution.init_qubits":
        return _REASONS[path] if value is False else None
    if value is None or value is False:
        # What is switched off is off.
        return None
    while path and path not in _REASONS:
        path = path.rpartition(".")[0]
    return _REASONS.get(path, _UNKNOWN)


def _leaves(options: Mapping[str, object], above: str = "") -> Iterator[tuple[str, object]]:
    for name, value in options.items():
        path = f"{above}{name}"
        if isinstance(value, Mapping) and path != NOISE_MODEL:
            yield from _leaves(value, f"{path}.")
        else:
            yield path, value
