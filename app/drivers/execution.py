"""How does a claimed job run on a driver's device? Read, sent to the device, written; or failed."""

from __future__ import annotations

import queue
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import orjson
import structlog

from app.drivers.driver import COMMON_GATES, DeviceState
from app.drivers.process import Fault, Killed
from app.drivers.resilience import unavailable
from app.drivers.words import READ, RUN, WRITE
from app.errors import (
    DriverBusy,
    DriverUnavailable,
    ExecutionError,
    InvalidProgram,
    MemoryLimitReached,
    SandboxUnavailable,
    ServiceError,
    TimeLimitReached,
)
from app.jobs.job import Failure
from app.primitives.programs import ESTIMATOR, QASM3, QASM3_CHECK, SAMPLER
from app.sandbox.protocol import Reply, Request, SandboxKilled
from app.telemetry.tracing import trace_id_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from app.backends.catalog import Backend
    from app.drivers.caches import ResultsCache
    from app.drivers.loaded import LoadedDriver
    from app.sandbox.pool import SandboxPool, SandboxSlot

log = structlog.get_logger()

#: How long reading a program and writing a result may take.
TRANSLATE_S = 20.0
#: Longest part of a job's log.
_LOG_CHARS = 4000


@dataclass(frozen=True, kw_only=True)
class _Run:
    """One job that runs."""

    owner: str
    request: Request
    #: when its time is over, on the monotonic clock.
    end: float
    time_limit_s: float
    #: when it began, seconds since 1970.
    began: float


class Translators:
    """Sandboxes that read programs and write results; shared by all drivers, started when used."""

    def __init__(self, make: Callable[[], SandboxPool]) -> None:
        """Prepare; ``make`` starts the sandboxes."""
        self._make = make
        self._lock = threading.Lock()
        self._pool: SandboxPool | None = None
        self._is_closed = False
        self._free: queue.LifoQueue[SandboxSlot] = queue.LifoQueue()

    def start(self) -> None:
        """Start the sandboxes, unless they run.

        Raises:
            SandboxUnavailable: they do not start, or were ended.
        """
        with self._lock:
            if self._is_closed:
                raise SandboxUnavailable("the driver manager is stopping")
            if self._pool is None:
                self._pool = self._make()
                for slot in self._pool.slots:
                    self._free.put(slot)

    @contextmanager
    def slot(self, timeout_s: float) -> Iterator[SandboxSlot]:
        """A sandbox for one request.

        Raises:
            SandboxUnavailable: none is free in time.
        """
        self.start()
        try:
            slot = self._free.get(timeout=max(timeout_s, 0.001))
        except queue.Empty as exc:
            message = f"no sandbox to translate in became free within {timeout_s:.1f} s"
            raise SandboxUnavailable(message) from exc
        try:
            yield slot
        finally:
            self._free.put(slot)

    def close(self) -> None:
        """End the sandboxes, for good."""
        with self._lock:
            self._is_closed = True
            if self._pool is not None:
                self._pool.close()
                self._pool = None


