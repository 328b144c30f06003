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

ROOT = Path(__file__).parent.parent
APP = ROOT / "app"
SOURCES = sorted(APP.rglob("*.py"))
SIMULATION = {"qiskit", "qiskit_aer", "qiskit_qasm3_import", "openqasm3", "antlr4", "numpy"}
#: Words that say nothing about what a module holds.
VAGUE = {"utils", "util", "common", "core", "helpers", "helper", "misc", "services"}
MOST_METHODS = 6


def loaded_by(statement: str) -> set[str]:
    """Top-level modules that are loaded after the statement, in a fresh interpreter."""
    program = f"{statement}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    environment = os.environ | {"QFLEET_REDIS_URL": "redis://127.0.0.1:1/0"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=environment,
        cwd=ROOT,
    )
    return set(done.stdout.splitlines()[-1].split())


def failures(base: type[errors.ServiceError]) -> set[type[errors.ServiceError]]:
    """The error and everything below it."""
    return {base}.union(*(failures(child) for child in base.__subclasses__()))


def test_imports_point_downwards(capfd: pytest.CaptureFixture[str]) -> None:
    status = lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True)

    assert status == 0, capfd.readouterr().out


def test_the_gateway_starts_without_a_simulator() -> None:
    loaded = loaded_by("import app.main")

    assert "fastapi" in loaded
    assert not loaded & SIMULATION


def test_a_worker_starts_without_the_gateway_and_without_a_simulator() -> None:
    loaded = loaded_by(
        "import app.workers.celery_app, app.runner, app.sweeper, app.sandbox.pool,"
        " app.executors.registry"
    )

    assert "celery" in loaded
    assert not loaded & (SIMULATION | {"fastapi", "starlette", "uvicorn"})


def test_a_sandbox_child_knows_neither_redis_nor_celery() -> None:
    loaded = loaded_by("import app.sandbox.perform, app.executors.aer")

    assert "qiskit_aer" in loaded
    assert not loaded & {"redis", "celery", "kombu", "fastapi"}


def test_help_waits_for_nothing_heavy() -> None:
    loaded = loaded_by("import app.cli")

    assert not loaded & (SIMULATION | {"fastapi", "celery", "redis", "uvicorn"})


def test_every_error_has_a_status() -> None:
    missing = {
        error.__name__
        for error in failures(errors.ServiceError)
        if not any(base in STATUS for base in error.__mro__ if base is not errors.ServiceError)
    }

    # What became of a job is told with the job, never as the answer to a request.
    told = {error.__name__ for error in failures(errors.JobFailure)} - {"InvalidProgram"}
    assert missing - {"ServiceError"} == told


def test_every_status_belongs_to_an_error() -> None:
    assert set(STATUS) <= failures(errors.ServiceError)


def test_every_error_has_a_code_of_its_own() -> None:
    codes = [error.code for error in failures(errors.ServiceError)]

    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(APP)))
def test_every_module_says_in_one_sentence_what_it_is_for(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text()))

    assert docstring, "no docstring"
    first, *more = docstring.splitlines()
    assert first.endswith((".", "?"))
    assert not more or more[0] == "", "what more there is to say stands in a paragraph of its own"


def test_no_module_is_named_after_nothing() -> None:
    folders = {path.name for path in APP.rglob("*") if path.is_dir()}

    assert {path.stem for path in SOURCES} & VAGUE == set()
    assert folders & VAGUE == set()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(APP)))
def test_interfaces_are_narrow(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ClassDef):
            continue
        bases = {ast.unparse(base).split("[")[0].split(".")[-1] for base in node.bases}
        methods = [
            item.name
            for item in node.body
            if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)
        ]
        assert "Protocol" not in bases or len(methods) <= MOST_METHODS, node.name
