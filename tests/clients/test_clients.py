"""The unmodified Qiskit Runtime client, from environments of its own, against a real stack."""

from __future__ import annotations

import ast
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from .service import SCENARIO

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future

    from .service import Service

#: The first client that needs nothing but environment variables, and the newest.
VERSIONS = ("0.49.0", "0.51.0")
# The first test of a client waits for all of its calls.
pytestmark = pytest.mark.timeout(180)


def names_of_calls() -> list[str]:
    """The functions of the scenario that are decorated; it is not imported, Qiskit takes seconds."""
    nodes = ast.parse(SCENARIO.read_text()).body
    return [
        node.name for node in nodes if isinstance(node, ast.FunctionDef) and node.decorator_list
    ]


@pytest.fixture(scope="module")
def running(service: Service) -> Iterator[dict[str, Future[dict[str, Any]]]]:
    """The scenario with all versions at once."""
    with ThreadPoolExecutor() as pool:
        yield {version: pool.submit(service.run_scenario, version) for version in VERSIONS}


@pytest.mark.parametrize("call", names_of_calls())
@pytest.mark.parametrize("version", VERSIONS)
def test_call(running: dict[str, Future[dict[str, Any]]], version: str, call: str) -> None:
    outcome = running[version].result()[call]

    assert outcome["ok"] is not False, outcome["note"]
