"""Backends over HTTP: the list, the documents, how busy they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from app.api.runtime.errors import MOUNTS
from app.auth.identity import OpenIdentity
from app.errors import NotAuthorized, Unavailable
from app.jobs.snapshot import Fleet

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx2
    from fastapi import FastAPI

    from app.backends.catalog import Catalog
    from tests.api.fakes import FakeDispatcher

pytestmark = pytest.mark.anyio

API = "/api/v1/backends"
NEW = {"IBM-API-Version": "2026-04-15"}


class NobodyComesIn(OpenIdentity):
    async def principal(
        self, *, authorization: str | None, instance: str | None, address: str = ""
    ) -> object:
        message = "no"
        raise NotAuthorized(message)


@pytest.mark.parametrize("mount", MOUNTS)
async def test_the_list_says_what_each_backend_is_and_how_it_is(
    client: httpx2.AsyncClient, mount: str
) -> None:
    answer = await client.get(f"{mount}/backends", headers=NEW)

    listed = {entry["name"]: entry for entry in answer.json()["devices"]}
    assert answer.status_code == 200
    assert len(listed) == 69 * 3 + 1
    assert listed["fake_manila@aer"] == {
        "name": "fake_manila@aer",
        "status": {"name": "online", "reason": "available"},
        "queue_length": 3,
        "qubits": 5,
        "physical_qubits": 5,
        "is_simulator": False,
        "processor_type": {"family": "Falcon", "revision": "5.11", "segment": "L"},
    }
    assert listed["fake_fez@noisy"]["physical_qubits"] == 332
    assert listed["simulator@noisy"]["is_simulator"]
    assert listed["simulator@noisy"]["qubits"] == 33
    assert listed["ibm_lab"]["queue_length"] == 0
    assert listed["fake_manila@auto"]["status"]["name"] == "paused"
    assert listed["fake_manila@auto"]["queue_length"] == 1


async def test_mocks_are_listed_for_those_who_ask(client: httpx2.AsyncClient) -> None:
    without = (await client.get(API, headers=NEW)).json()["devices"]
    listed = (await client.get(API, params={"include_mocks": True}, headers=NEW)).json()["devices"]

    mocks = {entry["name"] for entry in listed if entry.get("class") == "mock"}
    assert [entry for entry in listed if "class" not in entry] == without
    assert {"mock_manila@aer", "mock_lab", "mock"} <= mocks
    assert len(mocks) == 68 * 3 + 2


@pytest.mark.parametrize("headers", [{}, {"IBM-API-Version": "2024-01-01"}])
async def test_early_clients_get_names(client: httpx2.AsyncClient, headers: dict[str, str]) -> None:
    names = (await client.get(API, headers=headers)).json()["devices"]

    assert names[:3] == ["ibm_lab", "simulator@aer", "simulator@auto"]
    assert len(names) == 69 * 3 + 1


async def test_the_list_follows_the_fleet(
    client: httpx2.AsyncClient, dispatcher: FakeDispatcher
) -> None:
    await client.get(API, headers=NEW)
    dispatcher.current_fleet = Fleet(
        live=frozenset({"gpu"}), queued={"aer": 7, "gpu": 0}, max_qubits=None
    )

    listed = {
        entry["name"]: entry for entry in (await client.get(API, headers=NEW)).json()["devices"]
    }

    assert listed["simulator@gpu"]["status"]["name"] == "online"
    assert listed["simulator@gpu"]["qubits"] == 30
    assert listed["simulator@aer"]["status"]["name"] == "paused"
    assert listed["simulator@aer"]["queue_length"] == 7
    assert "simulator@noisy" not in listed


@pytest.mark.parametrize("name", ["fake_manila@aer", "simulator@noisy", "ibm_lab", "mock_lab"])
async def test_documents_carry_the_name_they_were_asked_by(
    client: httpx2.AsyncClient, name: str
) -> None:
    configuration = await client.get(f"{API}/{name}/configuration")
    properties = await client.get(f"{API}/{name}/properties")

    assert configuration.headers["content-type"] == "application/json"
    assert configuration.json()["backend_name"] == name
    if name == "simulator@noisy":
        assert configuration.json()["n_qubits"] == 33
        assert properties.json() == {}
    else:
        assert properties.json()["backend_name"] == name


@pytest.mark.parametrize("document", ["configuration", "properties"])
async def test_a_document_that_the_caller_has_is_not_sent_again(
    client: httpx2.AsyncClient, document: str
) -> None:
    path = f"{API}/fake_manila@aer/{document}"
    etag = (await client.get(path)).headers["etag"]

    known = await client.get(path, headers={"If-None-Match": f'"other", W/{etag}'})
    other = await client.get(path, headers={"If-None-Match": '"other"'})

    assert (known.status_code, known.content, known.headers["etag"]) == (304, b"", etag)
    assert other.status_code == 200
    assert other.headers["etag"] == etag
    assert etag.startswith('"')


@pytest.mark.parametrize("document", ["configuration", "properties"])
async def test_a_calibration_can_be_named_if_it_is_the_backends(
    client: httpx2.AsyncClient, document: str
) -> None:
    path = f"{API}/fake_manila@aer/{document}"
    calibration_id = (await client.get(path)).json()["calibration_id"]

    known = await client.get(path, params={"calibration_id": calibration_id})
    unknown = await client.get(path, params={"calibration_id": "yesterday"})
    others = await client.get(
        f"{API}/fake_fez@aer/{document}", params={"calibration_id": calibration_id}
    )

    assert known.status_code == 200
    assert (unknown.status_code, others.status_code) == (404, 404)
    assert calibration_id in unknown.json()["error"]["message"]


async def test_properties_of_a_day_before_the_calibration_are_the_calibrations(
    client: httpx2.AsyncClient,
) -> None:
    path = f"{API}/fake_manila@aer/properties"

    then = await client.get(path, params={"updated_before": "1999-01-01T00:00:00.000000+00:00"})

    assert then.content == (await client.get(path)).content


async def test_the_status_is_the_executors(client: httpx2.AsyncClient) -> None:
    live = (await client.get(f"{API}/fake_manila@aer/status")).json()
    idle = (await client.get(f"{API}/fake_manila@auto/status")).json()

    assert live == {
        "state": True,
        "status": "active",
        "message": "",
        "length_queue": 3,
        "backend_version": "1.2.6",
    }
    assert idle == live | {
        "state": False,
        "status": "paused",
        "message": "no worker serves 'auto' at this moment",
        "length_queue": 1,
    }


@pytest.mark.parametrize("what", ["configuration", "properties", "status"])
@pytest.mark.parametrize("name", ["fake_manilla@aer", "fake_manila@gpu", "fake_manila", "mock_x"])
async def test_a_name_that_no_backend_has_is_not_found(
    client: httpx2.AsyncClient, name: str, what: str
) -> None:
    answer = await client.get(f"{API}/{name}/{what}")

    assert answer.status_code == 404
    assert repr(name) in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["", "/simulator@aer/configuration", "/simulator@aer/status"])
async def test_a_fleet_that_cannot_be_asked_is_unavailable(
    client: httpx2.AsyncClient, dispatcher: FakeDispatcher, path: str
) -> None:
    dispatcher.outage = Unavailable("Redis does not answer", component="redis")

    assert (await client.get(API + path)).status_code == 503


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/simulator@aer/configuration",
        "/simulator@aer/properties",
        "/simulator@aer/status",
    ],
)
async def test_backends_are_for_callers_with_a_key(
    make_app: Callable[..., FastAPI],
    connect: Callable[[FastAPI], httpx2.AsyncClient],
    catalog: Catalog,
    path: str,
) -> None:
    async with connect(make_app(identity=NobodyComesIn(token_s=3600))) as client:
        assert (await client.get(API + path)).status_code == 401
