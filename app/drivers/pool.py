"""Which connection does a call use? One that is idle and well, a new one, or none in time."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import structlog

from app.drivers.process import Fault
from app.errors import DriverBusy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from app.drivers.configuration import PoolConfig

log = structlog.get_logger()


class Connection(Protocol):
    """What the pool keeps: one instance of a driver."""

    @property
    def is_alive(self) -> bool:
        """Whether it can still be used."""

    @property
    def pid(self) -> int:
        """Its process."""

    def call(
        self, operation: str, body: bytes = b"", *, timeout_s: float, **header: object
    ) -> object:
        """Let the driver do something."""

    def kill(self) -> None:
        """Stop it, from any thread; whoever uses it closes it."""

    def close(self) -> None:
        """End it."""


@dataclass(kw_only=True)
class _Idle:
    connection: Connection
    since: float


class ConnectionPool:
    """The connections of one driver, for any thread."""

    def __init__(
        self,
        *,
        driver: str,
        config: PoolConfig,
        connect: Callable[[], Connection],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make the pool; connects when a connection is first wanted.

        Args:
            driver: its name, for the logs.
            config: sizes and times.
            connect: makes a connection; may raise ``Fault``.
            clock: gives seconds that only grow.
        """
        self._driver = driver
        self._config = config
        self._connect = connect
        self._clock = clock
        self._changed = threading.Condition()
        self._idle: list[_Idle] = []
        self._active: list[Connection] = []
        #: connections that are being made.
        self._opening = 0
        #: nothing is given out any more.
        self._drained = False
        #: … and nothing stays.
        self._closed = False

    @property
    def active(self) -> int:
        """Connections that are in use."""
        with self._changed:
            return len(self._active) + self._opening

    @property
    def idle(self) -> int:
        """Connections that are not."""
        with self._changed:
            return len(self._idle)

    @property
    def size(self) -> int:
        """Most connections."""
        return self._config.max_size

    @contextmanager
    def connection(self, *, wait_s: float | None = None) -> Iterator[Connection]:
        """A connection; afterwards it is idle again, or closed when it is of no more use.

        Args:
            wait_s: how long to wait when all are in use, instead of the configured time.

        Raises:
            DriverBusy: all are in use, and none came back in time.
            Fault: a new one could not be made.
        """
        connection = self._take(self._config.wait_s if wait_s is None else wait_s)
        try:
            yield connection
        finally:
            self._give_back(connection)

    def sweep(self) -> None:
        """Close what has been idle for too long; one stays."""
        now = self._clock()
        with self._changed:
            old = [one for one in self._idle if now - one.since > self._config.idle_timeout_s]
            if not self._active and len(old) == len(self._idle):
                old = old[:-1]
            self._idle = [one for one in self._idle if one not in old]
        for one in old:
            self._close(one.connection, "idle")

    def drain(self, timeout_s: float) -> bool:
        """Give out nothing more, and wait until nothing is in use; whether that was in time."""
        with self._changed:
            self._drained = True
            self._changed.notify_all()
            return self._changed.wait_for(lambda: not self._active and not self._opening, timeout_s)

    def close(self) -> None:
        """Close all connections; those in use are stopped."""
        with self._changed:
            self._drained = self._closed = True
            idle, self._idle = self._idle, []
            # Only who uses a connection may speak through it; it also closes it.
            for connection in self._active:
                connection.kill()
            self._changed.notify_all()
        for one in idle:
            self._close(one.connection, "unloaded")

    def _take(self, wait_s: float) -> Connection:
        end = time.monotonic() + wait_s
        while True:
            found = self._reserve(end, wait_s)
            if found is None:
                return self._open()
            if self._is_well(found):
                return found.connection
            self._discard(found.connection, "unhealthy")

    def _reserve(self, end: float, wait_s: float) -> _Idle | None:
        """The connection that was used last; None: there is room for a new one, and it is ours."""
        with self._changed:
            while True:
                if self._drained:
                    raise self._unloaded()
                if self._idle:
                    found = self._idle.pop()
                    self._active.append(found.connection)
                    return found
                if len(self._active) + self._opening < self._config.max_size:
                    self._opening += 1
                    return None
                if not self._changed.wait(max(end - time.monotonic(), 0)):
                    message = (
                        f"all {self._config.max_size} connections of driver {self._driver!r} are"
                        f" in use, and none came back within {wait_s:g} s; try again"
                    )
                    raise DriverBusy(
                        message, reason="pool_exhausted", allowed=self._config.max_size
                    )

    def _open(self) -> Connection:
        try:
            connection = self._connect()
        except BaseException:
            with self._changed:
                self._opening -= 1
                self._changed.notify_all()
            raise
        with self._changed:
            self._opening -= 1
            is_wanted = not self._closed
            if is_wanted:
                self._active.append(connection)
            self._changed.notify_all()
        if not is_wanted:
            self._close(connection, "unloaded")
            raise self._unloaded()
        log.info("connection_created", driver_name=self._driver, process=connection.pid)
        return connection

    def _unloaded(self) -> DriverBusy:
        return DriverBusy(f"driver {self._driver!r} is being unloaded", reason="draining")

    def _is_well(self, found: _Idle) -> bool:
        if not found.connection.is_alive:
            return False
        if self._clock() - found.since < self._config.health_check_after_s:
            return True
        try:
            return bool(
                found.connection.call("health", timeout_s=self._config.health_check_timeout_s)
            )
        except Fault:
            return False

    def _give_back(self, connection: Connection) -> None:
        with self._changed:
            self._active.remove(connection)
            keep = connection.is_alive and not self._drained
            if keep:
                self._idle.append(_Idle(connection=connection, since=self._clock()))
            self._changed.notify_all()
        if not keep:
            self._close(connection, "ended")

    def _discard(self, connection: Connection, why: str) -> None:
        with self._changed:
            self._active.remove(connection)
            self._changed.notify_all()
        self._close(connection, why)

    def _close(self, connection: Connection, why: str) -> None:
        connection.close()
        log.info("connection_closed", driver_name=self._driver, process=connection.pid, reason=why)
