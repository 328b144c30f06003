"""What does a wake-up look like? One message per executor's queue, rendered by kombu itself.

A wake-up names no job. It makes one worker of that queue claim jobs from the store for a while. A
lost, doubled or needless one is harmless, so it can be pushed by the script that stores the job.
"""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING

from kombu import Connection, Exchange, Producer, Queue

from app.lua.keys import SCHEMA, WAKEUP_MARK

if TYPE_CHECKING:
    from celery import Celery

#: Celery task that a wake-up starts; its one argument is the executor.
TASK = "qfleet.serve"

#: Names of keys in Redis, which a queue must not have.
RESERVED = frozenset(key.pattern for key in SCHEMA if "{" not in key.pattern)


def queue(executor: str) -> Queue:
    """The Celery queue of an executor; it has the executor's name."""
    return Queue(executor, Exchange(executor, type="direct"), routing_key=executor)


@cache
def wakeup(app: Celery, executor: str) -> str:
    """The message that wakes a worker of this executor, as it lies in Redis.

    Values that must differ between copies (task id, delivery tag) hold ``WAKEUP_MARK``; the pushing
    script replaces it.
    """
    rendered: list[dict[str, object]] = []
    with Connection("memory://") as connection:
        channel = connection.channel()
        channel._put = lambda _queue, message, **_: rendered.append(message)  # noqa: SLF001 - the only place where the finished message passes
        with Producer(channel) as producer:
            app.send_task(
                TASK,
                (executor,),
                task_id=WAKEUP_MARK,
                queue=queue(executor),
                producer=producer,
                retry=False,
            )
    (message,) = rendered
    properties = message["properties"]
    if not isinstance(properties, dict):
        raise TypeError("kombu rendered a message without properties")
    properties["delivery_tag"] = WAKEUP_MARK
    return json.dumps(message)
