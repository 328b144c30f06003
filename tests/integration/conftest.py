"""A fleet of its own for every test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .fleet import Fleet, fleet_in

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """Valkey and gateway run; workers are the test's to start, everything is the test's to break."""
    with fleet_in(tmp_path) as made:
        made.start_gateway()
        yield made
