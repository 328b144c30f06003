"""The runtime API's jobs, sessions and account on a real store; a test is the worker."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from app.api.application import create_app
from app.api.runtime import account
from app.api.runtime.errors import MOUNTS, NUMBERS, number_of
from app.auth.identity import OpenIdentity
from app.auth.principal import Principal
from app.backends.catalog import Catalog
from app.config import Settings
from app.dispatcher import Dispatcher
from app.errors import ServiceError, Unavailable
from app.jobs.claims import Claim, ClaimStore, Finish
from app.jobs.connection import connect_gateway, connect_worker
from app.jobs.events import JobEvents
from app.jobs.job import REASON_RAN_TOO_LONG, Failure, JobStatus
from app.jobs.sessions import SessionStore
from app.jobs.store import JobStore
from tests.test_architecture import failures

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    import redis
    from fastapi import FastAPI

pytestmark = pytest.mark.anyio

API = "/api/v1"
#: Formatted as no encoder of ours would do it: it must come back byte for byte.
PARAMS = '{"pubs":  [[ "circuit", null , 1e2 ]], "options": {}, "version":2}'
RESULT = b'{"__type__": "PrimitiveResult", "__value__": {}}'


#: Method, path after the id, and body, of every route that names a job.
JOB_ROUTES: tuple[tuple[str, str, object], ...] = (
    ("GET", "", None),
    ("GET", "/results", None),
    ("GET", "/logs", None),
    ("GET", "/metrics", None),
    ("POST", "/cancel", None),
    ("PUT", "/tags", {"tags": []}),
    ("DELETE", "", None),
)
#: The same of a session.
SESSION_ROUTES: tuple[tuple[str, str, object], ...] = (
    ("GET", "", None),
    ("PATCH", "", {"accepting_jobs": False}),
    ("DELETE", "/close", None),
)


class TwoOwners(OpenIdentity):
    """Who calls says so in Authorization: ``owner`` or ``owner/instance``."""

    async def principal(
        self, *, authorization: str | None, instance: str | None, address: str = ""
    ) -> Principal:
        owner, _, name = (authorization or "alice").partition("/")
        return Principal(owner=owner, instance=name or instance or "default")


@pytest.fixture
def worker(redis_url: str) -> Iterator[ClaimStore]:
    client = connect_worker(redis_url)
    yield ClaimStore(
        client=client,
        worker="w",
        lease_s=15,
        wakeup_cap=4,
        max_attempts=5,
        max_crashes=3,
        retention_s=1000,
    )
    client.close()


@pytest.fixture
async def app(redis_url: str) -> AsyncIterator[FastAPI]:
    client = connect_gateway(redis_url)
    events = JobEvents(client=client)
    listening = asyncio.create_task(events.run())
    catalog = Catalog.load(aliases={}, max_qubits=30)
    dispatcher = Dispatcher(
        store=JobStore(
            client=client,
            wakeup_cap=4,
            max_queued=1000,
            max_queued_per_owner=1000,
            max_queued_bytes=64 * 1024 * 1024,
            max_queued_bytes_per_owner=32 * 1024 * 1024,
            idempotency_s=60,
            retention_s=1000,
        ),
        sessions=SessionStore(client=client, retention_s=1000),
        events=events,
        catalog=catalog,
        wakeup=lambda _: '{"id": "@UNIQUE@"}',
        executors=["aer"],
    )

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield

    yield create_app(
        settings=Settings(_env_file=None),
        dispatcher=dispatcher,
        catalog=catalog,
        identity=TwoOwners(token_s=3600),
        lifespan=lifespan,
    )
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    await client.aclose()


@pytest.fixture
async def alice(app: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    async with client_of(app, "alice") as made:
        yield made


@pytest.fixture
async def bob(app: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    async with client_of(app, "bob") as made:
        yield made


def client_of(app: FastAPI, who: str) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app=app, raise_app_exceptions=False),
        base_url="http://test",
        headers={"authorization": who},
    )


def body(params: str = PARAMS, **members: Any) -> bytes:
    envelope = {"program_id": "sampler", "backend": "fake_manila@aer", **members}
    return f'{json.dumps(envelope)[:-1]}, "params": {params}}}'.encode()


async def post(client: httpx2.AsyncClient, content: bytes, **headers: str) -> httpx2.Response:
    return await client.post(
        f"{API}/jobs", content=content, headers={"content-type": "application/json", **headers}
    )


async def created(client: httpx2.AsyncClient, **members: Any) -> str:
    answer = await post(client, body(**members))
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def claim(worker: ClaimStore, slot: str = "0") -> Claim:
    found = worker.next(slot=slot, executor="aer", wakeup="", finish=None, claim=True)[1]
    assert found is not None
    return found


def end(worker: ClaimStore, found: Claim, slot: str = "0", **how: Any) -> None:
    values = {"status": JobStatus.COMPLETED, "result": RESULT} | how
    finish = Finish(job_id=found.job.id, attempt=found.job.attempt, **values)
    worker.next(slot=slot, executor="aer", wakeup="", finish=finish, claim=False)


def refusal(answer: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    """The refusal in an answer, which has to be in the shape that clients understand."""
    assert answer.status_code == status, answer.text
    document = answer.json()
    (error,) = document["errors"]
    assert error["more_info"] == code
    assert error["solution"]
    assert document["error"] == {"code": error["code"], "message": error["message"]}
    assert document["trace"] == answer.headers["uber-trace-id"] == answer.headers["x-request-id"]
    return dict(error)


def everything(raw: redis.Redis) -> dict[str, bytes | None]:
    return {key: raw.dump(key) for key in raw.scan_iter()}


@pytest.fixture
def raw(redis_url: str) -> Iterator[Any]:
    import redis

    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


# --- create and read --------------------------------------------------------------------------------


@pytest.mark.parametrize("mount", MOUNTS)
async def test_the_api_is_served_at_every_mount(alice: httpx2.AsyncClient, mount: str) -> None:
    answer = await alice.post(
        f"{mount}/jobs", content=body(), headers={"content-type": "application/json"}
    )

    assert answer.status_code == 200
    assert answer.json()["backend"] == "fake_manila@aer"
    assert (await alice.get(f"{mount}/jobs/{answer.json()['id']}")).status_code == 200


async def test_params_come_back_byte_for_byte(
    alice: httpx2.AsyncClient, worker: ClaimStore
) -> None:
    job_id = await created(alice)
    found = claim(worker)
    end(worker, found)

    whole = await alice.get(f"{API}/jobs/{job_id}")
    short = await alice.get(f"{API}/jobs/{job_id}?exclude_params=true")

    assert found.params == PARAMS.encode()
    assert PARAMS in whole.text
    assert "params" not in short.json()
    assert whole.json()["program"] == {"id": "sampler"}


async def test_all_that_was_asked_for_is_told_again(
    alice: httpx2.AsyncClient, worker: ClaimStore
) -> None:
    job_id = await created(
        alice, runtime="img:1", log_level="DEBUG", tags=["tag a", "tag/b"], cost=300
    )
    found = claim(worker)
    end(worker, found)

    document = (await alice.get(f"{API}/jobs/{job_id}")).json()

    assert document["state"]["status"] == document["status"] == "Completed"
    assert document["runtime"] == "img:1"
    assert document["tags"] == ["tag a", "tag/b"]
    assert document["cost"] == 300
    assert document["user_id"] == "alice"
    assert document["created"].endswith("Z")
    assert (found.job.log_level, found.job.time_limit_s) == ("DEBUG", 300)
    assert (found.job.target, found.job.executor) == ("fake_manila", "aer")


async def test_a_result_is_what_was_produced(alice: httpx2.AsyncClient, worker: ClaimStore) -> None:
    job_id = await created(alice)
    assert (await alice.get(f"{API}/jobs/{job_id}/results")).status_code == 204

    end(worker, claim(worker))

    answer = await alice.get(f"{API}/jobs/{job_id}/results")
    assert answer.content == RESULT
    assert answer.headers["content-type"] == "application/json"


async def test_a_failed_job_says_why(alice: httpx2.AsyncClient, worker: ClaimStore) -> None:
    job_id = await created(alice)
    failure = Failure(code="invalid_program", message="pubs[0]: no circuit")
    end(worker, claim(worker), status=JobStatus.FAILED, result=None, failure=failure)

    state = (await alice.get(f"{API}/jobs/{job_id}")).json()["state"]
    results = await alice.get(f"{API}/jobs/{job_id}/results")

    assert state["status"] == "Failed"
    assert (state["reason"], state["reason_code"]) == ("pubs[0]: no circuit", 3001)
    assert state["reason_solution"]
    assert (results.status_code, results.text) == (200, "pubs[0]: no circuit")


async def test_a_job_that_ran_too_long_has_the_clients_code(
    alice: httpx2.AsyncClient, worker: ClaimStore
) -> None:
    job_id = await created(alice, cost=1)
    end(
        worker,
        claim(worker),
        status=JobStatus.CANCELLED,
        result=None,
        failure=Failure(code="time_limit_reached", message="it ran for 1 s"),
        reason_code=REASON_RAN_TOO_LONG,
    )

    state = (await alice.get(f"{API}/jobs/{job_id}")).json()["state"]

    assert (state["status"], state["reason_code"]) == ("Cancelled", 1305)
    assert state["reason"]


async def test_a_read_is_held_until_the_job_is_final(
    alice: httpx2.AsyncClient, worker: ClaimStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.api.runtime.jobs.HELD_S", 20)
    job_id = await created(alice)
    found = claim(worker)
    reading = asyncio.create_task(alice.get(f"{API}/jobs/{job_id}?exclude_params=true"))
    await asyncio.sleep(0.02)
    assert not reading.done()

    await asyncio.to_thread(end, worker, found)

    assert (await reading).json()["status"] == "Completed"


async def test_a_held_read_ends_before_the_client_polls_again(alice: httpx2.AsyncClient) -> None:
    job_id = await created(alice)

    async with asyncio.timeout(5):
        answer = await alice.get(f"{API}/jobs/{job_id}")

    assert answer.json()["status"] == "Queued"


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"", 400, "malformed_json"),
        (b"[]", 422, "invalid_request"),
        (b"[" * 100_000, 422, "invalid_request"),
        (b'{"program_id": "sampler"', 400, "malformed_json"),
        (b'{"backend": "fake_manila@aer"}', 422, "invalid_request"),
        (b'{"program_id": "sampler", "params": {}}', 422, "invalid_request"),
        (body(program_id="shor"), 404, "program_not_found"),
        (body(program_id="qasm3-check"), 404, "program_not_found"),
        (body(backend="fake_manila@gpu"), 404, "backend_not_found"),
        (body(backend="fake_nowhere@aer"), 404, "backend_not_found"),
        (body(backend="x" * 200), 422, "invalid_request"),
        (body(params="[]"), 422, "invalid_request"),
        (body(params="{" + '"a":{' * 100_000), 400, "malformed_json"),
        (b'{"program_id":"sampler","backend":"b","params":{"a":"\xff"}}', 400, "malformed_json"),
        (body(tags=["x"] * 9), 422, "invalid_tags"),
        (body(tags=["x" * 87]), 422, "invalid_tags"),
        (body(tags=[""]), 422, "invalid_tags"),
        (body(tags=[1]), 422, "invalid_request"),
        (body(cost=0), 422, "limit_exceeded"),
        (body(cost=10**6), 422, "limit_exceeded"),
        (body(cost="1"), 422, "invalid_request"),
        (body(log_level="LOUD"), 422, "invalid_request"),
        (body(session_id="none"), 404, "session_not_found"),
        (body(calibration_id="none"), 404, "calibration_not_found"),
    ],
)
async def test_a_bad_submission_is_refused_and_stores_nothing(
    alice: httpx2.AsyncClient, raw: redis.Redis, content: bytes, status: int, code: str
) -> None:
    answer = await post(alice, content)

    refusal(answer, status, code)
    assert list(raw.scan_iter()) == []


async def test_a_body_that_is_not_json_is_refused(alice: httpx2.AsyncClient) -> None:
    answer = await alice.post(f"{API}/jobs", content=body(), headers={"content-type": "text/xml"})

    refusal(answer, 415, "unsupported_media_type")


async def test_the_guard_refuses_in_the_same_shape(alice: httpx2.AsyncClient) -> None:
    answer = await alice.get(f"{API}/jobs?program={'x' * 5000}")

    refusal(answer, 414, "uri_too_long")


async def test_a_path_that_is_not_there_is_refused_in_the_same_shape(
    alice: httpx2.AsyncClient,
) -> None:
    refusal(await alice.get(f"{API}/nothing"), 404, "not_found")


# --- repetition -----------------------------------------------------------------------------------


async def test_the_same_job_submitted_twice_is_two_jobs(
    alice: httpx2.AsyncClient, raw: redis.Redis
) -> None:
    first, second = await created(alice), await created(alice)

    assert first != second
    assert [key for key in raw.scan_iter() if key.startswith("unanswered")] == []


async def test_the_same_job_submitted_at_once_is_as_many_jobs(alice: httpx2.AsyncClient) -> None:
    jobs = await asyncio.gather(*(created(alice) for _ in range(5)))

    assert len(set(jobs)) == 5


async def test_a_repetition_after_a_lost_answer_is_the_same_job(
    app: FastAPI, alice: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    dispatcher = app.state.services.dispatcher
    add = dispatcher.submit
    stored = []

    async def lose(*arguments: Any) -> None:
        stored.append((await add(*arguments)).id)
        raise Unavailable("Redis does not answer", component="redis")

    with monkeypatch.context() as patch:
        patch.setattr(dispatcher, "submit", lose)
        refusal(await post(alice, body()), 503, "unavailable")

    assert await created(alice) == stored[0]
    assert await created(alice) != stored[0], "that one was answered"


async def test_a_deletion_repeated_after_a_lost_answer_is_no_fault(
    app: FastAPI, alice: httpx2.AsyncClient, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    dispatcher = app.state.services.dispatcher
    remove = dispatcher.delete
    job_id = await created(alice)

    async def lose(*arguments: Any) -> None:
        await remove(*arguments)
        raise Unavailable("Redis does not answer", component="redis")

    with monkeypatch.context() as patch:
        patch.setattr(dispatcher, "delete", lose)
        refusal(await alice.delete(f"{API}/jobs/{job_id}"), 503, "unavailable")

    refusal(await alice.get(f"{API}/jobs/{job_id}"), 404, "job_not_found")
    async with client_of(app, "bob") as bob:
        refusal(await bob.delete(f"{API}/jobs/{job_id}"), 404, "job_not_found")
    assert (await alice.delete(f"{API}/jobs/{job_id}")).status_code == 204
    refusal(await alice.delete(f"{API}/jobs/{job_id}"), 404, "job_not_found")
    assert [key for key in raw.scan_iter() if key.startswith("unanswered")] == []


async def test_an_idempotency_key_decides_when_there_is_one(alice: httpx2.AsyncClient) -> None:
    first = (await post(alice, body(), **{"idempotency-key": "k"})).json()["id"]

    again = await post(alice, body(), **{"idempotency-key": "k"})
    other = await post(alice, body(tags=["x"]), **{"idempotency-key": "k"})

    assert again.json()["id"] == first
    refusal(other, 422, "idempotency_conflict")


# --- lists ----------------------------------------------------------------------------------------


async def test_an_empty_page_counts_up_to_its_offset(alice: httpx2.AsyncClient) -> None:
    for _ in range(3):
        await created(alice)

    page = (await alice.get(f"{API}/jobs?limit=2&offset=2")).json()
    beyond = (await alice.get(f"{API}/jobs?limit=2&offset=7")).json()

    assert (len(page["jobs"]), page["count"]) == (1, 3)
    assert beyond == {"jobs": [], "count": 7, "limit": 2, "offset": 7}


async def test_filters_are_the_protocols(alice: httpx2.AsyncClient, worker: ClaimStore) -> None:
    a = await created(alice, tags=["x", "y"])
    end(worker, claim(worker))
    b = await created(alice, tags=["x"], program_id="estimator", backend="simulator@aer")

    async def ids(query: str) -> list[str]:
        answer = await alice.get(f"{API}/jobs?{query}")
        assert answer.status_code == 200, answer.text
        return [job["id"] for job in answer.json()["jobs"]]

    first_created = (await alice.get(f"{API}/jobs/{a}")).json()["created"]
    assert await ids("") == [b, a]
    assert await ids("sort=ASC") == [a, b]
    assert await ids("tags=x&tags=y") == [a]
    assert await ids("pending=true") == [b]
    assert await ids("pending=false&program=sampler") == [a]
    assert await ids("backend=fake_manila%40aer") == [a]
    assert await ids(f"created_before={first_created}") == [a]
    assert await ids("created_after=2999-01-01T00:00:00Z") == []
    assert PARAMS in (await alice.get(f"{API}/jobs?exclude_params=false")).text


@pytest.mark.parametrize("query", ["limit=0", "limit=1000", "offset=-1", "sort=UP", "pending=x"])
async def test_a_bad_filter_is_refused(alice: httpx2.AsyncClient, query: str) -> None:
    refusal(await alice.get(f"{API}/jobs?{query}"), 422, "invalid_request")


# --- what else happens to jobs ----------------------------------------------------------------------


async def test_tags_are_replaced_with_204(alice: httpx2.AsyncClient) -> None:
    job_id = await created(alice, tags=["old"])

    answer = await alice.put(f"{API}/jobs/{job_id}/tags", json={"tags": ["new"]})

    assert answer.status_code == 204
    assert (await alice.get(f"{API}/jobs/{job_id}")).json()["tags"] == ["new"]
    refusal(await alice.put(f"{API}/jobs/{job_id}/tags", json={"tags": "new"}), 422, "invalid_tags")


async def test_cancel_is_final_and_happens_once(
    alice: httpx2.AsyncClient, worker: ClaimStore
) -> None:
    queued, running = await created(alice), await created(alice)
    await alice.post(f"{API}/jobs/{queued}/cancel")
    found = claim(worker)
    assert found.job.id == running

    answer = await alice.post(f"{API}/jobs/{running}/cancel")

    assert answer.status_code == 204
    end(worker, found)
    for job_id in (queued, running):
        document = (await alice.get(f"{API}/jobs/{job_id}")).json()
        assert document["status"] == "Cancelled"
        refusal(await alice.post(f"{API}/jobs/{job_id}/cancel"), 409, "job_is_final")


async def test_a_deleted_job_is_gone(alice: httpx2.AsyncClient) -> None:
    job_id = await created(alice)

    assert (await alice.delete(f"{API}/jobs/{job_id}")).status_code == 204

    refusal(await alice.get(f"{API}/jobs/{job_id}"), 404, "job_not_found")
    refusal(await alice.delete(f"{API}/jobs/{job_id}"), 404, "job_not_found")


async def test_a_private_job_shows_its_result_once_and_its_params_never(
    alice: httpx2.AsyncClient, worker: ClaimStore
) -> None:
    job_id = await created(alice, private=True)
    end(worker, claim(worker))

    document = (await alice.get(f"{API}/jobs/{job_id}")).json()
    listed = (await alice.get(f"{API}/jobs?exclude_params=false")).json()["jobs"][0]
    reads = await asyncio.gather(*(alice.get(f"{API}/jobs/{job_id}/results") for _ in range(4)))

    assert document["private"] is True
    assert "params" not in document
    assert "params" not in listed
    assert sorted(read.status_code for read in reads) == [200, 204, 204, 204]


async def test_metrics_and_logs_tell_what_happened(
    alice: httpx2.AsyncClient, worker: ClaimStore, raw: redis.Redis
) -> None:
    job_id = await created(alice)
    queued = (await alice.get(f"{API}/jobs/{job_id}/metrics")).json()
    found = claim(worker)
    raw.hincrby(f"job:{job_id}", "started", -2000)
    end(worker, found, log="it ran", metadata={"versions": {"qiskit": "2"}, "executor": "aer"})

    metrics = (await alice.get(f"{API}/jobs/{job_id}/metrics")).json()
    logs = await alice.get(f"{API}/jobs/{job_id}/logs")
    usage = (await alice.get(f"{API}/instances/usage")).json()

    assert (queued["position_in_queue"], queued["usage"]["status"]) == (1, "pending")
    assert queued["timestamps"]["running"] is None
    assert metrics["usage"]["status"] == "complete"
    assert metrics["bss"]["seconds"] >= 2
    assert metrics["qiskit_version"] == "2"
    assert metrics["timestamps"]["finished"] >= metrics["timestamps"]["running"]
    assert (logs.text, logs.headers["content-type"]) == ("it ran", "text/plain; charset=utf-8")
    assert usage["usage_consumed_seconds"] == round(metrics["bss"]["seconds"])
    assert usage["instance_id"].startswith("crn:v1:")
    assert isinstance(usage["usage_consumed_seconds"], int)


# --- sessions -------------------------------------------------------------------------------------


async def opened(client: httpx2.AsyncClient, **members: Any) -> dict[str, Any]:
    answer = await client.post(
        f"{API}/sessions",
        json={"mode": "dedicated", "backend": "fake_manila@aer", "instance": "crn", **members},
    )
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def test_a_session_lives_from_open_to_closed(
    alice: httpx2.AsyncClient, worker: ClaimStore
) -> None:
    session = await opened(alice, max_ttl=300)
    path = f"{API}/sessions/{session['id']}"
    assert (session["state"], session["max_ttl"], session["accepting_jobs"]) == ("open", 300, True)

    job_id = await created(alice, session_id=session["id"])
    found = claim(worker)
    active = (await alice.get(path)).json()
    assert (await alice.patch(path, json={"accepting_jobs": False})).status_code == 204
    refusal(await post(alice, body(session_id=session["id"])), 400, "session_closed")
    end(worker, found)
    closed = (await alice.get(path)).json()

    assert active["state"] == "active"
    assert active["started_at"]
    assert active["elapsed_time"] >= 0
    assert closed["state"] == "closed"
    assert [entry["status"] for entry in closed["timestamps"]] == ["open", "active", "closed"]
    assert (await alice.get(f"{API}/jobs/{job_id}")).json()["session_id"] == session["id"]
    listed = (await alice.get(f"{API}/jobs?session_id={session['id']}")).json()["jobs"]
    assert [job["id"] for job in listed] == [job_id]


async def test_closing_a_session_cancels_what_waits(alice: httpx2.AsyncClient) -> None:
    session = await opened(alice, mode="batch")
    job_id = await created(alice, session_id=session["id"])

    answer = await alice.delete(f"{API}/sessions/{session['id']}/close")

    assert answer.status_code == 204
    state = (await alice.get(f"{API}/jobs/{job_id}")).json()["state"]
    assert (state["status"], state["reason_code"]) == ("Cancelled", 3007)
    again = await alice.delete(f"{API}/sessions/{session['id']}/close")
    assert again.status_code == 204


@pytest.mark.parametrize(
    ("members", "status", "code"),
    [
        ({"mode": "exclusive"}, 422, "invalid_request"),
        ({"backend": None}, 422, "invalid_request"),
        ({"backend": "fake_nowhere@aer"}, 404, "backend_not_found"),
        ({"max_ttl": 0}, 422, "limit_exceeded"),
        ({"max_ttl": 10**9}, 422, "limit_exceeded"),
        ({"max_ttl": "1h"}, 422, "invalid_request"),
    ],
)
async def test_a_bad_session_is_refused_and_stores_nothing(
    alice: httpx2.AsyncClient,
    raw: redis.Redis,
    members: dict[str, Any],
    status: int,
    code: str,
) -> None:
    answer = await alice.post(
        f"{API}/sessions", json={"mode": "dedicated", "backend": "fake_manila@aer", **members}
    )

    refusal(answer, status, code)
    assert list(raw.scan_iter()) == []


async def test_workloads_are_listed_and_narrowed(
    alice: httpx2.AsyncClient, worker: ClaimStore
) -> None:
    job = await created(alice, tags=["x"])
    end(worker, claim(worker))
    session = (await opened(alice))["id"]
    batch = (await opened(alice, mode="batch"))["id"]
    await created(alice, session_id=batch)

    async def ids(query: str = "") -> list[str]:
        answer = await alice.get(f"{API}/workloads?{query}")
        assert answer.status_code == 200, answer.text
        return [workload["id"] for workload in answer.json()["workloads"]]

    assert await ids() == [batch, session, job]
    assert await ids("sort=createdAt") == [job, session, batch]
    assert await ids("mode=session") == [session]
    assert await ids("status=completed&tags=x") == [job]
    first = (await alice.get(f"{API}/workloads?limit=2")).json()
    second = (await alice.get(f"{API}/workloads?limit=2&next={first['next']['next']}")).json()
    back = await alice.get(f"{API}/workloads?limit=2&previous={second['previous']['previous']}")
    assert [workload["id"] for workload in second["workloads"]] == [job]
    assert back.json()["workloads"] == first["workloads"]
    assert first["total_count"] == second["total_count"] == back.json()["total_count"] == 3


async def test_workloads_are_counted_as_they_are_narrowed(
    alice: httpx2.AsyncClient, worker: ClaimStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account, "READ_AT_ONCE", 2)
    first = (await alice.get(f"{API}/jobs/{await created(alice, tags=['xyz'])}")).json()
    end(worker, claim(worker))
    for _ in range(4):
        await created(alice, tags=["y"])
    await opened(alice)
    born = f"created_before={first['created']}"

    async def listed(query: str) -> tuple[int, int]:
        answer = (await alice.get(f"{API}/workloads?{query}")).json()
        return answer["total_count"], len(answer["workloads"])

    assert await listed("") == (6, 6)
    assert await listed("mode=job&limit=3") == (5, 3)
    assert await listed("tags=y") == (4, 4)
    assert await listed("status=completed") == (1, 1)
    assert await listed("search=yz") == (1, 1)
    assert await listed("search=manila&limit=1") == (6, 1)
    assert await listed("backend=nothing") == (0, 0)
    assert await listed(born) == (1, 1)
    assert await listed(f"{born}&mode=session") == (0, 0)
    newest = (await alice.get(f"{API}/workloads?mode=job&limit=2")).json()
    assert await listed(f"mode=job&limit=2&next={newest['next']['next']}") == (5, 2)
    monkeypatch.setattr(account, "LOOKED_AT", 4)
    assert await listed("mode=job") == (3, 3)
    assert await listed("limit=1") == (6, 1)


# --- everybody for themselves -----------------------------------------------------------------------


@pytest.mark.parametrize("stranger", ["bob", "alice/other"])
async def test_nothing_of_another_scope_is_visible_or_touched(
    app: FastAPI, alice: httpx2.AsyncClient, raw: redis.Redis, worker: ClaimStore, stranger: str
) -> None:
    done = await created(alice, tags=["x"])
    end(worker, claim(worker), log="secret")
    queued = await created(alice, tags=["x"])
    session = (await opened(alice))["id"]
    before = everything(raw)

    async with client_of(app, stranger) as other:
        for job in (done, queued):
            for method, path, content in JOB_ROUTES:
                answer = await other.request(method, f"{API}/jobs/{job}{path}", json=content)
                refusal(answer, 404, "job_not_found")
            assert (await other.get(f"/tasks/{job}")).status_code == 404
            assert (await other.delete(f"/tasks/{job}")).status_code == 404
        for method, path, content in SESSION_ROUTES:
            answer = await other.request(method, f"{API}/sessions/{session}{path}", json=content)
            refusal(answer, 404, "session_not_found")
        refusal(await post(other, body(session_id=session)), 404, "session_not_found")
        for query in ("", "?tags=x", f"?session_id={session}", "?pending=true"):
            page = (await other.get(f"{API}/jobs{query}")).json()
            assert (page["jobs"], page["count"]) == ([], 0)
        assert (await other.get(f"{API}/workloads")).json()["total_count"] == 0
        assert (await other.get(f"{API}/instances/usage")).json()["usage_consumed_seconds"] == 0
        assert (await other.get("/tasks")).json() == {"tasks": []}

    assert everything(raw) == before


# --- errors ---------------------------------------------------------------------------------------


def test_every_error_has_a_number_and_no_two_share_one_by_accident() -> None:
    assert len(set(NUMBERS.values())) == len(NUMBERS)
    assert all(number_of(error) in NUMBERS.values() for error in failures(ServiceError))


# --- on the wire ----------------------------------------------------------------------------------


async def test_a_client_that_hangs_up_before_its_answer_gets_the_same_job_next_time(
    app: FastAPI, serve: Callable[[FastAPI], tuple[str, int]], alice: httpx2.AsyncClient
) -> None:
    host, port = serve(app)
    dispatcher = app.state.services.dispatcher
    submit, stored = dispatcher.submit, asyncio.Event()
    hung_up = asyncio.Event()

    async def slowly(*arguments: Any) -> Any:
        job = await submit(*arguments)
        stored.set()
        await hung_up.wait()
        return job

    dispatcher.submit = slowly
    content = body()
    _, writer = await asyncio.open_connection(host, port)
    head = (
        f"POST {API}/jobs HTTP/1.1\r\nHost: x\r\nAuthorization: alice\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    writer.write(head.encode() + content)
    await stored.wait()
    writer.close()
    await writer.wait_closed()
    # The server sees it with its next turn of the event loop.
    await asyncio.sleep(0.05)
    hung_up.set()
    await asyncio.sleep(0.05)
    dispatcher.submit = submit

    first, second = await created(alice), await created(alice)

    jobs = (await alice.get(f"{API}/jobs")).json()["jobs"]
    assert {job["id"] for job in jobs} == {first, second}


async def test_every_route_with_an_id_is_tried_by_a_stranger(app: FastAPI) -> None:
    document = app.openapi()

    tried = {
        (method.upper(), path)
        for path, item in document["paths"].items()
        for method in item
        if re.search(r"\{(job|session|task)_id\}", path)
    }

    assert tried == {
        *((method, f"{API}/jobs/{{job_id}}{path}") for method, path, _ in JOB_ROUTES),
        *((method, f"{API}/sessions/{{session_id}}{path}") for method, path, _ in SESSION_ROUTES),
        ("GET", "/tasks/{task_id}"),
        ("DELETE", "/tasks/{task_id}"),
    }
