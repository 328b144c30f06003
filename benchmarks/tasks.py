"""How much of bare Aer's speed is left when a Bell circuit takes the whole way?

``python -m benchmarks.tasks`` starts a local stack of its own, then measures in one run on one
machine:

- bare: processes, as many as the stack has slots, that each run the circuit in a loop; once with
  ``AerSimulator()`` as it comes, and once held to one thread each, which is much faster because the
  processes then do not fight for the cores
- throughput: tasks from submission to read result, over keep-alive connections
- acceptance: how fast tasks are accepted while a backlog builds up, and how fast that is worked off
- latency: one task at a time on an idle stack, from the submission to the result

Bare Aer and throughput are measured in turn, several rounds, because machines drift.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from benchmarks.http_client import Connection

if TYPE_CHECKING:
    from collections.abc import Iterator

BELL = (
    'OPENQASM 3.0; include "stdgates.inc"; qubit[2] q; bit[2] c;'
    " h q[0]; cx q[0], q[1]; c = measure q;"
)
SHOTS = 1024
START_TIMEOUT_S = 60


def bare_loop(
    options: dict[str, int], seconds: float, ready: Any, start: Any, results: Any
) -> None:
    """Run the circuit on one warm simulator for a while; report how often it ran."""
    from qiskit import QuantumCircuit
    from qiskit_aer import AerSimulator

    circuit = QuantumCircuit(2, 2)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.measure([0, 1], [0, 1])
    simulator = AerSimulator(**options)
    simulator.run(circuit, shots=SHOTS).result().get_counts()
    ready.release()
    start.wait()
    runs, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        simulator.run(circuit, shots=SHOTS).result().get_counts()
        runs += 1
    results.put(runs)


def bare_rate(processes: int, seconds: float, **options: int) -> float:
    """Circuits per second of a bare loop in each of so many processes, with these Aer options."""
    context = multiprocessing.get_context("spawn")
    ready, start, results = context.Semaphore(0), context.Event(), context.Queue()
    loops = [
        context.Process(target=bare_loop, args=(options, seconds, ready, start, results))
        for _ in range(processes)
    ]
    for loop in loops:
        loop.start()
    for _ in loops:
        ready.acquire()
    start.set()
    runs = sum(results.get(timeout=seconds + 60) for _ in loops)
    for loop in loops:
        loop.join()
    return runs / seconds


@contextlib.contextmanager
def local_stack(slots: int, fsync: str) -> Iterator[tuple[int, float]]:
    """A local stack with a fresh data folder; gives its port and how long it took to be ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as data:
        environment = os.environ | {
            "QFLEET_PORT": str(port),
            "QFLEET_DATA": data,
            "QFLEET_SLOTS": str(slots),
            "QFLEET_LOG_LEVEL": "WARNING",
            "QFLEET_FSYNC": fsync,
        }
        began = time.monotonic()
        stack = subprocess.Popen(
            [sys.executable, "-m", "app", "up"], env=environment, stdout=subprocess.DEVNULL
        )
        try:
            while not healthy(port):
                if stack.poll() is not None or time.monotonic() - began > START_TIMEOUT_S:
                    raise RuntimeError(
                        f"the local stack did not start (logs: {Path(data) / 'logs'})"
                    )
                time.sleep(0.02)
            yield port, time.monotonic() - began
        finally:
            stack.send_signal(signal.SIGINT)
            stack.wait(timeout=60)


