"""Can Qfleet run on this machine, with these settings? What is there, and a remedy for a fault."""

from __future__ import annotations

import difflib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.config import Settings, variables
from app.errors import ConfigurationInvalid
from app.local import addresses

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OLDEST_PYTHON = (3, 11)
#: Scripts that may run in a full database came with it.
OLDEST_REDIS = 7
LEAST_SLOT_BYTES = 2**30
LEAST_FREE_BYTES = 2**30
_AMPLITUDE_BYTES = 16
#: Most names that are told.
SHOWN_NAMES = 5
#: Variables of the command line, of docker-compose.yaml and of tests begin so.
OTHERS = (
    *("QFLEET_KEY", "QFLEET_URL", "QFLEET_TEST_", "QFLEET_PUBLISH_", "QFLEET_STOP_GRACE"),
    *("QFLEET_API_MEMORY", "QFLEET_WORKER_MEMORY", "QFLEET_DRIVERS_MEMORY"),
    *("QFLEET_GPU_WORKER_MEMORY", "QFLEET_GPU_EXECUTORS", "QFLEET_GPUS"),
)

#: A package of each kind of process.
PACKAGES = ("fastapi", "uvicorn", "celery", "redis", "qiskit", "qiskit_aer", "openqasm3")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    name: str
    #: what is there, in a few words.
    found: str
    #: what to do; empty when all is well.
    remedy: str = ""


def examine(settings: Settings) -> Iterator[Finding]:
    """Look at everything that a local stack with these settings needs."""
    yield _python()
    yield _settings()
    packages = _packages()
    yield packages
    if packages.remedy:
        return
    yield _cores(settings)
    yield _memory(settings)
    yield _data(settings.data)
    yield _port(settings)
    yield _valkey() if settings.redis is None else _redis(settings.redis)


def _python() -> Finding:
    oldest = ".".join(map(str, OLDEST_PYTHON))
    return Finding(
        name="Python",
        found=platform.python_version(),
        remedy="" if sys.version_info >= OLDEST_PYTHON else f"use Python {oldest} or newer",
    )


def _settings() -> Finding:
    """Names that nothing reads are mistyped, most often."""
    known = {*variables(), *(f"QFLEET_{name.upper()}" for name in Settings.model_fields)}
    given = sorted(name for name in os.environ if name.startswith("QFLEET_"))
    unknown = [name for name in given if name not in known and not name.startswith(OTHERS)]
    if not unknown:
        return Finding(name="settings", found=f"{len(given)} in the environment")
    near = difflib.get_close_matches(unknown[0], known, n=1)
    return Finding(
        name="settings",
        found=f"nothing reads {', '.join(unknown[:SHOWN_NAMES])}",
        remedy=(f"{near[0]} may be meant; " if near else "")
        + "docs/reference/settings.md has all names",
    )


def _packages() -> Finding:
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if not missing:
        return Finding(name="packages", found="installed")
    return Finding(
        name="packages",
        found=f"{', '.join(missing)} missing",
        remedy=f"{sys.executable} -m pip install -r requirements.txt",
    )


def _cores(settings: Settings) -> Finding:
    cores = len(os.sched_getaffinity(0))
    return Finding(
        name="cores",
        found=f"{cores}, shared by {settings.slots} slots",
        remedy="" if settings.slots <= cores else f"set QFLEET_SLOTS to {cores} or less",
    )


def _memory(settings: Settings) -> Finding:
    from app.bootstrap import available_memory  # noqa: PLC0415 - it needs the packages

    slot_bytes = settings.sandbox.memory_bytes or available_memory() * 4 // 5 // settings.slots
    qubits = (slot_bytes // _AMPLITUDE_BYTES).bit_length() - 1
    return Finding(
        name="memory",
        found=f"{slot_bytes / 2**30:.1f} GiB for each slot: state vectors of {qubits} qubits",
        remedy=""
        if slot_bytes >= LEAST_SLOT_BYTES
        else "set QFLEET_SLOTS lower, or QFLEET_SANDBOX__MEMORY_BYTES higher",
    )


def _data(folder: Path) -> Finding:
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free_bytes = shutil.disk_usage(there).free
    if not os.access(there, os.W_OK):
        remedy = f"make {there} writable, or set QFLEET_DATA to another folder"
    elif free_bytes < LEAST_FREE_BYTES:
        remedy = "free some space, or set QFLEET_DATA to a folder on another disk"
    else:
        remedy = ""
    return Finding(name="data", found=f"{folder}, {free_bytes / 2**30:.1f} GiB free", remedy=remedy)


def _port(settings: Settings) -> Finding:
    where = f"{settings.host}:{settings.port}"
    try:
        addresses.require_free(settings.host, settings.port)
    except ConfigurationInvalid as exc:
        if addresses.is_gateway(settings.host, settings.port):
            return Finding(name="port", found=f"a gateway answers on {where}")
        return Finding(name="port", found=f"{where} is taken", remedy=exc.message)
    return Finding(name="port", found=f"{where} is free")


def _valkey() -> Finding:
    from app.local.valkey import server_binary  # noqa: PLC0415 - it needs the packages

    try:
        version = subprocess.run(
            [server_binary(), "--version"], capture_output=True, text=True, check=True, timeout=10
        )
    except (ConfigurationInvalid, OSError, subprocess.SubprocessError) as exc:
        remedy = "set QFLEET_REDIS_URL to a Redis or Valkey of your own"
        return Finding(
            name="Valkey", found=f"the embedded one does not start: {exc}", remedy=remedy
        )
    return Finding(name="Valkey", found=f"embedded, {version.stdout.split(' sha=')[0].strip()}")


def _redis(url: str) -> Finding:
    from redis import RedisError  # noqa: PLC0415 - it needs the packages
    from redis.exceptions import NoPermissionError  # noqa: PLC0415 - likewise

    from app.jobs.connection import connect_worker  # noqa: PLC0415 - likewise

    try:
        with connect_worker(url) as client:
            info = {**client.info("server"), **client.info("memory")}
    except NoPermissionError:
        # deploy/redis-users.conf gives INFO to gateways and to the operator.
        return Finding(name="Redis", found="answers; this user may not ask which one it is")
    except (RedisError, ValueError) as exc:
        remedy = "start it, or correct QFLEET_REDIS_URL; without that the stack brings its own"
        return Finding(name="Redis", found=f"does not answer: {exc}", remedy=remedy)
    version, policy = str(info["redis_version"]), str(info["maxmemory_policy"])
    if int(version.partition(".")[0]) < OLDEST_REDIS:
        remedy = f"use Redis {OLDEST_REDIS} or newer, or Valkey"
    elif policy != "noeviction":
        remedy = "run it with `maxmemory-policy noeviction`: an evicted key is a lost job"
    else:
        remedy = ""
    return Finding(name="Redis", found=f"{version}, maxmemory-policy {policy}", remedy=remedy)
