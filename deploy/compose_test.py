"""Does the stack of ``docker-compose.yaml`` keep its promises? Build, start, break and remove it.

Needs Docker Engine 25 and Compose 2.24, and nothing but Python's standard library. The stack gets a
project name and a port of its own: one that runs already is not touched.
"""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parent.parent
PROJECT = "qfleet-test"
BUILD_S = 1800.0
COMMAND_S = 180.0
HEALTHY_S = 120.0
FINAL_S = 90.0
POLL_S = 0.2
LOAD_PAUSE_S = 0.02
#: Longer than a worker may be silent before its jobs are given to others.
CUT_S = 20.0
GIB = 1024**3

BELL = """OPENQASM 3.0;
include "stdgates.inc";
qubit[2] q;
bit[2] c;
h q[0];
cx q[0], q[1];
c = measure q;
"""

Value = TypeVar("Value")


class BrokenPromiseError(Exception):
    """A promise was not kept."""


def expect(kept: object, what: str) -> None:
    """Stop the check with these words unless the condition holds."""
    if not kept:
        raise BrokenPromiseError(what)


def until(what: str, seconds: float, look: Callable[[], Value | None]) -> Value:
    """What ``look`` finds, as soon as it finds something true."""
    end = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > end:
            message = f"not within {seconds:.0f} s: {what}"
            raise BrokenPromiseError(message)
        time.sleep(POLL_S)


def run(*command: str, timeout_s: float = COMMAND_S, env: dict[str, str] | None = None) -> str:
    """What a command prints; BrokenPromiseError when it fails."""
    done = attempt(*command, timeout_s=timeout_s, env=env)
    if done.returncode != 0:
        message = f"`{' '.join(command)}` ended with {done.returncode}:\n{done.stdout[-2000:]}"
        raise BrokenPromiseError(message)
    return done.stdout


