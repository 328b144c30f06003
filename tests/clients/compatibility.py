"""Which calls of which client work? ``python -m tests.clients.compatibility VERSION…`` finds out.

Runs the scenario with each client, one after the other, and writes docs/reference/compatibility.md.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from .service import ROOT, running_service

PAGE = ROOT / "docs/reference/compatibility.md"
HEAD = """# Which clients work

The unmodified `qiskit-ibm-runtime` client in these versions, each with Qiskit {qiskit}, against `python -m app up`. Those before
0.49 connect with [examples/connect.py](../../examples/connect.py), the others with
[environment variables](../howto/connect.md) alone.

This page is written by `make test-clients`, which makes every call of `tests/clients/scenario.py` with every client. Do not
edit it.

"""
MARKS = {True: "✓", False: "✗", None: "–"}

Outcomes = dict[str, dict[str, Any]]


def page(outcomes: dict[str, Outcomes], qiskit: str) -> str:
    """The page: a row for each call, a column for each version; below it what does not work."""
    lines = [f"| call | {' | '.join(outcomes)} |", f"| --- |{' :-: |' * len(outcomes)}"]
    for call in next(iter(outcomes.values())):
        marks = " | ".join(MARKS[of_version[call]["ok"]] for of_version in outcomes.values())
        lines.append(f"| {call.replace('_', ' ')} | {marks} |")
    lines += ["", "✓ works, – the client has no such call, ✗ does not work:", ""]
    failures = [
        f"- {call.replace('_', ' ')}, {version}: {' '.join(outcome['note'].split())}"
        for version, of_version in outcomes.items()
        for call, outcome in of_version.items()
        if outcome["ok"] is False
    ]
    return HEAD.format(qiskit=qiskit) + "\n".join([*lines, *(failures or ["- nothing"])]) + "\n"


def qiskit_version() -> str:
    """The version of Qiskit that workers run on, and clients beside it."""
    lines = (ROOT / "requirements-worker.txt").read_text().splitlines()
    return next(line.split()[0].partition("==")[2] for line in lines if line.startswith("qiskit=="))


def main(versions: list[str]) -> int:
    """Run everything, write the page; gives the number of calls that do not work."""
    with (
        tempfile.TemporaryDirectory() as folder,
        running_service(Path(folder)) as service,
    ):
        outcomes = {}
        for version in versions:
            outcomes[version] = service.run_scenario(version)
            failed = [call for call, outcome in outcomes[version].items() if outcome["ok"] is False]
            sys.stdout.write(
                f"{version}: {len(outcomes[version])} calls, failed: {', '.join(failed) or 'none'}\n"
            )
    PAGE.write_text(page(outcomes, qiskit_version()))
    return sum(
        outcome["ok"] is False
        for of_version in outcomes.values()
        for outcome in of_version.values()
    )


if __name__ == "__main__":
    sys.exit(min(main(sys.argv[1:]), 1))
