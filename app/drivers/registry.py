"""Which drivers are there? Found, loaded, watched, and unloaded again; no two own one device."""

from __future__ import annotations

import os
import re
import socket
import threading
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Protocol

import structlog
import watchfiles

from app.drivers.configuration import DRIVER_NAME, DriverConfig, read_configuration
from app.drivers.driver import DeviceState
from app.drivers.loaded import DriverState, LoadedDriver
from app.drivers.process import Source
from app.errors import DriverInvalid, DriverNotFound, ServiceError
from app.jobs.job import WorkerReport

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from pathlib import Path

    from app.drivers.caches import MetadataCache
    from app.drivers.configuration import ManagerConfig
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


class Worker(Protocol):
    """Who takes a driver's jobs from its queue."""

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
        #: what could not be loaded → why.
        self.failures: dict[str, str] = {}
        # Loading and unloading, one at a time; reading needs no lock: entries are replaced whole.
        self._lock = threading.RLock()
        self._stop = threading.Event()
        #: names that there were at the start, until the watch has begun.
        self._seen: frozenset[str] | None = None
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Load every driver that is enabled, and look after them from now on."""
        found = self.sources()
        self._seen = frozenset(found)
        for name in found:
            self._try(name, self.load)
        loops = [self._look_after]
        if self.config.monitoring.watch_files and self._watched():
            loops.append(self._watch)
        for loop in loops:
            thread = threading.Thread(target=loop, name=loop.__name__, daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Unload every driver."""
        self._stop.set()
        for thread in self._threads:
            thread.join(JOIN_S)
        for name in list(self._entries):
            self.unload(name)

    def drivers(self) -> tuple[LoadedDriver, ...]:
        """Those that are loaded, by name."""
        return tuple(entry.driver for _, entry in sorted(self._entries.items()))

    def driver(self, name: str) -> LoadedDriver:
        """One that is loaded.

        Raises:
            DriverNotFound: none has that name.
        """
        entry = self._entries.get(name)
        if entry is None:
            message = f"there is no driver {name[:64]!r}; loaded are {sorted(self._entries)}"
            raise DriverNotFound(message)
        return entry.driver

    def find(self, device: str) -> tuple[LoadedDriver, str] | None:
        """The driver of a device, and the device's id; ``DEVICE`` or ``DEVICE@DRIVER``."""
        device_id, _, name = device.partition("@")
        for entry in list(self._entries.values()):
            if device_id in entry.driver.devices and name in ("", entry.driver.name):
                return entry.driver, device_id
        return None

    def fallbacks(self, device: str) -> Sequence[str]:
        """Devices that take a device's jobs while it cannot."""
        return self.config.fallback_devices.get(device, ())

    def sources(self) -> dict[str, Source]:
        """Every driver there could be: of folders, of packages, of the configuration, by name."""
        found: dict[str, tuple[str, str]] = {}
        if self.config.entry_points:
            found |= {e.name: (e.value, "entry point") for e in entry_points(group=GROUP)}
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
        with self._lock:
            source = self.sources().get(name)
            if source is None:
                message = f"there is no driver {name[:64]!r}; there could be {[*self.sources()]}"
                raise DriverNotFound(message)
            if re.fullmatch(DRIVER_NAME, name) is None or name in self._taken:
                message = f"no driver can be called {name[:64]!r}: the name is taken, or is none"
                raise DriverInvalid(message, driver=name)
            self._resilience.forget(name)
            driver = LoadedDriver(
                source,
                pool=self._settings(name).pool or self.config.pool,
                config=self.config.resilience,
                resilience=self._resilience,
                cache=self._cache,
                metrics=self._metrics,
            )
            driver.start()
            try:
                self._check_owners(driver)
            except DriverInvalid:
                driver.close()
                raise
            report = self._report(driver)
            entry = _Entry(driver=driver, worker=self._employ(driver, report), report=report)
            before = self._entries.get(name)
            entry.worker.start()
            self._entries[name] = entry
            self.failures.pop(name, None)
            log.info(
                "driver_loaded", driver_name=name, kind=source.kind, devices=sorted(driver.devices)
            )
            if before is not None:
                self._retire(before, self.config.resilience.drain_s)
            return driver

    def unload(self, name: str, drain_s: float | None = None) -> None:
        """Drain a driver, then remove its devices.

        Raises:
            DriverNotFound: it is not loaded.
        """
        with self._lock:
            self.driver(name)
            entry = self._entries[name]
            self._retire(entry, self.config.resilience.drain_s if drain_s is None else drain_s)
            del self._entries[name]
            self._resilience.forget(name)
            log.info("driver_unloaded", driver_name=name)

    def look(self) -> None:
        """Look after every driver once, and report how devices are."""
        for entry in list(self._entries.values()):
            entry.driver.probe()
            report = self._report(entry.driver, entry.report.id)
            if report != entry.report:
                entry.report = report
                entry.worker.report(report)

    def _retire(self, entry: _Entry, drain_s: float) -> None:
        # Its worker claims nothing more and waits for what runs; then its connections end.
        entry.worker.stop(drain_s)
        entry.driver.drain(1.0)
        entry.driver.close()

    def _check_owners(self, driver: LoadedDriver) -> None:
        for entry in self._entries.values():
            shared = sorted(driver.devices.keys() & entry.driver.devices.keys())
            if shared and entry.driver.name != driver.name:
                message = (
                    f"driver {driver.name!r} brings {shared}, which driver {entry.driver.name!r}"
                    " owns; two drivers cannot own one device"
                )
                raise DriverInvalid(message, driver=driver.name, devices=shared)

    def _settings(self, name: str) -> DriverConfig:
        return self.config.drivers.get(name, DriverConfig())

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

    def _try(self, name: str, change: Callable[[str], object]) -> None:
        """Change something for a file or at the start: a fault is logged, and the rest goes on."""
        try:
            change(name)
        except ServiceError as exc:
            self.failures[name] = exc.message
            log.error("driver_not_loaded", driver_name=name, error=exc.message)  # noqa: TRY400 - the message says it all

    def _look_after(self) -> None:
        while not self._stop.wait(self.config.monitoring.probe_s):
            try:
                self.look()
            except Exception:
                log.exception("drivers_not_looked_after")

    def _watched(self) -> list[Path]:
        paths = [folder for folder in self.config.driver_paths if folder.is_dir()]
        return paths if self._path is None else [*paths, self._path.parent]

    def _watch(self) -> None:
        """Load, load again or unload what changes in the folders, and read the configuration."""
        watched = watchfiles.watch(
            *self._watched(),
            stop_event=self._stop,
            step=SETTLE_MS,
            rust_timeout=QUIET_MS,
            yield_on_timeout=True,
            recursive=False,
        )
        for changes in watched:
            if self._seen is not None:
                # What came before the watch began was seen by nobody.
                new, self._seen = set(self.sources()) - self._seen, None
                for name in sorted(new - set(self._entries)):
                    self._try(name, self.load)
            if not changes:
                continue
            names = {os.path.realpath(path) for _, path in changes}
            if self._path is not None and os.path.realpath(self._path) in names:
                self._read_again()
            # A failure of the watched files is one of a driver, never of the watch.
            self._follow(names)

    def _read_again(self) -> None:
        try:
            config = read_configuration(self._path)
        except ServiceError as exc:
            log.error("configuration_not_read", error=exc.message)  # noqa: TRY400 - as above
            return
        with self._lock:
            before = self.sources()
            # Folders that are new are read now, and watched after the next start.
            self.config = config
            after = self.sources()
            for name in before.keys() | after.keys():
                if name not in after and name in self._entries:
                    self._try(name, self.unload)
                elif name in after and before.get(name) != after[name]:
                    self._try(name, self.load)
        log.info("configuration_read")

    def _follow(self, names: set[str]) -> None:
        with self._lock:
            sources = self.sources()
            for name, source in sources.items():
                if os.path.realpath(source.source) in names:
                    self._try(name, self.load)
            for name in set(self._entries) - sources.keys():
                self._try(name, self.unload)
            for name in set(self.failures) - sources.keys():
                del self.failures[name]


def state_of(registry: DriverRegistry) -> dict[str, str]:
    """Driver → its state, of those that could not be loaded too."""
    states = {driver.name: driver.state.value for driver in registry.drivers()}
    return dict.fromkeys(registry.failures, DriverState.FAILED.value) | states