def attempt(
    *command: str, timeout_s: float = COMMAND_S, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command that may fail, both outputs together. Ctrl-C does not reach it."""
    try:
        return subprocess.run(
            command,
            cwd=ROOT,
            env=env,
            timeout=timeout_s,
            check=False,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired as exc:
        message = f"`{' '.join(command)}` took longer than {timeout_s:.0f} s"
        raise BrokenPromiseError(message) from exc


def dense_circuit(qubits: int, layers: int) -> str:
    """A program whose run time grows with its layers."""
    lines = ["OPENQASM 3.0;", 'include "stdgates.inc";', f"qubit[{qubits}] q;", f"bit[{qubits}] c;"]
    for layer in range(layers):
        lines += [f"rx({0.1 + 0.01 * (layer + i)}) q[{i}];" for i in range(qubits)]
        lines += [f"cx q[{i}], q[{i + 1}];" for i in range(layer % 2, qubits - 1, 2)]
    lines.append("c = measure q;")
    return "\n".join(lines)


class Stack:
    """The stack under test."""

    def __init__(self) -> None:
        """Choose a port; nothing is started."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("COMPOSE_", "QFLEET_", "REDIS_"))
        }
        self._env = kept | {
            "QFLEET_PUBLISH_PORT": str(self.port),
            # Any: these are looked at from inside.
            "QFLEET_PUBLISH_GRPC_PORT": "0",
            "QFLEET_PUBLISH_DRIVER_METRICS_PORT": "0",
        }
        self._compose = ("docker", "compose", "-p", PROJECT, "--env-file", ".env.docker")
        #: Keeps a worker busy for seconds; chosen when the stack is up.
        self.long_circuit = ""

    def compose(self, *args: str, timeout_s: float = COMMAND_S) -> str:
        """``docker compose …``; BrokenPromiseError when it fails."""
        return run(*self._compose, *args, timeout_s=timeout_s, env=self._env)

    def try_compose(self, *args: str) -> subprocess.CompletedProcess[str]:
        """``docker compose …`` that may fail."""
        return attempt(*self._compose, *args, env=self._env)

    def up(self, *args: str) -> None:
        """Start what is not running and wait until all of it is healthy."""
        seconds = str(int(HEALTHY_S))
        self.compose(
            "up", "--detach", "--wait", "--wait-timeout", seconds, *args, timeout_s=HEALTHY_S + 60
        )

    def remove(self) -> None:
        """Take the stack away: containers, networks, volumes, images."""
        self.compose(
            "--profile", "*", "down", "--volumes", "--rmi", "local", "--remove-orphans",
            "--timeout", "10",
        )  # fmt: skip

    def containers(self, service: str) -> list[str]:
        """Ids of a service's containers, running or not."""
        return self.compose("ps", "--all", "--quiet", "--no-trunc", service).split()

    def only(self, service: str) -> str:
        """The id of a service's only container."""
        found = self.containers(service)
        expect(len(found) == 1, f"{service} has {len(found)} containers, not one")
        return found[0]

    def ask(
        self, method: str, path: str, body: Any = None, timeout_s: float = 70
    ) -> tuple[int, Any]:
        """Status and body of an HTTP answer; 0 when there is none."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            connection.request(
                method, path, body and json.dumps(body), {"Content-Type": "application/json"}
            )
            response = connection.getresponse()
            content = response.read()
        except (OSError, HTTPException):
            return 0, None
        finally:
            connection.close()
        try:
            return response.status, json.loads(content)
        except ValueError:
            return response.status, content.decode(errors="replace")

    def submit(self, source: str, shots: int = 100) -> str:
        """The id of a new task."""
        status, body = self.ask("POST", "/tasks", {"qc": source, "shots": shots})
        expect(status == 200, f"POST /tasks answered {status} {body}")
        return str(body["task_id"])

    def task(self, task_id: str, wait_s: int = 0) -> dict[str, Any]:
        """The task as it is, or as it is when it gets final within the time."""
        status, body = self.ask("GET", f"/tasks/{task_id}?wait={wait_s}")
        expect(status == 200, f"GET /tasks/{task_id} answered {status} {body}")
        return dict(body)

    def completed(self, task_id: str, seconds: float = FINAL_S) -> dict[str, Any]:
        """The task, which must complete."""

        def look() -> dict[str, Any] | None:
            task = self.task(task_id, wait_s=5)
            return task if task["status"] != "pending" else None

        task = until(f"task {task_id} is final", seconds, look)
        expect(task["status"] == "completed", f"task {task_id} ended as {task}")
        return task

    def start_long_job(self) -> tuple[str, str]:
        """Submit a job that runs for seconds: its id, and the worker container that runs it."""

        def busy() -> list[str]:
            _, health = self.ask("GET", "/health/celery")
            return [worker["host"] for worker in health["workers"] if worker["busy"]]

        # A worker says once a second what it does: an earlier job may still be in its last word.
        until("all workers are idle", 30, lambda: not busy())
        task_id = self.submit(self.long_circuit)
        host = until(f"a worker runs task {task_id}", 30, busy)[0]
        # The host name of a container is the beginning of its id.
        container = next(c for c in self.containers("worker") if c.startswith(host))
        expect(self.task(task_id)["status"] == "pending", "the long job is too short")
        return task_id, container


def inspect(container: str) -> dict[str, Any]:
    """What Docker knows about a container."""
    return dict(json.loads(run("docker", "inspect", container))[0])


def is_healthy(container: str) -> bool:
    """Whether Docker calls the container healthy."""
    return bool(inspect(container)["State"].get("Health", {}).get("Status") == "healthy")


def python(container: str, code: str) -> str:
    """What a piece of Python prints inside a container."""
    return run("docker", "exec", container, "python", "-c", code).strip()


def events(container: str, name: str) -> list[dict[str, Any]]:
    """Events of this name in a container's log."""
    found = []
    for line in run("docker", "logs", container).splitlines():
        if name in line and line.startswith("{"):
            event = json.loads(line)
            if event.get("event") == name:
                found.append(event)
    return found


# The checks, in order. Each leaves a healthy stack behind.


def it_builds(stack: Stack) -> str:
    """The images build."""
    for service in ("api", "worker", "test"):
        stack.compose("--profile", "test", "build", service, timeout_s=BUILD_S)
    sizes = []
    for service in ("api", "worker"):
        size = int(run("docker", "image", "inspect", "-f", "{{.Size}}", f"{PROJECT}-{service}"))
        sizes.append(f"{service} {size / 1e6:.0f} MB")
    return ", ".join(sizes)


