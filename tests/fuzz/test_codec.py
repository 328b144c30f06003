"""Params that are almost what clients send: a program, or `InvalidProgram`, and nothing else.

Circuits within them stay whole or are replaced: bytes of QPY are mutated where a crash costs a child
(`tests/unit/test_qpy_circuits.py`), not this process.
"""

from __future__ import annotations

import copy
import json
import os
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from app.errors import InvalidProgram
from app.primitives.codec import decode_program
from app.primitives.params import QasmParams, decode_qasm_params, encode_qasm_params
from app.primitives.programs import QASM3, RUNTIME_PROGRAMS
from tests.unit.runtime_params import CORPUS, LIMITS

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "50"))
IN_SUITE = "FUZZ_EXAMPLES" not in os.environ
BOUNDED = settings(
    max_examples=EXAMPLES,
    derandomize=IN_SUITE,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

SUBMISSIONS = {
    path.stem: json.loads(path.read_text())
    for path in sorted(CORPUS.glob("*.json"))
    if len(path.read_bytes()) < 200_000
}
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["", "QuantumCircuit", "ndarray", "_json", "settings", "to_json", "1e999"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["__type__", "__value__", "pubs", "options", "version", "x"])
            | st.text(),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


def reads_or_refuses(program_id: str, params: bytes) -> None:
    """Decode; a refusal says why, and any other failure is a defect."""
    refused = None
    try:
        decode_program(program_id, params, LIMITS)
    except InvalidProgram as exc:
        refused = exc
    assert refused is None or (refused.reason and refused.message)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value within a JSON document."""
    found = [path]
    if isinstance(value, dict | list):
        for name, each in value.items() if isinstance(value, dict) else enumerate(value):
            found += places(each, (*path, name))
    return found


@st.composite
def nearly_submissions(draw: st.DrawFn) -> tuple[str, bytes]:
    """What a client has sent, with some of it replaced, left out or doubled."""
    submission = SUBMISSIONS[draw(st.sampled_from(sorted(SUBMISSIONS)))]
    params = copy.deepcopy(submission["params"])
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(places(params)))
        if not path:
            params = draw(VALUES)
            continue
        *way, last = path
        holder = params
        for name in way:
            holder = holder[name]
        match draw(st.sampled_from(["replace", "remove", "double", "wrap"])):
            case "replace":
                holder[last] = draw(VALUES)
            case "remove":
                del holder[last]
            case "double" if isinstance(holder, list):
                holder.append(copy.deepcopy(holder[last]))
            case _:
                holder[last] = [holder[last]]
    program_id = draw(st.just(submission["program_id"]) | st.sampled_from(RUNTIME_PROGRAMS))
    return program_id, json.dumps(params).encode("utf-8", "surrogatepass")


@BOUNDED
@given(nearly_submissions())
def test_nearly_what_clients_send_is_a_program_or_refused(sent: tuple[str, bytes]) -> None:
    reads_or_refuses(*sent)


@pytest.mark.parametrize("program_id", [QASM3, *RUNTIME_PROGRAMS, "unknown"])
@BOUNDED
@given(params=st.binary(max_size=200) | VALUES.map(lambda value: json.dumps(value).encode()))
@example(params=b"[" * 100_000)
@example(params=b'{"a":' * 50_000)
@example(params=b"9" * 100_000)
@example(params=b'{"pubs": ' + b"[" * 20_000 + b"]" * 20_000 + b"}")
def test_anything_is_refused(program_id: str, params: bytes) -> None:
    reads_or_refuses(program_id, params)


@BOUNDED
@given(
    source=st.text(st.characters(exclude_categories=["Cs"])),
    shots=st.integers(-(2**63), 2**63 - 1),
    seed=st.none() | st.integers(0, 2**63 - 1),
)
def test_a_task_comes_back_as_it_went(source: str, shots: int, seed: int | None) -> None:
    task = QasmParams(source=source, shots=shots, seed=seed)

    assert decode_qasm_params(encode_qasm_params(task)) == task


WORDS = st.sampled_from(
    """OPENQASM 3.0 ; include "stdgates.inc" qubit bit [ ] ( ) { } q c 0 1 2 -1 1e999 pi gate ctrl @ inv pow h cx rx
    U gphase measure reset barrier if else while for in : = == -> $0 ++ /* */ // input let def""".split()  # noqa: SIM905 - read as a line of words
)


@BOUNDED
@given(st.lists(WORDS, max_size=60))
def test_words_of_openqasm_in_any_order_are_a_circuit_or_refused(words: list[str]) -> None:
    task = QasmParams(source="qubit[2] q; bit[2] c;" + " ".join(words), shots=1, seed=None)

    reads_or_refuses(QASM3, encode_qasm_params(task))
