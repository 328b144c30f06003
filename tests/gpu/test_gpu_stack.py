"""From HTTP to a GPU and back: the local stack finds one, and starts a worker for it."""

from __future__ import annotations

import shutil
import sys
import tempfile
from typing import TYPE_CHECKING, Any

import pytest

from tests.local_stack import Stack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.gpu.emulation import Emulation

#: The widest circuit that `auto` may keep for Aer, whatever was measured, has one qubit less.
QUBITS = 23


def ghz(qubits: int) -> str:
    chain = " ".join(f"cx q[{i}], q[{i + 1}];" for i in range(qubits - 1))
    return (
        f'OPENQASM 3.0; include "stdgates.inc"; qubit[{qubits}] q; bit[{qubits}] c;'
        f" h q[0]; t q[0]; {chain} c = measure q;"
    )


@pytest.fixture(scope="module")
def stack(libraries: Emulation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    # Sandboxes read Python's folders only.
    with tempfile.TemporaryDirectory(dir=sys.prefix) as folder:
        shutil.copytree(libraries.folder, folder, dirs_exist_ok=True)
        stack = Stack(
            tmp_path_factory.mktemp("stack") / "data",
            QFLEET_EXECUTORS="aer,noisy,auto,custatevec",
            LD_LIBRARY_PATH=folder,
        )
        try:
            stack.wait_for("ready: ")
            yield stack
        finally:
            stack.close()


def run(stack: Stack, backend: str, circuit: str, **more: object) -> dict[str, Any]:
    body = {"circuit": circuit, "shots": 50, "seed": 1, "backend": backend} | more
    status, task = stack.request("POST", "/tasks", body)
    assert status == 200, task
    for _ in range(6):
        # Each question is held for 20 s.
        done = stack.read(task["task_id"])
        if done["status"] != "pending":
            break
    assert done["status"] == "completed", done
    return done


def provenance(stack: Stack, task: dict[str, Any]) -> dict[str, Any]:
    status, metrics = stack.request("GET", f"/api/v1/jobs/{task['task_id']}/metrics")
    assert status == 200, metrics
    return dict(metrics["provenance"])


@pytest.mark.timeout(180)
def test_a_stack_finds_the_gpu_and_auto_hands_over_to_it(stack: Stack) -> None:
    """The first answer waits until the worker has timed both sides; the emulation is slow."""
    asked = run(stack, "fake_manila@custatevec", ghz(12))
    # It has the other worker's next heartbeat to wait for.
    while (
        "no live worker has a GPU"
        in provenance(stack, run(stack, "simulator@auto", ghz(3)))["auto"]["because"]
    ):
        pass
    handed = run(stack, "simulator@auto", ghz(QUBITS))

    assert any("gpu: custatevec is served by emulated GPU" in line for line in stack.said)
    assert set(asked["result"]) == {"0" * 12, "1" * 12}
    assert provenance(stack, asked)["device"] == "GPU 0: emulated GPU"
    assert set(handed["result"]) == {"0" * QUBITS, "1" * QUBITS}
    told = provenance(stack, handed)
    assert told["executor"] == "custatevec", told["auto"]
    assert told["auto"]["chosen"] == "custatevec"
    assert "enough for a GPU to be worth it" in told["auto"]["because"]
