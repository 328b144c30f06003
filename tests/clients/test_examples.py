"""What people copy runs as it stands: the examples, and the blocks of README and howto."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from .service import ROOT, python_of

if TYPE_CHECKING:
    from .service import Service

VERSION = "0.51.0"
#: Example → what its output holds.
EXAMPLES = {
    "sampler.py": r"simulator@aer \{'(00|11)': \d+, '(00|11)': \d+\}\n\S+ fake_manila@aer \{",
    "estimator.py": r"IZ \[.*\] \+- \[.*\]\nXX \[",
    "session.py": r"In progress, accepting new jobs\nthe sign changes near 1\.[4-7]",
    "batch.py": r"4 jobs in \S+",
}
PAGES = ("README.md", "docs/howto/connect.md")


def run_example(service: Service, name: str, *arguments: str) -> str:
    done = service.run(VERSION, str(ROOT / "examples" / name), *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def block(page: str, language: str, word: str) -> str:
    """The first block of a page in this language that holds the word."""
    blocks = re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    return next(text for text in blocks if word in text)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(service: Service, name: str) -> None:
    said = run_example(service, name)

    assert re.search(EXAMPLES[name], said), said


def test_a_job_is_retrieved_by_its_id(service: Service) -> None:
    job_id = run_example(service, "sampler.py").split()[0]

    said = run_example(service, "retrieve_by_id.py", job_id)

    assert said.startswith(f"{job_id} DONE on simulator@aer"), said
    assert "PrimitiveResult" in said


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_says_connects(service: Service, page: str) -> None:
    exports = block(page, "bash", "IAM_URL").replace("http://localhost:8000", service.url)
    exports = re.sub("QISKIT_IBM_TOKEN=.*", f"QISKIT_IBM_TOKEN={service.key}", exports)
    program = block(page, "python", "QiskitRuntimeService()")

    done = subprocess.run(
        ["bash", "-euc", f'{exports}\n"$0" -c "$1"', python_of(VERSION), program],
        env={"HOME": str(service.home), "PATH": service.environment()["PATH"]},
        cwd=service.home,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 0, done.stderr
    assert "'00'" in done.stdout, done.stdout
    assert "'11'" in done.stdout, done.stdout
