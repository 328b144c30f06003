"""Does every failure get an answer of one shape?"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import pytest

from app import errors
from app.api.errors import STATUS, problem_of, status_of
from app.errors import InvalidRequest, JobFailure, ServiceError

if TYPE_CHECKING:
    import httpx2

    from tests.api.fakes import FakeDispatcher

pytestmark = pytest.mark.anyio

DELIBERATE = [
    cls
    for _, cls in inspect.getmembers(errors, inspect.isclass)
    if issubclass(cls, ServiceError) and cls is not ServiceError and not issubclass(cls, JobFailure)
]


@pytest.mark.parametrize("cls", DELIBERATE)
def test_every_failure_a_caller_can_meet_has_a_status(cls: type[ServiceError]) -> None:
    assert any(base in STATUS for base in cls.__mro__ if base is not ServiceError)
    assert 400 <= status_of(cls("told")) < 600


def test_codes_are_one_per_failure() -> None:
    codes = [cls.code for cls in DELIBERATE]

    assert len(set(codes)) == len(codes)


def test_what_no_encoding_can_hold_is_told_escaped() -> None:
    answer = problem_of(
        InvalidRequest("half a pair: \ud800", name="\ud800"), path="/tasks", request_id="r1"
    )

    assert b"\\ud800" in answer.body


def test_details_do_not_replace_the_members_of_a_problem() -> None:
    answer = problem_of(
        InvalidRequest("told", status="x", code="y", allowed=None), path="/tasks", request_id="r1"
    )

    assert b'"status": 422' in answer.body
    assert b'"code": "invalid_request"' in answer.body
    assert b"allowed" not in answer.body


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/tasks/", 404, "not_found"),
        ("PUT", "/tasks", 405, "method_not_allowed"),
        ("GET", "/docs/other.js", 404, "not_found"),
    ],
)
async def test_the_frameworks_refusals_are_problems_too(
    client: httpx2.AsyncClient, method: str, path: str, status: int, code: str
) -> None:
    answer = await client.request(method, path)

    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == code
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


async def test_a_wrong_method_is_told_the_right_ones(client: httpx2.AsyncClient) -> None:
    answer = await client.put("/tasks")

    assert "POST" in answer.headers["allow"]


async def test_a_bug_tells_nothing_but_the_request_id(
    client: httpx2.AsyncClient, dispatcher: FakeDispatcher
) -> None:
    dispatcher.outage = KeyError("redis://user:pass@host")

    answer = await client.get("/tasks/x")

    assert answer.status_code == 500
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.json() == {
        "type": "about:blank",
        "title": "Internal Server Error",
        "status": 500,
        "detail": "something went wrong on our side; the log has it under this request id",
        "code": "internal_error",
        "request_id": answer.headers["x-request-id"],
    }


async def test_a_path_that_is_not_served_is_named_with_where_to_look(
    client: httpx2.AsyncClient,
) -> None:
    answer = await client.get("/tasks/")

    assert answer.status_code == 404
    assert answer.json()["detail"] == "there is no GET /tasks/; /docs describes what there is"


async def test_a_method_that_a_path_lacks_is_answered_with_all_that_it_has(
    client: httpx2.AsyncClient,
) -> None:
    answer = await client.put("/tasks/8f1c")

    assert answer.status_code == 405
    assert answer.headers["allow"] == "DELETE, GET"
    assert "the methods of this path are DELETE, GET" in answer.json()["detail"]
