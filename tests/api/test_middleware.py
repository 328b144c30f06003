"""Which requests get in, and what does every answer carry? Seen from inside the process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.api.test_tasks import assert_problem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import httpx2
    from fastapi import FastAPI

    from tests.api.fakes import FakeDispatcher

pytestmark = pytest.mark.anyio

JSON = {"content-type": "application/json"}


async def test_every_answer_carries_the_security_headers(client: httpx2.AsyncClient) -> None:
    for path in ("/", "/nothing", "/health", "/metrics", "/tasks"):
        headers = (await client.get(path)).headers

        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert "access-control-allow-origin" not in headers


async def test_a_plain_request_id_is_kept(client: httpx2.AsyncClient) -> None:
    answer = await client.get("/nothing", headers={"x-request-id": "Abc-1.2_3"})

    assert answer.headers["x-request-id"] == answer.json()["request_id"] == "Abc-1.2_3"


@pytest.mark.parametrize("given", [b"", b"a b", b"a" * 65, b"\xe9", b'"}\n'.strip()])
async def test_any_other_request_id_is_replaced(client: httpx2.AsyncClient, given: bytes) -> None:
    answer = await client.get("/", headers=[(b"x-request-id", given)])

    assert len(answer.headers["x-request-id"]) == 32


async def test_two_request_ids_are_replaced_by_one(client: httpx2.AsyncClient) -> None:
    answer = await client.get("/", headers=[("x-request-id", "a"), ("x-request-id", "b")])

    assert len(answer.headers["x-request-id"]) == 32


async def test_a_declared_body_too_large_is_refused(
    make_app: Callable[..., FastAPI],
    connect: Callable[[FastAPI], httpx2.AsyncClient],
    dispatcher: FakeDispatcher,
) -> None:
    async with connect(make_app(http={"body_bytes": 100})) as client:
        answer = await client.post("/tasks", content=b" " * 101, headers=JSON)

    problem = assert_problem(answer, 413, "body_too_large")
    assert (problem["sent"], problem["allowed"]) == (101, 100)
    assert answer.headers["connection"] == "close"
    assert dispatcher.calls == 0


@pytest.mark.parametrize("path", ["/tasks", "/nothing"])
async def test_a_streamed_body_too_large_is_refused(
    make_app: Callable[..., FastAPI],
    connect: Callable[[FastAPI], httpx2.AsyncClient],
    dispatcher: FakeDispatcher,
    path: str,
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield b" " * 10

    async with connect(make_app(http={"body_bytes": 100})) as client:
        answer = await client.post(path, content=chunks(), headers=JSON)

    if path == "/tasks":
        assert_problem(answer, 413, "body_too_large")
    else:
        assert_problem(answer, 404, "not_found")
    assert dispatcher.calls == 0


async def test_a_body_of_exactly_the_limit_is_read(
    make_app: Callable[..., FastAPI], connect: Callable[[FastAPI], httpx2.AsyncClient]
) -> None:
    async with connect(make_app(http={"body_bytes": 100})) as client:
        answer = await client.post("/tasks", content=b" " * 100, headers=JSON)

    assert_problem(answer, 400, "malformed_json")


async def test_a_refusal_outlives_a_framework_that_hides_it(
    make_app: Callable[..., FastAPI], connect: Callable[[FastAPI], httpx2.AsyncClient]
) -> None:
    app = make_app(http={"body_bytes": 100})

    @app.post("/echo")
    async def echo(value: dict[str, str]) -> dict[str, str]:
        return value

    async def chunks() -> AsyncIterator[bytes]:
        yield b" " * 101

    async with connect(app) as client:
        answer = await client.post("/echo", content=chunks(), headers=JSON)

    assert_problem(answer, 413, "body_too_large")


@pytest.mark.parametrize(
    ("limits", "sent", "expected"),
    [
        (
            {"headers": 10},
            {"headers": {f"x-{i}": "1" for i in range(11)}},
            (431, "headers_too_large"),
        ),
        ({"header_bytes": 1000}, {"headers": {"x": "1" * 1001}}, (431, "headers_too_large")),
        ({"target_bytes": 50}, {"params": {"q": "1" * 50}}, (414, "uri_too_long")),
    ],
)
async def test_a_head_too_large_is_refused(
    make_app: Callable[..., FastAPI],
    connect: Callable[[FastAPI], httpx2.AsyncClient],
    limits: dict[str, object],
    sent: dict[str, object],
    expected: tuple[int, str],
) -> None:
    async with connect(make_app(http=limits)) as client:
        answer = await client.get("/health/live", **sent)

    assert assert_problem(answer, *expected)["allowed"] == next(iter(limits.values()))
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ([("content-encoding", "gzip")], 415, "unsupported_media_type"),
        ([("content-length", "2"), ("transfer-encoding", "chunked")], 400, "bad_framing"),
        ([("content-length", "2"), ("content-length", "3")], 400, "bad_framing"),
        ([("content-length", "-2")], 400, "bad_framing"),
        ([("content-length", "9" * 5000)], 413, "body_too_large"),
    ],
)
async def test_a_body_that_is_not_plain_is_refused(
    client: httpx2.AsyncClient,
    dispatcher: FakeDispatcher,
    headers: list[tuple[str, str]],
    status: int,
    code: str,
) -> None:
    answer = await client.post("/tasks", content=b"{}", headers=[*headers, *JSON.items()])

    assert_problem(answer, status, code)
    assert dispatcher.calls == 0


async def test_every_request_is_logged_with_its_route_and_not_its_path(
    client: httpx2.AsyncClient, events: list[dict[str, object]]
) -> None:
    answer = await client.get("/tasks/secret-looking-id?wait=0")
    await client.get("/made-up-path")

    task, other = (event for event in events if event["event"] == "http_request_finished")
    assert task["method"] == "GET"
    assert task["route"] == "/tasks/{task_id}"
    assert task["status"] == 404
    assert task["duration_ms"] >= 0
    assert task["request_id"] == answer.headers["x-request-id"]
    assert task["log_level"] == "info"
    assert other["route"] == "unmatched"
    assert "job_id" not in other


async def test_an_answer_that_tells_of_trouble_is_a_warning(
    client: httpx2.AsyncClient, dispatcher: FakeDispatcher, events: list[dict[str, object]]
) -> None:
    dispatcher.live = ()

    await client.get("/health")

    assert events[-1]["log_level"] == "warning"


# --- pages of other origins -----------------------------------------------------------------------

LAB = "https://lab.example"
PREFLIGHT = {
    "origin": LAB,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,idempotency-key,service-crn",
}


async def test_pages_of_other_origins_may_not_call_unless_they_are_named(
    client: httpx2.AsyncClient,
) -> None:
    answer = await client.get("/health/live", headers={"origin": LAB})
    asked = await client.options("/tasks", headers=PREFLIGHT)

    for refused in (answer, asked):
        assert [name for name in refused.headers if name.startswith("access-control")] == []
    assert asked.status_code == 405


async def test_pages_of_a_named_origin_may_call(
    make_app: Callable[..., FastAPI], connect: Callable[[FastAPI], httpx2.AsyncClient]
) -> None:
    async with connect(make_app(cors_origins=(LAB,))) as client:
        asked = await client.options("/tasks", headers=PREFLIGHT)
        answer = await client.get("/nothing", headers={"origin": LAB})
        other = await client.get("/nothing", headers={"origin": "https://evil.example"})
        other_asked = await client.options(
            "/tasks", headers=PREFLIGHT | {"origin": "https://evil.example"}
        )

    assert asked.status_code == 200
    assert asked.headers["access-control-allow-origin"] == LAB
    assert "POST" in asked.headers["access-control-allow-methods"]
    assert "Idempotency-Key" in asked.headers["access-control-allow-headers"]
    assert asked.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["access-control-allow-origin"] == LAB
    assert "Retry-After" in answer.headers["access-control-expose-headers"]
    assert "access-control-allow-credentials" not in answer.headers | asked.headers
    assert "access-control-allow-origin" not in other.headers | other_asked.headers
    assert other_asked.status_code == 400


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ({"content": b" " * 101}, 413),
        ({"content": b"{}", "headers": {"content-encoding": "gzip"}}, 415),
        ({"params": {"q": "1" * 500}}, 414),
        ({"headers": {f"x-{i}": "1" for i in range(30)}}, 431),
    ],
)
async def test_pages_of_a_named_origin_may_read_why_a_request_was_not_let_in(
    make_app: Callable[..., FastAPI],
    connect: Callable[[FastAPI], httpx2.AsyncClient],
    dispatcher: FakeDispatcher,
    sent: dict[str, Any],
    status: int,
) -> None:
    http = {"body_bytes": 100, "target_bytes": 400, "headers": 20}

    async def refused(app: FastAPI, origin: str) -> httpx2.Response:
        headers = JSON | sent.get("headers", {}) | {"origin": origin}
        async with connect(app) as client:
            answer = await client.post("/tasks", **(sent | {"headers": headers}))
        assert answer.status_code == status
        return answer

    allowed = await refused(make_app(http=http, cors_origins=(LAB,)), LAB)
    other = await refused(make_app(http=http, cors_origins=(LAB,)), "https://evil.example")
    closed = await refused(make_app(http=http), LAB)

    assert allowed.headers["access-control-allow-origin"] == LAB
    assert "X-Request-ID" in allowed.headers["access-control-expose-headers"]
    assert allowed.headers["vary"] == "Origin"
    assert "access-control-allow-origin" not in other.headers | closed.headers
    assert dispatcher.calls == 0


async def test_a_body_that_proves_too_large_is_refused_readably(
    make_app: Callable[..., FastAPI], connect: Callable[[FastAPI], httpx2.AsyncClient]
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield b" " * 10

    app = make_app(http={"body_bytes": 100}, cors_origins=(LAB,))
    async with connect(app) as client:
        answer = await client.post("/tasks", content=chunks(), headers=JSON | {"origin": LAB})

    assert_problem(answer, 413, "body_too_large")
    assert answer.headers.get_list("access-control-allow-origin") == [LAB]
