"""Signing in over HTTP, and what is asked of callers then."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import jwt
import pytest

from app.api.identity import FORM_BYTES, GRANT_TYPE
from app.auth.identity import KeyedIdentity
from app.auth.instances import Instance
from app.auth.keys import id_of, new_key
from app.auth.store import KeyStore
from app.jobs.connection import connect_gateway

from .conftest import BELL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import httpx2
    from fastapi import FastAPI

    from .fakes import FakeDispatcher

pytestmark = pytest.mark.anyio

BOOTSTRAP = "set-by-the-operator"
VALID = f"grant_type={quote(GRANT_TYPE)}&apikey={BOOTSTRAP}"
FORM = {"content-type": "application/x-www-form-urlencoded"}


@pytest.fixture
async def keys(redis_url: str) -> AsyncIterator[KeyStore]:
    connection = connect_gateway(redis_url)
    yield KeyStore(client=connection, secret=None, bootstrap_key=BOOTSTRAP)
    await connection.aclose()


@pytest.fixture
async def keyed(
    make_app: Callable[..., FastAPI],
    connect: Callable[[FastAPI], httpx2.AsyncClient],
    keys: KeyStore,
) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of a service that asks for keys."""
    app = make_app(auth="on", identity=KeyedIdentity(store=keys, token_s=600))
    async with connect(app) as made:
        yield made


def by_key(key: str, **headers: str) -> dict[str, str]:
    return {"authorization": f"apikey {key}"} | headers


def form_of(key: str) -> dict[str, str]:
    """The form as the SDK of Qiskit's client sends it."""
    return {"grant_type": GRANT_TYPE, "apikey": key, "response_type": "cloud_iam"}


async def token_of(client: httpx2.AsyncClient, key: str) -> str:
    answer = await client.post("/identity/token", data=form_of(key))
    assert answer.status_code == 200, answer.text
    return str(answer.json()["access_token"])


async def test_the_log_says_who_sent_a_request(
    keyed: httpx2.AsyncClient, keys: KeyStore, events: list[dict[str, object]]
) -> None:
    key = await keys.issue(owner="ana")

    await keyed.get("/tasks", headers=by_key(key))
    await keyed.get("/tasks", headers=by_key(new_key()))

    known, unknown = (event for event in events if event["event"] == "http_request_finished")
    assert (known["owner"], known["key_id"], known["status"]) == ("ana", id_of(key), 200)
    assert unknown["status"] == 401
    assert "owner" not in unknown


# --- tokens ---------------------------------------------------------------------------------------


async def test_a_key_is_changed_into_a_token(keyed: httpx2.AsyncClient, keys: KeyStore) -> None:
    key = await keys.issue(owner="ana")

    answer = await keyed.post("/identity/token", data=form_of(key))

    document = answer.json()
    claims = jwt.decode(document.pop("access_token"), options={"verify_signature": False})
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert abs(document.pop("expiration") - time.time() - 600) < 60
    assert document == {
        "refresh_token": "not_supported",
        "token_type": "Bearer",
        "expires_in": 600,
        "scope": "ibm openid",
    }
    assert (claims["iss"], claims["sub"]) == ("qfleet", id_of(key))
    assert (type(claims["iat"]), type(claims["exp"])) == (int, int)


