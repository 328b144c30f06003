"""The negative control: the same fault on a plain Celery task loses it, and the checker sees that."""

from __future__ import annotations

import itertools
import sys
from typing import TYPE_CHECKING

import celery

from tests.integration.fleet import Fleet, wait_until

from .checker import Limits, Rest, check
from .history import Event, Order

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

PLAIN = """
import celery, redis
app = celery.Celery("plain", broker={url!r})
app.conf.worker_prefetch_multiplier = 1
app.conf.task_acks_late = True
app.conf.task_reject_on_worker_lost = True
@app.task(name="work")
def work(number):
    redis.Redis.from_url({url!r}).sadd("plain:done", number)
"""


def start_plain_worker(fleet: Fleet, folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "celery", "-A", "plain", "worker", "-P", "solo", "-l", "INFO"]
    worker = fleet._start("plain", command, PYTHONPATH=str(folder))
    fleet.workers.append(worker)
    return worker


def test_a_plain_celery_task_is_lost_with_the_worker_that_received_it(
    fleet: Fleet, tmp_path: Path
) -> None:
    """Even with late acknowledgement, and although the worker never began it."""
    (tmp_path / "plain.py").write_text(PLAIN.format(url=fleet.valkey.url))
    doomed = start_plain_worker(fleet, tmp_path)
    app = celery.Celery("plain", broker=fleet.valkey.url, set_as_current=False)
    numbers = itertools.count()

    def publish() -> int:
        number = next(numbers)
        app.send_task("work", (number,))
        return number

    lost = fleet.freeze_with_a_message(doomed, "celery", publish)
    fleet.kill(doomed)
    start_plain_worker(fleet, tmp_path)
    following = publish()

    with fleet.redis() as client:
        wait_until(lambda: client.sismember("plain:done", following), 20, "the next task runs")
        done, queued = client.smembers("plain:done"), client.llen("celery")
    app.close()

    assert str(lost) not in done
    assert queued == 0, "it is in no queue either"
    violations = check(
        orders={"lost": Order(kind="bell", seed=0)},
        events=[submitted("lost", str(lost))],
        rest=Rest(
            records={number: {"status": "Completed"} for number in done},
            results={},
            listed=frozenset((str(lost),)),
        ),
        references={},
        limits=Limits(max_attempts=5, max_crashes=3),
    )
    assert [(v.invariant, v.subject) for v in violations] == [("I1", str(lost))]


def submitted(key: str, task: str) -> Event:
    return Event(began_s=0, ended_s=1, operation="submit", subject=key, outcome="ok", value=task)
