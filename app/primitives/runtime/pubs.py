"""How do params become the program of a primitive? Pub by pub; nothing in them is believed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from app.primitives.programs import EstimatorProgram, EstimatorPub, SamplerProgram, SamplerPub
from app.primitives.runtime.blobs import read_array
from app.primitives.runtime.budget import Budget
from app.primitives.runtime.circuits import read_circuit
from app.primitives.runtime.document import parse
from app.primitives.runtime.options import (
    LARGEST_PRECISION,
    read_estimator_options,
    read_sampler_options,
)

if TYPE_CHECKING:
    import numpy.typing as npt
    from qiskit import QuantumCircuit

    from app.config import ProgramLimits
    from app.primitives.programs import Observable
    from app.primitives.runtime.document import Node

#: What the service takes where neither pub nor options say anything.
DEFAULT_SHOTS = 4096
DEFAULT_PRECISION = 0.015625

#: The only version of these documents that clients send.
_VERSION = 2
_PAULIS = frozenset("IXYZ01+-rl")
#: Axes of an array of observables.
_OBSERVABLE_AXES = 16
#: Attributes of the client's ``DataBin``: no register can be called so.
_TAKEN = frozenset(("keys", "values", "items"))


def decode_sampler(params: bytes, limits: ProgramLimits) -> SamplerProgram:
    """The program of a sampler.

    Raises:
        InvalidProgram: it is not valid, or above a limit; the message begins with the place.
    """
    budget = Budget(limits)
    document = _document(params, limits)
    options = read_sampler_options(document["options"], budget)
    pubs = tuple(_sampler_pub(pub, options, budget) for pub in _pubs(document, limits))
    return SamplerProgram(pubs=pubs, options=options, seed=_simulator_seed(options))


def decode_estimator(params: bytes, limits: ProgramLimits) -> EstimatorProgram:
    """The program of an estimator.

    Raises:
        InvalidProgram: it is not valid, or above a limit; the message begins with the place.
    """
    budget = Budget(limits)
    document = _document(params, limits, "resilience_level")
    options = read_estimator_options(document["options"], budget)
    level = document["resilience_level"].integer(0, 2) if "resilience_level" in document else 1
    pubs = tuple(_estimator_pub(pub, options, budget) for pub in _pubs(document, limits))
    seed = _simulator_seed(options)
    if seed is None:
        seed = options.get("seed_estimator")
    return EstimatorProgram(pubs=pubs, options=options, resilience_level=level, seed=seed)


def _document(params: bytes, limits: ProgramLimits, *optional: str) -> dict[str, Node]:
    top = parse(params, limits)
    document = top.fields()
    needed = {"pubs", "options", "version"}
    for name in sorted(needed - document.keys()):
        raise top.refused("missing", f"there is no {name!r}")
    for name in sorted(document.keys() - needed - {"support_qiskit", *optional}):
        message = f"not known; {', '.join(sorted(needed | set(optional)))} are"
        raise document[name].refused("unknown_key", message)
    document["version"].integer(_VERSION, _VERSION)
    if "support_qiskit" in document and not document["support_qiskit"].boolean():
        message = "results are given as Qiskit's types only: must be true"
        raise document["support_qiskit"].refused("support_qiskit", message)
    return document


def _pubs(document: dict[str, Node], limits: ProgramLimits) -> list[Node]:
    pubs = document["pubs"].elements(limits.pubs)
    if not pubs:
        raise document["pubs"].refused("no_pubs", "there is nothing to run")
    return pubs


def _sampler_pub(node: Node, options: dict[str, Any], budget: Budget) -> SamplerPub:
    first, values, shots = _parts(node, "circuit", "parameter values", "shots")
    circuit = read_circuit(first, budget)
    for register in circuit.cregs:
        if not register.name.isidentifier() or register.name in _TAKEN:
            message = f"{register.name[:64]!r} cannot be the name of a register of a result"
            raise first.refused("register_name", message)
    parameter_values = _parameter_values(values, circuit, budget)
    if shots.value is None:
        samples = options.get("default_shots") or DEFAULT_SHOTS
    else:
        samples = shots.integer(1, budget.limits.shots)
    budget.spend(node, "total_shots", math.prod(parameter_values.shape[:-1]) * samples)
    return SamplerPub(circuit=circuit, parameter_values=parameter_values, shots=samples)


def _estimator_pub(node: Node, options: dict[str, Any], budget: Budget) -> EstimatorPub:
    first, second, values, asked = _parts(
        node, "circuit", "observables", "parameter values", "precision"
    )
    circuit = read_circuit(first, budget)
    observables = _observables(second, circuit, budget)
    parameter_values = _parameter_values(values, circuit, budget)
    sets = parameter_values.shape[:-1]
    try:
        np.broadcast_shapes(observables.shape, sets)
    except ValueError as exc:
        message = (
            f"observables of shape {observables.shape} and parameter values of shape {sets} "
            "cannot be broadcast together"
        )
        raise node.refused("broadcast", message) from exc
    precision, shots = _effort(asked, options, budget.limits)
    budget.spend(node, "total_shots", math.prod(sets) * shots)
    return EstimatorPub(
        circuit=circuit,
        observables=observables,
        parameter_values=parameter_values,
        precision=precision,
        shots=shots,
    )


def _parts(node: Node, *names: str) -> list[Node]:
    parts = node.elements(len(names))
    if len(parts) != len(names):
        raise node.refused("pub", f"a pub is a list of {', '.join(names)}")
    for part, name in zip(parts, names, strict=True):
        part.meaning = name
    return parts


def _parameter_values(
    node: Node, circuit: QuantumCircuit, budget: Budget
) -> npt.NDArray[np.float64]:
    values = read_array(node, budget)
    wanted = circuit.num_parameters
    if not values.ndim or values.shape[-1] != wanted:
        message = (
            f"an array of shape {values.shape}; the circuit has {wanted} parameters, so the last "
            f"axis must have length {wanted}"
        )
        raise node.refused("parameter_values", message)
    sets = math.prod(values.shape[:-1])
    if not sets:
        raise node.refused("parameter_values", f"shape {values.shape} has no parameter sets")
    budget.spend(node, "parameter_sets", sets)
    return values.astype(np.float64)


def _observables(node: Node, circuit: QuantumCircuit, budget: Budget) -> npt.NDArray[np.object_]:
    shape, leaves = node.nested()
    if not leaves:
        raise node.refused("observable", "there are no observables")
    if len(shape) > _OBSERVABLE_AXES:
        message = f"{len(shape)} axes; at most {_OBSERVABLE_AXES} are allowed"
        raise node.refused("observable", message)
    budget.spend(node, "observables", len(leaves))
    observables = np.empty(len(leaves), dtype=object)
    for i, leaf in enumerate(leaves):
        observables[i] = _observable(leaf, circuit.num_qubits, budget)
    return observables.reshape(shape)


def _observable(node: Node, qubits: int, budget: Budget) -> Observable:
    terms = node.fields()
    if not terms:
        raise node.refused("observable", "an observable without terms")
    budget.spend(node, "terms", len(terms))
    observable = {}
    for characters, coefficient in terms.items():
        if len(characters) != qubits:
            message = f"{len(characters)} characters for the {qubits} qubits of the circuit"
            raise coefficient.refused("observable", message)
        if not _PAULIS.issuperset(characters):
            message = "the characters of an observable are I X Y Z 0 1 + - r l"
            raise coefficient.refused("observable", message)
        observable[characters] = coefficient.number()
    return observable


def _effort(asked: Node, options: dict[str, Any], limits: ProgramLimits) -> tuple[float, int]:
    """Precision, and the shots it stands for."""
    if asked.value is not None:
        return _shots_of(asked.number(0.0, LARGEST_PRECISION), asked, limits)
    twirling = options.get("twirling", {})
    randomizations = twirling.get("num_randomizations")
    shots_each = twirling.get("shots_per_randomization")
    if isinstance(randomizations, int) and isinstance(shots_each, int):
        shots = randomizations * shots_each
        if shots > limits.shots:
            message = (
                f"options.twirling asks for {randomizations} × {shots_each} shots; "
                f"{limits.shots} are allowed"
            )
            raise asked.refused("out_of_range", message)
    else:
        shots = options.get("default_shots") or 0
    if shots:
        return shots**-0.5, shots
    return _shots_of(options.get("default_precision", DEFAULT_PRECISION), asked, limits)


def _shots_of(precision: float, node: Node, limits: ProgramLimits) -> tuple[float, int]:
    smallest = limits.shots**-0.5
    shots = math.ceil(1 / precision**2) if precision > smallest / 2 else 0
    if not 1 <= shots <= limits.shots:
        message = (
            f"a precision of {precision} takes more than the {limits.shots} shots allowed; "
            f"{smallest:.3g} is the smallest"
        )
        raise node.refused("out_of_range", message)
    return precision, shots


def _simulator_seed(options: dict[str, Any]) -> int | None:
    seed: int | None = (options.get("simulator") or {}).get("seed_simulator")
    return seed
