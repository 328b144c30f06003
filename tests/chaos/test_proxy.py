"""The line is as bad as it was made, and good again when it was healed."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import TYPE_CHECKING

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from .proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from app.local.valkey import EmbeddedValkey

TIMEOUT_S = 0.3


@pytest.fixture
def proxy(valkey_server: EmbeddedValkey, redis_url: str) -> Iterator[Proxy]:
    proxy = Proxy(valkey_server.port)
    yield proxy
    proxy.close()


@pytest.fixture
def connect(proxy: Proxy, redis_url: str, valkey_server: EmbeddedValkey) -> Iterator[Callable]:
    """Clients on the other side of the line; each gives up soon, and tries once."""
    url = redis_url.replace(f":{valkey_server.port}/", f":{proxy.port}/")
    clients: list[redis.Redis] = []

    def make() -> redis.Redis:
        clients.append(
            redis.Redis.from_url(
                url,
                socket_timeout=TIMEOUT_S,
                socket_connect_timeout=TIMEOUT_S,
                retry=Retry(NoBackoff(), 0),
            )
        )
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def test_a_good_line_passes_on(proxy: Proxy, connect: Callable[[], redis.Redis]) -> None:
    client = connect()

    client.set("key", b"x" * 3_000_000)

    assert client.get("key") == b"x" * 3_000_000


def test_a_slow_line_is_slow(proxy: Proxy, connect: Callable[[], redis.Redis]) -> None:
    client = connect()
    client.ping()
    proxy.slow(0.05)

    began = time.monotonic()
    client.ping()
    took = time.monotonic() - began
    proxy.heal()

    # There and back.
    assert took >= 0.1


def test_a_stalled_line_stands_and_goes_on_later(
    proxy: Proxy, connect: Callable[[], redis.Redis], valkey_server: EmbeddedValkey
) -> None:
    client = connect()
    client.ping()
    proxy.stall()
    with pytest.raises(redis.exceptions.TimeoutError):
        client.set("key", 1)
    with valkey_server.client() as direct:
        assert direct.get("key") is None

    proxy.heal()

    client.set("other", 1)
    assert client.get("other") == b"1"


def test_a_deaf_line_does_what_is_asked_and_loses_the_answer(
    proxy: Proxy, connect: Callable[[], redis.Redis], valkey_server: EmbeddedValkey
) -> None:
    client = connect()
    client.ping()
    proxy.deafen()

    with pytest.raises(redis.exceptions.TimeoutError):
        client.incr("key")

    with valkey_server.client() as direct:
        assert direct.get("key") == b"1"
    proxy.heal()
    assert client.incr("key") == 2


def test_a_cut_line_ends_connections_and_takes_new_ones(
    proxy: Proxy, connect: Callable[[], redis.Redis]
) -> None:
    with socket.create_connection(("127.0.0.1", proxy.port), TIMEOUT_S) as line:
        line.sendall(b"PING\r\n")
        assert line.recv(100)

        proxy.cut()

        with contextlib.suppress(ConnectionResetError):
            assert line.recv(100) == b""
    assert connect().ping()
    assert proxy.connections == 2
