"""One service for all clients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .service import Service, running_service

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_service(tmp_path_factory.mktemp("clients")) as service:
        yield service
