"""Every test here runs NVIDIA's bindings, against the emulation; without a GPU, that is all there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from app.executors import simulation
from app.executors.custatevec import EngineExecutor, custatevec_executor
from app.executors.engines.reference import NumpyEngine
from tests.gpu.emulation import Emulation, build, missing
from tests.unit.primitive_programs import RESOURCES

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Emulation:
    """The emulation, built once and in this process until it ends."""
    lacking = missing()
    if lacking is not None:
        pytest.skip(lacking)
    folder = tmp_path_factory.mktemp("emulation")
    build(folder)
    return Emulation(folder)


@pytest.fixture
def emulation(libraries: Emulation) -> Iterator[Emulation]:
    """One GPU with 1 GiB."""
    libraries.become()
    yield libraries
    libraries.become()
    libraries.scramble_wires(on=False)


@pytest.fixture
def engines_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is too small for an engine."""
    monkeypatch.setattr(simulation, "_VECTORISED_QUBITS", -1)


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """No states side by side."""
    monkeypatch.setattr("app.executors.engines.simulation._BATCHED_QUBITS", 0)


@pytest.fixture(
    params=[
        "numpy",
        "custatevec",
        "custatevec, one state at a time",
        "custatevec, wires reordered",
    ]
)
def executor(
    request: pytest.FixtureRequest, emulation: Emulation, engines_only: None
) -> EngineExecutor:
    """The executor over each engine."""
    if "one state" in request.param:
        request.getfixturevalue("one_by_one")
    emulation.scramble_wires(on="reordered" in request.param)
    if request.param == "numpy":
        engine = NumpyEngine(resources=RESOURCES)
        return EngineExecutor(
            resources=RESOURCES, name="numpy", engines=lambda _: engine, versions={}
        )
    return custatevec_executor(resources=RESOURCES)
