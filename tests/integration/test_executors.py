"""The executors that a stack brings, and one that a package adds to it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.local_stack import Stack

from .fleet import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .fleet import Fleet

ROOT = Path(__file__).parents[2]
PLUGIN = ROOT / "examples" / "executor_plugin"
#: one qubit that is turned over and read.
ONE = 'OPENQASM 3.0; include "stdgates.inc"; qubit[5] q; bit[1] c; x q[1]; c[0] = measure q[1];'
SHOTS = 20_000


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that sees the packages of this one, and has the plugin."""
    folder = tmp_path_factory.mktemp("plugin")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = folder / "venv" / "lib" / version / "site-packages"
    (packages / "parent.pth").write_text(sysconfig.get_path("purelib"))
    # A build may leave files behind.
    shutil.copytree(PLUGIN, folder / "source")
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--no-index", "--no-deps", "--no-build-isolation", "--target", packages),
            folder / "source",
        ],
        check=True,
    )
    return folder / "venv" / "bin" / "python"


@pytest.fixture(scope="module")
def stack(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(
        tmp_path_factory.mktemp("stack") / "data",
        python=str(python),
        QFLEET_EXECUTORS="aer,noisy,auto,coin",
    )
    try:
        stack.wait_for("ready: ")
        yield stack
    finally:
        stack.close()


def run(stack: Stack, backend: str) -> dict[str, Any]:
    status, task = stack.request(
        "POST", "/tasks", {"circuit": ONE, "shots": SHOTS, "seed": 1, "backend": backend}
    )
    assert status == 200, task
    done = stack.read(task["task_id"])
    assert done["status"] == "completed", done
    return done


def provenance(stack: Stack, task: dict[str, Any]) -> dict[str, Any]:
    status, metrics = stack.request("GET", f"/api/v1/jobs/{task['task_id']}/metrics")
    assert status == 200, metrics
    return dict(metrics["provenance"])


def test_a_package_brings_an_executor(stack: Stack) -> None:
    task = run(stack, "fake_manila@coin")

    # 5 sigma.
    assert abs(task["result"]["1"] - SHOTS / 2) < 5 * (SHOTS / 4) ** 0.5
    assert sum(task["result"].values()) == SHOTS


def test_a_noisy_device_errs_and_an_ideal_one_does_not(stack: Stack) -> None:
    assert run(stack, "fake_manila@aer")["result"] == {"1": SHOTS}
    assert run(stack, "simulator@noisy")["result"] == {"1": SHOTS}

    noisy = run(stack, "fake_manila@noisy")["result"]

    assert 0.005 < noisy["0"] / SHOTS < 0.1


def test_auto_says_what_it_has_chosen_and_why(stack: Stack) -> None:
    noisy, ideal = run(stack, "fake_manila@auto"), run(stack, "simulator@auto")

    assert noisy["result"] == run(stack, "fake_manila@noisy")["result"]
    told = provenance(stack, noisy)
    assert told["executor"] == "noisy"
    assert told["auto"] == {"chosen": "noisy", "because": "fake_manila has recorded noise"}
    assert ideal["result"] == {"1": SHOTS}
    assert provenance(stack, ideal)["auto"]["chosen"] == "aer"


def test_a_job_is_handed_over_to_a_worker_of_the_chosen_executor(fleet: Fleet) -> None:
    chooser = fleet.start_worker(QFLEET_EXECUTORS="aer,auto")

    def chosen() -> dict[str, str]:
        task = fleet.submit(ONE, backend="fake_manila@auto", shots=100)
        assert fleet.wait(task)["status"] == "completed"
        told = fleet.request("GET", f"/api/v1/jobs/{task}/metrics")[1]["provenance"]
        job = fleet.job(task)
        assert told["executor"] == told["auto"]["chosen"]
        assert job["executor"] == ("noisy" if told["executor"] == "noisy" else "auto")
        return dict(told["auto"])

    alone = chosen()
    assert alone["chosen"] == "aer"
    assert "no live worker serves noisy" in alone["because"]

    other = fleet.start_worker(QFLEET_EXECUTORS="noisy")
    wait_until(lambda: chosen()["chosen"] == "noisy", 10, "the chooser knows of the other worker")
    assert chosen()["because"] == "fake_manila has recorded noise"

    fleet.kill(other)
    wait_until(lambda: chosen() == alone, 20, "nothing is left to a worker that is gone")
    assert chooser.poll() is None
