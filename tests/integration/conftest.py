"""A fleet of its own for every test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from app.local.valkey import EmbeddedValkey

from .fleet import Fleet

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """Valkey and gateway run; workers are the test's to start, everything is the test's to break."""
    made = Fleet(folder=tmp_path, valkey=EmbeddedValkey(folder=tmp_path / "valkey", fsync="always"))
    try:
        made.start_valkey()
        made.start_gateway()
        yield made
    finally:
        made.close()
