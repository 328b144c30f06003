"""How does everything run on one machine? Starts the parts, watches them, ends them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

from app.errors import ConfigurationInvalid, ServiceError
from app.local.processes import die_with_parent
from app.local.valkey import EmbeddedValkey, best_fsync, require_platform

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import FrameType
    from typing import BinaryIO

    from app.config import Settings

READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
#: A part that dies is started again after this, doubled each time up to the most.
BACKOFF_S = 0.5
MOST_BACKOFF_S = 30.0
#: A part that has run this long is healthy again: its next pause is the first one.
HEALTHY_S = 60.0
WATCH_S = 0.2
LOG_BYTES = 10 * 2**20


class Part:
    """A process of the stack that is started again when it dies."""

    def __init__(self, name: str, start: Callable[[], subprocess.Popen[bytes]]) -> None:
        """Name the part and say how it starts."""
        self.name = name
        self._start = start
        self._pause_s = BACKOFF_S
        self._started = 0.0
        self._again: float | None = None
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it."""
        self.process = self._start()
        self._started = time.monotonic()
        self._again = None

    def watch(self, say: Callable[[str, str], None]) -> None:
        """Start it again if it is dead and its pause is over."""
        now = time.monotonic()
        if self._again is not None:
            if now >= self._again:
                self._revive(say)
            return
        if self.process is None or self.process.poll() is None:
            return
        if now - self._started > HEALTHY_S:
            self._pause_s = BACKOFF_S
        say(self.name, f"ended with {self.process.returncode}; again in {self._pause_s:g} s")
        self._again = now + self._pause_s
        self._pause_s = min(self._pause_s * 2, MOST_BACKOFF_S)

    def _revive(self, say: Callable[[str, str], None]) -> None:
        try:
            self.start()
        except ServiceError as exc:
            say(self.name, exc.message)
            self._again = time.monotonic() + self._pause_s
            self._pause_s = min(self._pause_s * 2, MOST_BACKOFF_S)
        else:
            say(self.name, "started again")

    def stop(self, timeout_s: float) -> None:
        """End it: politely, then not."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class LocalStack:
    """Valkey (unless a Redis is configured), gateway and worker."""

    def __init__(self, settings: Settings) -> None:
        """Prepare; ``run`` does it."""
        self._settings = settings
        self._stop = threading.Event()
        self._parts: list[Part] = []

    def run(self) -> None:
        """Start everything, watch it until a signal comes, end everything.

        Raises:
            ConfigurationInvalid: the port is taken, the folder is in use or not writable.
            Unavailable: a part did not start.
        """
        settings = self._settings
        with _locked(settings.data), self._signals():
            _require_free(settings.host, settings.port)
            try:
                self._start()
                while not self._stop.wait(WATCH_S):
                    for part in self._parts:
                        part.watch(_say)
            finally:
                self._end()

    def _start(self) -> None:
        settings = self._settings
        url = settings.redis
        if url is None:
            valkey = self._valkey()
            url = valkey.url
        else:
            _say("redis", "as configured")
        environment = os.environ | {
            "QFLEET_REDIS_URL": url,
            "QFLEET_HOST": settings.host,
            "QFLEET_PORT": str(settings.port),
        }
        for name, command in (("gateway", "serve"), ("worker", "worker")):
            part = Part(name, lambda n=name, c=command: self._spawn(n, c, environment))  # type: ignore[misc]
            self._parts.append(part)
            part.start()
            _say(name, "starting")
        self._wait_ready()

    def _valkey(self) -> EmbeddedValkey:
        require_platform()
        folder = self._settings.data / "valkey"
        valkey = EmbeddedValkey(folder=folder, fsync=best_fsync(folder))

        def start() -> subprocess.Popen[bytes]:
            valkey.start()
            assert valkey.process is not None  # noqa: S101 - start() set it or raised
            return valkey.process

        part = Part("valkey", start)
        self._parts.append(part)
        part.start()
        where = f"127.0.0.1:{valkey.port}, {folder}"
        _say("valkey", f"{valkey.version()} on {where}, appendfsync {valkey.fsync}")
        return valkey

    def _spawn(
        self, name: str, command: str, environment: dict[str, str]
    ) -> subprocess.Popen[bytes]:
        with _log_file(self._settings.data, name) as log:
            return subprocess.Popen(
                [sys.executable, "-m", "app", command],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C in the terminal is for us alone: we end the parts in order.
                start_new_session=True,
                preexec_fn=die_with_parent(),
            )

    def _wait_ready(self) -> None:
        address = f"http://{_reachable(self._settings.host)}:{self._settings.port}"
        end = time.monotonic() + READY_TIMEOUT_S
        while not self._stop.is_set():
            if _is_healthy(address):
                _say("ready", f"{address}  (docs: {address}/docs)")
                _say("try", f"curl {address}/health")
                _say("stop", "Ctrl-C")
                return
            for part in self._parts:
                part.watch(_say)
            if time.monotonic() > end:
                logs = self._settings.data / "logs"
                message = f"not ready within {READY_TIMEOUT_S:g} s; the logs in {logs} say why"
                raise ConfigurationInvalid(message)
            self._stop.wait(WATCH_S)

    def _end(self) -> None:
        """Gateway first, so that nothing new comes; Valkey last, so that everything is recorded."""
        order = {"gateway": 0, "worker": 1, "valkey": 2}
        grace = {"worker": self._settings.drain_s + STOP_TIMEOUT_S}
        for part in sorted(self._parts, key=lambda part: order[part.name]):
            _say(part.name, "stopping")
            part.stop(grace.get(part.name, STOP_TIMEOUT_S))
        _say("stopped", "")

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        def stop(number: int, _frame: FrameType | None) -> None:
            if self._stop.is_set():
                for part in self._parts:
                    if part.process is not None and part.process.poll() is None:
                        part.process.kill()
                os._exit(128 + number)
            self._stop.set()

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _say(part: str, text: str) -> None:
    """One status line for the person who started us."""
    sys.stdout.write(f"{part:8} {text}".rstrip() + "\n")
    sys.stdout.flush()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """The data folder, ours alone."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as exc:
        message = f"the data folder {folder} cannot be written ({exc.strerror}); set QFLEET_DATA"
        raise ConfigurationInvalid(message) from exc
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            message = (
                f"another stack uses the data folder {folder};"
                " end it, or set QFLEET_DATA to another folder"
            )
            raise ConfigurationInvalid(message) from exc
        yield


def _require_free(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as exc:
            message = f"port {port} on {host} cannot be used ({exc.strerror}); set QFLEET_PORT"
            raise ConfigurationInvalid(message) from exc


def _reachable(host: str) -> str:
    return "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104 - a comparison


def _is_healthy(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=1) as answer:  # noqa: S310 - our own gateway
            return bool(answer.status == 200)  # noqa: PLR2004
    except (urllib.error.URLError, OSError):
        return False


def _log_file(data: Path, name: str) -> BinaryIO:
    """The part's log; a large one of earlier runs becomes ``.1``."""
    folder = data / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.log"
    if path.exists() and path.stat().st_size > LOG_BYTES:
        path.replace(path.with_suffix(".log.1"))
    return path.open("ab")
