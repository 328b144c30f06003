"""What every test may ask for: a database of its own, on our own embedded Valkey."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from app.local.valkey import EmbeddedValkey

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    """One server for the whole run, on a free port; it dies with us."""
    server = EmbeddedValkey(folder=tmp_path_factory.mktemp("valkey"), fsync="everysec")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis_url(valkey_server: EmbeddedValkey) -> str:
    """An empty database."""
    with valkey_server.client() as client:
        client.flushall()
    return valkey_server.url
