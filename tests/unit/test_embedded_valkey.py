"""The embedded Valkey: it keeps what it acknowledged, and it is nobody else's."""

from __future__ import annotations

import signal
import socket
import stat
from typing import TYPE_CHECKING

import psutil
import pytest
import redis

from app.errors import Unavailable
from app.local.addresses import is_free
from app.local.valkey import EmbeddedValkey

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[EmbeddedValkey]:
    """A server of this test alone: it may be killed."""
    server = EmbeddedValkey(folder=tmp_path / "valkey", fsync="everysec")
    server.start()
    yield server
    server.stop()


def test_data_survives_a_stop(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    with valkey.client() as client:
        client.set("kept", "yes")
    valkey.stop()

    again = EmbeddedValkey(folder=tmp_path / "valkey", fsync="everysec")
    again.start()

    with again.client() as client:
        assert client.get("kept") == b"yes"
    again.stop()


def test_data_survives_a_kill_and_the_address_stays(valkey: EmbeddedValkey) -> None:
    with valkey.client() as client:
        client.set("kept", "yes")
    before = valkey.url
    assert valkey.process is not None
    valkey.process.kill()
    valkey.process.wait()

    valkey.start()

    assert valkey.url == before
    with valkey.client() as client:
        assert client.get("kept") == b"yes"


def fill(client: redis.Redis) -> None:
    """Store 16 MiB."""
    for number in range(16):
        client.set(f"large:{number}", b"x" * 2**20)


def test_it_has_the_memory_that_it_is_given(tmp_path: Path) -> None:
    server = EmbeddedValkey(folder=tmp_path / "small", fsync="everysec", memory_bytes=8 * 2**20)
    server.start()
    try:
        with server.client() as client:
            client.set("kept", "yes")
            with pytest.raises(redis.OutOfMemoryError):
                fill(client)
            assert client.get("kept") == b"yes"
    finally:
        server.stop()


def test_it_forgets_nothing_to_make_room(valkey: EmbeddedValkey) -> None:
    with valkey.client() as client:
        settings = client.config_get("maxmemory-policy", "appendonly", "save", "bind")

    assert settings == {
        "maxmemory-policy": "noeviction",
        "appendonly": "yes",
        "save": "",
        "bind": "127.0.0.1",
    }


def test_without_the_password_it_tells_nothing(valkey: EmbeddedValkey) -> None:
    with socket.create_connection(("127.0.0.1", valkey.port), timeout=5) as stranger:
        stranger.sendall(b"GET kept\r\n")

        assert stranger.recv(100).startswith(b"-NOAUTH")


def test_its_password_is_in_no_list_of_processes(valkey: EmbeddedValkey) -> None:
    password = valkey.url.split(":")[2].partition("@")[0]
    assert len(password) > 40

    assert valkey.process is not None
    server = psutil.Process(valkey.process.pid)

    assert not any(password in argument for argument in server.cmdline())
    assert not any(password in value for value in server.environ().values())


def test_its_files_are_its_owners(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    folder = tmp_path / "valkey"

    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for name in ("password", "valkey.conf"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600


def test_a_stopped_server_gives_its_port_back(valkey: EmbeddedValkey) -> None:
    assert not is_free("127.0.0.1", valkey.port)

    valkey.stop()

    assert is_free("127.0.0.1", valkey.port)


def test_a_frozen_server_is_not_ready(valkey: EmbeddedValkey) -> None:
    assert valkey.process is not None
    valkey.process.send_signal(signal.SIGSTOP)

    assert not valkey.is_ready()

    valkey.process.send_signal(signal.SIGCONT)
    assert valkey.is_ready()


def test_a_server_that_cannot_read_its_file_says_so(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    valkey.stop()
    (tmp_path / "valkey/appendonlydir/appendonly.aof.manifest").write_text("nonsense\n")

    with pytest.raises(Unavailable, match="did not start on port") as failure:
        valkey.start()

    assert "manifest" in failure.value.message


@pytest.mark.parametrize(("sync_s", "fsync"), [(0.0001, "always"), (0.01, "everysec")])
def test_writes_are_synced_at_once_where_the_disk_is_quick(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sync_s: float, fsync: str
) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr("time.perf_counter", lambda: next(clock) * sync_s)

    assert EmbeddedValkey(folder=tmp_path / "valkey").fsync == fsync
