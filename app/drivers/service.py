"""What can a caller ask of the driver manager? The service of the contract, over the dispatcher."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import re
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
import orjson
import structlog

from app.auth.store import ADMIN
from app.drivers.driver import DeviceState
from app.drivers.formats import decode_sampler_counts, encode_payload, invalid
from app.drivers.proto import driver_manager_pb2 as pb
from app.drivers.proto import driver_manager_pb2_grpc as pb_grpc
from app.drivers.statuses import status_of, status_of_error, status_of_failure
from app.errors import (
    BackendNotFound,
    DeviceOffline,
    DriverUnavailable,
    IdempotencyConflict,
    JobIsFinal,
    JobNotFound,
    LimitExceeded,
    PermissionDenied,
    ServiceError,
    Unavailable,
)
from app.jobs.job import REASON_RAN_TOO_LONG, JobFilter, JobStatus, Submission
from app.primitives.programs import QASM3
from app.telemetry.tracing import server_span, trace_id_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from app.auth.identity import Identity
    from app.auth.principal import Principal
    from app.backends.catalog import Backend, Catalog
    from app.config import Settings
    from app.dispatcher import Dispatcher
    from app.drivers.caches import MetadataCache, ResultsCache
    from app.drivers.loaded import LoadedDriver
    from app.drivers.metrics import DriverMetrics
    from app.drivers.registry import DriverRegistry
    from app.drivers.resilience import ResilienceManager
    from app.drivers.waits import Waits
    from app.jobs.job import Job

log = structlog.get_logger()

Answer = TypeVar("Answer")

#: How long one wait for a job's end takes before it is asked for again.
WAIT_S = 2.0
#: How often a stream looks whether its job has changed; an end is told at once.
STREAM_LOOK_S = 0.1
#: How long a calibration may take when the call has no deadline.
CALIBRATE_S = 300.0
MOST_CALIBRATE_S = 3600.0
MOST_DRAIN_S = 3600
#: Calibrations and changes of drivers at once; they may take minutes, and keep nobody else waiting.
SLOW_CALLS = 64
ID_CHARS = 128
SEED_MAX = 2**63 - 1
OPTIONS = ("seed", "parameters", "priority")
_JOB_ID = re.compile(r"[0-9A-Za-z._:-]{1,64}")
#: In front of the ids that callers choose, as tag and as Idempotency-Key.
_PREFIX = "grpc:"

_STATES = {
    DeviceState.ONLINE: pb.ONLINE,
    DeviceState.OFFLINE: pb.OFFLINE,
    DeviceState.CALIBRATING: pb.CALIBRATING,
    DeviceState.MAINTENANCE: pb.MAINTENANCE,
    DeviceState.ERROR: pb.ERROR_STATUS,
}

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, kw_only=True)
class _Call:
    """What the metadata of a call say."""

    metadata: Mapping[str, str]
    correlation_id: str
    request_id: str
    #: to pass on.
    traceparent: str = ""

    @classmethod
    def of(cls, context: Context) -> _Call:
        found = {
            str(key).lower(): value
            for key, value in context.invocation_metadata() or ()
            if isinstance(value, str)
        }
        request_id = found.get("x-request-id", "")[:ID_CHARS] or str(uuid.uuid4())
        correlation_id = found.get("x-correlation-id", "")[:ID_CHARS] or request_id
        return cls(metadata=found, correlation_id=correlation_id, request_id=request_id)


class _Ended(Exception):
    """A job did not complete; carries the status of the call."""

    def __init__(self, status: grpc.Status) -> None:
        super().__init__()
        self.status = status


class DriverManagerService(pb_grpc.DriverManagerServiceServicer):
    """The service."""

    def __init__(
        self,
        *,
        settings: Settings,
        dispatcher: Dispatcher,
        catalog: Catalog,
        identity: Identity,
        is_open: bool,
        registry: DriverRegistry,
        resilience: ResilienceManager,
        caches: tuple[MetadataCache, ResultsCache],
        metrics: DriverMetrics,
        waits: Waits,
    ) -> None:
        """Make it.

        Args:
            settings: limits.
            dispatcher: the use cases of callers.
            catalog: names of backends.
            identity: who callers are.
            is_open: whether everybody may load and unload drivers.
            registry: the drivers.
            resilience: their breakers.
            caches: what is remembered of devices, and results.
            metrics: what is counted.
            waits: how long jobs wait.
        """
        self._settings = settings
        self._dispatcher = dispatcher
        self._catalog = catalog
        self._identity = identity
        self._is_open = is_open
        self._registry = registry
        self._resilience = resilience
        self._caches = caches
        self._metrics = metrics
        self._waits = waits
        #: what goes on after its call has ended.
        self._background: set[asyncio.Task[Any]] = set()
        self._slow = ThreadPoolExecutor(SLOW_CALLS, thread_name_prefix="driver-call")
        self._is_leaving = False

    # --- devices ------------------------------------------------------------------------------

    async def ListDevices(self, request: pb.ListDevicesRequest, context: Context) -> Any:  # noqa: N802 - the name on the wire
        """Every device of every driver."""
        del request

        async def answer(call: _Call) -> pb.ListDevicesResponse:
            await self._principal(call)
            fleet = await self._dispatcher.fleet()
            states = await self._states()
            backends = self._catalog.backends(fleet.queued, fleet.max_qubits, fleet.devices)
            waits = {name: await self._waits.of(name, fleet.queued[name]) for name in fleet.queued}
            own = {driver.name for driver in self._registry.drivers()}
            devices = [
                self._info(backend, fleet.live, fleet.queued[backend.executor], waits)
                for backend in backends
                if not backend.is_mock and backend.executor not in own
            ]
            devices += [
                self._driver_info(driver, device_id, state, fleet.queued.get(driver.name, 0), waits)
                for driver, device_id, state in states
            ]
            return pb.ListDevicesResponse(devices=devices)

        return await self._answered("ListDevices", context, answer)

    async def GetDeviceStatus(self, request: pb.GetDeviceStatusRequest, context: Context) -> Any:  # noqa: N802 - the name on the wire
        """How one device is."""

        async def answer(call: _Call) -> pb.GetDeviceStatusResponse:
            await self._principal(call)
            fleet = await self._dispatcher.fleet()
            found = self._registry.find(request.device_id)
            if found is not None:
                driver, device_id = found
                state = await _status(driver, device_id)
                executor, status = driver.name, _STATES[state]
                metadata = {"driver": driver.name, "driver_state": driver.state.value}
            else:
                backend = self._catalog.resolve(
                    request.device_id, fleet.queued, fleet.max_qubits, fleet.devices
                )
                executor = backend.executor
                is_up = executor in fleet.live and backend.is_online
                status = pb.ONLINE if is_up else pb.OFFLINE
                metadata = {"driver": executor}
            queued = fleet.queued.get(executor, 0)
            return pb.GetDeviceStatusResponse(
                device_id=request.device_id,
                status=status,
                queue_depth=queued,
                estimated_wait_sec=await self._waits.of(executor, queued),
                metadata=metadata,
            )

        return await self._answered("GetDeviceStatus", context, answer, device=request.device_id)

    async def CalibrateDevice(self, request: pb.CalibrateDeviceRequest, context: Context) -> Any:  # noqa: N802 - the name on the wire
        """Calibrate the device of a driver."""

        async def answer(call: _Call) -> pb.CalibrateDeviceResponse:
            await self._principal(call)
            found = self._registry.find(request.device_id)
            if found is None:
                await self._backend(request.device_id)
                message = (
                    f"device {request.device_id!r} is simulated: there is nothing to calibrate"
                )
                raise DeviceOffline(message)
            driver, device_id = found
            left = context.time_remaining()
            limit_s = CALIBRATE_S if left is None else min(max(left, 0.01), MOST_CALIBRATE_S)
            reference = await self._slowly(driver.calibrate, device_id, limit_s)
            log.info("device_calibrated", driver_name=driver.name, device_id=device_id)
            return pb.CalibrateDeviceResponse(calibration_ref=reference)

        return await self._answered("CalibrateDevice", context, answer, device=request.device_id)

    # --- executions ---------------------------------------------------------------------------

    async def ExecuteCircuit(self, request: pb.ExecuteCircuitRequest, context: Context) -> Any:  # noqa: N802 - the name on the wire
        """Run a circuit and wait for its counts."""

        async def answer(call: _Call) -> pb.ExecuteCircuitResponse:
            principal = await self._principal(call)
            # The store may have the job although its caller goes before it is told.
            submitting = asyncio.ensure_future(
                self._submit(principal, request, call, context.time_remaining())
            )
            try:
                job = await asyncio.shield(submitting)
                while not job.status.is_final:
                    job = await self._later(principal, job, call, WAIT_S)
            except asyncio.CancelledError:
                self._cancel_later(principal, submitting)
                raise
            return await self._result(job, call)

        return await self._answered("ExecuteCircuit", context, answer, device=request.device_id)

    async def CancelExecution(self, request: pb.CancelExecutionRequest, context: Context) -> Any:  # noqa: N802 - the name on the wire
        """End a job."""

        async def answer(call: _Call) -> pb.CancelExecutionResponse:
            principal = await self._principal(call)
            job = await self._job(principal, request.job_id)
            if job.status is not JobStatus.CANCELLED:
                try:
                    job = await self._dispatcher.cancel(principal, job.id)
                except JobIsFinal:
                    # Somebody else may have cancelled it meanwhile: that is what was wanted.
                    job = await self._dispatcher.read(principal, job.id)
                    if job.status is not JobStatus.CANCELLED:
                        raise
            return pb.CancelExecutionResponse(job_id=job.id, state=job.status.value)

        return await self._answered("CancelExecution", context, answer)

    async def StreamExecution(  # noqa: N802 - the name on the wire
        self, request: pb.StreamExecutionRequest, context: Context
    ) -> None:
        """What becomes of a job, up to its end."""

        async def tell(event: pb.ExecutionEvent) -> None:
            try:
                await context.write(event)
            except grpc.aio.InternalError as exc:
                # The caller has gone; gRPC cancels the call a moment later.
                raise asyncio.CancelledError from exc

        async def answer(call: _Call) -> None:
            principal = await self._principal(call)
            if request.HasField("execute") and request.job_id:
                raise invalid("job_id", "name a job that exists, or send one to execute; not both")
            if request.HasField("execute"):
                job = await self._submit(principal, request.execute, call, context.time_remaining())
            else:
                job = await self._job(principal, request.job_id)
            await self._follow(principal, job, request.after_sequence, call, tell)

        await self._answered("StreamExecution", context, answer)

    # --- drivers ------------------------------------------------------------------------------

    async def ListDrivers(self, request: pb.ListDriversRequest, context: Context) -> Any:  # noqa: N802 - the name on the wire
        """Every driver: how it is, its breakers, its pool, the caches."""
        del request

        async def answer(call: _Call) -> pb.ListDriversResponse:
            await self._principal(call)
            drivers = [self._driver(driver) for driver in self._registry.drivers()]
            failures = self._registry.failures
            drivers += [
                pb.DriverInfo(name=name, state=state, error=failures.get(name, ""))
                for name, state in sorted(self._registry.states.items())
                if name not in {driver.name for driver in drivers}
            ]
            drivers += await self._built_in()
            return pb.ListDriversResponse(drivers=drivers)

        return await self._answered("ListDrivers", context, answer)

    async def LoadDriver(self, request: pb.LoadDriverRequest, context: Context) -> Any:  # noqa: N802 - the name on the wire
        """Load a driver, or load it again."""

        async def answer(call: _Call) -> pb.LoadDriverResponse:
            await self._administrator(call)
            driver = await self._slowly(self._registry.load, request.name)
            return pb.LoadDriverResponse(driver=self._driver(driver))

        return await self._answered("LoadDriver", context, answer)

    async def UnloadDriver(self, request: pb.UnloadDriverRequest, context: Context) -> Any:  # noqa: N802 - the name on the wire
        """Drain a driver and remove its devices."""

        async def answer(call: _Call) -> pb.UnloadDriverResponse:
            await self._administrator(call)
            if not 0 <= request.drain_sec <= MOST_DRAIN_S:
                raise invalid("drain_sec", f"0 to {MOST_DRAIN_S} are allowed")
            await self._slowly(self._registry.unload, request.name, request.drain_sec or None)
            return pb.UnloadDriverResponse()

        return await self._answered("UnloadDriver", context, answer)

    async def ResetBreaker(self, request: pb.ResetBreakerRequest, context: Context) -> Any:  # noqa: N802 - the name on the wire
        """Close circuit breakers by hand."""

        async def answer(call: _Call) -> pb.ResetBreakerResponse:
            await self._administrator(call)
            driver = self._registry.driver(request.driver)
            if request.device_id and request.device_id not in driver.devices:
                message = f"driver {driver.name!r} has no device {request.device_id[:64]!r}"
                raise BackendNotFound(message)
            devices = [request.device_id] if request.device_id else list(driver.devices)
            for device in devices:
                self._resilience.breaker(driver.name, device).reset()
            if not request.device_id:
                self._resilience.breaker(driver.name).reset()
            log.info("breaker_reset", driver_name=driver.name, device_id=request.device_id)
            return pb.ResetBreakerResponse()

        return await self._answered("ResetBreaker", context, answer)

    # --- inside -------------------------------------------------------------------------------

    async def _answered(
        self,
        operation: str,
        context: Context,
        answer: Callable[[_Call], Awaitable[Answer]],
        *,
        device: str = "",
    ) -> Answer | None:
        """Answer, with a span, a log context and a count; a failure aborts the call."""
        call = _Call.of(context)
        began = time.monotonic()
        outcome = "ok"
        driver = self._driver_name(device)
        structlog.contextvars.bind_contextvars(
            correlation_id=call.correlation_id, device_id=device[:ID_CHARS], driver_name=driver
        )
        try:
            with server_span(f"drivers/{operation}", call.metadata) as traceparent:
                structlog.contextvars.bind_contextvars(trace_id=trace_id_of(traceparent))
                return await answer(replace(call, traceparent=traceparent))
        except _Ended as exc:
            outcome = exc.status.code.name.lower()
            status = exc.status
        except ServiceError as exc:
            error: ServiceError = exc
            if isinstance(exc, BackendNotFound) and self._registry.is_loading:
                message = f"{exc.message}; drivers are still being loaded, and may bring it"
                error = DriverUnavailable(message, reason="loading")
            outcome = error.code
            status = status_of_error(error, correlation_id=call.correlation_id)
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        except Exception:
            outcome = "internal"
            log.exception("call_failed", operation=operation)
            status = status_of(
                code=grpc.StatusCode.INTERNAL,
                reason="internal_error",
                message="the driver manager failed; its log has the reason",
                remedy="tell the operator the correlation id",
                correlation_id=call.correlation_id,
            )
        finally:
            structlog.contextvars.clear_contextvars()
            duration_s = time.monotonic() - began
            self._metrics.count(
                driver=driver, operation=operation, status=outcome, duration_s=duration_s
            )
        await _abort(context, status)
        return None

    def _driver_name(self, device: str) -> str:
        """A label: the driver of a device, if there is such a device."""
        found = self._registry.find(device) if device else None
        if found is not None:
            return found[0].name
        executor = device.rpartition("@")[2]
        return executor if executor in self._settings.executors else ""

    async def _principal(self, call: _Call) -> Principal:
        return await self._identity.principal(
            authorization=call.metadata.get("authorization"),
            instance=call.metadata.get("service-crn"),
        )

    async def _administrator(self, call: _Call) -> None:
        principal = await self._principal(call)
        if not self._is_open and principal.owner != ADMIN:
            raise PermissionDenied("drivers are loaded and unloaded with a key of owner admin")

    async def _backend(self, name: str) -> Backend:
        fleet = await self._dispatcher.fleet()
        return self._catalog.resolve(name, fleet.queued, fleet.max_qubits, fleet.devices)

    async def _submit(
        self,
        principal: Principal,
        request: pb.ExecuteCircuitRequest,
        call: _Call,
        left_s: float | None,
    ) -> Job:
        """The job that a request makes, or has made before."""
        backend = await self._backend_of(request.device_id)
        program_id, params, priority = self._program(request)
        tags: tuple[str, ...] = ()
        if request.job_id:
            if _JOB_ID.fullmatch(request.job_id) is None:
                raise invalid("job_id", "1 to 64 letters, digits, and . _ : - are allowed")
            tags = (_PREFIX + request.job_id,)
        submission = Submission(
            program_id=program_id,
            params=params,
            backend=backend,
            tags=tags,
            priority=priority,
            time_limit_s=None if left_s is None else max(left_s, 0.01),
            idempotency_key=_PREFIX + request.job_id if request.job_id else None,
            request_id=call.request_id,
            traceparent=call.traceparent,
        )
        try:
            job = await self._dispatcher.submit(principal, submission)
        except IdempotencyConflict as conflict:
            job = await self._made_before(principal, request.job_id, submission, conflict)
        structlog.contextvars.bind_contextvars(job_id=job.id)
        log.info("job_submitted", primitive=job.program_id, backend=job.backend)
        return job

    async def _backend_of(self, device: str) -> str:
        """The backend that a device is."""
        if not device:
            raise invalid("device_id", "name a device; ListDevices gives them")
        found = self._registry.find(device)
        if found is None:
            return device
        driver, device_id = found
        if not self._registry.fallbacks(device_id):
            state = await _status(driver, device_id)
            if state in (DeviceState.OFFLINE, DeviceState.MAINTENANCE) and driver.is_ready:
                message = f"device {device_id!r} is {state.value} and has no fallback"
                raise DeviceOffline(message, device=device_id, status=state.value)
        return f"{device_id}@{driver.name}"

    async def _made_before(
        self,
        principal: Principal,
        job_id: str,
        submission: Submission,
        conflict: IdempotencyConflict,
    ) -> Job:
        """The job of that id, if it is the same but for its deadline, which is never the same.

        Raises:
            IdempotencyConflict: it is another one.
        """
        try:
            job = await self._job(principal, job_id)
        except JobNotFound:
            raise conflict from None
        is_same = (job.program_id, job.backend) == (submission.program_id, submission.backend)
        if not is_same or await self._dispatcher.params(job) != submission.params:
            raise conflict
        return job

    def _program(self, request: pb.ExecuteCircuitRequest) -> tuple[str, bytes, int]:
        allowed = self._settings.program.shots
        shots = request.shots or self._settings.default_shots
        if shots < 0:
            raise invalid("shots", f"{shots}; 1 to {allowed} are allowed")
        if shots > allowed:
            message = f"{shots} shots, at most {allowed} are allowed"
            faults = [{"field": "shots", "message": message}]
            raise LimitExceeded(message, asked=shots, allowed=allowed, faults=faults)
        for name in request.options:
            if name not in OPTIONS:
                message = f"there is no such option; {', '.join(OPTIONS)} are known"
                raise invalid(f"options.{name[:64]}", message)
        seed = _integer(request.options, "seed", 0, SEED_MAX)
        priority = _integer(request.options, "priority", -100, 100) or 0
        program_id, params = encode_payload(
            request.payload,
            shots=shots,
            seed=seed,
            parameters=_parameters(request.options.get("parameters", "")),
            most_bytes=self._settings.program.source_bytes,
        )
        return program_id, params, priority

    async def _job(self, principal: Principal, job_id: str) -> Job:
        """A job, by its own id or by the one that its caller has chosen."""
        if _JOB_ID.fullmatch(job_id) is None:
            raise invalid("job_id", "name a job")
        with contextlib.suppress(JobNotFound):
            return await self._dispatcher.read(principal, job_id)
        page = await self._dispatcher.list(principal, JobFilter(tags=(_PREFIX + job_id,)), limit=1)
        if not page.jobs:
            raise JobNotFound(f"there is no job {job_id!r}")
        return page.jobs[0]

    async def _result(self, job: Job, call: _Call) -> pb.ExecuteCircuitResponse:
        """What a final job gave.

        Raises:
            _Ended: it did not complete.
        """
        if job.status is not JobStatus.COMPLETED:
            raise _Ended(_status_of_job(job, call))
        result = await self._dispatcher.result(job)
        if not result:
            raise JobNotFound("the job's result is gone")
        counts = await asyncio.to_thread(_counts, job.program_id, result)
        provenance = await self._dispatcher.provenance(job)
        metadata = {name: _as_text(value) for name, value in provenance.items()}
        metadata |= {"job_id": job.id, "correlation_id": call.correlation_id}
        if "failover" in provenance:
            metadata |= {
                f"failover_{name}": _as_text(value)
                for name, value in provenance["failover"].items()
            }
        return pb.ExecuteCircuitResponse(
            counts=counts, execution_time_sec=job.run_s, metadata=metadata
        )

    async def _follow(
        self,
        principal: Principal,
        job: Job,
        after: int,
        call: _Call,
        tell: Callable[[pb.ExecutionEvent], Awaitable[None]],
    ) -> None:
        """Tell every change of a job's state after the event number ``after``."""
        last = after
        while True:
            sequence = _sequence(job)
            if sequence > last:
                event = pb.ExecutionEvent(
                    sequence=sequence, job_id=job.id, state=job.status.value, attempt=job.attempt
                )
                if job.status is JobStatus.COMPLETED:
                    event.result.CopyFrom(await self._result(job, call))
                await tell(event)
                last = sequence
            if job.status.is_final:
                if job.status is not JobStatus.COMPLETED:
                    raise _Ended(_status_of_job(job, call))
                return
            job = await self._later(principal, job, call, STREAM_LOOK_S)

    async def _later(self, principal: Principal, job: Job, call: _Call, timeout_s: float) -> Job:
        """The job as soon as it is final or the time is over.

        Raises:
            _Ended: the manager stops; the job goes on.
        """
        if self._is_leaving:
            message = "the driver manager stops; the job goes on: ask for it again by its id"
            error = Unavailable(message, component="driver-manager")
            raise _Ended(status_of_error(error, correlation_id=call.correlation_id, job_id=job.id))
        return await self._dispatcher.wait(principal, job.id, timeout_s)

    def _cancel_later(self, principal: Principal, submitting: asyncio.Future[Job]) -> None:
        """Cancel a job whose caller has gone, as soon as there is one."""

        async def cancel() -> None:
            try:
                job = await submitting
                await self._dispatcher.cancel(principal, job.id)
            except Unavailable as exc:
                # Its limit ends it.
                log.warning("job_not_cancelled", error=exc.message)
            except ServiceError:
                # It was refused, or has ended.
                return
            else:
                log.info("job_cancelled", job_id=job.id, reason="the caller has gone")

        task = asyncio.get_running_loop().create_task(cancel())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _slowly(self, call: Callable[..., Answer], *arguments: Any) -> Answer:
        """Call something that may take minutes, in a thread."""
        run = contextvars.copy_context().run
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._slow, lambda: run(call, *arguments))

    async def _states(self) -> list[tuple[LoadedDriver, str, DeviceState]]:
        return [
            (driver, device_id, await _status(driver, device_id))
            for driver in self._registry.drivers()
            for device_id in driver.devices
        ]

    async def _built_in(self) -> list[pb.DriverInfo]:
        """Our own executors; without Redis nobody knows which live."""
        try:
            fleet = await self._dispatcher.fleet()
        except Unavailable:
            return []
        return [
            pb.DriverInfo(
                name=name, state="ready" if name in fleet.live else "offline", kind="built-in"
            )
            for name in sorted(fleet.queued.keys() - fleet.devices.keys())
        ]

    async def show_queues(self) -> None:
        """Set the metrics of jobs that wait.

        Raises:
            Unavailable: Redis does not answer.
        """
        fleet = await self._dispatcher.fleet()
        for driver in self._registry.drivers():
            queued = fleet.queued.get(driver.name, 0)
            if not driver.is_leaving:
                self._metrics.show_queue(driver.name, driver.devices, queued)

    def leave(self) -> None:
        """End the calls that wait for a job, within ``WAIT_S``; the jobs go on."""
        self._is_leaving = True

    async def close(self) -> None:
        """Wait for what goes on after its call; forget threads: what they do ends with drivers."""
        await asyncio.gather(*self._background, return_exceptions=True)
        self._slow.shutdown(wait=False, cancel_futures=True)

    def _info(
        self, backend: Backend, live: frozenset[str], queued: int, waits: Mapping[str, int]
    ) -> pb.DeviceInfo:
        is_up = backend.executor in live and backend.is_online
        return pb.DeviceInfo(
            device_id=backend.name,
            name=backend.metadata,
            backend_type="simulator" if backend.device is None else backend.device.backend_type,
            status=pb.ONLINE if is_up else pb.OFFLINE,
            queue_depth=queued,
            estimated_wait_sec=waits[backend.executor],
            capabilities={
                "num_qubits": str(backend.num_qubits),
                "driver": backend.executor,
                "backend": backend.name,
                "formats": "QASM3_TEXT,AQO_JSON,BACKEND_NATIVE",
            },
        )

    def _driver_info(
        self,
        driver: LoadedDriver,
        device_id: str,
        state: DeviceState,
        queued: int,
        waits: Mapping[str, int],
    ) -> pb.DeviceInfo:
        device = driver.devices[device_id]
        capabilities = {
            **device.capabilities,
            "num_qubits": str(device.num_qubits),
            "driver": driver.name,
            "provider": device.provider,
            "backend": f"{device_id}@{driver.name}",
            "basis_gates": ",".join(device.basis_gates),
            "formats": "QASM3_TEXT,AQO_JSON,BACKEND_NATIVE",
        }
        return pb.DeviceInfo(
            device_id=device_id,
            name=device.name,
            backend_type=device.backend_type,
            status=_STATES[state],
            queue_depth=queued,
            estimated_wait_sec=waits.get(driver.name, 0),
            capabilities=capabilities,
        )

    def _driver(self, driver: LoadedDriver) -> pb.DriverInfo:
        metadata, results = self._caches
        return pb.DriverInfo(
            name=driver.name,
            state=driver.state.value,
            kind=driver.source.kind,
            version=driver.version,
            device_ids=sorted(driver.devices),
            breaker=self._resilience.breaker(driver.name).state,
            device_breakers={
                device: self._resilience.breaker(driver.name, device).state
                for device in driver.devices
            },
            connections_active=driver.pool.active,
            connections_idle=driver.pool.idle,
            connections_max=driver.pool.size,
            caches={
                "metadata_entries": metadata.entries,
                "metadata_hits": metadata.hits,
                "metadata_misses": metadata.misses,
                "results_entries": results.entries,
                "results_hits": results.hits,
                "results_misses": results.misses,
            },
            error=driver.error,
            restarts=driver.restarts,
        )


