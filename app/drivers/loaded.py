"""What is a driver that is loaded? Its connections, its devices, and how both are now."""

from __future__ import annotations

import hashlib
import itertools
import re
import threading
import time
import uuid
from contextlib import AbstractContextManager, contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import orjson
import structlog

from app.drivers.configuration import DEVICE_ID
from app.drivers.driver import COMMON_GATES, Device, DeviceState
from app.drivers.pool import ConnectionPool
from app.drivers.process import Died, DriverProcess, Fault, Hung, NotADriver, Overdue, Source
from app.drivers.resilience import unavailable
from app.errors import DeviceOffline, DriverBusy, DriverInvalid, DriverUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from app.drivers.caches import MetadataCache
    from app.drivers.configuration import PoolConfig, ResilienceConfig
    from app.drivers.metrics import DriverMetrics
    from app.drivers.resilience import ResilienceManager

log = structlog.get_logger()

#: Devices of one driver, qubits of one device, and entries of what is told of it.
MOST_DEVICES = 256
MOST_QUBITS = 4096
MOST_ENTRIES = 64
MOST_COUPLINGS = 65_536
TEXT_CHARS = 256
_GATE = re.compile(r"[a-z][a-z0-9_]{0,31}")


class DriverState(StrEnum):
    """How a driver is."""

    LOADING = "loading"
    READY = "ready"
    #: a process of it died or hung, and no other one starts; that is tried again after a while.
    FAILED = "failed"
    #: it takes no more calls and waits for those that run.
    DRAINING = "draining"
    UNLOADED = "unloaded"