def it_starts_with_one_command(stack: Stack) -> str:
    """The stack starts with one command."""
    begin = time.monotonic()
    stack.up()
    return f"healthy after {time.monotonic() - begin:.0f} s"


def it_answers_over_http(stack: Stack) -> str:
    """It answers over HTTP and runs a circuit."""
    for path in ("/", "/docs", "/health", "/health/ready", "/metrics"):
        status, _ = stack.ask("GET", path)
        expect(status == 200, f"GET {path} answered {status}")
    begin = time.monotonic()
    result = stack.completed(stack.submit(BELL))["result"]
    expect(set(result) <= {"00", "11"}, f"a Bell pair gave {result}")
    return f"first circuit {time.monotonic() - begin:.2f} s"


def the_api_tests_pass(stack: Stack) -> str:
    """The API tests pass in their container."""
    output = stack.compose("run", "--rm", "test")
    summary = re.search(r"=+ (.*) =+\s*$", output.strip().splitlines()[-1])
    expect(summary is not None and "passed" in summary[1] and "skipped" not in summary[1], output)
    return summary[1] if summary else ""


def the_gateway_has_no_simulator(stack: Stack) -> str:
    """The gateway holds no simulator."""
    container = stack.only("api")
    for module in ("qiskit", "qiskit_aer", "numpy"):
        code = f"import importlib.util; print(importlib.util.find_spec({module!r}))"
        expect(python(container, code) == "None", f"the gateway's image holds {module}")
    return "no qiskit, qiskit_aer, numpy"


def containers_are_confined(stack: Stack) -> str:
    """Every container is confined."""
    for service in ("redis", "api", "worker"):
        container = stack.only(service)
        known = inspect(container)
        host = known["HostConfig"]
        expect(host["ReadonlyRootfs"], f"{service}: the file system is not read-only")
        expect(host["CapDrop"] == ["ALL"] and not host["CapAdd"], f"{service} has capabilities")
        expect("no-new-privileges:true" in host["SecurityOpt"], f"{service} may gain privileges")
        expect(not host["Privileged"], f"{service} is privileged")
        expect(0 < host["Memory"] <= 4 * GIB, f"{service}: memory {host['Memory']}")
        expect(0 < host["PidsLimit"] <= 512, f"{service}: processes {host['PidsLimit']}")
        mounts = [mount["Source"] for mount in known["Mounts"]]
        expect(not any(".sock" in source for source in mounts), f"{service} mounts {mounts}")
        shell = (
            "id -u; grep -E '^(CapEff|CapBnd|NoNewPrivs)' /proc/self/status;"
            " for f in / /etc /usr/bin /srv; do touch $f/x 2>/dev/null && echo wrote $f; done; true"
        )
        seen = run("docker", "exec", container, "sh", "-c", shell).split()
        expect(seen[0] != "0", f"{service} runs as root")
        zero = "0" * 16
        wanted = ["CapEff:", zero, "CapBnd:", zero, "NoNewPrivs:", "1"]
        expect(sorted(seen[1:]) == sorted(wanted), f"{service}: {seen[1:]}")
    container = stack.only("worker")
    script = "printf '#!/bin/sh\\necho ran' > /tmp/x; chmod +x /tmp/x; /tmp/x; rm /tmp/x"
    ran = attempt("docker", "exec", container, "sh", "-c", script).stdout
    expect("ran" not in ran.split(), "a file in /tmp can be executed")
    grace = inspect(container)["Config"]["StopTimeout"]
    drain = python(container, "from app.config import Settings; print(Settings().drain_s)")
    expect(grace >= float(drain) + 10, f"killed after {grace} s, drained after {drain} s")
    return "non-root, read-only, no capabilities, limits"


