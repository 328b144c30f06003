"""Bodies and heads without measure, at a real gateway: refused soon, and it grows by next to nothing."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from app.config import HttpLimits
from app.local.valkey import EmbeddedValkey
from tests.integration.fleet import Fleet

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

pytestmark = pytest.mark.timeout(120)

MIB = 1 << 20
#: What the gateway may grow by, whatever it is sent: two bodies of the largest size, and the noise.
GROWTH_BYTES = 64 * MIB
BODY_TIMEOUT_S = 1.0
ROUTES = ["/tasks", "/api/v1/jobs", "/api/v1/sessions", "/identity/token", "/v3/resources/search"]
JSON = b"content-type: application/json\r\n"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("bodies")
    valkey = EmbeddedValkey(folder=folder, fsync="everysec")
    made = Fleet(folder=folder, valkey=valkey, QFLEET_HTTP__BODY_TIMEOUT_S=str(BODY_TIMEOUT_S))
    try:
        made.start_valkey()
        made.start_gateway()
        made.request("POST", "/tasks", {"circuit": "warm"})
        yield made
    finally:
        made.close()


@pytest.fixture
def gateway(fleet: Fleet) -> Iterator[psutil.Process]:
    """The gateway; afterwards it is the same, has not grown, has stored nothing and answers."""
    assert fleet.gateway is not None
    process = psutil.Process(fleet.gateway.pid)
    before = process.memory_info().rss
    with fleet.redis() as client:
        sequence = client.get("sequence")
    yield process
    assert fleet.gateway.poll() is None
    assert process.memory_info().rss - before < GROWTH_BYTES
    with fleet.redis() as client:
        assert client.get("sequence") == sequence, "something was stored"
    assert fleet.request("GET", "/health/live")[0] == 200


def send(fleet: Fleet, head: bytes, parts: Iterable[bytes]) -> tuple[int, dict[str, Any]]:
    """Send until the other side has enough; gives the answer, or 0 when it hung up."""
    with socket.create_connection(("127.0.0.1", fleet.port), timeout=30) as wire:
        with contextlib.suppress(ConnectionError):
            wire.sendall(head)
            for part in parts:
                wire.sendall(part)
        received = b""
        with contextlib.suppress(ConnectionError, TimeoutError):
            while more := wire.recv(65536):
                received += more
    if not received:
        return 0, {}
    answer_head, _, body = received.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" in answer_head.lower():
        body = body.partition(b"\r\n")[2].partition(b"\r\n0\r\n")[0]
    return int(answer_head.split(b" ")[1]), json.loads(body)


def post(path: str, *fields: bytes) -> bytes:
    head = b"POST %s HTTP/1.1\r\nhost: test\r\nconnection: close\r\n" % path.encode()
    return head + b"".join(fields) + b"\r\n"


def code_of(document: dict[str, Any]) -> str:
    """The stable word of a refusal, in either shape."""
    return str(document.get("code") or document["errors"][0]["more_info"])


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.usefixtures("gateway")
def test_300_mb_that_are_announced_are_refused_unread(fleet: Fleet, path: str) -> None:
    head = post(path, JSON, b"content-length: %d\r\n" % (300 * MIB))

    status, document = send(fleet, head, [b" " * MIB])

    assert (status, code_of(document)) == (413, "body_too_large")
    assert str(HttpLimits().body_bytes) in json.dumps(document)


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.usefixtures("gateway")
def test_300_mb_in_chunks_are_refused_at_the_limit(fleet: Fleet, path: str) -> None:
    head = post(path, JSON, b"transfer-encoding: chunked\r\n")
    chunk = b"%x\r\n" % MIB + b" " * MIB + b"\r\n"

    status, document = send(fleet, head, (chunk for _ in range(300)))

    # Who does not stop sending is cut off, and may miss the answer.
    if path == "/v3/resources/search":
        assert status in (0, 200), "the body of a search is not looked at"
    elif status:
        assert status in (413, 415)
        assert code_of(document) in ("body_too_large", "unsupported_media_type")


@pytest.mark.usefixtures("gateway")
def test_a_header_of_20_mb_is_refused(fleet: Fleet) -> None:
    head = (
        b"GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\nx: "
        + b"x" * (20 * MIB)
        + b"\r\n\r\n"
    )

    status, document = send(fleet, head, [])

    assert (status, document["code"]) == (431, "headers_too_large")


@pytest.mark.usefixtures("gateway")
def test_100_000_headers_are_refused(fleet: Fleet) -> None:
    fields = b"".join(b"x-%d: 1\r\n" % i for i in range(100_000))

    status, document = send(
        fleet, b"GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n" + fields + b"\r\n", []
    )

    assert (status, document["code"]) == (431, "headers_too_large")


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.usefixtures("gateway")
def test_a_body_that_never_ends_is_given_up(fleet: Fleet, path: str) -> None:
    content = b"application/x-www-form-urlencoded" if "identity" in path else b"application/json"
    head = post(path, b"content-type: " + content + b"\r\n", b"content-length: 1000\r\n")
    began = time.monotonic()

    status, document = send(fleet, head, [b"{"])

    if path == "/v3/resources/search":
        assert status == 200, "the body of a search is not looked at"
        return
    assert (status, code_of(document)) == (408, "body_timeout")
    assert time.monotonic() - began < BODY_TIMEOUT_S + 5


BOMBS = {
    "arrays": b"[" * MIB,
    "objects": b'{"a":' * 200_000,
    "closed": b"[" * 100_000 + b"]" * 100_000,
    "inside": b'{"circuit": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "params": b'{"program_id": "sampler", "backend": "simulator@aer", "params": ' + b"[" * 100_000,
    "integer": b'{"circuit": "x", "shots": ' + b"9" * MIB + b"}",
    "exponent": b'{"circuit": "x", "shots": 1e999999999}',
    "surrogate": b'{"circuit": "\\ud800", "program_id": "\\udfff"}',
    "not utf-8": b'{"circuit": "\xff\xfe", "program_id": "\xff"}',
    "utf-16": '{"circuit": "x"}'.encode("utf-16"),
    "nul": b'{"circuit": "a\x00b"}',
    "keys": b"{" + b",".join(b'"k%d":0' % i for i in range(100_000)) + b"}",
}


@pytest.mark.parametrize("path", [*ROUTES[:3], "/api/v1/jobs/x/tags", "/api/v1/sessions/x"])
@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.usefixtures("gateway")
def test_json_without_measure_is_refused(fleet: Fleet, path: str, bomb: str) -> None:
    body = BOMBS[bomb]
    method = {"/api/v1/jobs/x/tags": b"PUT", "/api/v1/sessions/x": b"PATCH"}.get(path, b"POST")
    head = post(path, JSON, b"content-length: %d\r\n" % len(body)).replace(b"POST", method, 1)

    status, document = send(fleet, head, [body])

    assert 400 <= status < 500, document
    assert code_of(document)