class DriverSandbox:
    """Where one slot's jobs run: on the devices of a driver. The runner's face of a sandbox."""

    def __init__(
        self,
        *,
        driver: str,
        translators: Translators,
        find: Callable[[str], tuple[LoadedDriver, str] | None],
        fallbacks: Callable[[str], Sequence[str]],
        results: ResultsCache,
        resolve: Callable[[str], Backend | None],
    ) -> None:
        """Make it.

        Args:
            driver: whose jobs these are.
            translators: read programs and write results.
            find: device → its driver and its id; None for a backend of an executor.
            fallbacks: device → devices that take its jobs while it cannot.
            results: results that are repeatable.
            resolve: name → backend of our own executors, if it is one.
        """
        self._driver = driver
        self._translators = translators
        self._find = find
        self._fallbacks = fallbacks
        self._results = results
        self._resolve = resolve
        self._lock = threading.Lock()
        self._killed = threading.Event()
        self._stop: Callable[[], None] | None = None

    def run(self, *, owner: str, request: Request, time_limit_s: float) -> Reply:
        """Run one job to its end; see ``SandboxSlot.run``."""
        self._killed.clear()
        end = time.monotonic() + time_limit_s
        try:
            with structlog.contextvars.bound_contextvars(
                trace_id=trace_id_of(request.traceparent), job_id=request.job_id
            ):
                return self._run(owner, request, end, time_limit_s)
        except ServiceError as exc:
            if isinstance(exc, TimeLimitReached | SandboxUnavailable):
                raise
            log.warning(
                "execution_failed",
                job_id=request.job_id,
                driver_name=self._driver,
                device_id=request.target,
                code=exc.code,
                error=exc.message,
            )
            failure = Failure(code=exc.code, message=str(exc), details=exc.details)
            return Reply(result=None, failure=failure, output=str(exc)[:_LOG_CHARS])

    def kill(self) -> None:
        """Stop what runs, from any thread."""
        with self._lock:
            self._killed.set()
            # Under the lock: a moment later somebody else's job may run there.
            if self._stop is not None:
                self._stop()

    def _run(self, owner: str, request: Request, end: float, time_limit_s: float) -> Reply:
        if request.program_id == QASM3_CHECK:
            return self._translate(owner, replace(request, program_id=RUN + QASM3_CHECK), end)
        run = _Run(
            owner=owner, request=request, end=end, time_limit_s=time_limit_s, began=time.time()
        )
        read = self._translate(owner, self._reading(request), end)
        if read.result is None:
            return read
        document = orjson.loads(read.result)
        failed: list[tuple[str, ServiceError]] = []
        for device in (request.target, *self._fallbacks(request.target)):
            try:
                found = self._find(device)
                if found is None:
                    reply = self._run_on_executor(owner, request, self._ours(device), end)
                    return _told(reply, failed, device)
                counts, metadata = self._counts(run, document, device, found)
            except (DriverUnavailable, DriverBusy) as exc:
                log.warning(
                    "device_failed",
                    job_id=request.job_id,
                    driver_name=self._driver,
                    device_id=device,
                    error=exc.message,
                )
                failed.append((device, exc))
                continue
            metadata |= _failover(failed, device)
            if request.traceparent:
                metadata["trace_id"] = trace_id_of(request.traceparent)
            metadata["attempt"] = request.attempt
            if document["circuits"]:
                metadata["shots"] = document["circuits"][0]["shots"]
            return self._written(run, document, counts, metadata)
        raise failed[0][1]

    def _reading(self, request: Request) -> Request:
        """The request to read a program."""
        found = self._find(request.target)
        device = None if found is None else found[0].devices.get(found[1])
        gates = COMMON_GATES if device is None else device.basis_gates
        return replace(request, program_id=READ + request.program_id, target=" ".join(gates))

    def _counts(
        self,
        run: _Run,
        document: Mapping[str, Any],
        device: str,
        found: tuple[LoadedDriver, str],
    ) -> tuple[list[dict[str, int]], dict[str, object]]:
        """Counts of every circuit, and what ran: all of it on one driver, the one that stays."""
        while True:
            try:
                return self._counts_of(run, document, *found)
            except (DriverUnavailable, DriverBusy):
                again = self._find(device)
                if again is None or again[0] is found[0]:
                    raise
                # It was loaded again meanwhile.
                found = again

    def _counts_of(
        self, run: _Run, document: Mapping[str, Any], driver: LoadedDriver, device_id: str
    ) -> tuple[list[dict[str, int]], dict[str, object]]:
        _require_online(driver, device_id)
        seed = document["seed"]
        metadata: dict[str, object] = {
            "executor": driver.name,
            "target": device_id,
            "driver": driver.name,
            "device": device_id,
            "driver_version": driver.version,
            "seed": seed,
        }
        key = None
        if seed is not None:
            key = self._results.key(
                owner=run.owner,
                driver=driver.name,
                revision=driver.revision,
                device=device_id,
                circuits=document["circuits"],
                seed=seed,
            )
            known = self._results.counts(key)
            if known is not None:
                return known, metadata | {"cache": "hit"}
        options = {} if seed is None else {"seed": str(seed)}
        counts = []
        for circuit in document["circuits"]:
            self._check_killed()
            try:
                raw = driver.execute(
                    device_id,
                    circuit,
                    options,
                    timeout_s=run.end - time.monotonic(),
                    stoppable=self._stoppable,
                    stop=self._killed,
                    job_id=run.request.job_id,
                )
            except Killed as exc:
                raise SandboxKilled from exc
            except Fault as exc:
                self._check_killed()
                raise _failure(exc, driver.name, device_id, run) from exc
            counts.append(_checked(raw, circuit, device_id))
        if key is not None:
            self._results.remember(key, counts)
        return counts, metadata

    def _written(
        self,
        run: _Run,
        document: Mapping[str, Any],
        counts: list[dict[str, int]],
        metadata: dict[str, object],
    ) -> Reply:
        request = run.request
        metadata["timings_s"] = {"run": time.time() - run.began}
        if "without_effect" in document:
            metadata["options_without_effect"] = document["without_effect"]
        if request.program_id == QASM3:
            spaced = {_spaced(bits, document["widths"]): times for bits, times in counts[0].items()}
            result = orjson.dumps({"counts": spaced, "metadata": metadata})
            return Reply(result=result, failure=None, metadata=metadata)
        if request.program_id not in (SAMPLER, ESTIMATOR):
            raise ExecutionError(f"no result is written of program {request.program_id!r}")
        params = orjson.dumps(
            {
                "pubs": document["pubs"],
                "counts": counts,
                "seed": document["seed"],
                "metadata": metadata,
                "started": run.began,
                "finished": time.time(),
            }
        )
        inner = replace(request, program_id=WRITE + request.program_id, params=params)
        reply = self._translate(run.owner, inner, run.end)
        return replace(reply, metadata=metadata)

    def _run_on_executor(self, owner: str, request: Request, backend: Backend, end: float) -> Reply:
        """Run the job on one of our own executors, in the sandbox: a fallback."""
        inner = replace(
            request,
            program_id=RUN + request.program_id,
            target=backend.metadata,
            executor=backend.executor,
        )
        return self._translate(owner, inner, end)

    def _ours(self, name: str) -> Backend:
        backend = self._resolve(name)
        if backend is None:
            message = f"there is no device {name!r}"
            raise DriverUnavailable(message, reason="no_device", device=name)
        return backend

    def _translate(self, owner: str, request: Request, end: float) -> Reply:
        left = end - time.monotonic()
        is_run = request.program_id.startswith(RUN)
        limit_s = left if is_run else min(left, TRANSLATE_S)
        with (
            self._translators.slot(min(left, TRANSLATE_S)) as slot,
            self._stoppable(slot.kill),
        ):
            reply = slot.run(owner=owner, request=request, time_limit_s=max(limit_s, 0.01))
        self._check_killed()
        return reply

    @contextmanager
    def _stoppable(self, stop: Callable[[], None]) -> Iterator[None]:
        """``kill`` calls ``stop`` inside the block."""
        with self._lock:
            if self._killed.is_set():
                raise SandboxKilled
            self._stop = stop
        try:
            yield
        finally:
            with self._lock:
                self._stop = None

    def _check_killed(self) -> None:
        if self._killed.is_set():
            raise SandboxKilled