def redis_is_out_of_reach(stack: Stack) -> str:
    """Redis is out of reach."""
    redis, worker, api = (stack.only(service) for service in ("redis", "worker", "api"))
    ports = inspect(redis)["NetworkSettings"]["Ports"]
    expect(not any(ports.values()), f"Redis is published: {ports}")
    bindings = inspect(api)["NetworkSettings"]["Ports"]["8000/tcp"]
    expect(all(b["HostIp"] == "127.0.0.1" for b in bindings), f"the API is published at {bindings}")
    refused = run("docker", "exec", redis, "redis-cli", "ping")
    expect("NOAUTH" in refused, f"Redis answers without a password: {refused}")
    routes = python(worker, "print(open('/proc/net/route').read())").splitlines()[1:]
    expect(routes, "a worker has no network at all")
    expect(not any(line.split()[1] == "00000000" for line in routes), "a worker has a way out")
    environment = " ".join(inspect(worker)["Config"]["Env"] + inspect(redis)["Config"]["Cmd"])
    secret = run("docker", "exec", redis, "cat", "/run/worker-password/value").strip()
    expect(len(secret) == 64 and secret not in environment, "`docker inspect` shows the password")
    mounted = python(worker, "print(open('/run/redis-password/value').read())").strip()
    expect(mounted == secret, "a worker has another password than its own")
    forbidden = python(
        worker,
        "import redis; from app.config import Settings\n"
        "c = redis.Redis.from_url(Settings().redis)\n"
        "for words in (['GET', 'secret'], ['KEYS', '*'], ['CONFIG', 'GET', '*']):\n"
        "    try: print('allowed', c.execute_command(*words))\n"
        "    except redis.exceptions.NoPermissionError: print('refused')",
    )
    expect(forbidden.split() == ["refused"] * 3, f"a worker's user of Redis may: {forbidden}")
    return "not published, password, workers without a way out"


def it_scales_to_three_workers(stack: Stack) -> str:
    """Three workers share the work."""
    stack.up("--scale", "worker=3")
    workers = stack.containers("worker")
    expect(len(workers) == 3, f"{len(workers)} workers instead of 3")
    source = dense_circuit(18, 6)
    with ThreadPoolExecutor(max_workers=8) as pool:
        tasks = list(pool.map(lambda _: stack.submit(source), range(60)))
        list(pool.map(stack.completed, tasks))
    counts = []
    for worker in workers:
        finished = {event["job_id"] for event in events(worker, "job_finished")}
        counts.append(len(finished.intersection(tasks)))
    expect(sum(counts) == len(tasks), f"60 jobs, {counts} finished")
    expect(min(counts) > 0, f"a worker got nothing: {counts}")
    return f"60 jobs spread {' / '.join(map(str, sorted(counts)))}"


def a_job_survives_kill_9_of_its_worker(stack: Stack) -> str:
    """A job survives kill -9 of its worker."""
    measure_long_circuit(stack)
    workers = stack.containers("worker")

    def reaped() -> int:
        return sum(len(events(worker, "leases_reaped")) for worker in workers)

    reaped_before = reaped()
    task_id, container = stack.start_long_job()
    begin = time.monotonic()
    # The worker is init's oldest child; init ends with it, and the container with init.
    run(
        "docker", "exec", container, "python", "-c",
        "import os\n"
        "of = lambda pid: open(f'/proc/{pid}/stat').read().rpartition(')')[2].split()[1]\n"
        "pids = sorted(int(p) for p in os.listdir('/proc') if p.isdigit() and p != '1')\n"
        "os.kill(next(p for p in pids if of(p) == '1'), 9)\n",
    )  # fmt: skip
    stack.completed(task_id)
    seconds = time.monotonic() - begin
    expect(reaped() > reaped_before, "the job was not the killed worker's")

    def restarted() -> bool:
        return inspect(container)["RestartCount"] > 0 and is_healthy(container)

    until("the killed worker is back and healthy", HEALTHY_S, restarted)
    return f"completed {seconds:.0f} s after the kill, container restarted"


