"""The tree keeps its shape: layers, forbidden imports, one status per error, docstrings, names."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

from app import errors
from app.api.errors import STATUS

APP = Path(__file__).parent.parent / "app"
SOURCES = sorted(APP.rglob("*.py"))


def loaded_by(statement: str) -> set[str]:
    """Top-level modules that are loaded after the statement, in a fresh interpreter."""
    program = f"{statement}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    environment = os.environ | {"QFLEET_REDIS_URL": "redis://127.0.0.1:1/0"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        cwd=APP.parent,
    )
    return set(done.stdout.splitlines()[-1].split())


def failures(base: type[errors.ServiceError]) -> set[type[errors.ServiceError]]:
    found = {base}
    for child in base.__subclasses__():
        found |= failures(child)
    return found


def test_imports_point_downwards() -> None:
    assert lint_imports(config_filename=str(APP.parent / "pyproject.toml")) == 0


def test_the_gateway_starts_without_a_simulator() -> None:
    loaded = loaded_by("import app.main")
    assert "fastapi" in loaded
    assert not loaded & {"qiskit", "qiskit_aer", "openqasm3", "antlr4"}


def test_a_worker_starts_without_the_gateway_and_without_a_simulator() -> None:
    loaded = loaded_by(
        "import app.workers.celery_app, app.runner, app.sweeper, app.sandbox.pool,"
        " app.executors.registry"
    )
    assert "celery" in loaded
    assert not loaded & {"fastapi", "starlette", "qiskit", "qiskit_aer", "openqasm3"}


def test_help_waits_for_nothing_heavy() -> None:
    loaded = loaded_by("import app.cli")
    assert not loaded & {"fastapi", "celery", "redis", "qiskit"}


def test_every_error_a_caller_may_meet_has_a_status() -> None:
    missing = {
        error.__name__
        for error in failures(errors.ServiceError)
        if not any(base in STATUS for base in error.__mro__)
    }
    assert missing == set()


def test_every_error_has_a_code_of_its_own() -> None:
    codes = [error.code for error in failures(errors.ServiceError)]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(APP)))
def test_every_module_says_what_it_is_for(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring, f"{path} has no docstring"


def test_no_module_is_called_after_nothing() -> None:
    vague = {"utils", "util", "common", "core", "helpers", "misc", "services"}
    assert {path.stem for path in SOURCES} & vague == set()
    assert {path.name for path in APP.rglob("*") if path.is_dir()} & vague == set()


def test_interfaces_are_narrow() -> None:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            bases = [ast.unparse(base) for base in getattr(node, "bases", [])]
            if isinstance(node, ast.ClassDef) and any("Protocol" in base for base in bases):
                methods = [item for item in node.body if isinstance(item, ast.FunctionDef)]
                assert len(methods) <= 6, f"{path}: {node.name}"
