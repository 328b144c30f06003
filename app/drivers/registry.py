"""Which drivers are there? Found, loaded, watched, and unloaded again; no two own one device."""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import structlog
import watchfiles

from app.drivers.configuration import DRIVER_NAME, DriverConfig, read_configuration
from app.drivers.driver import DeviceState
from app.drivers.loaded import DriverState, LoadedDriver
from app.drivers.process import Source
from app.errors import DriverInvalid, DriverNotFound, DriverUnavailable, ServiceError, Unavailable
from app.jobs.job import WorkerReport

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from app.drivers.caches import MetadataCache
    from app.drivers.configuration import ManagerConfig, PoolConfig
    from app.drivers.metrics import DriverMetrics
    from app.drivers.resilience import ResilienceManager

log = structlog.get_logger()

#: packages that bring a driver name it in this group: ``name = "module:class"``.
GROUP = "qfleet.drivers"
#: Changes that come within this time are one change.
SETTLE_MS = 100
#: How long nothing changes before the watch looks around.
QUIET_MS = 1000
#: How long the threads that look after drivers may take to end.
JOIN_S = 5.0
#: How long calls of other drivers' jobs may take, at least, when a driver is unloaded.
LAST_CALLS_S = 1.0
#: Longest file of a driver.
CODE_BYTES = 4 << 20


class Worker(Protocol):
    """Who takes a driver's jobs from its queue."""

    def announce(self) -> None:
        """Tell the fleet of the driver's devices."""

    def start(self) -> None:
        """Take jobs from now on."""

    def report(self, report: WorkerReport) -> None:
        """Say this of the driver's devices from now on."""

    def stop(self, drain_s: float) -> None:
        """Take no more, and wait for those that run."""


@dataclass(kw_only=True)
class _Entry:
    driver: LoadedDriver
    worker: Worker
    report: WorkerReport
    gone: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True, kw_only=True)
class _Failure:
    message: str
    #: when loading is tried again, on the monotonic clock; None: when something changes.
    again_at: float | None
    wait_s: float