async def test_an_unknown_key_is_refused_in_the_words_of_ibm(
    keyed: httpx2.AsyncClient, keys: KeyStore
) -> None:
    revoked = await keys.issue(owner="ana")
    await keys.revoke(id_of(revoked))

    for key in (new_key(), "mistyped", revoked):
        answer = await keyed.post("/identity/token", data=form_of(key))

        assert answer.status_code == 400
        assert answer.json() == {
            "errorCode": "BXNIM0415E",
            "errorMessage": "Provided API key could not be found.",
        }


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"", FORM, 422, "invalid_request"),
        (f"apikey={BOOTSTRAP}".encode(), FORM, 422, "invalid_request"),
        (f"grant_type=password&apikey={BOOTSTRAP}".encode(), FORM, 422, "invalid_request"),
        (f"grant_type={quote(GRANT_TYPE)}".encode(), FORM, 422, "invalid_request"),
        (f"grant_type={quote(GRANT_TYPE)}&apikey=".encode(), FORM, 422, "invalid_request"),
        (f"{VALID}&apikey={BOOTSTRAP}".encode(), FORM, 422, "invalid_request"),
        (b"grant_type&apikey", FORM, 422, "invalid_request"),
        (b"\xff=\xff", FORM, 422, "invalid_request"),
        (b"a=%ff", FORM, 422, "invalid_request"),
        (
            f"{VALID}&{'&'.join(f'a{i}=b' for i in range(15))}".encode(),
            FORM,
            422,
            "invalid_request",
        ),
        (b"a=" + b"b" * FORM_BYTES, FORM, 413, "body_too_large"),
        (b"{}", {"content-type": "application/json"}, 415, "unsupported_media_type"),
        (b"a=b", {}, 415, "unsupported_media_type"),
    ],
)
async def test_what_is_no_form_with_a_key_has_no_token(
    keyed: httpx2.AsyncClient, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    answer = await keyed.post("/identity/token", content=body, headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert "access_token" not in answer.text


async def test_where_nobody_is_asked_every_key_and_token_is_taken(
    client: httpx2.AsyncClient,
) -> None:
    token = await token_of(client, "anything")

    for authorization in (f"Bearer {token}", "Bearer x.y.z", "apikey x", "nonsense"):
        headers = {"authorization": authorization, "service-crn": "somewhere else"}
        assert (await client.get("/tasks", headers=headers)).status_code == 200


# --- who may call ---------------------------------------------------------------------------------

ASKED = [
    ("POST", "/tasks"),
    ("GET", "/tasks"),
    ("GET", "/tasks/x"),
    ("DELETE", "/tasks/x"),
    ("POST", "/v3/resources/search"),
    ("GET", "/catalog/open"),
    ("GET", "/v2/resource_instances"),
    ("GET", "/v2/resource_instances/x"),
]


@pytest.mark.parametrize(("method", "path"), ASKED)
@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "not_authorized"),
        ({"authorization": "Basic YTpi"}, "not_authorized"),
        ({"authorization": f"apikey {new_key()}"}, "invalid_key"),
        ({"authorization": "Bearer a.b.c"}, "invalid_token"),
    ],
)
async def test_without_a_valid_credential_nothing_is_done(
    keyed: httpx2.AsyncClient,
    dispatcher: FakeDispatcher,
    *,
    method: str,
    path: str,
    headers: dict[str, str],
    code: str,
) -> None:
    body = {"json": {"circuit": BELL}} if method == "POST" else {}

    answer = await keyed.request(method, path, headers=headers, **body)

    assert (answer.status_code, answer.json()["code"]) == (401, code)
    assert answer.headers["www-authenticate"] == 'Bearer realm="qfleet"'
    assert (dispatcher.jobs, dispatcher.calls) == ({}, 0)


OPEN = {
    "/",
    "/identity/token",
    "/health",
    "/health/live",
    "/health/ready",
    "/health/redis",
    "/health/celery",
    "/metrics",
    "/metrics.json",
    "/api/v1/versions",
}


async def test_every_route_asks_for_a_key_unless_it_says_how_the_service_is(
    keyed: httpx2.AsyncClient, dispatcher: FakeDispatcher
) -> None:
    paths = (await keyed.get("/openapi.json")).json()["paths"]

    answers = {
        (method, path): (
            await keyed.request(method, re.sub(r"{\w+}", "x", path), json={})
        ).status_code
        for path, methods in paths.items()
        for method in methods
        if path not in OPEN
    }

    assert len(answers) > len(ASKED)
    assert {asked for asked, status in answers.items() if status != 401} == set()
    assert dispatcher.calls == 0


