"""Which ports of this machine are free, and how is a gateway on one of them reached?"""

from __future__ import annotations

import http.client
import json
import random
import socket

from app.errors import ConfigurationInvalid

LOOPBACK = "127.0.0.1"
#: Below those that Linux gives to outgoing connections (net.ipv4.ip_local_port_range).
LISTENING_PORTS = range(20_000, 32_768)
TRIES = 100
#: How long whoever listens on a port may take to say who it is, and how much it may say.
ANSWER_TIMEOUT_S = 2
ANSWER_BYTES = 1024
#: Addresses that stand for every interface → the loopback address that reaches them.
_EVERYWHERE = {"0.0.0.0": LOOPBACK, "::": "::1"}  # noqa: S104 - compared with, not bound


def free_port() -> int:
    """A port of loopback that nobody listens on, and that no outgoing connection takes meanwhile.

    Raises:
        ConfigurationInvalid: none was found.
    """
    for port in random.SystemRandom().sample(LISTENING_PORTS, TRIES):
        if is_free(LOOPBACK, port):
            return port
    message = (
        f"none of {TRIES} ports of {LOOPBACK} from {LISTENING_PORTS.start} to"
        f" {LISTENING_PORTS.stop - 1} is free; end what listens there"
    )
    raise ConfigurationInvalid(message)


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


def is_gateway(host: str, port: int) -> bool:
    """Whether a gateway of ours answers there."""
    # Not urllib: it would ask the proxy of the environment.
    gateway = http.client.HTTPConnection(reachable(host), port, timeout=ANSWER_TIMEOUT_S)
    try:
        gateway.request("GET", "/health/live")
        answer = gateway.getresponse().read(ANSWER_BYTES)
        return bool(json.loads(answer) == {"status": "alive"})
    except (OSError, http.client.HTTPException, ValueError):
        return False
    finally:
        gateway.close()


def reachable(host: str) -> str:
    """The host by which this machine reaches a server that listens on ``host``."""
    return _EVERYWHERE.get(host, host)


def url_of(host: str, port: int) -> str:
    """Address of the gateway, as a person on this machine types it."""
    name = reachable(host)
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"
