"""``make chaos``: a large campaign, and a table of what happened."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.integration.fleet import fleet_in

from . import environment
from .campaign import EXECUTORS, Campaign, Plan
from .history import History

#: Faults of a thousand jobs.
FAULTS = {
    "worker killed": 7.5,
    "worker frozen": 1.5,
    "worker drained": 1,
    "sandbox killed": 7.5,
    "sandbox frozen": 1.5,
    "gateway killed": 7.5,
    "gateway frozen": 1.5,
    "Valkey killed": 7.5,
    "Valkey frozen": 1,
    "line slow": 0.5,
    "line stalled": 1,
    "line deaf": 1,
    "line cut": 1,
}
RATE = 60.0
SEED = 20261121


def plan_for(jobs: int, seed: int = SEED) -> Plan:
    """A campaign of that size: faults grow with it."""
    faults = {name: round(number * jobs / 1000) for name, number in FAULTS.items()}
    return Plan(jobs=jobs, seed=seed, faults=faults, rate=RATE)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=SEED)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="qfleet-chaos-") as name:
        folder = Path(name)
        python = environment.make(folder / "environment")
        with fleet_in(folder, python=python, QFLEET_EXECUTORS=EXECUTORS) as fleet:
            plan = plan_for(asked.jobs, asked.seed)
            report = Campaign(fleet=fleet, plan=plan, history=History()).run()
    sys.stdout.write(report.table() + "\n")
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