@pytest.mark.parametrize(
    "path", ["/", "/health", "/health/live", "/health/ready", "/metrics", "/docs", "/openapi.json"]
)
async def test_what_says_how_the_service_is_asks_for_no_key(
    keyed: httpx2.AsyncClient, path: str
) -> None:
    assert (await keyed.get(path)).status_code == 200


@pytest.mark.parametrize("scheme", ["apikey {key}", "Bearer {key}", "Bearer {token}"])
async def test_who_has_a_key_may_call(
    keyed: httpx2.AsyncClient, keys: KeyStore, dispatcher: FakeDispatcher, scheme: str
) -> None:
    key = await keys.issue(owner="ana", instance="lab")
    authorization = scheme.format(key=key, token=await token_of(keyed, key))

    answer = await keyed.post(
        "/tasks",
        json={"circuit": BELL},
        headers={"authorization": authorization, "service-crn": "lab"},
    )

    assert answer.status_code == 200
    assert [job.scope for job in dispatcher.jobs.values()] == ["ana:lab"]


async def test_a_caller_sees_only_the_tasks_of_their_own_instance(
    keyed: httpx2.AsyncClient, keys: KeyStore
) -> None:
    ana, bob = [await keys.issue(owner=owner, instance="lab") for owner in ("ana", "bob")]
    made = await keyed.post("/tasks", json={"circuit": BELL}, headers=by_key(ana))
    path = made.headers["location"]

    assert (await keyed.get(path, headers=by_key(ana))).status_code == 200
    for headers in (by_key(bob), by_key(ana, **{"service-crn": "lab"})):
        assert (await keyed.get(path, headers=headers)).status_code == 404
        assert (await keyed.get("/tasks", headers=headers)).json()["tasks"] == []


