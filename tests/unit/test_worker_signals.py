"""A worker that is asked to end drains and ends, whatever the signal has interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

#: A worker without queues and sandboxes, with Celery's own event loop: says what is done to it.
WORKER = """
import signal, sys, time
from types import SimpleNamespace
from celery.worker import state
from kombu.asynchronous import Hub
from app.telemetry.logs import configure_logging
from app.workers import celery_app

configure_logging(level="INFO", environment="test", service="worker")

def keep(stop): stop.wait()
def listen(stop): stop.wait()
def drain(_timeout_s): print("drains", flush=True)
def leave():
    print("leaves", flush=True)
    if "fails" in sys.argv: raise OSError("no goodbye")

celery_app._running = SimpleNamespace(
    id="w",
    runner=SimpleNamespace(drain=drain),
    sweeper=SimpleNamespace(keep=keep, listen=listen),
    leave=leave,
)
# As Celery does when it starts: what was there is forgotten.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
hub = Hub()
celery_app._start(SimpleNamespace(hub=hub, cancel_task_queue=print))
with hub._ready_lock:
    for number in sys.argv[1].split(","):
        signal.raise_signal(int(number))
if sys.argv[1] == "1" and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    print("stays")
    sys.exit()
while state.should_stop is None:
    time.sleep(0.01)
hub.close()
print("ends with", int(state.should_stop))
"""


def said(*numbers: signal.Signals, more: tuple[str, ...] = (), under: str = "env") -> list[str]:
    """What a worker says that has these signals while its event loop holds its lock."""
    ended = subprocess.run(
        [under, sys.executable, "-c", WORKER, ",".join(f"{number:d}" for number in numbers), *more],
        env=os.environ | {"QFLEET_REDIS_URL": "redis://127.0.0.1:1", "QFLEET_EXECUTORS": "aer"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return ended.stdout.splitlines()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_drains_whatever_it_interrupts(number: signal.Signals) -> None:
    assert said(number) == ["drains", "leaves", "aer", "ends with 0"]


def test_a_worker_whose_goodbye_fails_ends_too() -> None:
    assert said(signal.SIGTERM, more=("fails",)) == ["drains", "leaves", "aer", "ends with 0"]


def test_a_worker_started_with_nohup_stays_when_its_terminal_goes() -> None:
    assert said(signal.SIGHUP, under="nohup") == ["stays"]


def test_one_that_drains_under_nohup_drains_on_when_its_terminal_goes() -> None:
    told = said(signal.SIGTERM, signal.SIGHUP, under="nohup")

    assert told == ["drains", "leaves", "aer", "ends with 0"]
