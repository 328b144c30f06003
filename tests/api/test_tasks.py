"""What do callers of ``/tasks`` read back? Each row of the contract."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from app.api.tasks import has_header
from app.errors import IdempotencyConflict, InvalidProgram, QueueFull, Unavailable
from app.jobs.job import Failure, JobStatus
from app.primitives.params import QasmParams, decode_qasm_params
from tests.api.conftest import BELL

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx2
    from fastapi import FastAPI

    from tests.api.fakes import FakeDispatcher

pytestmark = pytest.mark.anyio

CARET = "no gate is called 'hh' (line 5, column 1)\nhh q[0];\n^"
FAILURE = Failure(
    code="invalid_program",
    message=CARET,
    details={"reason": "unknown_gate", "line": 5, "column": 1, "source_line": None},
)


async def submit(client: httpx2.AsyncClient, **body: object) -> str:
    answer = await client.post("/tasks", json=body or {"qc": BELL})
    assert answer.status_code == 200, answer.text
    return answer.json()["task_id"]


def assert_problem(answer: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    document = answer.json()
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert document["status"] == status
    assert document["code"] == code
    assert document["request_id"] == answer.headers["x-request-id"]
    return document


@pytest.mark.parametrize("key", ["qc", "circuit"])
async def test_a_program_is_accepted_under_either_key(
    client: httpx2.AsyncClient, dispatcher: FakeDispatcher, key: str
) -> None:
    answer = await client.post("/tasks", json={key: BELL})

    (job_id,) = dispatcher.jobs
    assert answer.status_code == 200
    assert answer.json() == {
        "task_id": job_id,
        "status": "submitted",
        "message": "Task submitted successfully.",
    }
    assert answer.headers["location"] == f"/tasks/{job_id}"
    (submission,) = dispatcher.submissions
    assert submission.dialect == key
    assert submission.program_id == "qasm3"
    assert submission.backend == "simulator@aer"
    assert submission.request_id == answer.headers["x-request-id"]
    assert decode_qasm_params(submission.params) == QasmParams(source=BELL, shots=1024, seed=None)


async def test_shots_seed_backend_and_tags_are_passed_on(
    client: httpx2.AsyncClient, dispatcher: FakeDispatcher
) -> None:
    await submit(
        client, qc=BELL, shots=7, seed=2**63 - 1, backend="simulator@noisy", tags=["a", "b"]
    )

    (submission,) = dispatcher.submissions
    assert decode_qasm_params(submission.params) == QasmParams(source=BELL, shots=7, seed=2**63 - 1)
    assert submission.backend == "simulator@noisy"
    assert submission.tags == ("a", "b")


async def test_optional_fields_may_be_null(
    client: httpx2.AsyncClient, dispatcher: FakeDispatcher
) -> None:
    await submit(client, qc=BELL, shots=None, seed=None)

    assert len(dispatcher.jobs) == 1


async def test_shots_that_are_not_given_are_the_settings(
    make_app: Callable[..., FastAPI],
    connect: Callable[[FastAPI], httpx2.AsyncClient],
    dispatcher: FakeDispatcher,
) -> None:
    async with connect(make_app(default_shots=5)) as client:
        await submit(client)

    assert decode_qasm_params(dispatcher.submissions[0].params).shots == 5


@pytest.mark.parametrize(
    ("body", "place"),
    [
        (b"", "line 1 column 1"),
        (b'{"qc": "x"', "line 1 column 11"),
        (b'{"qc":\n "x",}', "line 2 column 6"),
        (b'{"qc": "\xff"}', "byte 9"),
        (b'\xef\xbb\xbf{"qc": "x"}', "line 1 column 1"),
        (b'{"qc": "x", "shots": NaN}', "NaN"),
        (b'{"qc": "x", "shots": -Infinity}', "-Infinity"),
        (b'{"qc": "x", "shots": 1' + b"0" * 5000 + b"}", "5001 digits"),
        (b'{"qc": "x", "qc": "y"}', "'qc' is given twice"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"qc":' * 100_000, "nested too deeply"),
    ],
)
async def test_what_is_not_json_is_a_400_that_says_where(
    client: httpx2.AsyncClient, dispatcher: FakeDispatcher, body: bytes, place: str
) -> None:
    answer = await client.post("/tasks", content=body, headers={"content-type": "application/json"})

    detail = assert_problem(answer, 400, "malformed_json")["detail"]
    assert "invalid json" in detail
    assert place in detail
    assert not dispatcher.jobs


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        None,
        "OPENQASM 3.0;",
        {"shots": 5},
        {"qc": BELL, "circuit": BELL},
        {"qc": BELL, "circuit": None},
        {"qc": None},
        {"qc": 5},
        {"circuit": ["x"]},
        {"qc": BELL, "shot": 5},
        {"qc": BELL, "\ud800": 5},
        {"qc": BELL, "shots": "5"},
        {"qc": BELL, "shots": True},
        {"qc": BELL, "shots": 5.0},
        {"qc": BELL, "shots": 0},
        {"qc": BELL, "shots": -1},
        {"qc": BELL, "seed": -1},
        {"qc": BELL, "seed": 2**63},
        {"qc": BELL, "seed": 1.5},
        {"qc": BELL, "backend": ""},
        {"qc": BELL, "backend": "b" * 129},
        {"qc": BELL, "backend": None},
        {"qc": BELL, "tags": "a"},
        {"qc": BELL, "tags": [1]},
        {"qc": BELL, "tags": ["a"] * 9},
        {"qc": BELL, "tags": ["a" * 65]},
        {"qc": BELL + "\x00"},
        {"circuit": BELL + "\ud800"},
        {"qc": BELL, "tags": ["\udc00"]},
        {"qc": BELL, "backend": "a\x00b"},
    ],
)
async def test_a_body_of_another_shape_is_a_422_that_names_both_keys(
    client: httpx2.AsyncClient, dispatcher: FakeDispatcher, body: object
) -> None:
    answer = await client.post(
        "/tasks",
        # In ASCII with escapes, so that halves of pairs arrive as they are.
        content=json.dumps(body),
        headers={"content-type": "application/json"},
    )

    detail = assert_problem(answer, 422, "invalid_request")["detail"]
    assert "`qc`" in detail
    assert "`circuit`" in detail
    assert not dispatcher.jobs


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("shots", -1, "shots: Input should be greater than or equal to 1, not -1"),
        ("shots", "5", 'shots: Input should be a valid integer, not "5"'),
        ("backend", "", "backend: String should have at least 1 character"),
        ("tags", ["a" * 65], "tags.0: String should have at most 64 characters"),
        ("tags", ["a\x00"], "tags.0: text must not hold a NUL character"),
    ],
)
async def test_a_value_that_is_not_allowed_is_told_with_what_is(
    client: httpx2.AsyncClient, field: str, value: object, told: str
) -> None:
    answer = await client.post("/tasks", json={"qc": BELL, field: value})

    assert told in assert_problem(answer, 422, "invalid_request")["detail"]


async def test_an_unknown_field_is_named_however_many_there_are(
    client: httpx2.AsyncClient,
) -> None:
    answer = await client.post("/tasks", json={"qc": BELL} | {f"x{i}": i for i in range(9999)})

    problem = assert_problem(answer, 422, "invalid_request")
    assert "there is no field 'x0'" in problem["detail"]


@pytest.mark.parametrize("key", ["qc", "circuit"])
@pytest.mark.parametrize("blank", ["", "  \n\t"])
async def test_blank_text_is_refused(
    client: httpx2.AsyncClient, dispatcher: FakeDispatcher, key: str, blank: str
) -> None:
    answer = await client.post("/tasks", json={key: blank})

    expected = {"qc": (422, "invalid_request"), "circuit": (400, "blank_program")}
    assert "blank" in assert_problem(answer, *expected[key])["detail"]
    assert not dispatcher.jobs


@pytest.mark.parametrize(
    "source",
    [
        "OPENQASM 3;",
        "OPENQASM 3.0;",
        "OPENQASM 3.1 ;",
        "\ufeff OPENQASM 3;",
        "// a comment\n/* another\n * one */ OPENQASM 3.0;",
        "OPENQASM/**/3;",
    ],
)
async def test_a_header_may_follow_comments_and_blanks(
    client: httpx2.AsyncClient, dispatcher: FakeDispatcher, source: str
) -> None:
    await submit(client, qc=source)

    assert len(dispatcher.jobs) == 1


@pytest.mark.parametrize(
    "source", ["qubit q;", "// OPENQASM 3;\nqubit q;", "OPENQASM;", "OPENQASM 2.0;", "OPENQASM3;"]
)
async def test_qc_without_a_header_is_refused_and_circuit_is_not(
    client: httpx2.AsyncClient, dispatcher: FakeDispatcher, source: str
) -> None:
    refused = await client.post("/tasks", json={"qc": source})
    assert not dispatcher.jobs
    accepted = await client.post("/tasks", json={"circuit": source})

    assert "OPENQASM 3.0;" in assert_problem(refused, 422, "invalid_request")["detail"]
    assert accepted.status_code == 200


@pytest.mark.parametrize("unit", [" ", "/", "/*", "/**", "//\n", "/*/", "\n// *"])
def test_looking_for_a_header_takes_linear_time(unit: str) -> None:
    source = unit * (1_000_000 // len(unit))

    began = time.process_time()
    found = has_header(source)

    assert not found
    assert time.process_time() - began < 1.0


async def test_too_many_shots_say_what_was_asked_and_what_is_allowed(
    client: httpx2.AsyncClient, dispatcher: FakeDispatcher
) -> None:
    answer = await client.post("/tasks", json={"qc": BELL, "shots": 1_000_001})

    problem = assert_problem(answer, 422, "limit_exceeded")
    assert (problem["asked"], problem["allowed"]) == (1_000_001, 1_000_000)
    assert not dispatcher.jobs


async def test_a_source_too_large_says_how_many_bytes_came_and_how_many_may(
    client: httpx2.AsyncClient, dispatcher: FakeDispatcher
) -> None:
    source = "OPENQASM 3;//" + "é" * (512 * 1024)

    answer = await client.post("/tasks", json={"qc": source})

    problem = assert_problem(answer, 413, "body_too_large")
    assert (problem["sent"], problem["allowed"]) == (13 + 1024 * 1024, 1024 * 1024)
    assert not dispatcher.jobs


@pytest.mark.parametrize(
    "media_type", ["application/x-www-form-urlencoded", "text/plain", "multipart/form-data", None]
)
async def test_another_media_type_is_told_what_to_send(
    client: httpx2.AsyncClient, dispatcher: FakeDispatcher, media_type: str | None
) -> None:
    headers = {"content-type": media_type} if media_type else {}

    answer = await client.post("/tasks", content=orjson.dumps({"qc": BELL}), headers=headers)

    problem = assert_problem(answer, 415, "unsupported_media_type")
    assert "Content-Type: application/json" in problem["detail"]
    assert not dispatcher.jobs


async def test_a_media_type_may_name_a_charset(client: httpx2.AsyncClient) -> None:
    answer = await client.post(
        "/tasks",
        content=orjson.dumps({"qc": BELL}),
        headers={"content-type": "Application/JSON; charset=utf-8"},
    )

    assert answer.status_code == 200


async def test_the_same_idempotency_key_gives_the_same_task(
    client: httpx2.AsyncClient, dispatcher: FakeDispatcher
) -> None:
    headers = {"idempotency-key": "one two"}

    first = await client.post("/tasks", json={"qc": BELL}, headers=headers)
    second = await client.post("/tasks", json={"qc": BELL}, headers=headers)

    assert first.status_code == second.status_code == 200
    assert first.json() == second.json()
    assert len(dispatcher.jobs) == 1


async def test_an_idempotency_key_with_another_program_is_refused(
    client: httpx2.AsyncClient, dispatcher: FakeDispatcher
) -> None:
    headers = {"idempotency-key": "k"}
    await client.post("/tasks", json={"qc": BELL}, headers=headers)

    answer = await client.post("/tasks", json={"qc": BELL, "shots": 1}, headers=headers)

    assert_problem(answer, 422, IdempotencyConflict.code)
    assert len(dispatcher.jobs) == 1


@pytest.mark.parametrize("key", [b"", b"k" * 257, b"\xe9", b"a\x7fb"])
async def test_an_unprintable_or_long_idempotency_key_is_refused(
    client: httpx2.AsyncClient, dispatcher: FakeDispatcher, key: bytes
) -> None:
    answer = await client.post("/tasks", json={"qc": BELL}, headers=[(b"idempotency-key", key)])

    assert assert_problem(answer, 422, "invalid_request")["allowed"] == 256
    assert not dispatcher.jobs


async def test_validation_tells_line_column_and_caret(
    client: httpx2.AsyncClient, dispatcher: FakeDispatcher
) -> None:
    dispatcher.fault = InvalidProgram(
        "unknown_gate", "no gate is called 'hh'", line=5, column=1, source_line="hh q[0];"
    )

    answer = await client.post("/tasks?validate=true", json={"circuit": BELL})

    problem = assert_problem(answer, 422, "invalid_program")
    assert problem["detail"] == CARET
    assert (problem["line"], problem["column"], problem["reason"]) == (5, 1, "unknown_gate")
    assert not dispatcher.jobs


async def test_a_valid_program_is_accepted_after_validation(
    client: httpx2.AsyncClient, dispatcher: FakeDispatcher
) -> None:
    answer = await client.post("/tasks?validate=true", json={"qc": BELL})

    assert answer.status_code == 200
    assert [validated[1] for validated in dispatcher.validated] == dispatcher.submissions


async def test_nothing_is_validated_unasked(
    client: httpx2.AsyncClient, dispatcher: FakeDispatcher
) -> None:
    await client.post("/tasks?validate=false", json={"qc": BELL})

    assert not dispatcher.validated


@pytest.mark.parametrize(
    ("outage", "status"), [(QueueFull("full", allowed=5), 429), (Unavailable("down"), 503)]
)
async def test_what_is_refused_for_now_says_when_to_come_back(
    client: httpx2.AsyncClient, dispatcher: FakeDispatcher, outage: Any, status: int
) -> None:
    dispatcher.outage = outage

    answer = await client.post("/tasks", json={"qc": BELL})

    assert_problem(answer, status, outage.code)
    assert int(answer.headers["retry-after"]) > 0
    assert not dispatcher.jobs


async def test_a_queued_task_is_pending_with_its_position(client: httpx2.AsyncClient) -> None:
    task_id = await submit(client)

    answer = await client.get(f"/tasks/{task_id}")

    assert answer.status_code == 200
    assert answer.json() == {
        "task_id": task_id,
        "status": "pending",
        "state": "Queued",
        "message": "Task is still in progress.",
        "position": 1,
    }


async def test_a_running_task_is_pending(
    client: httpx2.AsyncClient, dispatcher: FakeDispatcher
) -> None:
    task_id = await submit(client)
    dispatcher.set_status(task_id, JobStatus.RUNNING)

    answer = await client.get(f"/tasks/{task_id}")

    assert answer.json() == {
        "task_id": task_id,
        "status": "pending",
        "state": "Running",
        "message": "Task is still in progress.",
    }


async def test_a_completed_task_has_its_counts(
    client: httpx2.AsyncClient, dispatcher: FakeDispatcher
) -> None:
    task_id = await submit(client)
    result = orjson.dumps({"counts": {"00": 512, "11": 512}, "metadata": {"seed": 1}})
    dispatcher.end(task_id, JobStatus.COMPLETED, result=result)

    answer = await client.get(f"/tasks/{task_id}")

    assert answer.json() == {
        "task_id": task_id,
        "status": "completed",
        "state": "Completed",
        "result": {"00": 512, "11": 512},
    }


async def test_a_large_result_is_read_whole(
    client: httpx2.AsyncClient, dispatcher: FakeDispatcher
) -> None:
    task_id = await submit(client)
    counts = {f"{i:020b}": i for i in range(60_000)}
    dispatcher.end(task_id, JobStatus.COMPLETED, result=orjson.dumps({"counts": counts}))

    answer = await client.get(f"/tasks/{task_id}")

    assert orjson.loads(answer.content)["result"] == counts


async def test_a_task_whose_result_has_expired_is_not_found(
    client: httpx2.AsyncClient, dispatcher: FakeDispatcher
) -> None:
    task_id = await submit(client)
    dispatcher.end(task_id, JobStatus.COMPLETED)

    assert_problem(await client.get(f"/tasks/{task_id}"), 404, "job_not_found")


@pytest.mark.parametrize(("key", "word"), [("qc", "error"), ("circuit", "failed")])
async def test_a_failed_task_says_why_in_the_words_of_its_dialect(
    client: httpx2.AsyncClient, dispatcher: FakeDispatcher, key: str, word: str
) -> None:
    task_id = await submit(client, **{key: BELL})
    dispatcher.end(task_id, JobStatus.FAILED, failure=FAILURE)

    answer = await client.get(f"/tasks/{task_id}")

    assert answer.status_code == 200
    assert answer.json() == {
        "task_id": task_id,
        "status": word,
        "state": "Failed",
        "message": CARET,
        "error": CARET,
        "code": "invalid_program",
        "details": {"reason": "unknown_gate", "line": 5, "column": 1},
    }


async def test_a_failed_task_made_elsewhere_reads_like_circuit(
    client: httpx2.AsyncClient, dispatcher: FakeDispatcher
) -> None:
    task_id = await submit(client)
    dispatcher.set_status(task_id, JobStatus.FAILED, dialect="")

    document = (await client.get(f"/tasks/{task_id}")).json()

    assert (document["status"], document["error"]) == ("failed", "Task failed.")


async def test_a_cancelled_task_says_so(client: httpx2.AsyncClient) -> None:
    task_id = await submit(client)
    gone = await client.delete(f"/tasks/{task_id}")

    answer = await client.get(f"/tasks/{task_id}")

    assert (gone.status_code, gone.content) == (204, b"")
    assert answer.json() == {
        "task_id": task_id,
        "status": "cancelled",
        "state": "Cancelled",
        "message": "Task was cancelled.",
    }


async def test_a_final_task_is_not_cancelled(
    client: httpx2.AsyncClient, dispatcher: FakeDispatcher
) -> None:
    task_id = await submit(client)
    dispatcher.end(task_id, JobStatus.COMPLETED, result=b'{"counts": {}}')

    answer = await client.delete(f"/tasks/{task_id}")

    assert_problem(answer, 409, "job_is_final")
    assert dispatcher.jobs[task_id].status is JobStatus.COMPLETED


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize(
    "task_id", ["nothing", "0d0f5d8c-7c5e-4f5b-9c3e-1f3f0a1b2c3d", "a:b", "x" * 65, "%00", "%ff"]
)
async def test_an_unknown_task_is_not_found(
    client: httpx2.AsyncClient, method: str, task_id: str
) -> None:
    answer = await client.request(method, f"/tasks/{task_id}")

    assert assert_problem(answer, 404, "job_not_found")["detail"] == "task not found"


async def test_what_cannot_be_an_id_is_not_looked_for(
    client: httpx2.AsyncClient, dispatcher: FakeDispatcher
) -> None:
    for task_id in ("a:b", "x" * 65, "%00", "{x}"):
        assert (await client.get(f"/tasks/{task_id}")).status_code == 404

    assert dispatcher.calls == 0


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_another_owners_task_is_not_found(
    client: httpx2.AsyncClient, dispatcher: FakeDispatcher, method: str
) -> None:
    task_id = await submit(client)
    dispatcher.set_status(task_id, JobStatus.QUEUED, scope="somebody:else")

    answer = await client.request(method, f"/tasks/{task_id}")

    assert assert_problem(answer, 404, "job_not_found")["detail"] == "task not found"
    assert dispatcher.jobs[task_id].status is JobStatus.QUEUED


async def test_waiting_answers_as_soon_as_the_task_is_final(
    client: httpx2.AsyncClient, dispatcher: FakeDispatcher
) -> None:
    task_id = await submit(client)

    async with asyncio.TaskGroup() as group:
        answer = group.create_task(client.get(f"/tasks/{task_id}?wait=60"))
        await dispatcher.wait_began.wait()
        dispatcher.end(task_id, JobStatus.COMPLETED, result=b'{"counts": {"0": 1}}')

    assert answer.result().json()["result"] == {"0": 1}
    assert dispatcher.waiting == 0


async def test_waiting_for_nothing_ends_with_the_time(client: httpx2.AsyncClient) -> None:
    task_id = await submit(client)

    answer = await client.get(f"/tasks/{task_id}?wait=0.05")

    assert answer.json()["status"] == "pending"


@pytest.mark.parametrize("wait", ["61", "60.001", "1e300"])
async def test_waiting_too_long_is_refused_with_what_is_allowed(
    client: httpx2.AsyncClient, dispatcher: FakeDispatcher, wait: str
) -> None:
    task_id = await submit(client)

    answer = await client.get(f"/tasks/{task_id}?wait={wait}")

    assert assert_problem(answer, 422, "limit_exceeded")["allowed"] == 60
    assert not dispatcher.wait_began.is_set()


@pytest.mark.parametrize("wait", ["-1", "nan", "inf", "soon", ""])
async def test_a_wait_that_is_no_time_is_refused(client: httpx2.AsyncClient, wait: str) -> None:
    answer = await client.get(f"/tasks/x?wait={wait}")

    assert "wait" in assert_problem(answer, 422, "invalid_request")["detail"]


async def test_one_waiter_too_many_is_answered_at_once(
    make_app: Callable[..., FastAPI],
    connect: Callable[[FastAPI], httpx2.AsyncClient],
    dispatcher: FakeDispatcher,
) -> None:
    async with connect(make_app(http={"waiters": 1})) as client, asyncio.TaskGroup() as group:
        task_id = await submit(client)
        first = group.create_task(client.get(f"/tasks/{task_id}?wait=60"))
        await dispatcher.wait_began.wait()

        second = await client.get(f"/tasks/{task_id}?wait=60")
        dispatcher.end(task_id, JobStatus.CANCELLED)

    assert second.json()["status"] == "pending"
    assert first.result().json()["status"] == "cancelled"


async def test_waiting_for_an_unknown_task_is_not_found(client: httpx2.AsyncClient) -> None:
    assert_problem(await client.get("/tasks/nothing?wait=60"), 404, "job_not_found")


async def test_a_list_gives_the_newest_first_and_reads_on_with_its_cursor(
    client: httpx2.AsyncClient,
) -> None:
    made = [await submit(client, qc=BELL, tags=[str(i)]) for i in range(3)]

    first = (await client.get("/tasks?limit=2")).json()
    second = (await client.get("/tasks", params={"cursor": first["cursor"]})).json()

    assert first["tasks"][0] == {
        "task_id": made[2],
        "status": "pending",
        "state": "Queued",
        "created": "2026-01-02T03:04:02+00:00",
        "backend": "simulator@aer",
        "tags": ["2"],
    }
    assert [task["task_id"] for task in first["tasks"] + second["tasks"]] == made[::-1]
    assert "cursor" not in second


async def test_a_list_holds_nobody_elses_tasks(
    client: httpx2.AsyncClient, dispatcher: FakeDispatcher
) -> None:
    task_id = await submit(client)
    dispatcher.set_status(task_id, JobStatus.QUEUED, scope="somebody:else")

    assert (await client.get("/tasks")).json() == {"tasks": []}


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "cursor=nonsense"])
async def test_a_list_of_a_wrong_length_or_cursor_is_refused(
    client: httpx2.AsyncClient, query: str
) -> None:
    assert_problem(await client.get(f"/tasks?{query}"), 422, "invalid_request")


async def test_a_job_is_logged_with_its_id_and_its_request(
    client: httpx2.AsyncClient, events: list[dict[str, object]]
) -> None:
    answer = await client.post("/tasks", json={"qc": BELL})

    (submitted,) = [event for event in events if event["event"] == "job_submitted"]
    assert submitted["job_id"] == answer.json()["task_id"]
    assert submitted["request_id"] == answer.headers["x-request-id"]
    assert BELL not in str(events)
