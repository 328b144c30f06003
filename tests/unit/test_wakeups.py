"""A wake-up that a script pushes is what Celery itself would have sent."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import redis
from kombu.exceptions import OperationalError

from app.local.addresses import free_port
from app.queues.app import RECONNECT_S, create_celery
from app.queues.wakeups import RESERVED, TASK, queue, wakeup

if TYPE_CHECKING:
    from celery import Celery

#: Values that differ from message to message, and where they stand.
UNIQUE = {("headers", "id"), ("headers", "root_id"), ("properties", "correlation_id")}
UNIQUE |= {("properties", "delivery_tag")}


@pytest.fixture
def app(redis_url: str) -> Celery:
    return create_celery(redis_url=redis_url, executors=["aer"], slots=2)


def flat(message: dict[str, Any]) -> dict[tuple[str, ...], Any]:
    found: dict[tuple[str, ...], Any] = {}
    for name, value in message.items():
        if isinstance(value, dict):
            found |= {(name, inner): content for inner, content in value.items()}
        else:
            found[(name,)] = value
    return found


def test_a_wakeup_is_what_celery_sends(app: Celery, redis_url: str) -> None:
    with app.connection_for_write() as connection, connection.Producer() as producer:
        app.send_task(TASK, ("aer",), queue=queue("aer"), producer=producer, retry=False)
    with redis.Redis.from_url(redis_url) as client:
        sent = flat(json.loads(client.lindex("aer", 0)))

    rendered = flat(json.loads(wakeup(app, "aer")))

    assert rendered.keys() == sent.keys()
    different = {field for field in sent if sent[field] != rendered[field]}
    assert different <= UNIQUE | {("properties", "reply_to")}
    assert {rendered[field] for field in UNIQUE} == {"@UNIQUE@"}


def test_a_wakeup_names_no_job(app: Celery) -> None:
    assert wakeup(app, "aer") == wakeup(app, "aer")


def test_names_of_keys_are_reserved() -> None:
    assert {"leases", "stats", "workers"} <= RESERVED
    assert "aer" not in RESERVED


def test_a_wakeup_leaves_nothing_and_needs_no_connection_once_it_is_taken(
    app: Celery, redis_url: str
) -> None:
    """kombu's own acknowledgement ends a worker whose connection went after the message came."""
    taken = []
    with redis.Redis.from_url(redis_url) as client, app.connection_for_read() as connection:
        client.lpush("aer", wakeup(app, "aer").replace("@UNIQUE@", "1"))
        consumer = connection.Consumer([queue("aer")], callbacks=[lambda _, it: taken.append(it)])
        with consumer:
            connection.drain_events(timeout=5)
        keys = {key.decode() for key in client.scan_iter("*")}
    (message,) = taken

    message.ack()

    assert {key for key in keys if not key.startswith("_kombu")} == set()


def test_a_worker_looks_for_its_broker_at_a_steady_pace() -> None:
    """kombu by itself waits 2 s longer each time, up to 30 s: so late would jobs go on."""
    app = create_celery(redis_url=f"redis://127.0.0.1:{free_port()}/0", executors=["aer"], slots=2)
    pauses: list[float] = []

    with app.connection_for_read() as connection, pytest.raises(OperationalError):
        connection.ensure_connection(lambda _, pause_s: pauses.append(pause_s), max_retries=3)

    assert pauses == [RECONNECT_S] * 3
