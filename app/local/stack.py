"""How does everything run on one machine? Starts the parts, watches them, ends them in order."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import signal
import sys
import time
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

from redis import RedisError

from app.auth.store import ADMIN
from app.bootstrap import available_memory, first_key
from app.errors import ConfigurationInvalid, Unavailable
from app.executors.gpus import CUSTATEVEC, may_have_gpus, survey
from app.jobs.connection import connect_worker
from app.local import addresses
from app.local.processes import Part, StopRequest, last_line, spawn
from app.local.valkey import STOP_TIMEOUT_S, EmbeddedValkey

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import FrameType

    from app.config import Settings

#: How long gateway and worker may take until /health is ok.
READY_TIMEOUT_S = 60.0
#: How long the gateway may take to end; its own grace is shorter.
GATEWAY_STOP_S = 15.0
#: How long the driver manager may take: its drivers drain.
DRIVERS_STOP_S = 45.0
WATCH_S = 0.2
#: Valkey has this part of the machine's memory, so that nobody's results leave none to others;
#: sandboxes have four fifths.
VALKEY_SHARE = 8

DURABILITY = {
    "always": "appendfsync always: an accepted task survives a power cut",
    "everysec": "appendfsync everysec: a power cut may cost the last second (the disk is slow)",
}

#: On loopback nobody is asked; but a proxy lets others in, and so does an account.
OPEN_HINT = "; behind a proxy, or with other people's accounts on this machine, set QFLEET_AUTH=on"

BELL = (
    'OPENQASM 3.0; include "stdgates.inc"; qubit[2] q; bit[2] c;'
    " h q[0]; cx q[0], q[1]; c = measure q;"
)


class LocalStack:
    """Valkey (unless a Redis is configured), gateway and worker."""

    def __init__(self, settings: Settings) -> None:
        """Prepare; ``run`` does it."""
        self._settings = settings
        self._port = settings.port or addresses.free_port()
        self._logs = settings.data / "logs"
        self._stop = StopRequest()
        #: in the order in which they are started; they are ended the other way round.
        self._parts: list[Part] = []
        #: components that the gateway has called unhealthy last.
        self._sick: list[str] = []

    def run(self) -> None:
        """Start everything, watch it until a signal comes, end everything.

        Raises:
            ConfigurationInvalid: the port is taken, the data folder is in use or not writable.
            Unavailable: a part did not start.
        """
        with self._data_folder(), self._signals():
            addresses.require_free(self._settings.host, self._port)
            try:
                self._start()
                while not self._stop.wait(WATCH_S):
                    self._watch()
            finally:
                self._end()

    def _start(self) -> None:
        url = self._settings.redis
        if url is None:
            url = self._start_valkey()
        else:
            _say("redis", "as configured; started and ended by others")
            self._say_whether_it_answers(url)
        if self._stop.is_set:
            return
        self._say_who_may_call(url)
        environment = os.environ | {
            "QFLEET_REDIS_URL": url,
            "QFLEET_HOST": self._settings.host,
            "QFLEET_PORT": str(self._port),
        }
        # The worker is ended after the gateway, so it is started before.
        worker_stop_s = self._settings.drain_s + STOP_TIMEOUT_S
        others = tuple(name for name in self._settings.executors if name != CUSTATEVEC)
        if others:
            theirs = environment | {"QFLEET_EXECUTORS": ",".join(others)}
            self._start_program("worker", "worker", theirs, worker_stop_s)
        self._start_gpu_worker(environment, worker_stop_s, alone=not others)
        self._start_program("gateway", "serve", environment, GATEWAY_STOP_S)
        self._wait_until_healthy()
        # Afterwards: nothing that people wait for waits for it.
        self._start_drivers(environment)

    def _start_gpu_worker(
        self, environment: dict[str, str], grace_s: float, *, alone: bool
    ) -> None:
        """Start a worker for the GPUs, if there are any and nobody has said who serves what.

        Raises:
            ConfigurationInvalid: there are none, and ``alone`` says that nothing else serves.
        """
        asked = CUSTATEVEC in self._settings.executors
        if not asked and ("executors" in self._settings.model_fields_set or not may_have_gpus()):
            return
        found = survey(measure=False)
        if not found.gpus and alone:
            message = (
                f"the executor {CUSTATEVEC!r} cannot be served here: {found.reason};"
                " name others in QFLEET_EXECUTORS, as aer,noisy,auto"
            )
            raise ConfigurationInvalid(message)
        if not found.gpus:
            _say("gpu", f"{CUSTATEVEC} is not served: {found.reason}")
            return
        _say("gpu", f"{CUSTATEVEC} is served by {', '.join(gpu.name for gpu in found.gpus)}")
        ours = environment | {
            "QFLEET_EXECUTORS": CUSTATEVEC,
            "QFLEET_SLOTS": str(len(found.gpus)),
        }
        self._start_program("gpu-worker", "worker", ours, grace_s)

    def _start_valkey(self) -> str:
        """Start the embedded Valkey and wait until it answers; gives its URL."""
        folder = self._settings.data / "valkey"
        with _writing(folder):
            asked = self._settings.fsync
            fsync = None if asked == "auto" else asked
            valkey = EmbeddedValkey(
                folder=folder,
                fsync=fsync,
                log=self._logs / "valkey.log",
                memory_bytes=self._settings.valkey_memory_bytes
                or available_memory() // VALKEY_SHARE,
            )
        part = Part(name="valkey", start=valkey.spawn, log=valkey.log, grace_s=STOP_TIMEOUT_S)
        self._parts.append(part)
        part.start()
        _say("valkey", f"starting on {addresses.LOOPBACK}:{valkey.port}, data in {folder}")
        while not (self._stop.is_set or valkey.is_ready()):
            self._stop.wait(0.01)
        if not self._stop.is_set:
            _say("valkey", f"{valkey.version()} is ready, {DURABILITY[valkey.fsync]}")
        return valkey.url

    def _say_whether_it_answers(self, url: str) -> None:
        try:
            with connect_worker(url) as client:
                client.ping()
        except RedisError as exc:
            _say("redis", f"no answer yet, waiting at most {READY_TIMEOUT_S:g} s: {exc}")

    def _say_who_may_call(self, redis_url: str) -> None:
        if not self._settings.asks_for_keys:
            who = f"open: whoever reaches {self._settings.host} needs no key, all are one owner"
            # What is not said in the settings may not be meant.
            hint = "" if self._settings.auth == "off" else OPEN_HINT
            _say("access", who + hint)
            return
        _say("access", "callers need a key: `python -m app keys create --owner NAME`")
        key = first_key(self._settings, redis_url)
        if key is not None:
            _say("first key", f"{key}  (of owner {ADMIN}; it is shown this once)")

    def _start_program(
        self, name: str, command: str, environment: dict[str, str], grace_s: float
    ) -> None:
        log = self._logs / f"{name}.log"
        program = [sys.executable, "-m", "app", command]
        start = partial(spawn, program, log=log, environment=environment)
        part = Part(name=name, start=start, log=log, grace_s=grace_s)
        self._parts.append(part)
        part.start()
        _say(name, f"starting, log in {log}")

    def _start_drivers(self, environment: dict[str, str]) -> None:
        """Start the driver manager, if that is wanted and possible."""
        settings = self._settings
        if self._stop.is_set or settings.drivers == "off":
            return
        if settings.drivers == "auto":
            if find_spec("grpc") is None:
                _say("drivers", "not started: gRPC is not installed (requirements-drivers.txt)")
                return
            ports = {
                "QFLEET_GRPC_PORT": settings.grpc_port,
                "QFLEET_DRIVER_METRICS_PORT": settings.driver_metrics_port,
            }
            for name, port in ports.items():
                if not addresses.is_free(settings.grpc_host, port):
                    _say("drivers", f"not started: port {port} is taken; set {name} to another")
                    return
        self._start_program("drivers", "drivers", environment, DRIVERS_STOP_S)
        access = "" if settings.asks_for_keys_over_grpc else ", open"
        _say("drivers", f"gRPC on {settings.grpc_host}:{settings.grpc_port}{access}")

    def _wait_until_healthy(self) -> None:
        end = time.monotonic() + READY_TIMEOUT_S
        while not self._is_healthy():
            for part in self._parts:
                # Who dies this early will not start the next time either: say why, and end.
                if not part.is_running:
                    message = f"the {part.name} did not start: {last_line(part.log)}"
                    raise Unavailable(message)
            if time.monotonic() > end:
                sick = f"; not healthy: {', '.join(self._sick)}" if self._sick else ""
                message = (
                    f"not ready after {READY_TIMEOUT_S:g} s{sick}; the logs in {self._logs} say why"
                )
                raise Unavailable(message)
            if self._stop.wait(WATCH_S):
                return
        url = addresses.url_of(self._settings.host, self._port)
        task = json.dumps({"circuit": BELL}).replace("'", "'\\''")
        key = ' -H "Authorization: apikey $KEY"' if self._settings.asks_for_keys else ""
        _say("ready", f"{url}  (docs: {url}/docs)")
        _say("try", f"curl -s {url}/tasks{key} -H 'Content-Type: application/json' -d '{task}'")
        _say("stop", "Ctrl-C")

    def _is_healthy(self) -> bool:
        # Not urllib: it would ask the proxy of the environment.
        host = addresses.reachable(self._settings.host)
        gateway = http.client.HTTPConnection(host, self._port, timeout=2)
        try:
            gateway.request("GET", "/health")
            answer = gateway.getresponse()
            parts = json.loads(answer.read())["components"]
        except (OSError, http.client.HTTPException, ValueError, KeyError):
            return False
        else:
            self._sick = [name for name, state in parts.items() if state != "healthy"]
            return answer.status == http.client.OK
        finally:
            gateway.close()

    def _watch(self) -> None:
        for part in self._parts:
            news = part.watch()
            if news is not None:
                _say(part.name, news)

    def _end(self) -> None:
        """Gateway first, so that nothing new comes; Valkey last, so that everything is recorded."""
        for part in reversed(self._parts):
            if part.is_running:
                _say(part.name, f"stopping (at most {part.grace_s:g} s; Ctrl-C again: at once)")
                part.stop()
        _say("stopped", f"data stays in {self._settings.data}")

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """The first SIGINT, SIGTERM or SIGHUP asks to stop; the second kills."""

        def stop(number: int, _frame: FrameType | None) -> None:
            if not self._stop.is_set:
                self._stop.set()
                return
            for part in self._parts:
                part.kill()
            os._exit(128 + number)

        numbers = [signal.SIGINT, signal.SIGTERM]
        # Who starts us with nohup wants us to stay when the terminal goes.
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        before = {number: signal.signal(number, stop) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def _data_folder(self) -> Iterator[None]:
        """The data folder, ours alone, with room for logs."""
        folder = self._settings.data
        with _writing(folder):
            # They say who does what; others may have accounts on this machine.
            self._logs.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = (folder / "lock").open("w")
        with lock:
            _lock(lock.fileno(), folder)
            yield


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        message = (
            f"the data folder {folder} cannot be written: {exc.strerror};"
            " set QFLEET_DATA to another"
        )
        raise ConfigurationInvalid(message) from exc


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        message = (
            f"another stack uses the data folder {folder};"
            " end it, or set QFLEET_DATA to another folder"
        )
        raise ConfigurationInvalid(message) from exc


def _say(part: str, text: str) -> None:
    """One status line for the person who started us."""
    # The terminal may be gone; that is no reason to leave the parts alone.
    with contextlib.suppress(OSError):
        sys.stdout.write(f"{part}: {text}\n")
        sys.stdout.flush()
