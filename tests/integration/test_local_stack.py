"""``python -m app up``: one command starts everything, and ends everything."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

import psutil
import pytest
import redis

from app.local.valkey import running_url
from tests.local_stack import Stack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from app.local.valkey import EmbeddedValkey


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One that is ready; tests leave it so."""
    stack = Stack(tmp_path_factory.mktemp("stack") / "data")
    try:
        stack.wait_for("ready: ")
        yield stack
    finally:
        stack.close()


@pytest.fixture
def start(data: Path) -> Iterator[Callable[..., Stack]]:
    """Stacks of one test, on one data folder; none outlives it."""
    stacks = []

    def start_one(**settings: str) -> Stack:
        stacks.append(Stack(data, **settings))
        return stacks[-1]

    yield start_one
    for stack in stacks:
        stack.close()


def refusal(stack: Stack) -> str:
    """What a stack says that does not start."""
    said = stack.process.communicate(timeout=20)[0]
    assert stack.process.returncode == 1
    assert "Traceback" not in said
    return said


def test_a_task_runs(stack: Stack) -> None:
    _, task = stack.run_bell()

    assert task["status"] == "completed"
    assert set(task["result"]) == {"00", "11"}
    assert sum(task["result"].values()) == 1000


def test_every_part_has_a_line(stack: Stack) -> None:
    said = "".join(stack.said)

    assert "valkey: 9" in said
    assert "gateway: " in said
    assert "worker: " in said
    url = f"http://127.0.0.1:{stack.port}"
    assert stack.said[-1] == f"ready: {url}  (docs: {url}/docs)\n"


def test_the_password_of_the_database_is_in_no_list_of_processes(
    stack: Stack,
) -> None:
    url = stack.part("serve").environ()["QFLEET_REDIS_URL"]
    password = url.split(":")[2].partition("@")[0]
    assert len(password) > 40

    arguments = [word for process in stack.processes() for word in process.cmdline()]

    assert not any(password in word for word in arguments)


def test_a_taken_port_is_refused_and_nothing_is_touched(
    stack: Stack, start: Callable[..., Stack], data: Path
) -> None:
    said = refusal(start(QFLEET_PORT=str(stack.port)))

    assert f"port {stack.port} of 127.0.0.1" in said
    assert "QFLEET_PORT" in said
    assert not (data / "valkey").exists()
    assert stack.request("GET", "/health")[0] == 200


def test_a_data_folder_belongs_to_one_stack(stack: Stack, start: Callable[..., Stack]) -> None:
    folder = stack.part("serve").environ()["QFLEET_DATA"]

    said = refusal(start(QFLEET_DATA=folder))

    assert f"another stack uses the data folder {folder}" in said
    assert "QFLEET_DATA" in said
    assert stack.request("GET", "/health")[0] == 200


@pytest.mark.parametrize(("name", "program"), [("valkey", "valkey-server"), ("worker", "celery")])
def test_a_part_that_dies_is_started_again(stack: Stack, name: str, program: str) -> None:
    task_id, before = stack.run_bell()

    stack.part(program).kill()

    stack.wait_for(f"{name}: ended with -9")
    stack.wait_for(f"{name}: started again")
    wait_until_healthy(stack)
    assert stack.read(task_id) == before
    assert stack.run_bell()[1]["result"] == before["result"]


def wait_until_healthy(stack: Stack) -> None:
    """Until /health is ok; a test that waits for ever is ended by its time-out."""
    while stack.request("GET", "/health")[0] != 200:
        pass


def test_tasks_survive_ctrl_c_and_no_process_does(start: Callable[..., Stack]) -> None:
    stack = start()
    stack.wait_for("ready: ")
    task_id, before = stack.run_bell()
    processes = stack.processes()
    assert len(processes) >= 5

    assert stack.interrupt() == 0

    assert psutil.wait_procs(processes, timeout=10)[1] == []
    order = [line.partition(":")[0] for line in stack.said if ": stopping" in line]
    assert order == ["gateway", "worker", "valkey"]
    again = start()
    again.wait_for("ready: ")
    assert again.read(task_id) == before


def test_a_second_ctrl_c_waits_for_nothing(start: Callable[..., Stack]) -> None:
    stack = start()
    stack.wait_for("ready: ")
    processes = stack.processes()
    stack.part("serve").suspend()
    stack.process.send_signal(signal.SIGINT)
    stack.wait_for("gateway: stopping")

    assert stack.interrupt() == 130

    assert psutil.wait_procs(processes, timeout=5)[1] == []


def test_a_stack_ends_with_its_terminal_unless_that_is_ignored(
    start: Callable[..., Stack],
) -> None:
    # Children inherit whether it is ignored.
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        ends = start()
        ends.wait_for("ready: ")
        ends.process.send_signal(signal.SIGHUP)
        assert ends.process.wait(20) == 0
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        stays = start()
    finally:
        signal.signal(signal.SIGHUP, before)
    stays.wait_for("ready: ")
    stays.process.send_signal(signal.SIGHUP)
    stays.run_bell()
    # The second signal that counts would kill it.
    assert stays.interrupt() == 0