def redis_may_be_cut_off(stack: Stack) -> str:
    """Redis cut off and healed loses nothing."""
    redis = stack.only("redis")
    workers = stack.containers("worker")
    restarts = [inspect(worker)["RestartCount"] for worker in workers]

    def missed(worker: str) -> int:
        return len(events(worker, "beat_missed"))

    most_missed = max(map(missed, workers))
    task_id, _ = stack.start_long_job()
    network = f"{PROJECT}_backend"
    run("docker", "network", "disconnect", network, redis)
    cut = time.monotonic()
    try:
        until("/health/ready is 503", 30, lambda: stack.ask("GET", "/health/ready")[0] == 503)
        status, _ = stack.ask("GET", "/health/live")
        expect(status == 200, f"/health/live answered {status} without Redis")
        status, body = stack.ask("POST", "/tasks", {"qc": BELL})
        expect(status == 503, f"POST /tasks answered {status} {body} without Redis")
        until("every worker misses a beat", 60, lambda: min(map(missed, workers)) > most_missed)
        until("the cut is over", CUT_S + 1, lambda: time.monotonic() - cut > CUT_S)
    finally:
        run("docker", "network", "connect", "--alias", "redis", network, redis)
    begin = time.monotonic()
    until("/health/ready is 200", 60, lambda: stack.ask("GET", "/health/ready")[0] == 200)
    stack.completed(task_id)
    stack.completed(stack.submit(BELL))
    finishes = [
        event["event"]
        for worker in workers
        for name in ("job_finished", "finish_fenced", "job_given_back")
        for event in events(worker, name)
        if event["job_id"] == task_id
    ]
    expect(finishes == ["job_finished"], f"the job that ran meanwhile: {finishes}")
    now = [inspect(worker)["RestartCount"] for worker in workers]
    expect(now == restarts, f"workers were restarted: {restarts} → {now}")
    seconds = time.monotonic() - begin
    every = [redis, stack.only("api"), *workers]
    until("everything is healthy again", HEALTHY_S, lambda: all(map(is_healthy, every)))
    return f"jobs run again {seconds:.0f} s after the cable is back"


def a_stopping_worker_finishes_its_job(stack: Stack) -> str:
    """A stopping worker finishes its job."""
    stack.up("--scale", "worker=1")
    task_id, container = stack.start_long_job()
    begin = time.monotonic()
    stack.compose("stop", "worker")
    seconds = time.monotonic() - begin
    code = inspect(container)["State"]["ExitCode"]
    task = stack.task(task_id)
    expect(task["status"] == "completed", f"the job was left as {task}")
    expect(code == 0, f"the worker ended with {code}")
    expect(events(container, "worker_stopped"), "the worker did not say goodbye")
    stack.up("--scale", "worker=1")
    stack.completed(stack.submit(BELL))
    return f"stopped after {seconds:.1f} s, job completed, exit code 0"


def new_containers_lose_nothing(stack: Stack) -> str:
    """Scaling and new containers under load lose nothing."""
    accepted: list[str] = []
    is_over = threading.Event()

    def submit() -> None:
        while not is_over.is_set():
            status, body = stack.ask("POST", "/tasks", {"qc": BELL, "shots": 100}, timeout_s=10)
            if status == 200:
                accepted.append(body["task_id"])
            time.sleep(LOAD_PAUSE_S)

    submitting = threading.Thread(target=submit)
    submitting.start()
    try:
        stack.up("--scale", "worker=3")
        stack.up("--scale", "worker=3", "--force-recreate", "--no-deps", "api", "worker")
        stack.up("--scale", "worker=1")
    finally:
        is_over.set()
        submitting.join()
    expect(len(accepted) > 100, f"only {len(accepted)} tasks were accepted meanwhile")
    for task_id in accepted:
        stack.completed(task_id)
    return f"1 to 3 workers, all containers new, 1 worker; {len(accepted)} tasks, all completed"


def the_driver_manager_runs_a_circuit(stack: Stack) -> str:
    """The driver manager runs a circuit."""
    stack.compose("--profile", "drivers", "build", "driver-manager", timeout_s=BUILD_S)
    stack.up("driver-manager")
    code = (
        "import grpc\n"
        "from app.drivers.proto import driver_manager_pb2 as pb\n"
        "from app.drivers.proto.driver_manager_pb2_grpc import DriverManagerServiceStub\n"
        "stub = DriverManagerServiceStub(grpc.insecure_channel('localhost:50061'))\n"
        f"payload = pb.CircuitPayload(format=pb.QASM3_TEXT, data={BELL.encode()!r})\n"
        "asked = pb.ExecuteCircuitRequest(device_id='simulator@aer', payload=payload, shots=100)\n"
        "print(sorted(stub.ExecuteCircuit(asked, timeout=30).counts.items()))"
    )
    counts = dict(ast.literal_eval(python(stack.only("driver-manager"), code)))
    expect(counts.keys() == {"00", "11"}, f"a Bell pair gave {counts}")
    expect(sum(counts.values()) == 100, f"100 shots gave {counts}")
    return f"by gRPC, as its own user of Redis: {counts}"