def _require_online(driver: LoadedDriver, device: str) -> None:
    state = driver.status(device)
    if driver.is_ready and state in (DeviceState.OFFLINE, DeviceState.MAINTENANCE):
        message = f"device {device!r} is {state.value}"
        raise DriverUnavailable(message, reason="device_offline", driver=driver.name, device=device)


def _failure(fault: Fault, driver: str, device: str, run: _Run) -> ServiceError:
    """What a fault of a driver is to the job."""
    details = {"reason": fault.kind, "driver": driver, "device": device}
    if fault.kind in ("hung", "overdue") and time.monotonic() >= run.end:
        message = (
            f"device {device!r} did not answer within the job's limit of {run.time_limit_s:g} s"
        )
        return TimeLimitReached(message, limit_s=run.time_limit_s, **details)
    if fault.kind == "invalid_circuit":
        message = f"device {device!r} cannot run this circuit: {fault.message}"
        return InvalidProgram("device_refused", message)
    if fault.kind == "memory":
        message = f"driver {driver!r} needed more memory than it may have; use fewer qubits"
        return MemoryLimitReached(message, **details)
    if fault.kind in ("raised", "failed", "invalid_driver"):
        message = f"driver {driver!r} failed on device {device!r}: {fault.message}"
        return DriverUnavailable(message, **details)
    return unavailable(fault, driver=driver, device=device)


def _checked(raw: object, circuit: Mapping[str, Any], device: str) -> dict[str, int]:
    """Counts that are what they must be; blanks between registers are taken out."""
    width, shots = circuit["num_clbits"], circuit["shots"]
    counts: dict[str, int] = {}
    if isinstance(raw, dict):
        for text, times in raw.items():
            bits = str(text).replace(" ", "")
            if len(bits) != width or set(bits) - {"0", "1"} or times < 0:
                break
            if times:
                counts[bits] = counts.get(bits, 0) + times
        else:
            if sum(counts.values()) == shots:
                return counts
    message = (
        f"device {device!r} gave counts that are not {shots} bitstrings of {width} bits;"
        " its driver is at fault"
    )
    raise DriverUnavailable(message, reason="malformed_counts", device=device)


def _spaced(bits: str, widths: Sequence[int]) -> str:
    parts, start = [], 0
    for width in widths:
        parts.append(bits[start : start + width])
        start += width
    return " ".join(parts)


def _failover(failed: Sequence[tuple[str, ServiceError]], to: str) -> dict[str, object]:
    """What a result says of devices that could not take the job."""
    if not failed:
        return {}
    first, why = failed[0]
    return {
        "failover": {
            "from": first,
            "to": to,
            "because": why.message[:500],
            "tried": [device for device, _ in failed],
        }
    }


def _told(reply: Reply, failed: Sequence[tuple[str, ServiceError]], to: str) -> Reply:
    """The reply of an executor, whose result tells of the failover too."""
    metadata = reply.metadata | _failover(failed, to)
    if reply.result is None or not failed:
        return replace(reply, metadata=metadata)
    document = orjson.loads(reply.result)
    if isinstance(document.get("metadata"), dict):
        document["metadata"] |= _failover(failed, to)
    else:
        document["__value__"]["metadata"]["failover"] = _failover(failed, to)["failover"]
    return replace(reply, result=orjson.dumps(document), metadata=metadata)