def healthy(port: int) -> bool:
    """Whether the gateway answers and a worker lives."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


async def one_task(connection: Connection) -> float:
    """Submit a Bell task and read its result; gives the seconds it took."""
    began = time.perf_counter()
    status, answer = await connection.request("POST", "/tasks", {"circuit": BELL, "shots": SHOTS})
    if status != 200:
        raise RuntimeError(f"not accepted: {status} {answer}")
    status, answer = await connection.request("GET", f"/tasks/{answer['task_id']}?wait=60")
    if answer.get("status") != "completed" or sum(answer["result"].values()) != SHOTS:
        raise RuntimeError(f"not completed: {status} {answer}")
    return time.perf_counter() - began


async def throughput(port: int, connections: int, seconds: float) -> float:
    """Tasks per second from submission to read result."""
    done = 0
    end = time.monotonic() + seconds

    async def client() -> None:
        nonlocal done
        connection = await Connection.open(port)
        while time.monotonic() < end:
            await one_task(connection)
            done += 1
        await connection.close()

    began = time.monotonic()
    await asyncio.gather(*(client() for _ in range(connections)))
    return done / (time.monotonic() - began)


async def acceptance(port: int, connections: int, tasks: int) -> tuple[float, float]:
    """Tasks accepted per second, and per second from the first submission to the last end."""
    ids: list[str] = []

    async def client(share: int) -> None:
        connection = await Connection.open(port)
        for _ in range(share):
            body = {"circuit": BELL, "shots": SHOTS}
            status, answer = await connection.request("POST", "/tasks", body)
            if status != 200:
                raise RuntimeError(f"not accepted: {status} {answer}")
            ids.append(answer["task_id"])
        await connection.close()

    began = time.monotonic()
    await asyncio.gather(*(client(tasks // connections) for _ in range(connections)))
    accepted_s = time.monotonic() - began
    connection = await Connection.open(port)
    for task_id in ids:
        _, answer = await connection.request("GET", f"/tasks/{task_id}?wait=60")
        if answer["status"] != "completed":
            raise RuntimeError(f"not completed: {answer}")
    await connection.close()
    return len(ids) / accepted_s, len(ids) / (time.monotonic() - began)


async def latencies(port: int, tasks: int) -> list[float]:
    """Seconds of one task after another on an idle stack."""
    connection = await Connection.open(port)
    times = [await one_task(connection) for _ in range(tasks)]
    await connection.close()
    return times


def gateway_memory_bytes(port: int) -> int:
    """Resident memory of the process that listens on the port."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            for connection in process.net_connections(kind="tcp"):
                if connection.status == "LISTEN" and connection.laddr.port == port:
                    return int(process.memory_info().rss)
    raise RuntimeError(f"nothing listens on port {port}")


def measure(
    *, slots: int, connections: int, seconds: float, rounds: int, tasks: int, fsync: str
) -> dict[str, Any]:
    """All figures of one run."""
    with local_stack(slots, fsync) as (port, start_s):
        idle_bytes = gateway_memory_bytes(port)
        asyncio.run(throughput(port, connections, 2))
        measured = [
            (
                bare_rate(slots, seconds),
                bare_rate(slots, seconds, max_parallel_threads=1),
                asyncio.run(throughput(port, connections, seconds)),
            )
            for _ in range(rounds)
        ]
        accepted, drained = asyncio.run(acceptance(port, connections, tasks))
        times = sorted(asyncio.run(latencies(port, tasks // 2)))
        loaded_bytes = gateway_memory_bytes(port)
    return {
        "slots": slots,
        "fsync": fsync,
        "cores": len(os.sched_getaffinity(0)),
        "connections": connections,
        "bare_per_s": round(statistics.median(bare for bare, _, _ in measured), 1),
        "bare_one_thread_per_s": round(statistics.median(bare for _, bare, _ in measured), 1),
        "tasks_per_s": round(statistics.median(rate for _, _, rate in measured), 1),
        "ratio": round(statistics.median(rate / bare for bare, _, rate in measured), 3),
        "ratio_one_thread": round(statistics.median(rate / bare for _, bare, rate in measured), 3),
        "accepted_per_s": round(accepted, 1),
        "backlog_per_s": round(drained, 1),
        "latency_p50_ms": round(times[len(times) // 2] * 1000, 2),
        "latency_p99_ms": round(times[len(times) * 99 // 100] * 1000, 2),
        "start_s": round(start_s, 2),
        "gateway_idle_mib": round(idle_bytes / 2**20, 1),
        "gateway_loaded_mib": round(loaded_bytes / 2**20, 1),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slots", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measured stretch")
    parser.add_argument("--rounds", type=int, default=3, help="bare and tasks in turn")
    parser.add_argument("--tasks", type=int, default=2000, help="backlog; half of it for latency")
    parser.add_argument(
        "--fsync",
        choices=("always", "everysec"),
        default="everysec",
        help="when Valkey syncs its file; always measures the disk too",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = vars(parser.parse_args())
    as_json = arguments.pop("json")
    figures = measure(**arguments)
    if as_json:
        sys.stdout.write(json.dumps(figures) + "\n")
        return
    for name, value in figures.items():
        sys.stdout.write(f"{name:20} {value}\n")


if __name__ == "__main__":
    main()