def _sequence(job: Job) -> int:
    """The number of a job's state: made of its attempt, so that every manager gives the same."""
    if job.status is JobStatus.RUNNING:
        return 3 * job.attempt
    if job.status is JobStatus.QUEUED:
        return 3 * job.attempt + 1
    return 3 * job.attempt + 2


def _status_of_job(job: Job, call: _Call) -> grpc.Status:
    """The status of a call whose job did not complete."""
    if job.status is JobStatus.CANCELLED and job.reason_code != REASON_RAN_TOO_LONG:
        return status_of(
            code=grpc.StatusCode.CANCELLED,
            reason="cancelled",
            message=job.failure.message if job.failure else "the job was cancelled",
            remedy="nothing: somebody wanted that",
            correlation_id=call.correlation_id,
            job_id=job.id,
        )
    if job.failure is None:
        return status_of(
            code=grpc.StatusCode.INTERNAL,
            reason="job_failure",
            message="the job failed",
            remedy="tell the operator the job's id",
            correlation_id=call.correlation_id,
            job_id=job.id,
        )
    return status_of_failure(job.failure, correlation_id=call.correlation_id, job_id=job.id)


def _counts(program_id: str, result: bytes) -> dict[str, int]:
    if program_id == QASM3:
        counts: dict[str, int] = orjson.loads(result)["counts"]
        return counts
    return decode_sampler_counts(result)


