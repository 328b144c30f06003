"""Does a stack that runs answer as its callers expect? Give its address in ``QFLEET_URL``.

Where it asks for keys, give one in ``QFLEET_KEY``.

Runs alone, with pytest and nothing else of the project: ``docker compose run --rm test``.
"""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping

BELL = """OPENQASM 3.0;
include "stdgates.inc";
qubit[2] q;
bit[2] c;
h q[0];
cx q[0], q[1];
c = measure q;
"""
FINAL_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the service said."""

    status: int
    headers: Mapping[str, str]
    body: Any


class Api:
    """The HTTP API of the stack."""

    def __init__(self, url: str, key: str = "") -> None:
        """Speak to the service at this address, with a key if there is one."""
        self._address = urlsplit(url).netloc
        self._headers = {"Content-Type": "application/json"}
        if key:
            self._headers["Authorization"] = f"apikey {key}"

    def ask(self, method: str, path: str, body: str | bytes | None = None) -> Answer:
        """One request; a body that is not JSON stays text."""
        connection = HTTPConnection(self._address, timeout=70)
        try:
            connection.request(method, path, body, self._headers)
            response = connection.getresponse()
            content = response.read()
            headers = {name.lower(): value for name, value in response.getheaders()}
        finally:
            connection.close()
        is_json = "json" in headers.get("content-type", "")
        return Answer(
            status=response.status,
            headers=headers,
            body=json.loads(content) if is_json else content.decode(),
        )

    def submit(self, **task: Any) -> Answer:
        """``POST /tasks``."""
        return self.ask("POST", "/tasks", json.dumps(task))

    def final(self, task_id: str) -> Any:
        """The task, once it is final."""
        end = time.monotonic() + FINAL_S
        while True:
            task = self.ask("GET", f"/tasks/{task_id}?wait=5").body
            if task["status"] != "pending":
                return task
            assert time.monotonic() < end, f"still {task} after {FINAL_S} s"


@pytest.fixture
def api() -> Api:
    url = os.environ.get("QFLEET_URL")
    if not url:
        pytest.skip("QFLEET_URL names no running stack")
    api = Api(url, os.environ.get("QFLEET_KEY", ""))
    if api.ask("GET", "/tasks").status == 401:
        pytest.fail("this stack asks for keys: give a valid one in QFLEET_KEY")
    return api


def test_the_service_says_what_it_is(api: Api) -> None:
    answer = api.ask("GET", "/")

    assert answer.status == 200
    assert answer.body["name"] == "Qfleet"
    assert "aer" in answer.body["executors"]


def test_every_part_is_healthy(api: Api) -> None:
    answer = api.ask("GET", "/health")

    assert answer.status == 200
    assert answer.body["status"] == "ok"
    assert set(answer.body["components"].values()) == {"healthy"}


def test_the_documentation_is_served(api: Api) -> None:
    answer = api.ask("GET", "/docs")

    assert answer.status == 200


def test_prometheus_can_read_the_metrics(api: Api) -> None:
    answer = api.ask("GET", "/metrics")

    assert answer.status == 200
    assert "qfleet_" in answer.body


@pytest.mark.parametrize("dialect", ["qc", "circuit"])
def test_a_bell_pair_gives_only_equal_bits(api: Api, dialect: str) -> None:
    submitted = api.submit(**{dialect: BELL, "shots": 1000})

    task = api.final(submitted.body["task_id"])

    assert task["status"] == "completed"
    assert set(task["result"]) <= {"00", "11"}
    assert sum(task["result"].values()) == 1000


def test_a_submission_is_answered_within_a_second(api: Api) -> None:
    begin = time.monotonic()

    answer = api.submit(qc=BELL)

    assert time.monotonic() - begin < 1.0
    assert answer.status == 200
    assert answer.body["status"] == "submitted"


def test_equal_seeds_give_equal_counts(api: Api) -> None:
    ids = [api.submit(qc=BELL, seed=7).body["task_id"] for _ in range(2)]

    first, second = (api.final(task_id)["result"] for task_id in ids)

    assert first == second


@pytest.mark.parametrize(("dialect", "word"), [("qc", "error"), ("circuit", "failed")])
def test_a_bad_circuit_is_accepted_and_then_fails(api: Api, dialect: str, word: str) -> None:
    submitted = api.submit(**{dialect: "OPENQASM 3.0;\nqubit[1] q;\nnonsense q[0];\n"})

    task = api.final(submitted.body["task_id"])

    assert submitted.status == 200
    assert task["status"] == word
    assert task["error"]


def test_ten_tasks_at_once_finish_within_fifteen_seconds(api: Api) -> None:
    begin = time.monotonic()

    with ThreadPoolExecutor(max_workers=10) as pool:
        ids = list(pool.map(lambda _: api.submit(qc=BELL).body["task_id"], range(10)))
        tasks = list(pool.map(api.final, ids))

    assert [task["status"] for task in tasks] == ["completed"] * 10
    assert time.monotonic() - begin < 15.0


def test_an_unknown_task_is_not_found(api: Api) -> None:
    answer = api.ask("GET", "/tasks/00000000-0000-0000-0000-000000000000")

    assert answer.status == 404


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("{", 400),
        ("{}", 422),
        (json.dumps({"qc": BELL, "circuit": BELL}), 422),
        (json.dumps({"qc": "  "}), 422),
        (json.dumps({"circuit": "  "}), 400),
    ],
    ids=["no JSON", "no circuit", "two circuits", "blank qc", "blank circuit"],
)
def test_what_is_no_task_is_refused(api: Api, body: str, status: int) -> None:
    answer = api.ask("POST", "/tasks", body)

    assert answer.status == status
    assert answer.body["detail"]
