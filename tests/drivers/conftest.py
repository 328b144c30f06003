"""One manager with two drivers, and a worker of the simulators; healed before every test."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from app.local.valkey import EmbeddedValkey

from .manager import Manager, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    """A database that no other test empties."""
    server = EmbeddedValkey(folder=tmp_path_factory.mktemp("drivers-valkey"), fsync="everysec")
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def shared_manager(
    database: EmbeddedValkey, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Manager]:
    manager = Manager(tmp_path_factory.mktemp("manager"), database.url)
    yield manager
    manager.close()


@pytest.fixture
def manager(shared_manager: Manager) -> Manager:
    """The manager; nothing is wrong."""
    shared_manager.wait_ready("lab", "spare")
    shared_manager.heal()
    return shared_manager


@pytest.fixture(scope="session")
def aer_worker(database: EmbeddedValkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A worker that serves ``aer``; gives its process id."""
    environment = os.environ | {
        "QFLEET_REDIS_URL": database.url,
        "QFLEET_EXECUTORS": "aer",
        "QFLEET_SLOTS": "1",
        "QFLEET_DRAIN_S": "2",
    }
    log: Path = tmp_path_factory.mktemp("worker") / "log"
    with log.open("wb") as output:
        worker = subprocess.Popen(
            [sys.executable, "-m", "app", "worker"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    with database.client() as client:
        wait_until(
            lambda: any(
                not name.startswith((b"lab", b"spare")) for name in client.zrange("workers", 0, -1)
            ),
            "the worker beats",
            60,
        )
    yield worker.pid
    worker.kill()
    worker.wait()
