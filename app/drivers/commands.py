"""What can an operator ask a running driver manager? Drivers, breakers, pools, caches."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import click
import grpc

from app.drivers.proto import driver_manager_pb2 as pb
from app.drivers.proto import driver_manager_pb2_grpc as pb_grpc
from app.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from app.config import Settings

#: How long an answer may take; loading and unloading wait for the driver.
ANSWER_S = 10.0
CHANGE_S = 120.0


class Operator:
    """One connection to a driver manager."""

    def __init__(self, stub: Any, address: str, key: str | None) -> None:
        """Make it; ``key``: an API key, if the manager asks for one."""
        self._stub = stub
        self._address = address
        self._metadata = [("authorization", f"apikey {key}")] if key else []

    def ask(self, method: str, request: Any, timeout_s: float = ANSWER_S) -> Any:
        """Call a method.

        Raises:
            Unavailable: it did not succeed; the message says why.
        """
        try:
            return getattr(self._stub, method)(
                request, timeout=timeout_s, metadata=self._metadata, wait_for_ready=False
            )
        except grpc.RpcError as exc:
            message = f"the driver manager refused: {exc.code().name}: {exc.details()}"
            if exc.code() is grpc.StatusCode.UNAVAILABLE:
                message = (
                    f"no driver manager answers at {self._address} (--at, QFLEET_GRPC_HOST,"
                    " QFLEET_GRPC_PORT); `python -m app up` starts one, or `python -m app drivers`."
                    f" gRPC says: {exc.details()}"
                )
            raise Unavailable(message) from exc

    def drivers(self) -> list[Any]:
        """Every driver."""
        return list(self.ask("ListDrivers", pb.ListDriversRequest()).drivers)


@contextlib.contextmanager
def open_operator(
    settings: Settings,
    *,
    key: str | None,
    at: str | None,
    authority: Path | None,
    identity: tuple[Path, Path] | None,
) -> Iterator[Operator]:
    """A connection to a manager.

    Args:
        settings: which manager, and its certificate, unless the others say so.
        key: an API key, if it asks for one.
        at: ``HOST:PORT``; over TLS, the host must be a name of its certificate.
        authority: PEM file of whom to trust.
        identity: PEM files of the certificate to show, and its private key.
    """
    host = settings.grpc_host if settings.grpc_host not in ("0.0.0.0", "::") else "127.0.0.1"  # noqa: S104 - it is replaced
    address = at or f"{host}:{settings.grpc_port}"
    trusted = authority or settings.grpc_tls_certificate
    if trusted is None and identity is None:
        channel = grpc.insecure_channel(address)
    else:
        root, certificate, private_key = (
            None if file is None else file.read_bytes()
            for file in (trusted, *(identity or (None, None)))
        )
        credentials = grpc.ssl_channel_credentials(root, private_key, certificate)
        channel = grpc.secure_channel(address, credentials)
    with channel:
        stub = pb_grpc.DriverManagerServiceStub(channel)  # type: ignore[no-untyped-call]
        yield Operator(stub, address, key)


def show(operator: Operator, what: str) -> None:
    """Print ``drivers``, ``devices``, ``breakers``, ``pool`` or ``caches``."""
    if what == "devices":
        for device in operator.ask("ListDevices", pb.ListDevicesRequest()).devices:
            status = pb.DeviceStatus.Name(device.status)
            wait = f"{device.queue_depth} queued, about {device.estimated_wait_sec} s"
            click.echo(f"{device.device_id:32}  {status:12}  {wait}")
        return
    for driver in operator.drivers():
        _LINES[what](driver)


def load(operator: Operator, name: str) -> None:
    """Load a driver, or load it again."""
    _driver(operator.ask("LoadDriver", pb.LoadDriverRequest(name=name), CHANGE_S).driver)


def unload(operator: Operator, name: str) -> None:
    """Drain a driver and remove its devices."""
    operator.ask("UnloadDriver", pb.UnloadDriverRequest(name=name), CHANGE_S)
    click.echo(f"driver {name} is unloaded")


def reset_breaker(operator: Operator, name: str, device: str) -> None:
    """Close a driver's breakers, or that of one device."""
    operator.ask("ResetBreaker", pb.ResetBreakerRequest(driver=name, device_id=device))
    click.echo(f"closed: the breaker of {device or name}")


def _driver(driver: Any) -> None:
    devices = ", ".join(driver.device_ids)
    click.echo(f"{driver.name:16}  {driver.state:10}  {driver.kind:12}  {devices}{driver.error}")


def _breakers(driver: Any) -> None:
    if driver.breaker:
        click.echo(f"{driver.name:32}  {driver.breaker}")
    for device, state in sorted(driver.device_breakers.items()):
        click.echo(f"{f'{device}@{driver.name}':32}  {state}")


def _pool(driver: Any) -> None:
    if driver.connections_max:
        click.echo(
            f"{driver.name:16}  {driver.connections_active} active, {driver.connections_idle} idle,"
            f" at most {driver.connections_max}; restarted {driver.restarts} times"
        )


def _caches(driver: Any) -> None:
    if driver.caches:
        figures = ", ".join(f"{name} {count}" for name, count in sorted(driver.caches.items()))
        click.echo(f"{driver.name:16}  {figures}")


_LINES: dict[str, Callable[[Any], None]] = {
    "drivers": _driver,
    "breakers": _breakers,
    "pool": _pool,
    "caches": _caches,
}
