"""Which backends are there? Every device on every executor, the simulator, aliases and mocks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import orjson

import app
from app.backends.devices import NO_PROPERTIES, DriverDevice, device_configuration
from app.backends.documents import Document, Documents
from app.backends.names import MOCK, SIMULATOR, BackendName, mock_of
from app.backends.recordings import find_recordings
from app.errors import BackendNotFound, CalibrationNotFound, ConfigurationInvalid

if TYPE_CHECKING:
    from collections.abc import Collection

    from app.backends.recordings import Recording

#: driver → device id → what the driver says of it: ``Fleet.devices``.
Drivers = Mapping[str, Mapping[str, Mapping[str, object]]]

#: Fleets whose backends are kept: executors and qubits that come and go.
KEPT_FLEETS = 8
#: What is repeated of a name that no backend has.
SHOWN_CHARS = 64

_ALIAS = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Backend:
    """What a name stands for."""

    #: as it is served: ``metadata@executor``, an alias, or the mock of either.
    name: str
    #: what it claims to be: a recorded device, or the simulator.
    metadata: str
    #: what runs it.
    executor: str
    num_qubits: int
    version: str
    #: for dry runs only.
    is_mock: bool
    #: what does not change of its entry in the list of backends: JSON without the closing brace.
    entry: bytes
    #: what its driver says of it, when it is the device of a driver.
    device: DriverDevice | None = None

    @property
    def is_online(self) -> bool:
        """Whether its driver, if it has one, says that it runs circuits at this moment."""
        return self.device is None or self.device.is_online


class Catalog:
    """The backends, for a fleet that the caller describes by its executors and its largest worker.

    ``executors`` are those that are known, alive or not; ``max_qubits`` is what the largest worker
    can hold as a state vector, None when nobody knows; ``drivers`` are the executors that are
    drivers, with their devices: these are all the backends that a driver has.
    """

    def __init__(
        self,
        *,
        recordings: Mapping[str, Recording],
        aliases: Mapping[str, BackendName],
        max_qubits: int,
    ) -> None:
        """Make the catalog.

        Args:
            recordings: what devices said of themselves, by metadata.
            aliases: further names → what they stand for.
            max_qubits: qubits of the simulator when nobody knows what the fleet can hold.
        """
        self._recordings = recordings
        self._aliases = aliases
        self._max_qubits = max_qubits
        self._documents = Documents(recordings, version=app.__version__)
        self._named = lru_cache(maxsize=KEPT_FLEETS)(self._name_all)

    @classmethod
    def load(cls, *, aliases: Mapping[str, str], max_qubits: int) -> Catalog:
        """The catalog of the devices that are installed.

        Raises:
            ConfigurationInvalid: an alias is no name, stands for no backend, or two of them would
                share a mock; or the devices are not installed.
        """
        recordings = find_recordings()
        known = {SIMULATOR, *recordings}
        targets = {alias: _target(alias, name, known) for alias, name in aliases.items()}
        mocks: dict[str, str] = {}
        for alias in targets:
            other = mocks.setdefault(mock_of(alias), alias)
            if other != alias and "_" in alias:
                message = (
                    f"QFLEET_ALIASES: {other} and {alias} would share the mock {mock_of(alias)};"
                    " let them differ after the first underscore"
                )
                raise ConfigurationInvalid(message)
        return cls(recordings=recordings, aliases=targets, max_qubits=max_qubits)

    def backends(
        self,
        executors: Collection[str],
        max_qubits: int | None = None,
        drivers: Drivers | None = None,
    ) -> Collection[Backend]:
        """All of them: aliases, the simulator, devices; then their mocks, then drivers' devices."""
        return self._all(executors, max_qubits, drivers).values()

    def resolve(
        self,
        name: str,
        executors: Collection[str],
        max_qubits: int | None = None,
        drivers: Drivers | None = None,
    ) -> Backend:
        """What a name stands for.

        Raises:
            BackendNotFound: no backend has that name.
        """
        named = self._all(executors, max_qubits, drivers)
        if name not in named:
            metadata, _, executor = name.partition("@")
            runs = executor if executor in executors else next(iter(sorted(executors)), "aer")
            near = [
                known if known in self._aliases else f"{known}@{runs}"
                for known in _near(metadata, [SIMULATOR, *self._recordings, *self._aliases])
            ]
            message = (
                f"there is no backend {name[:SHOWN_CHARS]!r}; a name reads METADATA@EXECUTOR, as"
                f" {SIMULATOR}@aer; executors are {sorted(executors)}"
            ) + (f", names near yours {near}" if near else "")
            raise BackendNotFound(message, near=near, executors=sorted(executors))
        return named[name]

    def check_calibration(self, name: str, calibration_id: str | None) -> None:
        """Make sure that a backend has that calibration; None means the one it has.

        Raises:
            BackendNotFound: it is no backend name.
            CalibrationNotFound: the backend has none, or another.
        """
        if calibration_id is None:
            return
        metadata = (self._aliases.get(name) or BackendName.of(name)).metadata
        known = self._documents.calibration(metadata)
        if calibration_id != known:
            has = f"it has {known}" if known else "it has none"
            message = f"{name} has no calibration {calibration_id[:SHOWN_CHARS]!r}; {has}"
            raise CalibrationNotFound(message)

    def configuration(self, backend: Backend) -> Document:
        """What does not change of a backend: its qubits, its gates, its couplings."""
        if backend.device is not None:
            return device_configuration(backend.device, name=backend.name, version=backend.version)
        return self._documents.configuration(
            backend.metadata, name=backend.name, num_qubits=backend.num_qubits
        )

    def properties(self, backend: Backend) -> Document:
        """What was measured of a backend: errors, durations, coherence times."""
        if backend.device is not None:
            return NO_PROPERTIES
        return self._documents.properties(backend.metadata, name=backend.name)

    def _all(
        self, executors: Collection[str], max_qubits: int | None, drivers: Drivers | None
    ) -> dict[str, Backend]:
        of_drivers = drivers or {}
        plain = frozenset(executors).difference(of_drivers)
        named = self._named(plain, max_qubits or self._max_qubits)
        if not of_drivers:
            return named
        return named | {
            backend.name: backend
            for driver, devices in of_drivers.items()
            for device_id, told in devices.items()
            for backend in [self._device(driver, device_id, DriverDevice.of(told))]
        }

    def _device(self, driver: str, device_id: str, device: DriverDevice) -> Backend:
        name = str(BackendName(metadata=device_id, executor=driver))
        entry = {
            "name": name,
            "qubits": device.num_qubits,
            "physical_qubits": device.num_qubits,
            "is_simulator": device.backend_type == SIMULATOR,
            "processor_type": None,
        }
        return Backend(
            name=name,
            metadata=device_id,
            executor=driver,
            num_qubits=device.num_qubits,
            version=device.version or app.__version__,
            is_mock=False,
            entry=orjson.dumps(entry)[:-1],
            device=device,
        )

    def _name_all(self, executors: frozenset[str], max_qubits: int) -> dict[str, Backend]:
        aliases = {
            alias: target for alias, target in self._aliases.items() if target.executor in executors
        }
        targets = [
            BackendName(metadata=metadata, executor=executor)
            for metadata in (SIMULATOR, *self._recordings)
            for executor in sorted(executors)
        ]
        plain = {str(target): target for target in targets}
        mocks: dict[str, BackendName] = {}
        for name, target in (plain | aliases).items():
            # Names without an underscore share a mock: the simulator, which takes any circuit.
            mocks.setdefault(mock_of(name), target)
        return {
            name: self._backend(name, target, max_qubits, is_mock=is_mock)
            for is_mock, names in ((False, aliases | plain), (True, mocks))
            for name, target in names.items()
        }

    def _backend(
        self, name: str, target: BackendName, max_qubits: int, *, is_mock: bool
    ) -> Backend:
        recording = self._recordings.get(target.metadata)
        num_qubits = recording.num_qubits if recording else max_qubits
        entry: dict[str, Any] = {
            "name": name,
            "qubits": num_qubits,
            "physical_qubits": recording.physical_qubits if recording else num_qubits,
            "is_simulator": recording is None,
            "processor_type": recording.processor_type if recording else None,
        }
        if is_mock:
            entry["class"] = MOCK
        return Backend(
            name=name,
            metadata=target.metadata,
            executor=target.executor,
            num_qubits=num_qubits,
            version=recording.version if recording else app.__version__,
            is_mock=is_mock,
            entry=orjson.dumps(entry)[:-1],
        )


def _target(alias: str, name: str, known: Collection[str]) -> BackendName:
    """What an alias stands for."""
    if _ALIAS.fullmatch(alias) is None or alias.partition("_")[0] == MOCK:
        message = (
            f"QFLEET_ALIASES: {alias!r} is no name for a backend; take a lower case letter and then"
            f" lower case letters, digits and underscores, and do not begin with {MOCK!r}"
        )
        raise ConfigurationInvalid(message)
    try:
        target = BackendName.of(name)
    except BackendNotFound as exc:
        message = f"QFLEET_ALIASES: {alias}: {exc.message}"
        raise ConfigurationInvalid(message) from exc
    if target.metadata not in known:
        near = _near(target.metadata, known)
        message = f"QFLEET_ALIASES: {alias}: there is no {target.metadata!r}" + (
            f"; near it are {near}" if near else f"; {SIMULATOR} is one, and every fake_… device"
        )
        raise ConfigurationInvalid(message)
    return target


def _near(metadata: str, known: Collection[str]) -> list[str]:
    """What was perhaps meant."""
    return get_close_matches(metadata[:SHOWN_CHARS], known, n=3)
