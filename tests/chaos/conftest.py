"""Fleets to break."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration.fleet import Fleet, fleet_in

from . import environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """Valkey and gateway run; workers are the test's to start, everything is the test's to break."""
    with fleet_in(tmp_path) as made:
        made.start_gateway()
        yield made


@pytest.fixture(scope="session")
def poisonous_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python that has the executor ``poison``."""
    return environment.make(tmp_path_factory.mktemp("poison") / "environment")
