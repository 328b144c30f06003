"""Redis by TLS: certificates are checked, by every client we have.

The embedded Valkey is built without TLS, so something in between ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import ssl
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest
from kombu import Connection
from kombu.exceptions import OperationalError

from app.config import Settings
from app.errors import Unavailable
from app.jobs.connection import connect_gateway, connect_worker, translated

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from app.local.valkey import EmbeddedValkey

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="openssl makes the certificates"
)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for ``localhost`` that vouches for itself; its key lies beside it."""
    folder = tmp_path_factory.mktemp("tls")
    made = folder / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", str(folder / "key.pem"), "-out", str(made)),
        ],
        check=True,
        capture_output=True,
    )
    return made


@pytest.fixture
def tls_port(valkey_server: EmbeddedValkey, redis_url: str, certificate: Path) -> Iterator[int]:
    """A port at which Valkey is spoken to by TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    listening = socket.create_server(("127.0.0.1", 0))

    def pass_on(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def serve_one(plain: socket.socket) -> None:
        with (
            contextlib.suppress(OSError),
            context.wrap_socket(plain, server_side=True) as outside,
            socket.create_connection(("127.0.0.1", valkey_server.port)) as inside,
        ):
            back = threading.Thread(target=pass_on, args=(inside, outside))
            back.start()
            pass_on(outside, inside)
            back.join()

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve_one, args=(listening.accept()[0],)).start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    yield listening.getsockname()[1]
    listening.shutdown(socket.SHUT_RDWR)
    accepting.join()
    listening.close()


def settings_of(valkey: EmbeddedValkey, port: int, **changes: object) -> Settings:
    password = valkey.url.partition("://:")[2].partition("@")[0]
    return Settings(
        _env_file=None,
        redis_host="localhost",
        redis_port=port,
        redis_password=password,
        redis_tls=True,
        **changes,
    )


def ask_gateway(url: str) -> bool:
    async def ask() -> bool:
        client = connect_gateway(url)
        try:
            with translated():
                return bool(await client.ping())
        finally:
            await client.aclose()

    return asyncio.run(ask())


def ask_worker(url: str) -> bool:
    with translated(), connect_worker(url) as client:
        return bool(client.ping())


def ask_celery(url: str) -> bool:
    with Connection(url) as connection:
        return bool(connection.default_channel.client.ping())


@pytest.mark.parametrize("ask", [ask_gateway, ask_worker, ask_celery])
def test_a_certificate_that_is_known_is_trusted(
    valkey_server: EmbeddedValkey, tls_port: int, certificate: Path, ask: object
) -> None:
    url = settings_of(valkey_server, tls_port, redis_ca_file=certificate).redis

    assert ask(url)  # type: ignore[operator]


@pytest.mark.parametrize("ask", [ask_gateway, ask_worker, ask_celery])
def test_a_certificate_that_nobody_vouches_for_is_not(
    valkey_server: EmbeddedValkey, tls_port: int, ask: object
) -> None:
    url = settings_of(valkey_server, tls_port).redis

    with pytest.raises((Unavailable, OperationalError, OSError)):
        ask(url)  # type: ignore[operator]


@pytest.mark.parametrize("ask", [ask_gateway, ask_worker, ask_celery])
def test_nor_is_one_of_another_host(
    valkey_server: EmbeddedValkey, tls_port: int, certificate: Path, ask: object
) -> None:
    url = settings_of(valkey_server, tls_port, redis_ca_file=certificate).redis
    assert url is not None

    with pytest.raises((Unavailable, OperationalError, OSError)):
        ask(url.replace("@localhost:", "@127.0.0.1:"))  # type: ignore[operator]
