"""Which figures does the manager give? Those of the contract, prefix ``eigen_``, and its health."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import orjson
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.exposition import ThreadingWSGIServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

#: Seconds that a client of the metrics port may take for its request.
REQUEST_S = 5.0
BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0)


class DriverMetrics:
    """What one manager counts, in a registry of its own."""

    def __init__(self) -> None:
        """Start at zero."""
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "eigen_driver_requests_total",
            "Calls, by what became of them: ok, or the kind of fault.",
            ("driver", "operation", "status"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "eigen_driver_request_duration_seconds",
            "Time that calls took.",
            ("driver", "operation"),
            registry=self.registry,
            buckets=BUCKETS_S,
        )
        self._connections = Gauge(
            "eigen_driver_connections",
            "Connections of the pool.",
            ("driver", "state"),
            registry=self.registry,
        )
        self._devices = Gauge(
            "eigen_available_devices",
            "Devices that are online.",
            ("driver", "provider"),
            registry=self.registry,
        )
        self._queue_depth = Gauge(
            "eigen_device_queue_depth",
            "Jobs that wait for the device's driver.",
            ("driver", "device_id"),
            registry=self.registry,
        )
        self._errors = Counter(
            "eigen_driver_connection_errors_total",
            "Connections that could not be made, or ended during a call.",
            ("driver", "error_type"),
            registry=self.registry,
        )

    def count(self, *, driver: str, operation: str, status: str, duration_s: float) -> None:
        """Count one call."""
        self._requests.labels(driver, operation, status).inc()
        self._seconds.labels(driver, operation).observe(duration_s)

    def count_connection_error(self, *, driver: str, error_type: str) -> None:
        """Count a connection that is lost."""
        self._errors.labels(driver, error_type).inc()

    def show(
        self,
        driver: str,
        *,
        connections: Iterable[tuple[str, int]],
        devices: Iterable[tuple[str, int]],
    ) -> None:
        """Set the gauges of one driver: by state, by provider."""
        for state, number in connections:
            self._connections.labels(driver, state).set(number)
        for provider, number in devices:
            self._devices.labels(driver, provider).set(number)

    def show_queue(self, driver: str, devices: Iterable[str], depth: int) -> None:
        """Set how many jobs wait for a driver, for each of its devices."""
        for device in devices:
            self._queue_depth.labels(driver, device).set(depth)

    def forget(self, driver: str) -> None:
        """Drop the gauges of a driver that is gone."""
        for gauge in (self._connections, self._devices, self._queue_depth):
            gauge.remove_by_labels({"driver": driver})


class MetricsServer:
    """``/metrics`` and ``/healthz`` on a port of their own."""

    def __init__(
        self,
        *,
        host: str,
        port: int,
        metrics: DriverMetrics,
        health: Callable[[], dict[str, Any]],
    ) -> None:
        """Listen; ``start`` answers.

        Raises:
            OSError: the port is taken.
        """

        def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            match environ["REQUEST_METHOD"], environ["PATH_INFO"]:
                case "GET", "/metrics":
                    start_response("200 OK", [("Content-Type", CONTENT_TYPE_LATEST)])
                    return [generate_latest(metrics.registry)]
                case "GET", "/healthz":
                    document = health()
                    status = "200 OK" if document["ready"] else "503 Service Unavailable"
                    start_response(status, [("Content-Type", "application/json")])
                    return [orjson.dumps(document)]
                case _:
                    start_response("404 Not Found", [("Content-Type", "text/plain")])
                    return [b"there are GET /metrics and GET /healthz\n"]

        self._server = make_server(
            host, port, application, _server_for(host), handler_class=_Handler
        )
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="driver-metrics", daemon=True
        )

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_port)

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(REQUEST_S)


class _ServerOfIPv6(ThreadingWSGIServer):
    address_family = socket.AF_INET6


def _server_for(host: str) -> type[ThreadingWSGIServer]:
    return _ServerOfIPv6 if ":" in host else ThreadingWSGIServer


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_S

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name of the base class
        """Requests for metrics are not logged."""
