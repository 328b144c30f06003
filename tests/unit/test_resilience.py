"""Does every option of the primitives either decide something, or is it said that it does not?"""

from __future__ import annotations

import dataclasses
import json
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
from qiskit import QuantumCircuit
from qiskit.quantum_info import PauliList
from qiskit_aer.noise import NoiseModel, ReadoutError, depolarizing_error
from qiskit_ibm_runtime import options as client
from qiskit_ibm_runtime.results import LayerError, PauliLindbladError

from app.executors.mitigation.resilience import Twirling, estimator_resilience
from app.executors.options import Options
from app.primitives.codec import decode_program
from app.primitives.programs import PrimitiveResult

from .primitive_programs import AER, TARGET, provenance
from .runtime_params import LIMITS, bell, encoded

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PEC = {"resilience.pec_mitigation": True}
ZNE = {"resilience.zne_mitigation": True}
TWIRLED = {"twirling.enable_gates": True, "twirling.enable_measure": True}
DECOUPLED = {"dynamical_decoupling.enable": True}
TREX = {"resilience.measure_mitigation": True}


def noise_model() -> dict[str, Any]:
    model = NoiseModel()
    model.add_all_qubit_quantum_error(depolarizing_error(0.02, 2), ["cx"])
    model.add_all_qubit_readout_error(ReadoutError([[0.98, 0.02], [0.04, 0.96]]))
    document: dict[str, Any] = model.to_dict()
    return document


def learned() -> list[LayerError]:
    layer = QuantumCircuit(2)
    layer.cx(0, 1)
    return [LayerError(layer, [0, 1], PauliLindbladError(PauliList(["XX"]), np.array([0.001])))]


class Row(NamedTuple):
    """An option, and what has to be set for it to decide something."""

    path: str
    value: Any
    needs: Mapping[str, Any] = MappingProxyType({})
    #: whether it decides anything here at all.
    decides: bool = True


COMMON = [
    Row("default_shots", 100),
    Row("dynamical_decoupling.enable", True, decides=False),
    Row("dynamical_decoupling.sequence_type", "XY4", DECOUPLED, decides=False),
    Row("dynamical_decoupling.extra_slack_distribution", "edges", DECOUPLED, decides=False),
    Row("dynamical_decoupling.scheduling_method", "asap", DECOUPLED, decides=False),
    Row("dynamical_decoupling.skip_reset_qubits", True, DECOUPLED, decides=False),
    Row("execution.init_qubits", False, decides=False),
    Row("execution.rep_delay", 0.001, decides=False),
    Row("experimental", {"anything": 1}, decides=False),
    Row("simulator.noise_model", noise_model()),
    Row("simulator.seed_simulator", 5),
    Row("twirling.enable_gates", True),
    Row("twirling.enable_measure", True),
    Row("twirling.num_randomizations", 3, TWIRLED),
    Row("twirling.shots_per_randomization", 25, TWIRLED),
]
ESTIMATOR = [
    Row("twirling.strategy", "active", TWIRLED),
    Row("default_precision", 0.1),
    Row("seed_estimator", 6),
    Row("resilience_level", 2),
    Row("resilience.measure_mitigation", True),
    Row("resilience.measure_noise_learning.num_randomizations", 4, TREX),
    Row("resilience.measure_noise_learning.shots_per_randomization", 50, TREX),
    Row("resilience.zne_mitigation", True),
    Row("resilience.zne.amplifier", "gate_folding_back", ZNE),
    Row("resilience.zne.noise_factors", [1, 2], ZNE),
    Row("resilience.zne.extrapolator", "linear", ZNE),
    Row("resilience.zne.extrapolated_noise_factors", [0, 0.5], ZNE),
    Row("resilience.pec_mitigation", True),
    Row("resilience.pec.max_overhead", 2.0, PEC),
    Row("resilience.pec.noise_gain", 0.5, PEC),
    Row("resilience.layer_noise_learning.max_layers_to_learn", 1, PEC, decides=False),
    Row("resilience.layer_noise_learning.shots_per_randomization", 10, PEC, decides=False),
    Row("resilience.layer_noise_learning.num_randomizations", 10, PEC, decides=False),
    Row("resilience.layer_noise_learning.layer_pair_depths", [0, 1], PEC, decides=False),
    Row("resilience.layer_noise_model", learned(), PEC),
]
SAMPLER = [Row("twirling.strategy", "active", TWIRLED)]
#: decided by other tests: a circuit is routed along them, where there is a noise model.
ROUTED = {"simulator.coupling_map", "simulator.basis_gates"}
#: nothing else than "classified" is taken.
REFUSED = {"execution.meas_type"}
#: not sent among the options.
ELSEWHERE = {"max_execution_time", "environment"}


