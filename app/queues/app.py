"""How is Celery set up? One configuration for gateways, which render, and workers.

Why each value: ``docs/adr/0002-wakeups-over-celery.md``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery import Celery
from celery.app.amqp import AMQP
from kombu import Connection
from kombu.transport import redis as redis_transport

from app.queues.wakeups import queue

if TYPE_CHECKING:
    from collections.abc import Sequence


#: How often a worker that has lost Redis looks whether it is back.
RECONNECT_S = 0.5


class _Connection(Connection):  # type: ignore[misc]  # kombu has no types
    """Looks for a Redis that is away at a steady pace.

    kombu waits 2 s longer each time, up to 30 s: so late would jobs start after an outage.
    """

    def _ensure_connection(self, *args: Any, **kwargs: Any) -> Any:
        pace = {"interval_start": RECONNECT_S, "interval_step": 0, "interval_max": RECONNECT_S}
        return super()._ensure_connection(*args, **(pace | kwargs))


class _Amqp(AMQP):  # type: ignore[misc]  # Celery has no types
    Connection = _Connection


def create_celery(*, redis_url: str, executors: Sequence[str], slots: int) -> Celery:
    """A Celery application that consumes these executors' queues."""
    # A wake-up needs no restoring after a reconnect.
    redis_transport.Channel.do_restore = False
    app = Celery("qfleet", broker=redis_url, backend=None, amqp=_Amqp, set_as_current=False)
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
        # A Redis that answers with an error, because its disk is full, ends a worker otherwise.
        broker_channel_error_retry=True,
        broker_transport_options={
            "socket_timeout": 10,
            "socket_connect_timeout": 2,
            "socket_keepalive": True,
            "health_check_interval": 15,
            # Nor an acknowledgement in Redis: it is two round trips more, and one whose connection
            # has gone meanwhile ends the worker (AttributeError in kombu).
            "ack_emulation": False,
        },
    )
    return app