def test_no_process_survives_a_killed_stack(start: Callable[..., Stack]) -> None:
    stack = start()
    stack.wait_for("ready: ")
    stack.run_bell()
    processes = stack.processes()

    stack.close()

    assert psutil.wait_procs(processes, timeout=5)[1] == []


def test_a_configured_redis_is_used_and_left_alone(
    start: Callable[..., Stack], data: Path, valkey_server: EmbeddedValkey, redis_url: str
) -> None:
    stack = start(REDIS_URL=redis_url)
    stack.wait_for("ready: ")
    task_id, _ = stack.run_bell()

    assert stack.interrupt() == 0

    assert not (data / "valkey").exists()
    with valkey_server.client() as client:
        assert client.hget(f"job:{task_id}", "status") == b"Completed"


def test_a_worker_that_cannot_start_ends_the_stack_and_says_why(
    start: Callable[..., Stack],
) -> None:
    said = refusal(start(QFLEET_EXECUTORS="nonsense"))

    assert "worker did not start" in said
    assert "nonsense" in said


def test_executors_of_a_gpu_alone_are_refused_where_there_is_none(
    start: Callable[..., Stack],
) -> None:
    stack = start(QFLEET_EXECUTORS="custatevec", CUDA_VISIBLE_DEVICES="")

    assert "'custatevec' cannot be served here" in refusal(stack)


def test_a_configured_redis_that_does_not_answer_is_waited_for_and_named(
    start: Callable[..., Stack],
) -> None:
    stack = start(REDIS_URL="redis://:hush@127.0.0.1:1/0")

    stack.wait_for("redis: no answer yet")

    assert "127.0.0.1:1" in stack.said[-1]
    assert "hush" not in stack.said[-1]
    assert stack.interrupt() == 0


def test_a_worker_logs_json_from_its_first_event(start: Callable[..., Stack], data: Path) -> None:
    start().wait_for("ready: ")

    lines = (data / "logs" / "worker.log").read_text().splitlines()

    first = json.loads(next(line for line in lines if "zygote_started" in line))
    assert (first["event"], first["service"]) == ("zygote_started", "worker")


def test_a_stack_that_asks_for_keys_shows_the_first_one_once(
    start: Callable[..., Stack], data: Path
) -> None:
    stack = start(QFLEET_AUTH="on")
    stack.wait_for("first key: ")
    key = stack.said[-1].split()[2]
    stack.wait_for("ready: ")

    assert stack.request("GET", "/tasks")[0] == 401
    assert stack.request("GET", "/tasks", Authorization=f"apikey {key}")[0] == 200
    stack.interrupt()
    again = start(QFLEET_AUTH="on")
    again.wait_for("ready: ")

    assert again.request("GET", "/tasks", Authorization=f"apikey {key}")[0] == 200
    assert "".join(stack.said).count(key) == 1
    assert "first key: " not in "".join(again.said)
    kept = [path for path in data.rglob("*") if path.is_file()]
    assert [path for path in kept if key.encode() in path.read_bytes()] == []


def test_the_log_of_a_stack_says_who_called_and_others_cannot_read_it(
    start: Callable[..., Stack], data: Path
) -> None:
    stack = start(QFLEET_AUTH="on")
    stack.wait_for("first key: ")
    key = stack.said[-1].split()[2]
    stack.wait_for("ready: ")
    stack.request("GET", "/tasks", Authorization=f"apikey {key}")
    stack.interrupt()

    lines = (data / "logs/gateway.log").read_text().splitlines()
    served = [event for event in map(json.loads, lines) if event.get("route") == "/tasks"]
    assert [(event["owner"], event["key_id"]) for event in served] == [("admin", key[3:11])]
    assert (data / "logs").stat().st_mode & 0o077 == 0


def test_the_database_of_a_stack_has_a_part_of_the_memory(
    start: Callable[..., Stack], data: Path
) -> None:
    stack = start(QFLEET_VALKEY_MEMORY_BYTES=str(2**26))
    stack.wait_for("ready: ")

    with redis.Redis.from_url(running_url(data / "valkey")) as client:
        assert client.info("memory")["maxmemory"] == 2**26


def test_a_stack_says_whether_it_is_open(stack: Stack) -> None:
    (access,) = (line for line in stack.said if line.startswith("access: "))
    assert "open: " in access
    assert "QFLEET_AUTH=on" in access


def test_a_stack_that_is_meant_to_be_open_is_not_asked_about_it(
    start: Callable[..., Stack],
) -> None:
    stack = start(QFLEET_AUTH="off")
    stack.wait_for("access: open: ")
    assert "QFLEET_AUTH" not in stack.said[-1]