def results_survive_down_and_up(stack: Stack) -> str:
    """Jobs and results survive down and up."""
    task_id = stack.submit(BELL)
    result = stack.completed(task_id)["result"]
    stack.compose("stop", "worker")
    waiting = stack.submit(BELL)
    stack.compose("down")
    expect(not stack.containers("redis"), "`down` left Redis behind")
    stack.up()
    expect(stack.task(task_id)["result"] == result, "the result is another one after down and up")
    stack.completed(waiting)
    return "one result kept, one queued job run afterwards"


def nothing_ran_out_of_memory(stack: Stack) -> str:
    """Nothing ran out of memory."""
    for service in ("redis", "api", "worker"):
        for container in stack.containers(service):
            expect(not inspect(container)["State"]["OOMKilled"], f"{service} ran out of memory")
    return "no container was killed by the kernel"


def it_leaves_nothing_behind(stack: Stack) -> str:
    """Nothing is left behind."""
    stack.remove()
    label = f"label=com.docker.compose.project={PROJECT}"
    for kind in ("container", "volume", "network"):
        all_of = ["--all"] if kind == "container" else []
        left = run("docker", kind, "ls", "--quiet", "--filter", label, *all_of).split()
        expect(not left, f"{kind}s left behind: {left}")
    return "containers, volumes, networks, images removed"


CHECKS: tuple[Callable[[Stack], str], ...] = (
    it_builds,
    it_starts_with_one_command,
    it_answers_over_http,
    the_api_tests_pass,
    the_gateway_has_no_simulator,
    containers_are_confined,
    redis_is_out_of_reach,
    it_scales_to_three_workers,
    a_job_survives_kill_9_of_its_worker,
    redis_may_be_cut_off,
    a_stopping_worker_finishes_its_job,
    new_containers_lose_nothing,
    the_driver_manager_runs_a_circuit,
    results_survive_down_and_up,
    nothing_ran_out_of_memory,
    it_leaves_nothing_behind,
)
#: Without these the others say nothing.
NEEDED = (it_builds, it_starts_with_one_command)


def measure_long_circuit(stack: Stack) -> None:
    """Find a circuit that keeps a worker busy for about six seconds on this machine."""
    qubits, layers = 20, 10
    begin = time.monotonic()
    stack.completed(stack.submit(dense_circuit(qubits, layers)))
    seconds = time.monotonic() - begin
    stack.long_circuit = dense_circuit(qubits, min(400, round(layers * 6 / seconds)))


def say(text: str) -> None:
    """Print at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def passes(check: Callable[[Stack], str], stack: Stack) -> bool:
    """Run one check and say how it went."""
    title = (check.__doc__ or "").rstrip(".")
    begin = time.monotonic()
    try:
        note = check(stack)
    except BrokenPromiseError as exc:
        say(f"FAIL  {title:<40} {time.monotonic() - begin:6.1f} s  {exc}")
        state = stack.try_compose("ps", "--all").stdout
        logs = stack.try_compose("logs", "--no-color", "--tail", "20").stdout
        say("\n".join(f"      | {line[:240]}" for line in (state + logs).splitlines()))
        return False
    say(f"PASS  {title:<40} {time.monotonic() - begin:6.1f} s  {note}")
    return True


def stop(number: int, _frame: object) -> NoReturn:
    """Make every signal end the test through its clean-up."""
    raise KeyboardInterrupt(signal.Signals(number).name)


def main() -> int:
    """Run all checks; 0 when all pass."""
    signal.signal(signal.SIGTERM, stop)
    stack = Stack()
    failed = 0
    try:
        stack.remove()
        for check in CHECKS:
            if not passes(check, stack):
                failed += 1
                if check in NEEDED:
                    break
    except KeyboardInterrupt:
        say("interrupted, cleaning up")
        failed += 1
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        stack.remove()
    say(f"{len(CHECKS) - failed} of {len(CHECKS)} passed" if not failed else f"{failed} failed")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