class LoadedDriver:
    """One driver. May be used from any thread."""

    def __init__(
        self,
        source: Source,
        *,
        pool: PoolConfig,
        config: ResilienceConfig,
        resilience: ResilienceManager,
        cache: MetadataCache,
        metrics: DriverMetrics,
    ) -> None:
        """Make it; ``start`` connects."""
        self.source = source
        self.name = source.name
        #: of nobody else: what one driver said is not what the next one says.
        self._id = uuid.uuid4().hex
        self.version = ""
        self.restarts = 0
        self.error = ""
        #: those that it speaks of now, and those that are its own, for when it does again.
        self.devices: Mapping[str, Device] = {}
        self.owned: frozenset[str] = frozenset()
        self._config = config
        self._resilience = resilience
        self._cache = cache
        self._metrics = metrics
        self._lock = threading.Lock()
        self._state = DriverState.LOADING
        self._calibrating: set[str] = set()
        #: devices whose driver is being asked how they are, and what it said last.
        self._asking: set[str] = set()
        self._told: dict[str, DeviceState] = {}
        #: a process has died or hung: ``probe`` finds out whether others start.
        self._doubted = threading.Event()
        self._restart_at = 0.0
        self._restart_wait_s = config.restart_first_s
        self.pool = ConnectionPool(driver=source.name, config=pool, connect=self._connect)

    @property
    def state(self) -> DriverState:
        """How it is."""
        return self._state

    @property
    def is_ready(self) -> bool:
        """Whether it takes calls."""
        return self._state is DriverState.READY

    @property
    def is_leaving(self) -> bool:
        """Whether it takes no calls any more, and never will."""
        return self._state in (DriverState.DRAINING, DriverState.UNLOADED)

    @property
    def revision(self) -> str:
        """What tells its results from another driver's: the same everywhere for the same file."""
        if not self.source.code:
            # What a package holds may change under the same name and version.
            return self._id
        parts = (self.source.code, orjson.dumps(self.source.config), self.version.encode())
        return hashlib.sha256(b"\0".join(parts)).hexdigest()

    def start(self) -> None:
        """Start it and learn its devices.

        Raises:
            DriverInvalid: it is no driver, or what it says of its devices is not allowed.
            DriverUnavailable: it does not start, or does not answer.
        """
        try:
            self.devices = self._ask_devices()
            self.owned = frozenset(self.devices)
        except NotADriver as exc:
            self.close()
            message = f"driver {self.name!r} cannot be loaded: {exc.message}"
            raise DriverInvalid(message, driver=self.name) from exc
        except Fault as exc:
            self.close()
            message = f"driver {self.name!r} did not start: {exc.message}"
            raise DriverUnavailable(message, driver=self.name, reason=exc.kind) from exc
        except DriverInvalid:
            self.close()
            raise
        self._set(DriverState.READY)

    def execute(
        self,
        device_id: str,
        circuit: Mapping[str, Any],
        options: Mapping[str, str],
        *,
        timeout_s: float,
        stoppable: Callable[[Callable[[], None]], AbstractContextManager[None]],
        stop: threading.Event,
        job_id: str,
    ) -> object:
        """Sample a circuit; gives what the driver says are its counts.

        Args:
            device_id: one of the driver's devices.
            circuit: ``qasm3``, ``num_qubits``, ``num_clbits`` and ``shots``.
            options: for the driver.
            timeout_s: after so many seconds the driver is killed.
            stoppable: makes what it is given callable by whoever wants the execution to end.
            stop: set when somebody wants that.
            job_id: for the logs.

        Raises:
            Fault: there are none.
            DriverUnavailable: the driver is not there.
            DriverBusy: all its connections are in use.
        """
        self._require_ready(device_id)
        end = time.monotonic() + timeout_s

        def ask() -> object:
            with self._connection() as connection, stoppable(connection.kill):
                left_s = end - time.monotonic()
                if left_s <= 0:
                    # It would be killed for nothing.
                    raise Overdue("the time was over before the driver was asked")
                with self._patient_for(left_s):
                    return connection.call(
                        "execute",
                        circuit["qasm3"].encode(),
                        timeout_s=left_s,
                        device_id=device_id,
                        num_qubits=circuit["num_qubits"],
                        num_clbits=circuit["num_clbits"],
                        shots=circuit["shots"],
                        options=dict(options),
                    )

        # A circuit that is sampled once more gives other samples of the same state: idempotent.
        return self._resilience.call(
            lambda: self._measured("execute", ask, device_id, job_id),
            driver=self.name,
            device=device_id,
            idempotent=True,
            timeout_s=timeout_s,
            stop=stop,
        )

    def calibrate(self, device_id: str, timeout_s: float) -> str:
        """Calibrate a device; gives the reference of the calibration.

        Raises:
            DeviceOffline: the device is being calibrated.
            DriverUnavailable: the driver is not there, or failed.
            DriverBusy: all its connections are in use.
        """
        self._require_ready(device_id)
        with self._lock:
            if device_id in self._calibrating:
                raise DeviceOffline(f"device {device_id!r} is being calibrated", device=device_id)
            self._calibrating.add(device_id)

        def ask() -> object:
            with self._connection() as connection, self._patient_for(timeout_s):
                return connection.call("calibrate", timeout_s=timeout_s, device_id=device_id)

        try:
            reference = self._resilience.call(
                lambda: self._measured("calibrate", ask, device_id),
                driver=self.name,
                device=device_id,
                idempotent=False,
                timeout_s=timeout_s,
            )
        except Fault as exc:
            raise unavailable(exc, driver=self.name, device=device_id) from exc
        finally:
            with self._lock:
                self._calibrating.discard(device_id)
        return str(reference)[:TEXT_CHARS]

    def status(self, device_id: str) -> DeviceState:
        """How a device is; what the driver said a moment ago is believed.

        Takes up to ``call_timeout_s`` when the driver must be asked.
        """
        known = self.known_status(device_id)
        return self._ask_status(device_id) if known is None else known

    def known_status(self, device_id: str) -> DeviceState | None:
        """How a device is; None: the driver must be asked."""
        own = self._own_status(device_id)
        if own is not None:
            return own
        told = self._cache.status(self._key(device_id))
        return None if told is None else DeviceState(told)

    def probe(self) -> None:
        """Look after it: start it again when it is time, close what is idle, count."""
        has_failed = self._state is DriverState.FAILED
        if time.monotonic() >= self._restart_at if has_failed else self._doubted.is_set():
            self._restart()
        self.pool.sweep()
        online: dict[str, int] = {
            device.provider or self.name: 0 for device in self.devices.values()
        }
        for device in self.devices.values():
            online[device.provider or self.name] += (
                self._fresh_status(device.id) is DeviceState.ONLINE
            )
        if self.is_leaving:
            # Its metrics are dropped, or will be.
            return
        self._metrics.show(
            self.name,
            connections=(("active", self.pool.active), ("idle", self.pool.idle)),
            devices=online.items(),
        )

    def drain(self, timeout_s: float) -> None:
        """Take nothing more and wait for what runs."""
        self._set(DriverState.DRAINING)
        if not self.pool.drain(timeout_s):
            log.warning("driver_not_drained", driver_name=self.name, seconds=timeout_s)

    def close(self) -> None:
        """End its processes."""
        self._set(DriverState.UNLOADED)
        self.pool.close()
        self._metrics.forget(self.name)

    def _require_ready(self, device_id: str) -> None:
        if self._state is not DriverState.READY:
            message = f"driver {self.name!r} is {self._state.value}" + (
                f": {self.error}" if self.error else ""
            )
            raise DriverUnavailable(
                message, reason=f"driver_{self._state.value}", driver=self.name, device=device_id
            )

    def _connect(self) -> DriverProcess:
        try:
            process = DriverProcess.started(self.source)
        except Fault as exc:
            self._metrics.count_connection_error(driver=self.name, error_type=exc.kind)
            raise
        self.version = process.version[:TEXT_CHARS]
        return process

    @contextmanager
    def _connection(self, *, wait_s: float | None = None) -> Iterator[DriverProcess]:
        with self.pool.connection(wait_s=wait_s) as connection:
            if not isinstance(connection, DriverProcess):
                raise TypeError("the pool of a driver holds processes")
            try:
                yield connection
            except (Died, Hung) as exc:
                self._metrics.count_connection_error(driver=self.name, error_type=exc.kind)
                # It says nothing of the other processes: calls go on while ``probe`` looks.
                self._doubted.set()
                raise

    @contextmanager
    def _patient_for(self, timeout_s: float) -> Iterator[None]:
        """A driver that had less than its own time for a call is not called hanging."""
        try:
            yield
        except Hung as exc:
            if timeout_s < self.source.call_timeout_s:
                raise Overdue(exc.message) from exc
            raise

    def _key(self, device_id: str) -> str:
        return f"{self._id}:{device_id}"

    def _own_status(self, device_id: str) -> DeviceState | None:
        """How a device is, if no driver needs to be asked for that."""
        if self._state is DriverState.DRAINING:
            return DeviceState.MAINTENANCE
        if self._state is not DriverState.READY:
            return DeviceState.OFFLINE
        with self._lock:
            if device_id in self._calibrating:
                return DeviceState.CALIBRATING
        if self._resilience.breaker(self.name, device_id).state == "open":
            return DeviceState.ERROR
        return None

    def _fresh_status(self, device_id: str) -> DeviceState:
        """How a device is, asked for even if it is known: so that no caller has to wait for it."""
        own = self._own_status(device_id)
        return self._ask_status(device_id) if own is None else own

    def _ask_status(self, device_id: str) -> DeviceState:
        """What the driver says, or has said last while nobody is there to ask."""
        with self._lock:
            last = self._told.get(device_id, DeviceState.ONLINE)
            # One status that hangs, or kills, is enough.
            if device_id in self._asking or self._doubted.is_set():
                return last
            self._asking.add(device_id)
        state = last
        try:
            answer = self._measured("status", lambda: self._status_of(device_id), device_id)
            state = DeviceState(str(answer))
        except DriverBusy:
            # All connections run circuits: a status is not worth waiting for.
            return last
        except (Fault, ValueError):
            state = DeviceState.ERROR
        finally:
            with self._lock:
                self._asking.discard(device_id)
                self._told[device_id] = state
        self._cache.remember(self._key(device_id), state.value)
        return state

    def _status_of(self, device_id: str) -> object:
        with self._connection(wait_s=0.0) as connection:
            timeout_s = self.source.call_timeout_s
            return connection.call("status", timeout_s=timeout_s, device_id=device_id)

    def _ask_devices(self, *, wait_s: float | None = None) -> dict[str, Device]:
        with self._connection(wait_s=wait_s) as connection:
            told = connection.call("devices", timeout_s=self.source.call_timeout_s)
        try:
            devices = [_device(each) for each in _bounded(told, MOST_DEVICES)]
        except (ArithmeticError, KeyError, TypeError, ValueError) as exc:
            message = f"driver {self.name!r}: a device is not as it must be: {exc}"
            raise DriverInvalid(message, driver=self.name) from exc
        found = {device.id: device for device in devices}
        if len(found) < len(devices):
            raise DriverInvalid(f"driver {self.name!r} names a device twice", driver=self.name)
        return found

    def _measured(
        self, operation: str, ask: Callable[[], object], device_id: str, job_id: str = ""
    ) -> object:
        """Ask, count, and log what fails."""
        began = time.monotonic()
        status = "ok"
        try:
            return ask()
        except Fault as exc:
            status = exc.kind
            log.warning(
                "driver_call_failed",
                driver_name=self.name,
                device_id=device_id,
                job_id=job_id,
                operation=operation,
                reason=exc.kind,
                error=exc.message,
            )
            raise
        except DriverBusy:
            status = "busy"
            raise
        finally:
            duration_s = time.monotonic() - began
            self._metrics.count(
                driver=self.name, operation=operation, status=status, duration_s=duration_s
            )

    def _restart(self) -> None:
        """Have a process that lives: one that is there, or a new one."""
        self._doubted.clear()
        try:
            devices = self._ask_devices(wait_s=0.0)
        except DriverBusy:
            # All are at work.
            self._doubted.set()
            return
        except (Fault, DriverInvalid) as exc:
            self._fail(exc.message)
            return
        with self._lock:
            if self.is_leaving:
                return
            self.devices = {name: devices[name] for name in self.owned & devices.keys()}
            self._state, self.error = DriverState.READY, ""
            self._restart_wait_s = self._config.restart_first_s
            self.restarts += 1
        log.info("driver_restarted", driver_name=self.name, restarts=self.restarts)

    def _fail(self, why: str) -> None:
        with self._lock:
            if self.is_leaving:
                return
            self._state, self.error = DriverState.FAILED, why
            self._restart_at = time.monotonic() + self._restart_wait_s
            self._restart_wait_s = min(2 * self._restart_wait_s, self._config.restart_max_s)
        log.warning("driver_failed", driver_name=self.name, error=why)

    def _set(self, state: DriverState) -> None:
        with self._lock:
            self._state = state