class DriverRegistry:
    """All drivers of one manager. May be used from any thread."""

    def __init__(
        self,
        *,
        path: Path | None,
        config: ManagerConfig,
        resilience: ResilienceManager,
        cache: MetadataCache,
        metrics: DriverMetrics,
        employ: Callable[[LoadedDriver, WorkerReport], Worker],
        taken: Collection[str],
    ) -> None:
        """Make an empty registry; ``start`` loads.

        Args:
            path: of the configuration, to be read again when it changes.
            config: what it says now.
            resilience: breakers and retries.
            cache: how devices are.
            metrics: what is counted.
            employ: makes who takes a driver's jobs.
            taken: names that no driver can have.
        """
        self._path = path
        self.config = config
        self._resilience = resilience
        self._cache = cache
        self._metrics = metrics
        self._employ = employ
        self._taken = frozenset(taken)
        self._entries: dict[str, _Entry] = {}
        # Held while entries change; reading needs no lock: entries are replaced whole.
        self._lock = threading.Lock()
        #: one change of a driver at a time.
        self._turns: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        #: what each driver was made of when loading it was tried last.
        self._tried: dict[str, object] = {}
        self._failures: dict[str, _Failure] = {}
        self._loading: set[str] = set()
        self._configured = _fingerprint(path)
        #: of packages; looking takes tens of milliseconds, so it is done for who asks for it.
        self._packages: dict[str, str] | None = None
        self._stop = threading.Event()
        self._settled = threading.Event()
        self._follower = threading.Thread(target=self._follow, name="drivers", daemon=True)

    def start(self) -> None:
        """Load every driver that is enabled, and look after them, from now on."""
        self._follower.start()

    def stop(self) -> None:
        """Unload every driver; one that is just starting is left to its end."""
        self._stop.set()
        if self._follower.is_alive():
            self._follower.join(JOIN_S)
        with self._lock:
            # Nothing enters from now on.
            names = list(self._entries)
        drain_s = self.config.resilience.drain_s
        # A driver may be the fallback of others: none goes while any job runs.
        self._each(names, lambda name: self._entry(name).worker.stop(drain_s))
        self._each(names, self._end)

    @property
    def states(self) -> dict[str, str]:
        """Driver → its state, of those that load, and that could not be loaded, too."""
        loaded = {name: entry.driver.state.value for name, entry in list(self._entries.items())}
        loading = dict.fromkeys(list(self._loading), DriverState.LOADING.value)
        return dict.fromkeys(self.failures, DriverState.FAILED.value) | loading | loaded

    @property
    def is_ready(self) -> bool:
        """Whether everything that there was at the start was tried, and every driver is ready."""
        states = self.states.values()
        return self._settled.is_set() and all(state == DriverState.READY for state in states)

    @property
    def is_loading(self) -> bool:
        """Whether devices may come that nobody knows yet."""
        is_new = any(name not in self._entries for name in list(self._loading))
        return is_new or not self._settled.is_set()

    @property
    def failures(self) -> dict[str, str]:
        """What could not be loaded → why."""
        return {name: failure.message for name, failure in list(self._failures.items())}

    def drivers(self) -> tuple[LoadedDriver, ...]:
        """Those that are loaded, by name."""
        return tuple(entry.driver for _, entry in sorted(self._entries.items()))

    def driver(self, name: str) -> LoadedDriver:
        """One that is loaded.

        Raises:
            DriverNotFound: none has that name.
        """
        return self._entry(name).driver

    def find(self, device: str) -> tuple[LoadedDriver, str] | None:
        """The driver of a device, and the device's id; ``DEVICE`` or ``DEVICE@DRIVER``."""
        device_id, at, name = device.partition("@")
        for entry in list(self._entries.values()):
            if device_id in entry.driver.devices and (not at or name == entry.driver.name):
                return entry.driver, device_id
        return None

    def fallbacks(self, device: str) -> Sequence[str]:
        """Devices that take a device's jobs while it cannot."""
        return self.config.fallback_devices.get(device, ())

    def sources(self, *, look_for_packages: bool = False) -> dict[str, Source]:
        """Every driver there could be: of folders, of packages, of the configuration, by name.

        Args:
            look_for_packages: whether to look for those that were installed since the start.
        """
        found: dict[str, tuple[str, str]] = {}
        if self.config.entry_points:
            if self._packages is None or look_for_packages:
                self._packages = {e.name: e.value for e in entry_points(group=GROUP)}
            found |= {name: (value, "entry point") for name, value in self._packages.items()}
        for folder in self.config.driver_paths:
            for path in sorted(folder.glob("*.py")):
                if not path.name.startswith("_"):
                    found[path.stem] = (str(path), "file")
        for name, settings in self.config.drivers.items():
            if settings.source is not None:
                source = settings.source
                if source.endswith(".py") and self._path is not None:
                    source = str((self._path.parent / source).resolve())
                found[name] = (source, "file" if source.endswith(".py") else "module")
        return {
            name: self._source(name, source, kind)
            for name, (source, kind) in sorted(found.items())
            if self._settings(name).enabled
        }

    def load(self, name: str) -> LoadedDriver:
        """Load a driver, or load it again: the new one takes over before the old one drains.

        Raises:
            DriverNotFound: no folder, package or configuration has it.
            DriverInvalid: it is none, or a name or a device of it is taken.
            DriverUnavailable: it does not start.
        """
        source = self.sources().get(name)
        if source is None:
            sources = self.sources(look_for_packages=True)
            source = sources.get(name)
        if source is None:
            message = f"there is no driver {name[:64]!r}; there could be {[*sources]}"
            raise DriverNotFound(message)
        if re.fullmatch(DRIVER_NAME, name) is None or name in self._taken:
            self._tried[name] = self._made_of(name, source)
            message = f"no driver can be called {name[:64]!r}: the name is taken, or is none"
            raise DriverInvalid(message, driver=name)
        with self._turns[name]:
            self._loading.add(name)
            try:
                return self._load(name, source)
            finally:
                self._loading.discard(name)

    def unload(self, name: str, drain_s: float | None = None) -> None:
        """Drain a driver, then remove its devices.

        Raises:
            DriverNotFound: it is not loaded.
        """
        self._entry(name)
        with self._turns[name]:
            entry = self._entry(name)
            self._retire(entry, self.config.resilience.drain_s if drain_s is None else drain_s)
            with self._lock:
                del self._entries[name]
            # Nor is a new version of it waited for.
            self._failures.pop(name, None)
            self._resilience.forget(name)
            log.info("driver_unloaded", driver_name=name)

    def _end(self, name: str) -> None:
        """Unload a driver that was drained, even if somebody drains it for longer."""
        self._retire(self._entry(name), 0.0)
        self.unload(name, 0.0)

    def _load(self, name: str, source: Source) -> LoadedDriver:
        # Noted before the file is read: what changes from here on is seen as a change.
        self._tried[name] = self._made_of(name, source)
        resilience = self.config.resilience
        driver = LoadedDriver(
            replace(source, code=_code(source)),
            pool=self._pool_of(name),
            config=resilience,
            resilience=self._resilience,
            cache=self._cache,
            metrics=self._metrics,
        )
        driver.start()
        try:
            self._check_owners(driver)
            report = self._report(driver)
            entry = _Entry(driver=driver, worker=self._employ(driver, report), report=report)
            before = self._enter(entry)
        except BaseException:
            driver.close()
            raise
        log.info(
            "driver_loaded", driver_name=name, kind=source.kind, devices=sorted(driver.devices)
        )
        if before is not None:
            self._retire(before, resilience.drain_s)
        return driver

    def _enter(self, entry: _Entry) -> _Entry | None:
        """Let a driver take jobs; gives the one that it replaces."""
        name = entry.driver.name
        with self._lock:
            if self._stop.is_set():
                raise DriverUnavailable("the driver manager is stopping", driver=name)
            self._check_owners(entry.driver)
            before = self._entries.get(name)
            # What the one before has done is not to be held against this one.
            self._resilience.forget(name)
            # Who sees it may use it: the fleet knows it by then.
            entry.worker.announce()
            # Its first job must find it, not the one before, which is about to end.
            self._entries[name] = entry
            try:
                entry.worker.start()
            except BaseException:
                del self._entries[name]
                if before is not None:
                    self._entries[name] = before
                raise
            self._failures.pop(name, None)
        threading.Thread(
            target=self._look_after, args=(entry,), name=f"{name}-probe", daemon=True
        ).start()
        return before

    def _retire(self, entry: _Entry, drain_s: float) -> None:
        # Its worker claims nothing more and waits for what runs; then jobs of other drivers, whose
        # fallback it is, and calibrations have the rest of the time; then its connections end.
        end = time.monotonic() + drain_s
        entry.gone.set()
        entry.worker.stop(drain_s)
        entry.driver.drain(max(end - time.monotonic(), LAST_CALLS_S))
        entry.driver.close()

    def _check_owners(self, driver: LoadedDriver) -> None:
        for entry in list(self._entries.values()):
            shared = sorted(driver.owned & entry.driver.owned)
            if shared and entry.driver.name != driver.name:
                message = (
                    f"driver {driver.name!r} brings {shared}, which driver {entry.driver.name!r}"
                    " owns; two drivers cannot own one device"
                )
                raise DriverInvalid(message, driver=driver.name, devices=shared)

    def _entry(self, name: str) -> _Entry:
        entry = self._entries.get(name)
        if entry is None:
            message = f"there is no driver {name[:64]!r}; loaded are {sorted(self._entries)}"
            raise DriverNotFound(message)
        return entry

    def _settings(self, name: str) -> DriverConfig:
        return self.config.drivers.get(name, DriverConfig())

    def _pool_of(self, name: str) -> PoolConfig:
        return self._settings(name).pool or self.config.pool

    def _made_of(self, name: str, source: Source) -> object:
        """What a driver is loaded again for when it changes."""
        file = Path(source.source) if source.source.endswith(".py") else None
        return source, self._pool_of(name), self.config.resilience, _fingerprint(file)

    def _source(self, name: str, source: str, kind: str) -> Source:
        settings = self._settings(name)
        return Source(
            name=name,
            source=source,
            kind=kind,
            config=settings.config,
            environment=settings.environment,
            memory_bytes=settings.memory_bytes,
            threads=settings.threads,
            start_timeout_s=settings.start_timeout_s,
            call_timeout_s=settings.call_timeout_s,
        )

    def _report(self, driver: LoadedDriver, worker_id: str = "") -> WorkerReport:
        return WorkerReport(
            id=worker_id or f"{driver.name}-{os.urandom(4).hex()}",
            host=socket.gethostname(),
            pid=os.getpid(),
            executors=(driver.name,),
            slots=driver.pool.size,
            busy=0,
            versions={"driver": driver.version},
            devices={
                driver.name: {
                    device.id: {
                        "num_qubits": device.num_qubits,
                        "backend_type": device.backend_type,
                        "basis_gates": list(device.basis_gates),
                        "coupling_map": None
                        if device.coupling_map is None
                        else [list(pair) for pair in device.coupling_map],
                        "version": driver.version,
                        "is_online": driver.status(device.id) is DeviceState.ONLINE,
                    }
                    for device in driver.devices.values()
                }
            },
        )

    def _look_after(self, entry: _Entry) -> None:
        """Look after a driver, and report how its devices are, until it is gone."""
        while not entry.gone.wait(self.config.monitoring.probe_s):
            try:
                entry.driver.probe()
                report = self._report(entry.driver, entry.report.id)
                if report != entry.report:
                    entry.report = report
                    entry.worker.report(report)
            except Exception:
                log.exception("driver_not_looked_after", driver_name=entry.driver.name)

    def _follow(self) -> None:
        """Load, load again and unload as files and configuration want it."""
        while not self._stop.is_set():
            try:
                self._scan()
                self._settled.set()
                watched = self._watched()
                for _ in self._changes(watched):
                    self._scan()
                    if self._watched() != watched:
                        break
            except Exception:
                # A folder that cannot be read at this moment, for instance: go on.
                log.exception("drivers_not_followed")
                self._stop.wait(QUIET_MS / 1000)

    def _changes(self, paths: Sequence[Path]) -> Iterator[object]:
        """Something at once when a file of these folders changes, and every ``QUIET_MS``."""
        if self.config.monitoring.watch_files and paths:
            yield from watchfiles.watch(
                *paths,
                stop_event=self._stop,
                step=SETTLE_MS,
                rust_timeout=QUIET_MS,
                yield_on_timeout=True,
                recursive=False,
            )
        while not self._stop.wait(QUIET_MS / 1000):
            yield None

    def _watched(self) -> list[Path]:
        paths = [folder for folder in self.config.driver_paths if folder.is_dir()]
        return paths if self._path is None else [*paths, self._path.parent]

    def _scan(self) -> None:
        """Compare what there is with what was tried. Events only say when to look."""
        is_first = not self._settled.is_set()
        follows = is_first or self.config.monitoring.watch_files
        if follows:
            self._read_again()
        sources = self.sources()
        due = [name for name in sources if self._is_due(name)]
        if follows:
            due += [
                name
                for name, source in sources.items()
                if name not in due and self._tried.get(name) != self._made_of(name, source)
            ]
            for name in self._tried.keys() - sources.keys():
                del self._tried[name]
                self._failures.pop(name, None)
        self._each(due, self.load)
        if follows:
            self._each(self._entries.keys() - sources.keys(), self.unload)

    def _is_due(self, name: str) -> bool:
        """Whether what was not there when it was tried may be there now."""
        failure = self._failures.get(name)
        again_at = None if failure is None else failure.again_at
        return again_at is not None and time.monotonic() >= again_at

    def _read_again(self) -> None:
        """Read the configuration, if it has changed; one that is not valid changes nothing."""
        found = _fingerprint(self._path)
        if found == self._configured:
            return
        # Who writes it may not be done yet: then the next look is soon.
        if self._stop.wait(SETTLE_MS / 1000) or _fingerprint(self._path) != found:
            return
        self._configured = found
        try:
            config = read_configuration(self._path, empty_is_default=False)
        except ServiceError as exc:
            log.error("configuration_not_read", error=exc.message)  # noqa: TRY400 - the message says it all
            return
        if config.caches != self.config.caches:
            log.warning("configuration_needs_restart", key="caches")
        self.config = config
        self._resilience.config = config.resilience
        log.info("configuration_read")

    def _each(self, names: Iterable[str], change: Callable[[str], object]) -> None:
        """Change several drivers beside each other: one that hangs keeps no other waiting."""
        threads = [
            threading.Thread(
                target=self._try, args=(name, change), name=f"{name}-change", daemon=True
            )
            for name in names
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _try(self, name: str, change: Callable[[str], object]) -> None:
        """Change a driver for nobody who waits for it: a fault is noted, and tried again."""
        try:
            change(name)
        except DriverNotFound:
            # Somebody else was faster.
            return
        except ServiceError as exc:
            self._note(name, exc.message, may_pass=isinstance(exc, DriverUnavailable | Unavailable))
        except Exception as exc:
            log.exception("driver_not_changed", driver_name=name)
            self._note(name, f"{type(exc).__name__}: {exc}", may_pass=True)

    def _note(self, name: str, message: str, *, may_pass: bool) -> None:
        resilience, before = self.config.resilience, self._failures.get(name)
        wait_s = resilience.restart_first_s
        if before is not None:
            wait_s = min(2 * before.wait_s, resilience.restart_max_s)
        # Until then, a new version that does not start leaves the old one in place.
        self._failures[name] = _Failure(
            message=message,
            again_at=time.monotonic() + wait_s if may_pass else None,
            wait_s=wait_s,
        )
        log.error("driver_not_loaded", driver_name=name, error=message)


def _code(source: Source) -> bytes:
    """What stands in a driver's file.

    Raises:
        DriverInvalid: it cannot be read, or is too long.
    """
    if not source.source.endswith(".py"):
        return b""
    try:
        with Path(source.source).open("rb") as file:
            code = file.read(CODE_BYTES + 1)
    except OSError as exc:
        message = f"driver {source.name!r}: {source.source} cannot be read: {exc.strerror}"
        raise DriverInvalid(message, driver=source.name) from exc
    if len(code) > CODE_BYTES:
        message = f"driver {source.name!r}: {source.source} has more than {CODE_BYTES} bytes"
        raise DriverInvalid(message, driver=source.name)
    return code


def _fingerprint(path: Path | None) -> tuple[int, ...] | None:
    """Something that differs when a file has changed; None: there is none."""
    try:
        found = None if path is None else path.stat()
    except OSError:
        return None
    return None if found is None else (found.st_ino, found.st_size, found.st_mtime_ns)
