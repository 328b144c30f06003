"""How does the driver manager run? One gRPC server, one port for metrics, drivers behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
from typing import TYPE_CHECKING, Any

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from app.drivers.metrics import MetricsServer
from app.drivers.proto import driver_manager_pb2 as pb
from app.drivers.proto import driver_manager_pb2_grpc as pb_grpc
from app.errors import ConfigurationInvalid, Unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from structlog.typing import EventDict, WrappedLogger

    from app.config import Settings
    from app.drivers.execution import Translators
    from app.drivers.metrics import DriverMetrics
    from app.drivers.registry import DriverRegistry
    from app.drivers.service import DriverManagerService
    from app.jobs.events import JobEvents

log = structlog.get_logger()

SERVICE = pb.DESCRIPTOR.services_by_name["DriverManagerService"].full_name
#: Calls at the same time; more are refused with RESOURCE_EXHAUSTED.
MOST_CALLS = 1000
METADATA_BYTES = 32 * 1024
#: How long running calls may take when the manager stops.
GRACE_S = 10.0
#: How long before that their callers are told that the job goes on; more than ``service.WAIT_S``.
LAST_WORDS_S = 3.0
#: How often the metrics of queues are set.
FIGURES_S = 2.0
#: A client that does not answer for so long is gone: its streams end.
KEEPALIVE_MS = 60_000
KEEPALIVE_TIMEOUT_MS = 20_000
#: Fields that every log line has, empty or not.
LOG_FIELDS = ("trace_id", "job_id", "driver_name", "device_id")


class DriverManager:
    """The process ``python -m app drivers``."""

    def __init__(
        self,
        *,
        settings: Settings,
        service: DriverManagerService,
        registry: DriverRegistry,
        translators: Translators,
        metrics: DriverMetrics,
        events: JobEvents,
        close: Callable[[], Awaitable[Any]],
    ) -> None:
        """Make it; ``run`` serves."""
        self._settings = settings
        self._service = service
        self._registry = registry
        self._translators = translators
        self._metrics = metrics
        self._events = events
        self._close = close
        #: where it listens, once it does; a setting of 0 means any free port.
        self.port = 0
        self.metrics_port = 0
        self.ready = asyncio.Event()
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """End ``run``, from its event loop."""
        self._stop.set()

    async def run(self, *, signals: bool = True) -> None:
        """Serve until stopped; ``signals``: until SIGINT or SIGTERM, in a process of its own.

        Raises:
            ConfigurationInvalid: a port is taken, or a certificate cannot be read.
        """
        loop = asyncio.get_running_loop()
        server = self._make_server()
        metrics = self._make_metrics()
        healthy = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
        add = pb_grpc.add_DriverManagerServiceServicer_to_server
        add(self._service, server)  # type: ignore[no-untyped-call]
        names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
        if signals:
            # The process is ours. Now and then the collector walks all that there is, and for 60 ms
            # no call is answered; what there is by now stays.
            gc.collect()
            gc.freeze()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, self._stop.set)
        tasks = (
            asyncio.create_task(self._events.run(), name="job-events"),
            asyncio.create_task(self._keep_figures(), name="figures"),
        )
        try:
            metrics.start()
            await server.start()
            # Drivers may take long to start; those that are there can be used meanwhile.
            self._registry.start()
            for name in ("", SERVICE):
                await healthy.set(name, health_pb2.HealthCheckResponse.SERVING)
            log.info("driver_manager_ready", port=self.port, metrics_port=self.metrics_port)
            self.ready.set()
            await self._stop.wait()
            log.info("driver_manager_stopping")
            await healthy.enter_graceful_shutdown()
        finally:
            loop.call_later(GRACE_S - LAST_WORDS_S, self._service.leave)
            await server.stop(GRACE_S)
            await asyncio.to_thread(self._registry.stop)
            self._translators.close()
            await self._service.close()
            metrics.stop()
            for task in tasks:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            await self._close()

    def health(self) -> dict[str, Any]:
        """What ``/healthz`` says: whether every driver is ready."""
        return {
            "ready": self.ready.is_set() and self._registry.is_ready,
            "drivers": self._registry.states,
        }

    async def _keep_figures(self) -> None:
        while True:
            with contextlib.suppress(Unavailable):
                await self._service.show_queues()
            await asyncio.sleep(FIGURES_S)

    def _make_server(self) -> grpc.aio.Server:
        settings = self._settings
        server = grpc.aio.server(
            maximum_concurrent_rpcs=MOST_CALLS,
            options=(
                ("grpc.max_receive_message_length", settings.http.body_bytes),
                ("grpc.max_send_message_length", settings.max_result_bytes),
                ("grpc.max_metadata_size", METADATA_BYTES),
                ("grpc.keepalive_time_ms", KEEPALIVE_MS),
                ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
                ("grpc.so_reuseport", 0),
            ),
        )
        address = f"{_bracketed(settings.grpc_host)}:{settings.grpc_port}"
        credentials = self._credentials()
        try:
            if credentials is None:
                self.port = server.add_insecure_port(address)
            else:
                self.port = server.add_secure_port(address, credentials)
        except RuntimeError as exc:
            message = f"{address} cannot be listened on; set QFLEET_GRPC_PORT to another port"
            raise ConfigurationInvalid(message) from exc
        return server

    def _make_metrics(self) -> MetricsServer:
        settings = self._settings
        try:
            server = MetricsServer(
                host=settings.grpc_host,
                port=settings.driver_metrics_port,
                metrics=self._metrics,
                health=self.health,
            )
        except OSError as exc:
            message = (
                f"port {settings.driver_metrics_port} cannot be listened on: {exc.strerror};"
                " set QFLEET_DRIVER_METRICS_PORT to another"
            )
            raise ConfigurationInvalid(message) from exc
        self.metrics_port = server.port
        return server

    def _credentials(self) -> grpc.ServerCredentials | None:
        settings = self._settings
        certificate, key = settings.grpc_tls_certificate, settings.grpc_tls_key
        if certificate is None and key is None:
            if settings.grpc_tls_clients is not None:
                message = "QFLEET_GRPC_TLS_CLIENTS needs QFLEET_GRPC_TLS_CERTIFICATE and _KEY"
                raise ConfigurationInvalid(message)
            return None
        if certificate is None or key is None:
            message = "set both of QFLEET_GRPC_TLS_CERTIFICATE and QFLEET_GRPC_TLS_KEY, or none"
            raise ConfigurationInvalid(message)
        clients = None if settings.grpc_tls_clients is None else _read(settings.grpc_tls_clients)
        return grpc.ssl_server_credentials(
            [(_read(key), _read(certificate))],
            root_certificates=clients,
            require_client_auth=clients is not None,
        )


def shape_log(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """A line as the contract has it: ``message``, and every field of ``LOG_FIELDS``."""
    fields = dict.fromkeys(LOG_FIELDS, "")
    return {**fields, **event, "message": event.get("event", "")}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise ConfigurationInvalid(f"{path} cannot be read: {exc.strerror}") from exc


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
