"""What does ``celery -A app.workers.celery_app worker`` start? A worker, from birth to drain."""

from __future__ import annotations

import os
import signal
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import structlog
from celery import signals
from celery.worker import state

from app.bootstrap import build_celery, build_worker
from app.config import Settings
from app.errors import ServiceError
from app.queues.wakeups import TASK
from app.telemetry.logs import configure_logging
from app.workers.gate import WakeupGate, gate_step

if TYPE_CHECKING:
    from types import FrameType

    from celery.worker.consumer import Consumer

    from app.bootstrap import Worker

log = structlog.get_logger()

#: A beat or a look at the subscription takes no longer than this to end, while Redis answers.
LOOP_END_S = 3.0
#: What asks a worker to drain and end.
DRAINING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

settings = Settings()
app = build_celery(settings)
gate = WakeupGate(slots=settings.slots)
app.steps["consumer"].add(gate_step(gate))

_running: Worker | None = None
#: Who starts us with nohup wants us to stay when the terminal goes; Celery forgets it.
_stays = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@app.task(name=TASK)  # type: ignore[untyped-decorator]  # Celery has no types
def serve(executor: str) -> None:
    """Run ready jobs of this executor for a while: what a wake-up asks for."""
    if _running is None:
        raise RuntimeError("a wake-up came before the worker was built")
    try:
        _running.runner.serve(executor)
    finally:
        gate.release()


@signals.task_received.connect  # type: ignore[untyped-decorator]
def _take(**_: Any) -> None:
    gate.take()


@signals.setup_logging.connect  # type: ignore[untyped-decorator]
def _log(**_: Any) -> None:
    """Our log configuration instead of Celery's."""
    configure_logging(level=settings.log_level, environment=settings.environment, service="worker")


@signals.worker_init.connect  # type: ignore[untyped-decorator]
def _build(**_: Any) -> None:
    global _running  # noqa: PLW0603 - one worker per process; Celery's signals carry no state
    # Celery sets up logs after this, and there are events before.
    configure_logging(level=settings.log_level, environment=settings.environment, service="worker")
    try:
        _running = build_worker(settings, app)
    except ServiceError as exc:
        # Celery logs what a receiver raises and goes on, but for this.
        raise SystemExit(f"qfleet: {exc.message}") from exc


@signals.worker_ready.connect  # type: ignore[untyped-decorator]
def _start(sender: Consumer, **_: Any) -> None:
    """Start the keeper; from now on SIGTERM, SIGINT and SIGHUP drain."""
    if _running is None:
        raise RuntimeError("the worker was not built")
    worker = _running
    stop = threading.Event()
    asked: SimpleQueue[int] = SimpleQueue()
    handled = [number for number in DRAINING if not (_stays and number is signal.SIGHUP)]
    loops = [
        threading.Thread(target=loop, args=(stop,), name=loop.__name__, daemon=True)
        for loop in (worker.sweeper.keep, worker.sweeper.listen)
    ]

    def drain(number: int, _frame: FrameType | None) -> None:
        # A second signal means: now. Jobs then go back when their leases end.
        for each in handled:
            signal.signal(each, signal.SIG_DFL)
        # Nothing else: the handler may have interrupted who holds a lock that anything else takes,
        # Celery's event loop above all, and would wait for it for ever.
        asked.put(number)

    def finish() -> None:
        number = asked.get()
        try:
            log.info("worker_draining", worker=worker.id, signal=signal.Signals(number).name)
            for name in settings.executors:
                sender.hub.call_soon(sender.cancel_task_queue, name)
            worker.runner.drain(settings.drain_s)
            stop.set()
            # Who still beats would come back after its goodbye.
            for loop in loops:
                loop.join(LOOP_END_S)
            worker.leave()
            log.info("worker_stopped", worker=worker.id)
        finally:
            # Whatever went wrong: a worker that takes no more jobs must not stay.
            state.should_stop = os.EX_OK

    # Celery's own warm shutdown hangs under load, and what it does at SIGHUP, a restart, fails: it
    # must never see these signals.
    if _stays:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for number in handled:
        signal.signal(number, drain)
    # Afterwards: who sees the first beat may ask us to end.
    for thread in (*loops, threading.Thread(target=finish, name="drain", daemon=True)):
        thread.start()
    log.info(
        "worker_ready", worker=worker.id, executors=list(settings.executors), slots=settings.slots
    )
