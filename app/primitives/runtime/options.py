"""What may a caller ask for besides pubs? The options of both primitives, with their ranges.

The names, words and ranges are those of the client's ``SamplerOptions`` and ``EstimatorOptions``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from app.primitives.runtime.document import Node
from app.primitives.runtime.noise import read_layer_noise_model, read_noise_model

if TYPE_CHECKING:
    from app.primitives.runtime.budget import Budget

Reader = Callable[[Node], Any]

#: Longest list of words or numbers; a coupling map has two pairs for every coupling.
_ELEMENTS = 1024
_COUPLINGS = 20_000
#: Seconds between two shots.
_REP_DELAY_S = 1.0
_LARGEST_SEED = 2**63 - 1
#: No standard error of a value between -1 and 1 is larger; sums of many terms have larger ones.
LARGEST_PRECISION = 1e6

_flag: Reader = Node.boolean


def read_sampler_options(node: Node, budget: Budget) -> dict[str, Any]:
    """The options of a sampler; what is not set is not there.

    Raises:
        InvalidProgram: one is not known or not in its range.
    """
    options: dict[str, Any] = _section(
        default_shots=_or_null(_integer(1, budget.limits.shots)),
        execution=_section(
            **_execution(), meas_type=_word("classified", "kerneled", "avg_kerneled")
        ),
        **_common(budget),
    )(node)
    measured = options.get("execution", {}).get("meas_type", "classified")
    if measured != "classified":
        message = f"{measured!r} data comes from hardware; a simulation has 'classified' bits only"
        place = node.fields()["execution"].fields()["meas_type"]
        raise place.refused("meas_type", message)
    return options


def read_estimator_options(node: Node, budget: Budget) -> dict[str, Any]:
    """The options of an estimator; what is not set is not there.

    Raises:
        InvalidProgram: one is not known or not in its range, or two exclude each other.
    """
    options: dict[str, Any] = _section(
        default_shots=_or_null(_integer(1, budget.limits.shots)),
        default_precision=_number(0.0, LARGEST_PRECISION),
        seed_estimator=_or_null(_integer(0, _LARGEST_SEED)),
        execution=_section(**_execution()),
        resilience=_resilience(budget),
        **_common(budget),
    )(node)
    resilience = options.get("resilience", {})
    if resilience.get("pec_mitigation") and resilience.get("zne_mitigation"):
        message = "pec_mitigation and zne_mitigation exclude each other; choose one"
        raise node.fields()["resilience"].refused("exclusive_options", message)
    return options


def read_layers_options(node: Node, budget: Budget) -> dict[str, Any]:
    """The options of a noise learner for circuits; what is not set is not there.

    Raises:
        InvalidProgram: one is not known or not in its range.
    """
    common = _common(budget)
    options: dict[str, Any] = _section(
        **_learning(budget),
        max_layers_to_learn=_or_null(_integer(0, _ELEMENTS)),
        twirling_strategy=_word("active", "active-accum", "active-circuit", "all"),
        support_qiskit=_flag,
        simulator=common["simulator"],
        experimental=common["experimental"],
    )(node)
    return options


def read_boxes_options(node: Node, budget: Budget) -> dict[str, Any]:
    """The options of a noise learner for boxes; what is not set is not there.

    Raises:
        InvalidProgram: one is not known or not in its range.
    """
    check = _section(
        enable=_flag, x_pulse_type=_word("xslow", "rx"), strategy=_word("node", "edge")
    )
    options: dict[str, Any] = _section(
        **_learning(budget),
        **_execution(),
        bit_flip_checks=_section(pre_circuit=check, post_circuit=check),
        post_selection=check,
    )(node)
    return options


def _learning(budget: Budget) -> dict[str, Reader]:
    count = _integer(1, budget.limits.shots)
    return {
        "shots_per_randomization": count,
        "num_randomizations": count,
        "layer_pair_depths": _list(_integer(0, budget.limits.operations)),
    }


def _common(budget: Budget) -> dict[str, Reader]:
    limits = budget.limits
    randomizations = _or_auto(_integer(1, limits.shots))
    qubit = _integer(0, limits.qubits - 1)
    return {
        "dynamical_decoupling": _section(
            enable=_flag,
            sequence_type=_word("XX", "XpXm", "XY4"),
            extra_slack_distribution=_word("middle", "edges"),
            scheduling_method=_word("alap", "asap"),
            skip_reset_qubits=_flag,
        ),
        "twirling": _section(
            enable_gates=_flag,
            enable_measure=_flag,
            num_randomizations=randomizations,
            shots_per_randomization=randomizations,
            strategy=_word("active", "active-accum", "active-circuit", "all"),
        ),
        "simulator": _or_null(
            _section(
                noise_model=_or_null(lambda node: read_noise_model(node, budget)),
                seed_simulator=_or_null(_integer(0, _LARGEST_SEED)),
                coupling_map=_or_null(_list(_list(qubit, least=2, most=2), most=_COUPLINGS)),
                basis_gates=_or_null(_list(lambda node: node.text(limits.identifier_chars))),
            )
        ),
        "experimental": lambda node: {
            key: field.plain(types={}) for key, field in node.fields().items()
        },
    }


def _execution() -> dict[str, Reader]:
    return {"init_qubits": _flag, "rep_delay": _or_null(_number(0.0, _REP_DELAY_S))}


def _resilience(budget: Budget) -> Reader:
    count = _integer(1, budget.limits.shots)
    extrapolator = _word(
        "linear",
        "exponential",
        "double_exponential",
        *(f"polynomial_degree_{degree}" for degree in range(1, 8)),
        "fallback",
    )
    return _section(
        measure_mitigation=_flag,
        measure_noise_learning=_section(
            num_randomizations=count, shots_per_randomization=_or_auto(count)
        ),
        zne_mitigation=_flag,
        zne=_section(
            amplifier=_word("gate_folding", "gate_folding_front", "gate_folding_back", "pea"),
            noise_factors=_list(_number(1.0), least=1),
            extrapolator=_or_list(extrapolator),
            extrapolated_noise_factors=_or_auto(_list(_number(0.0))),
        ),
        pec_mitigation=_flag,
        pec=_section(
            max_overhead=_or_null(_number(0.0)),
            noise_gain=_or_auto(_number(0.0)),
        ),
        layer_noise_learning=_section(
            max_layers_to_learn=_or_null(_integer(0, _ELEMENTS)),
            shots_per_randomization=count,
            num_randomizations=count,
            layer_pair_depths=_list(_integer(0, budget.limits.operations)),
        ),
        layer_noise_model=_or_null(lambda node: read_layer_noise_model(node, budget)),
    )


def _section(**readers: Reader) -> Reader:
    def read(node: Node) -> dict[str, Any]:
        values = {}
        for name, field in node.fields().items():
            if name not in readers:
                message = f"there is no such option here; known are {', '.join(sorted(readers))}"
                raise field.refused("unknown_option", message)
            values[name] = readers[name](field)
        return values

    return read


def _integer(least: int, most: int) -> Reader:
    return lambda node: node.integer(least, most)


def _number(least: float, most: float = 1e12) -> Reader:
    return lambda node: node.number(least, most)


def _word(*words: str) -> Reader:
    return lambda node: node.word(*words)


def _list(read: Reader, *, least: int = 0, most: int = _ELEMENTS) -> Reader:
    def read_all(node: Node) -> list[Any]:
        elements = node.elements(most)
        if len(elements) < least:
            message = f"{len(elements)} elements; at least {least} are needed"
            raise node.refused("too_few_elements", message)
        return [read(element) for element in elements]

    return read_all


def _or_null(read: Reader) -> Reader:
    return lambda node: None if node.value is None else read(node)


def _or_auto(read: Reader) -> Reader:
    return lambda node: "auto" if node.value == "auto" else read(node)


def _or_list(read: Reader) -> Reader:
    several = _list(read, least=1)
    return lambda node: several(node) if isinstance(node.value, list) else read(node)
