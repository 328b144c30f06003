"""Two callers on every route of the API's description: what is one's own is nobody else's.

The routes come from the OpenAPI document, so a new one is swept from the day it is there.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from app.auth.instances import Instance
from app.auth.store import KeyStore
from app.jobs.claims import ClaimStore, Finish
from app.jobs.connection import connect_gateway, connect_worker
from app.jobs.job import JobStatus

from .conftest import BELL
from .gateway import API, gateway, runtime_job

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx2
    import redis

    from app.local.valkey import EmbeddedValkey

pytestmark = pytest.mark.anyio

MARK = "the-mark-of-ana"
#: What a name in a path stands for; anything else fails the sweep until somebody says what it is.
OWNED = {"task_id": "task", "job_id": "job", "session_id": "session", "crn": "crn"}
#: Names of what all callers see.
PUBLIC = {"name", "plan", "backend", "backend_name", "device", "device_name", "driver"}
#: Bodies that a route takes; a route without one here is called with an empty object.
BODIES: dict[str, Any] = {
    "/tasks": {"circuit": BELL},
    f"{API}/jobs": runtime_job(),
    f"{API}/jobs/{{job_id}}/tags": {"tags": ["taken"]},
    f"{API}/sessions": {"mode": "batch", "backend": "simulator@aer"},
    f"{API}/sessions/{{session_id}}": {"accepting_jobs": False},
}


@dataclass(frozen=True, kw_only=True)
class Ana:
    """What one caller has, in each state there is."""

    key: str
    other_instance: str
    tasks: tuple[str, ...]
    jobs: tuple[str, ...]
    session: str
    crn: str

    def ids(self, parameter: str) -> tuple[str, ...]:
        """Everything that a name in a path may stand for."""
        if OWNED[parameter] == "session":
            return (self.session,)
        if OWNED[parameter] == "crn":
            return (self.crn,)
        return self.jobs + self.tasks


@pytest.fixture
async def keys(redis_url: str) -> AsyncIterator[KeyStore]:
    connection = connect_gateway(redis_url)
    yield KeyStore(client=connection, secret=None, bootstrap_key=None)
    await connection.aclose()


@pytest.fixture
async def client(redis_url: str, keys: KeyStore) -> AsyncIterator[httpx2.AsyncClient]:
    async with gateway(redis_url, auth="on") as made:
        yield made


def by_key(key: str, instance: str = "default") -> dict[str, str]:
    return {"authorization": f"apikey {key}", "service-crn": instance}


def finish_one(worker: ClaimStore, status: JobStatus) -> str:
    """Run what is next; gives its id."""
    _, found = worker.next(slot="0", executor="aer", wakeup="", finish=None, claim=True)
    assert found is not None
    result = json.dumps({"counts": {MARK: 1}}).encode() if status is JobStatus.COMPLETED else None
    finish = Finish(
        job_id=found.job.id, attempt=found.job.attempt, status=status, result=result, log=MARK
    )
    worker.next(slot="0", executor="aer", wakeup="", finish=finish, claim=False)
    return found.job.id


@pytest.fixture
async def ana(client: httpx2.AsyncClient, keys: KeyStore, redis_url: str) -> Ana:
    key = await keys.issue(owner="ana")
    other = await keys.issue(owner="ana", instance="lab")
    mine = by_key(key)
    tasks, jobs = [], []
    # A completed, a failed, a running and two queued ones of each kind.
    for _ in range(5):
        task = {"circuit": BELL, "tags": [MARK]}
        tasks.append((await client.post("/tasks", json=task, headers=mine)).json()["task_id"])
        job = runtime_job(tags=[MARK], params={"pubs": [], "note": MARK})
        made = await client.post(f"{API}/jobs", json=job, headers=mine)
        jobs.append(made.json()["id"])
    with connect_worker(redis_url) as connection:
        worker = ClaimStore(
            client=connection,
            worker="w1",
            lease_s=100,
            wakeup_cap=4,
            max_attempts=5,
            max_crashes=3,
            retention_s=1000,
        )
        for status in (JobStatus.COMPLETED,) * 2 + (JobStatus.FAILED,) * 2:
            finish_one(worker, status)
        for slot in ("1", "2"):
            worker.next(slot=slot, executor="aer", wakeup="", finish=None, claim=True)
    session = await client.post(f"{API}/sessions", json=BODIES[f"{API}/sessions"], headers=mine)
    return Ana(
        key=key,
        other_instance=other,
        tasks=tuple(tasks),
        jobs=tuple(jobs),
        session=session.json()["id"],
        crn=Instance(owner="ana").crn,
    )


async def routes(client: httpx2.AsyncClient) -> list[tuple[str, str, list[str]]]:
    """Method, path and names in the path of every route of the description."""
    paths = (await client.get("/openapi.json")).json()["paths"]
    return [
        (method.upper(), path, re.findall(r"{(\w+)}", path))
        for path, methods in paths.items()
        for method in methods
    ]


def everything_of_ana(raw: redis.Redis, ana: Ana) -> dict[bytes, Any]:
    """All that is kept for her, and what is queued."""
    ids = (*ana.tasks, *ana.jobs, ana.session, "ana")
    return {
        name: raw.dump(name)
        for name in raw.scan_iter()
        if any(word in name.decode() for word in ids)
    }


async def test_every_name_in_a_path_is_known_to_the_sweep(client: httpx2.AsyncClient) -> None:
    found = {name for _, _, names in await routes(client) for name in names}

    assert found - set(OWNED) - PUBLIC == set()
    assert set(OWNED) <= found


async def test_the_sweep_finds_what_is_ones_own(client: httpx2.AsyncClient, ana: Ana) -> None:
    """Else everything would be 404 for a wrong reason."""
    for method, path, names in await routes(client):
        if method != "GET" or not set(names) & set(OWNED):
            continue
        (name,) = names
        # A task is a job too, but not the other way round.
        for each in ana.tasks if name == "task_id" else ana.ids(name):
            answer = await client.get(path.replace(f"{{{name}}}", each), headers=by_key(ana.key))
            assert answer.status_code in (200, 204), (path, each, answer.text)


@pytest.mark.parametrize("who", ["bob", "ana's other instance"])
async def test_on_every_route_anothers_id_is_404_and_nothing_changes(
    client: httpx2.AsyncClient,
    keys: KeyStore,
    valkey_server: EmbeddedValkey,
    ana: Ana,
    who: str,
) -> None:
    bob = await keys.issue(owner="bob")
    headers = by_key(bob) if who == "bob" else by_key(ana.other_instance, "lab")
    swept = 0
    with valkey_server.client() as raw:
        before = everything_of_ana(raw, ana)
        for method, path, names in await routes(client):
            owned = [name for name in names if name in OWNED]
            if not owned:
                continue
            (name,) = owned
            if OWNED[name] == "crn" and who != "bob":
                continue  # An owner's instances are one owner's.
            for each in ana.ids(name):
                answer = await client.request(
                    method,
                    path.replace(f"{{{name}}}", each),
                    headers=headers,
                    json=BODIES.get(path, {}),
                )
                assert answer.status_code == 404, (method, path, answer.status_code, answer.text)
                assert MARK not in answer.text
                swept += 1
        assert everything_of_ana(raw, ana) == before
    assert swept >= 90


@pytest.mark.parametrize("who", ["bob", "ana's other instance"])
async def test_no_route_without_an_id_tells_of_another_callers_things(
    client: httpx2.AsyncClient,
    keys: KeyStore,
    valkey_server: EmbeddedValkey,
    ana: Ana,
    who: str,
) -> None:
    bob = await keys.issue(owner="bob")
    headers = by_key(bob) if who == "bob" else by_key(ana.other_instance, "lab")
    secrets = (MARK, ana.key, ana.session, *ana.tasks, *ana.jobs)
    with valkey_server.client() as raw:
        kept = {name: raw.dump(name) for name in raw.scan_iter("job:*")}
        for method, path, names in await routes(client):
            if set(names) & set(OWNED):
                continue
            concrete = re.sub(r"{\w+}", "simulator@aer", path)
            answer = await client.request(
                method, concrete, headers=headers, json=BODIES.get(path, {})
            )
            assert answer.status_code < 500 or path.startswith("/health"), (method, path)
            assert not any(secret in answer.text for secret in secrets), (method, path)
        assert {name: raw.dump(name) for name in kept} == kept


@pytest.mark.parametrize("who", ["bob", "ana's other instance"])
async def test_filters_narrow_ones_own_and_reach_no_further(
    client: httpx2.AsyncClient, keys: KeyStore, ana: Ana, who: str
) -> None:
    bob = await keys.issue(owner="bob")
    headers = by_key(bob) if who == "bob" else by_key(ana.other_instance, "lab")

    for query in (
        f"tags={MARK}",
        f"session_id={ana.session}",
        "backend=simulator@aer",
        "pending=1",
    ):
        listed = (await client.get(f"{API}/jobs?{query}", headers=headers)).json()
        assert (listed["jobs"], listed["count"]) == ([], 0), query
    for query in (f"search={ana.jobs[0]}", f"tags={MARK}"):
        found = (await client.get(f"{API}/workloads?{query}", headers=headers)).json()
        assert (found["workloads"], found["total_count"]) == ([], 0), query


async def test_a_job_cannot_enter_anothers_session(
    client: httpx2.AsyncClient, keys: KeyStore, ana: Ana
) -> None:
    bob = by_key(await keys.issue(owner="bob"))

    answer = await client.post(f"{API}/jobs", json=runtime_job(session_id=ana.session), headers=bob)

    assert (answer.status_code, answer.json()["errors"][0]["more_info"]) == (
        404,
        "session_not_found",
    )
    assert (await client.get(f"{API}/jobs", headers=bob)).json()["jobs"] == []


async def test_the_same_request_of_two_callers_is_two_jobs(
    client: httpx2.AsyncClient, keys: KeyStore, ana: Ana
) -> None:
    bob = by_key(await keys.issue(owner="bob"))
    sent = {"json": {"circuit": BELL}}

    first, second = [
        await client.post("/tasks", headers=headers | {"idempotency-key": "same"}, **sent)
        for headers in (by_key(ana.key), bob)
    ]

    assert first.json()["task_id"] != second.json()["task_id"]
