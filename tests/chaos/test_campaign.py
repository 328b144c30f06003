"""Two thousand jobs while everything is killed: none lost, none doubled, none stuck."""

from __future__ import annotations

import collections
import sys
from typing import TYPE_CHECKING

import pytest

from tests.integration.fleet import fleet_in

from .__main__ import plan_for
from .campaign import EXECUTORS, Campaign
from .history import History

if TYPE_CHECKING:
    from pathlib import Path

JOBS = 2000
KILLS = ("worker killed", "sandbox killed", "gateway killed", "Valkey killed")


@pytest.mark.timeout(300)
def test_two_thousand_jobs_survive_kills_of_everything(
    tmp_path: Path, poisonous_python: str
) -> None:
    history = History(tmp_path / "history.jsonl")
    with fleet_in(tmp_path, python=poisonous_python, QFLEET_EXECUTORS=EXECUTORS) as fleet:
        report = Campaign(fleet=fleet, plan=plan_for(JOBS), history=history).run()
    history.close()

    sys.stderr.write(f"\n{report.table()}\n")
    assert report.violations == []
    assert report.accepted >= JOBS
    assert all(report.faults[kill] >= 15 for kill in KILLS)
    assert report.faults["gateway ended by itself"] == 0
    assert report.faults["worker ended by itself"] == 0, report.last_words
    states = collections.Counter(report.states)
    assert states["Completed"] > JOBS * 0.8, "chaos must not be an excuse"
    assert len(report.unlucky) <= 2, "kills by chance must not fail innocent jobs"