def leaves(options: Any, above: str = "") -> Iterator[str]:
    """Paths of all options that the client knows."""
    for field in dataclasses.fields(options):
        path = above + field.name
        value = getattr(options, field.name)
        if field.name.startswith("_") or path in ELSEWHERE:
            continue
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{path}.")
        else:
            yield path


@pytest.mark.parametrize(
    ("options", "rows", "refused"),
    [
        (client.SamplerOptions(), COMMON + SAMPLER, REFUSED),
        (client.EstimatorOptions(), COMMON + ESTIMATOR, set()),
    ],
)
def test_the_table_has_every_option_of_the_client(
    options: Any, rows: list[Row], refused: set[str]
) -> None:
    assert set(leaves(options)) - ROUTED - refused == {row.path for row in rows}


def nested(paths: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in paths.items():
        *above, name = path.split(".")
        level = tree
        for each in above:
            level = level.setdefault(each, {})
        level[name] = value
    return tree


def run(program_id: str, paths: Mapping[str, Any]) -> PrimitiveResult:
    paths = {"simulator.noise_model": noise_model(), "simulator.seed_simulator": 7, **paths}
    level = paths.pop("resilience_level", 0)
    if paths.get("seed_estimator"):
        del paths["simulator.seed_simulator"]
    document: dict[str, Any] = {"options": nested(paths), "version": 2}
    if program_id == "sampler":
        document["pubs"] = [[bell(), [], None]]
    else:
        document["pubs"] = [[bell(measured=False), {"ZZ": 1.0, "XX": 0.5}, [], None]]
        document["resilience_level"] = level
    result = AER.run(decode_program(program_id, encoded(document), LIMITS), TARGET)
    assert isinstance(result, PrimitiveResult)
    return result


def in_effect(result: PrimitiveResult) -> str:
    """Everything that a result says was in effect."""
    metadata = dict(result.metadata)
    for name in ("pubs", "options_without_effect", "time_taken_s"):
        del metadata[name]
    pubs = [pub.metadata for pub in result.pub_results]
    told = [metadata, result.result_metadata, pubs, provenance(result)["shots"]]
    return json.dumps(told, sort_keys=True)


CASES = [
    pytest.param(program_id, row, id=f"{program_id}-{row.path}")
    for program_id, rows in (("sampler", COMMON + SAMPLER), ("estimator", COMMON + ESTIMATOR))
    for row in rows
]


@pytest.mark.parametrize(("program_id", "row"), CASES)
def test_every_option_decides_something_or_is_named(program_id: str, row: Row) -> None:
    if row.path == "simulator.noise_model":
        without = run(program_id, {row.path: None})
        result = run(program_id, {})
    else:
        without = run(program_id, row.needs)
        result = run(program_id, {**row.needs, row.path: row.value})

    named = result.metadata["options_without_effect"]
    assert isinstance(named, dict)
    is_named = any(path == row.path or path.startswith(f"{row.path}.") for path in named)
    assert is_named is not row.decides
    assert (in_effect(result) != in_effect(without)) is row.decides


@pytest.mark.parametrize(("program_id", "row"), [case for case in CASES if case.values[1].needs])
def test_an_option_of_what_is_off_is_named(program_id: str, row: Row) -> None:
    result = run(program_id, {row.path: row.value})

    named = result.metadata["options_without_effect"]
    assert isinstance(named, dict)
    assert row.path in named


def test_twirls_that_mitigation_needs_cannot_be_switched_off() -> None:
    off = {"twirling.enable_gates": False, "twirling.enable_measure": False}

    result = run("estimator", PEC | off)

    assert result.result_metadata["twirling"]["enable_gates"] is True  # type: ignore[index]
    assert set(result.metadata["options_without_effect"]) == set(off)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("level", "gates", "measure", "zne"),
    [(0, False, False, False), (1, False, True, False), (2, True, True, True)],
)
def test_a_level_stands_for_these_options(
    level: int, gates: bool, measure: bool, zne: bool
) -> None:
    document = estimator_resilience(Options({}), level).document

    assert document["twirling"]["enable_gates"] is gates  # type: ignore[index]
    assert document["twirling"]["enable_measure"] is measure  # type: ignore[index]
    resilience: Any = document["resilience"]
    assert resilience["measure_mitigation"] is measure
    assert resilience["zne_mitigation"] is zne
    assert resilience["pec_mitigation"] is False


@pytest.mark.parametrize(
    ("randomizations", "shots_each", "shots", "split"),
    [
        (None, None, 4096, (32, 128)),
        (None, None, 1000, (16, 64)),
        (None, None, 10, (1, 10)),
        (7, None, 100, (7, 15)),
        (None, 30, 100, (4, 30)),
        (4, 32, 123, (4, 32)),
    ],
)
def test_shots_are_split_over_randomizations(
    randomizations: int | None, shots_each: int | None, shots: int, split: tuple[int, int]
) -> None:
    twirling = Twirling(gates=True, randomizations=randomizations, shots_each=shots_each)

    assert twirling.split(shots) == split
