"""What is answered when no more is taken: who has to wait, for what, how long; in both shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from app.auth.instances import Quota
from app.auth.store import KeyStore
from app.jobs.connection import connect_gateway
from app.jobs.store import DAY_S

from .conftest import BELL
from .gateway import API, gateway, runtime_job

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx2
    import redis

    from app.local.valkey import EmbeddedValkey

pytestmark = pytest.mark.anyio


@pytest.fixture
async def keys(redis_url: str) -> AsyncIterator[KeyStore]:
    connection = connect_gateway(redis_url)
    yield KeyStore(client=connection, secret=None, bootstrap_key=None)
    await connection.aclose()


@pytest.fixture
def raw(valkey_server: EmbeddedValkey) -> Any:
    with valkey_server.client() as client:
        yield client


async def task(client: httpx2.AsyncClient) -> httpx2.Response:
    return await client.post("/tasks", json={"circuit": BELL})


async def job(client: httpx2.AsyncClient, **changes: Any) -> httpx2.Response:
    return await client.post(f"{API}/jobs", json=runtime_job(**changes))


def stored(raw: redis.Redis) -> int:
    return len(list(raw.scan_iter("job:*")))


@pytest.mark.parametrize(
    ("limit", "status", "code", "number", "retry_after"),
    [
        ("max_queued_per_owner", 429, "queue_full", 1202, "5"),
        ("max_queued", 503, "service_full", 2301, "2"),
    ],
)
async def test_a_full_queue_is_told_with_numbers_and_what_to_do(
    redis_url: str,
    raw: redis.Redis,
    *,
    limit: str,
    status: int,
    code: str,
    number: int,
    retry_after: str,
) -> None:
    async with gateway(redis_url, **{limit: 1}) as client:
        assert (await task(client)).status_code == 200
        refused, in_runtime = await task(client), await job(client)

    problem = refused.json()
    assert (refused.status_code, problem["code"]) == (status, code)
    assert (problem["queued"], problem["allowed"]) == (1, 1)
    assert "at most 1" in problem["detail"]
    assert refused.headers["retry-after"] == in_runtime.headers["retry-after"] == retry_after
    (told,) = in_runtime.json()["errors"]
    assert (in_runtime.status_code, told["code"], told["more_info"]) == (status, number, code)
    assert "at most 1" in told["message"]
    assert "jobs have finished" in told["solution"]
    assert stored(raw) == 1


@pytest.mark.parametrize(
    ("limit", "status", "code"),
    [
        ("max_queued_bytes_per_owner", 429, "queue_full"),
        ("max_queued_bytes", 503, "service_full"),
    ],
)
async def test_too_many_bytes_in_the_queue_are_told_with_numbers(
    redis_url: str, raw: redis.Redis, limit: str, status: int, code: str
) -> None:
    async with gateway(redis_url, **{limit: 100}) as client:
        refused = await job(client, params={"pubs": ["p" * 100]})

    (told,) = refused.json()["errors"]
    assert (refused.status_code, told["more_info"]) == (status, code)
    assert "at most 100" in told["message"]
    assert stored(raw) == 0


async def test_who_keeps_too_much_is_refused_until_they_delete_some(
    redis_url: str, raw: redis.Redis, keys: KeyStore
) -> None:
    ana, bob = [
        {"authorization": f"apikey {await keys.issue(owner=owner)}"} for owner in ("ana", "bob")
    ]
    async with gateway(redis_url, auth="on", max_kept_bytes_per_owner=5000) as client:
        first = (await client.post("/tasks", json={"circuit": BELL}, headers=ana)).json()["task_id"]
        second = (await client.post(f"{API}/jobs", json=runtime_job(), headers=ana)).json()["id"]
        for ended in (first, second):
            assert (await client.delete(f"/tasks/{ended}", headers=ana)).status_code == 204
        before = {key: raw.dump(key) for key in raw.scan_iter()}
        refused = await client.post("/tasks", json={"circuit": BELL}, headers=ana)
        in_runtime = await client.post(f"{API}/jobs", json=runtime_job(), headers=ana)
        assert {key: raw.dump(key) for key in raw.scan_iter()} == before

        assert (await client.post("/tasks", json={"circuit": BELL}, headers=bob)).status_code == 200
        assert (await client.delete(f"{API}/jobs/{first}", headers=ana)).status_code == 204
        assert (await client.post("/tasks", json={"circuit": BELL}, headers=ana)).status_code == 200

    problem = refused.json()
    assert (refused.status_code, problem["code"]) == (429, "storage_full")
    assert problem["kept"] < problem["allowed"] == 5000 < problem["kept"] + problem["asked"]
    assert "DELETE /api/v1/jobs/ID" in problem["detail"]
    (told,) = in_runtime.json()["errors"]
    assert (in_runtime.status_code, told["code"], told["more_info"]) == (429, 1202, "storage_full")
    assert "delete jobs" in told["solution"]


@pytest.mark.parametrize(("auth", "status"), [("on", 429), ("off", 200)])
async def test_half_of_the_memory_is_for_one_owner_where_there_are_others(
    redis_url: str, raw: redis.Redis, keys: KeyStore, auth: str, status: int
) -> None:
    key = await keys.issue(owner="local")
    asked = runtime_job(params={"pubs": ["p" * 8_000_000]})
    async with gateway(redis_url, auth=auth) as client:
        raw.config_set("maxmemory", 64_000_000)
        try:
            answers = [
                await client.post(
                    f"{API}/jobs", json=asked, headers={"authorization": f"apikey {key}"}
                )
                for _ in range(4)
            ]
        finally:
            raw.config_set("maxmemory", 0)

    assert [answer.status_code for answer in answers] == [200, 200, 200, status]


async def test_a_plan_that_is_used_up_says_when_to_come_back(
    redis_url: str, raw: redis.Redis, keys: KeyStore
) -> None:
    await keys.set_plan("open", Quota(seconds=5, queued=10))
    raw.hset("usage:local:default", raw.time()[0] // DAY_S, 5000)

    async with gateway(redis_url) as client:
        refused, in_runtime = await task(client), await job(client)
        usage = (await client.get(f"{API}/instances/usage")).json()

    assert (refused.status_code, refused.json()["code"]) == (429, "quota_exceeded")
    assert refused.json()["allowed_s"] == 5
    assert int(refused.headers["retry-after"]) == refused.json()["retry_after_s"] > 27 * DAY_S
    assert in_runtime.json()["error"]["code"] == 1202
    assert int(in_runtime.headers["retry-after"]) > 27 * DAY_S
    assert usage["usage_limit_reached"] is True
    assert (usage["usage_limit_seconds"], usage["usage_remaining_seconds"]) == (5, 0)
    assert stored(raw) == 0


async def test_an_instance_without_a_limit_is_told_of_none(redis_url: str) -> None:
    async with gateway(redis_url) as client:
        usage = (await client.get(f"{API}/instances/usage")).json()

    assert usage["usage_limit_reached"] is False
    assert "usage_limit_seconds" not in usage


async def test_a_job_that_was_stored_is_answered_though_redis_goes_away_then(
    redis_url: str, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    from app.errors import Unavailable
    from app.jobs.store import JobStore

    async def away(*_: object, **__: object) -> None:
        raise Unavailable("Redis does not answer")

    monkeypatch.setattr(JobStore, "answered", away)
    async with gateway(redis_url) as client:
        for name in ("read", "position", "usage", "fleet"):
            monkeypatch.setattr(JobStore, name, away)
        answers = [await task(client), await job(client)]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert stored(raw) == 2