def _integer(options: Mapping[str, str], name: str, least: int, most: int) -> int | None:
    text = options.get(name, "")
    if not text:
        return None
    if re.fullmatch(r"-?[0-9]{1,20}", text) is None or not least <= int(text) <= most:
        raise invalid(f"options.{name}", f"an integer from {least} to {most} is allowed")
    return int(text)


def _parameters(text: str) -> dict[str, float]:
    if not text:
        return {}
    field = "options.parameters"
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        raise invalid(field, f"this is no JSON: {exc}") from exc
    if not isinstance(document, dict) or not all(
        isinstance(value, int | float) and not isinstance(value, bool)
        for value in document.values()
    ):
        raise invalid(field, 'an object of numbers is expected, as {"theta": 0.5}')
    try:
        return {name: float(value) for name, value in document.items()}
    except OverflowError as exc:
        raise invalid(field, "a number is too large") from exc


def _as_text(value: object) -> str:
    if isinstance(value, str):
        return value
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY, default=str).decode()


async def _status(driver: LoadedDriver, device_id: str) -> DeviceState:
    """How a device is; a thread is only needed when the driver must be asked."""
    known = driver.known_status(device_id)
    return await asyncio.to_thread(driver.status, device_id) if known is None else known


async def _abort(context: Context, status: grpc.Status) -> None:
    await context.abort(status.code, status.details, status.trailing_metadata)
