"""Which executors are there, and how is one made?"""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from app.errors import ConfigurationInvalid
from app.executors import Resources, registry

RESOURCES = Resources(threads=1, memory_bytes=2**30, max_result_bytes=2**20)


class Echo:
    """A plugin's executor."""

    def __init__(self, *, resources: Resources) -> None:
        self.resources = resources


def install(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    entry = EntryPoint(name=name, value=value, group=registry.GROUP)
    monkeypatch.setattr(registry, "_plugins", lambda: (entry,))


def test_a_worker_may_serve_what_is_built_in_and_auto() -> None:
    assert registry.names() == ("aer", "auto", "custatevec", "noisy")


def test_listing_executors_imports_no_qiskit() -> None:
    program = (
        "import sys; from app.executors import registry; registry.names(); "
        "print([name for name in sys.modules if name.startswith('qiskit')])"
    )

    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert answer.stdout.strip() == "[]"


def test_an_unknown_executor_is_refused_with_the_names_of_those_there_are() -> None:
    with pytest.raises(ConfigurationInvalid, match="'warp' does not exist; installed are: aer"):
        registry.load("warp", RESOURCES)


def test_a_plugin_is_an_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "echo", f"{__name__}:Echo")

    executor = registry.load("echo", RESOURCES)

    assert registry.names() == ("aer", "auto", "custatevec", "echo", "noisy")
    assert isinstance(executor, Echo)
    assert executor.resources is RESOURCES


def test_a_plugin_cannot_take_the_name_of_another_executor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install(monkeypatch, "aer", f"{__name__}:Echo")

    with pytest.raises(ConfigurationInvalid, match="'aer' is both"):
        registry.names()


def test_no_executor_can_be_called_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "auto", f"{__name__}:Echo")

    with pytest.raises(ConfigurationInvalid, match="no executor can be called 'auto'"):
        registry.names()


@pytest.mark.parametrize("value", ["no_such_package:Echo", f"{__name__}:NoSuchClass"])
def test_a_plugin_that_cannot_be_imported_is_named(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    install(monkeypatch, "broken", value)

    with pytest.raises(ConfigurationInvalid, match=f"'broken' cannot be imported from '{value}'"):
        registry.load("broken", RESOURCES)
