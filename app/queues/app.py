"""How is Celery set up? One configuration for gateways, which render, and workers.

Why each value: ``docs/adr/0002-wakeups-over-celery.md``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery import Celery
from kombu.transport import redis as redis_transport

from app.queues.wakeups import queue

if TYPE_CHECKING:
    from collections.abc import Sequence


def create_celery(*, redis_url: str, executors: Sequence[str], slots: int) -> Celery:
    """A Celery application that consumes these executors' queues."""
    # kombu restores unacknowledged messages after a reconnect, and a worker can die of it
    # (AttributeError in the restore). A wake-up needs no restoring.
    redis_transport.Channel.do_restore = False
    app = Celery("qfleet", broker=redis_url, backend=None, set_as_current=False)
    app.conf.update(
        task_queues=[queue(executor) for executor in executors],
        task_create_missing_queues=False,
        task_ignore_result=True,
        task_acks_late=False,
        task_reject_on_worker_lost=False,
        task_publish_retry=False,
        task_serializer="json",
        accept_content=["json"],
        worker_pool="threads",
        worker_concurrency=slots,
        worker_prefetch_multiplier=1,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_send_task_events=False,
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "socket_timeout": 10,
            "socket_connect_timeout": 2,
            "socket_keepalive": True,
            "health_check_interval": 15,
        },
    )
    return app
