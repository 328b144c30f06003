"""Do lists and reads stay fast when many jobs are kept?

``python -m benchmarks.lists`` starts a local stack of its own, submits so many jobs of one owner
over the runtime API, lets them run, and then times reads and lists with all kinds of filters, one
request at a time. Beside each figure stands the same with a hundred jobs kept.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from benchmarks.http_client import Connection
from benchmarks.tasks import local_stack

API = "/api/v1"
CONNECTIONS = 8
FEW = 100
CAPTURE = Path("tests/corpora/captures/01_sampler_basic.json")
BACKENDS = ("simulator@aer", "fake_manila@aer")

#: name → query of ``GET /jobs``.
LISTS: dict[str, dict[str, Any]] = {
    "newest 10": {"limit": 10},
    "newest 200": {"limit": 200},
    "10 from the middle": {"limit": 10, "offset": FEW // 2},
    "oldest 10": {"limit": 10, "sort": "ASC"},
    "final": {"limit": 10, "pending": "false"},
    "queued or running": {"limit": 10, "pending": "true"},
    "one backend": {"limit": 10, "backend": BACKENDS[1]},
    "one tag": {"limit": 10, "tags": ["tag3"]},
    "two tags": {"limit": 10, "tags": ["all", "tag3"]},
    "backend, tag, program, final": {
        "limit": 10,
        "backend": BACKENDS[1],
        "tags": ["all"],
        "program": "sampler",
        "pending": "false",
    },
    "since a time": {"limit": 10, "created_after": "2020-01-01T00:00:00Z"},
}


async def fill(port: int, params: object, first: int, last: int) -> None:
    """Submit jobs, and wait until none is queued or running."""
    numbers = iter(range(first, last))

    async def client() -> None:
        connection = await Connection.open(port)
        for i in numbers:
            body = {
                "program_id": "sampler",
                "backend": BACKENDS[i % len(BACKENDS)],
                "params": params,
                "tags": ["all", f"tag{i % 10}"],
            }
            status, answer = await connection.request("POST", f"{API}/jobs", body)
            if status != 200:
                raise RuntimeError(f"not accepted: {status} {answer}")
        await connection.close()

    await asyncio.gather(*(client() for _ in range(CONNECTIONS)))
    connection = await Connection.open(port)
    while True:
        _, page = await connection.request("GET", f"{API}/jobs?pending=true&limit=1")
        if not page["jobs"]:
            break
        await asyncio.sleep(0.2)
    await connection.close()


async def timed(port: int, requests: int) -> dict[str, tuple[float, float]]:
    """Name of a read → p50 and p99, ms."""
    connection = await Connection.open(port)
    _, newest = await connection.request("GET", f"{API}/jobs?limit=1")
    paths = {
        "one job": f"{API}/jobs/{newest['jobs'][0]['id']}?exclude_params=true",
        **{
            name: f"{API}/jobs?{urlencode({'exclude_params': 'true', **query}, doseq=True)}"
            for name, query in LISTS.items()
        },
    }
    figures = {}
    clock = asyncio.get_running_loop().time
    for name, path in paths.items():
        times = []
        for _ in range(requests):
            began = clock()
            status, answer = await connection.request("GET", path)
            times.append((clock() - began) * 1000)
            if status != 200:
                raise RuntimeError(f"{path}: {status} {answer}")
        times.sort()
        figures[name] = (times[len(times) // 2], times[len(times) * 99 // 100])
    await connection.close()
    return figures


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=10_000, help="kept jobs of one owner")
    parser.add_argument("--requests", type=int, default=500, help="of each kind")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    calls = json.loads(CAPTURE.read_text())["calls"]
    submitted = next(call for call in calls if call["method"] == "POST")
    params = submitted["request_json"]["params"]
    with local_stack(2, "everysec") as (port, _):
        asyncio.run(fill(port, params, 0, FEW))
        few = asyncio.run(timed(port, arguments.requests))
        asyncio.run(fill(port, params, FEW, arguments.jobs))
        many = asyncio.run(timed(port, arguments.requests))
    if arguments.json:
        sys.stdout.write(json.dumps({"jobs": arguments.jobs, "few": few, "many": many}) + "\n")
        return
    heads = (f"{jobs} jobs: p50, p99 ms" for jobs in (FEW, arguments.jobs))
    sys.stdout.write(f"{'':30}{'   '.join(heads)}\n")
    for name in many:
        pairs = (f"{p50:7.2f} {p99:7.2f}" for p50, p99 in (few[name], many[name]))
        sys.stdout.write(f"{name:30}{'          '.join(pairs)}\n")


if __name__ == "__main__":
    main()