def _device(told: Any) -> Device:
    """The device that a driver speaks of, checked: none of it is believed."""
    device_id = str(told["id"])
    if re.fullmatch(DEVICE_ID, device_id) is None:
        message = (
            f"{device_id[:64]!r} is no id: a lower case letter, then at most 63 lower case"
            " letters, digits or underscores"
        )
        raise ValueError(message)
    num_qubits = int(told["num_qubits"])
    if not 1 <= num_qubits <= MOST_QUBITS:
        raise ValueError(f"{device_id}: {num_qubits} qubits; 1 to {MOST_QUBITS} are allowed")
    gates = tuple(str(gate) for gate in _bounded(told["basis_gates"], MOST_ENTRIES))
    for gate in gates:
        if _GATE.fullmatch(gate) is None:
            raise ValueError(f"{device_id}: {gate[:64]!r} is no name of a gate")
    return Device(
        id=device_id,
        num_qubits=num_qubits,
        name=str(told["name"])[:TEXT_CHARS] or device_id,
        provider=str(told["provider"])[:TEXT_CHARS],
        backend_type=str(told["backend_type"])[:TEXT_CHARS],
        basis_gates=gates or COMMON_GATES,
        coupling_map=_couplings(told["coupling_map"], device_id, num_qubits),
        capabilities={
            str(key)[:TEXT_CHARS]: str(value)[:TEXT_CHARS]
            for key, value in itertools.islice(dict(told["capabilities"]).items(), MOST_ENTRIES)
        },
    )


def _couplings(told: Any, device_id: str, num_qubits: int) -> tuple[tuple[int, int], ...] | None:
    if told is None:
        return None
    pairs = []
    for pair in _bounded(told, MOST_COUPLINGS):
        one, other = map(int, pair)
        if not (0 <= one < num_qubits and 0 <= other < num_qubits and one != other):
            raise ValueError(f"{device_id}: there is no coupling of qubits {one} and {other}")
        pairs.append((one, other))
    return tuple(pairs)


def _bounded(told: Any, most: int) -> list[Any]:
    if not isinstance(told, list) or len(told) > most:
        raise TypeError(f"a list of at most {most} was expected")
    return told
