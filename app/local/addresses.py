"""Which ports of this machine are free, and how is a gateway on one of them reached?"""

from __future__ import annotations

import socket

from app.errors import ConfigurationInvalid

LOOPBACK = "127.0.0.1"
#: Addresses that stand for every interface → the loopback address that reaches them.
_EVERYWHERE = {"0.0.0.0": LOOPBACK, "::": "::1"}  # noqa: S104 - compared with, not bound


def free_port() -> int:
    """A port of loopback that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there."""
    try:
        require_free(host, port)
    except ConfigurationInvalid:
        return False
    return True


def require_free(host: str, port: int) -> None:
    """Make sure that the gateway can listen there.

    Raises:
        ConfigurationInvalid: it cannot; the message names the settings that change it.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        # As servers do: a port whose last connections are still closing is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as exc:
            message = (
                f"port {port} of {host} cannot be used: {exc.strerror};"
                " set QFLEET_PORT (or QFLEET_HOST) to another"
            )
            raise ConfigurationInvalid(message) from exc


def reachable(host: str) -> str:
    """The host by which this machine reaches a server that listens on ``host``."""
    return _EVERYWHERE.get(host, host)


def url_of(host: str, port: int) -> str:
    """Address of the gateway, as a person on this machine types it."""
    name = reachable(host)
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"