async def test_an_instance_of_somebody_else_is_not_there(
    keyed: httpx2.AsyncClient, keys: KeyStore, dispatcher: FakeDispatcher
) -> None:
    await keys.issue(owner="bob", instance="lab")
    headers = by_key(BOOTSTRAP, **{"service-crn": Instance(owner="bob", name="lab").crn})

    answer = await keyed.post("/tasks", json={"circuit": BELL}, headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (404, "instance_not_found")
    assert dispatcher.jobs == {}


@pytest.mark.parametrize(
    ("server", "status"),
    [
        (("127.0.0.1", 8000), 200),
        (("::1", 8000), 200),
        (("::ffff:127.0.0.1", 8000), 200),
        (("/run/qfleet.sock", None), 200),
        (("192.168.0.7", 8000), 401),
        (("::ffff:192.168.0.7", 8000), 401),
        (("fe80::1", 8000), 401),
    ],
)
async def test_an_open_service_is_open_on_loopback_only_however_it_was_started(
    make_app: Callable[..., FastAPI], server: tuple[str, int | None], status: int
) -> None:
    assert await status_on(make_app(), server) == status
    assert await status_on(make_app(auth="off"), server) == 200


async def status_on(app: FastAPI, server: tuple[str, int | None]) -> int:
    """The answer to a request that came in at this address of ours."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/tasks",
        "raw_path": b"/tasks",
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
        "client": ("127.0.0.1", 1),
        "server": server,
    }
    await app(scope, receive, send)  # type: ignore[arg-type]
    return int(sent[0]["status"])


# --- instances ------------------------------------------------------------------------------------


async def test_a_caller_finds_their_instances(keyed: httpx2.AsyncClient, keys: KeyStore) -> None:
    key = await keys.issue(owner="ana", instance="lab", plan="internal")
    await keys.issue(owner="bob", instance="other")

    answer = await keyed.post(
        "/v3/resources/search?limit=100",
        json={"query": "service_name:quantum-computing", "fields": ["crn"]},
        headers=by_key(key),
    )

    found = answer.json()
    assert [(item["name"], item["service_plan_unique_id"]) for item in found["items"]] == [
        ("default", "open"),
        ("lab", "internal"),
    ]
    assert found["items"][1]["crn"] == Instance(owner="ana", name="lab").crn
    assert all(item["doc"]["extensions"] and item["tags"] == [] for item in found["items"])
    assert "search_cursor" not in found, "clients would ask for ever"


async def test_where_nobody_is_asked_there_is_one_instance(client: httpx2.AsyncClient) -> None:
    found = (await client.post("/v3/resources/search", json={})).json()["items"]

    assert [item["crn"] for item in found] == [Instance(owner="local").crn]


async def test_a_plan_is_described(keyed: httpx2.AsyncClient, keys: KeyStore) -> None:
    key = await keys.issue(owner="ana", plan="internal")

    document = (await keyed.get("/catalog/internal", headers=by_key(key))).json()

    assert document["overview_ui"]["en"]["display_name"].lower() == "internal"
    assert document["metadata"]["pricing"]["type"] == "free"


async def test_a_plan_that_the_caller_has_not_is_not_there(
    keyed: httpx2.AsyncClient, keys: KeyStore
) -> None:
    await keys.issue(owner="bob", plan="internal")

    for plan in ("internal", "nothing"):
        answer = await keyed.get(f"/catalog/{plan}", headers=by_key(BOOTSTRAP))
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_instances_are_resources(keyed: httpx2.AsyncClient, keys: KeyStore) -> None:
    headers = by_key(await keys.issue(owner="ana", instance="lab"))
    crn = Instance(owner="ana", name="lab").crn

    named = (await keyed.get("/v2/resource_instances?name=lab", headers=headers)).json()
    every = (await keyed.get("/v2/resource_instances", headers=headers)).json()
    one = await keyed.get(f"/v2/resource_instances/{quote(crn, safe='')}", headers=headers)

    assert [found["crn"] for found in named["resources"]] == [crn]
    assert [found["name"] for found in every["resources"]] == ["default", "lab"]
    assert named["resources"] == [one.json()]


async def test_a_resource_of_somebody_else_is_not_there(
    keyed: httpx2.AsyncClient, keys: KeyStore
) -> None:
    await keys.issue(owner="ana")
    path = f"/v2/resource_instances/{quote(Instance(owner='ana').crn, safe='')}"

    answer = await keyed.get(path, headers=by_key(BOOTSTRAP))

    assert (answer.status_code, answer.json()["code"]) == (404, "instance_not_found")


# --- hosts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    ["globalcatalog.lan", "GlobalCatalog.lan:80", "globalcatalog.qrs.example.org"],
)
async def test_the_catalogs_host_has_the_catalog_where_ibm_has_it(
    client: httpx2.AsyncClient, events: list[dict[str, object]], host: str
) -> None:
    answer = await client.get("/api/v1/open", headers={"host": host})

    assert answer.json() == (await client.get("/catalog/open")).json()
    assert events[0]["route"] == "/catalog/{plan}"


@pytest.mark.parametrize(
    "host",
    [
        "lan",
        "iam.lan",
        "quantum.lan",
        "local.quantum.lan",
        "private.local.quantum.lan",
        "api.global-search-tagging.lan",
        "resource-controller.lan",
        "globalcatalog.lan",
        "notglobalcatalog.lan",
    ],
)
async def test_every_other_path_is_the_same_on_every_host(
    client: httpx2.AsyncClient, host: str
) -> None:
    headers = {"host": host}

    await token_of(client, "anything")
    for path in ("/tasks", "/v2/resource_instances", "/catalog/open"):
        assert (await client.get(path, headers=headers)).status_code == 200
    for path in ("/api/v1", "/api/v1/open/x"):
        assert (await client.get(path, headers=headers)).status_code == 404
    if host != "globalcatalog.lan":
        assert (await client.get("/api/v1/open", headers=headers)).status_code == 404
