"""What is remembered of devices and results? Little, for a short time, in memory or in Redis."""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING, Any, Protocol, cast

import cachetools
import orjson

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from app.drivers.configuration import CacheConfig

#: Devices whose status is remembered.
METADATA_MAX = 4096
#: A larger result is not remembered.
RESULT_BYTES = 4 << 20


class Store(Protocol):
    """Where entries are, until their time is over."""

    def get(self, key: str) -> bytes | None:
        """The entry, if it is there."""

    def put(self, key: str, value: bytes) -> None:
        """Remember an entry."""

    def __len__(self) -> int:
        """How many there are."""


class MemoryStore:
    """In this process."""

    def __init__(self, *, maxsize: int, ttl_s: float) -> None:
        """Make an empty one."""
        self._lock = threading.Lock()
        self._entries: cachetools.TTLCache[str, bytes] = cachetools.TTLCache(maxsize, ttl_s)

    def get(self, key: str) -> bytes | None:
        """The entry, if it is there."""
        with self._lock:
            return self._entries.get(key)

    def put(self, key: str, value: bytes) -> None:
        """Remember an entry."""
        with self._lock:
            self._entries[key] = value

    def __len__(self) -> int:
        """How many there are."""
        with self._lock:
            self._entries.expire()
            return len(self._entries)


class RedisStore:
    """In Redis, for all managers. Entries are counted by this process."""

    def __init__(self, *, client: redis.Redis, ttl_s: float) -> None:
        """Make it; connects with the first call."""
        self._client: Any = client
        self._ttl_ms = max(round(ttl_s * 1000), 1)
        self._written: cachetools.TTLCache[str, bool] = cachetools.TTLCache(METADATA_MAX, ttl_s)

    def get(self, key: str) -> bytes | None:
        """The entry, if it is there. A cache that does not answer holds nothing."""
        import redis  # noqa: PLC0415 - only this store needs it

        try:
            return cast("bytes | None", self._client.get(f"driver-cache:{key}"))
        except redis.RedisError:
            return None

    def put(self, key: str, value: bytes) -> None:
        """Remember an entry."""
        import redis  # noqa: PLC0415 - as above

        try:
            self._client.set(f"driver-cache:{key}", value, px=self._ttl_ms)
            self._written[key] = True
        except redis.RedisError:
            return

    def __len__(self) -> int:
        """How many of ours there are."""
        return len(self._written)


class Cache:
    """A store that counts how often it helped."""

    def __init__(self, store: Store | None) -> None:
        """Make it; without a store nothing is remembered."""
        self._store = store
        self.hits = 0
        self.misses = 0

    def get(self, key: str) -> bytes | None:
        """The entry, if it is there."""
        found = None if self._store is None else self._store.get(key)
        if found is None:
            self.misses += 1
        else:
            self.hits += 1
        return found

    def put(self, key: str, value: bytes) -> None:
        """Remember an entry."""
        if self._store is not None:
            self._store.put(key, value)

    @property
    def entries(self) -> int:
        """How many there are."""
        return 0 if self._store is None else len(self._store)


class MetadataCache(Cache):
    """How devices are: the driver is not asked again for a moment."""

    def status(self, device: str) -> str | None:
        """The status of a device, if it is remembered."""
        found = self.get(device)
        return None if found is None else found.decode()

    def remember(self, device: str, status: str) -> None:
        """Remember the status of a device."""
        self.put(device, status.encode())


class ResultsCache(Cache):
    """Results of requests whose results are repeatable: those that gave a seed."""

    @staticmethod
    def key(**request: object) -> str:
        """One key for one request: who asked for what, on which device, with which seed."""
        return hashlib.sha256(orjson.dumps(request, option=orjson.OPT_SORT_KEYS)).hexdigest()

    def counts(self, key: str) -> list[dict[str, int]] | None:
        """The counts of each circuit, if they are remembered."""
        found = self.get(key)
        return None if found is None else cast("list[dict[str, int]]", orjson.loads(found))

    def remember(self, key: str, counts: list[dict[str, int]]) -> None:
        """Remember the counts of each circuit."""
        encoded = orjson.dumps(counts)
        if len(encoded) <= RESULT_BYTES:
            self.put(key, encoded)


def open_caches(
    config: CacheConfig, connect: Callable[[], redis.Redis]
) -> tuple[MetadataCache, ResultsCache]:
    """Both caches, as configured; a time of 0 means none. ``connect`` is for those in Redis."""

    def results() -> Store | None:
        if not config.results_ttl_s:
            return None
        if config.backend == "redis":
            return RedisStore(client=connect(), ttl_s=config.results_ttl_s)
        return MemoryStore(maxsize=config.results_max, ttl_s=config.results_ttl_s)

    # How devices are is known here first: it never pays to ask Redis.
    metadata = (
        MemoryStore(maxsize=METADATA_MAX, ttl_s=config.metadata_ttl_s)
        if config.metadata_ttl_s
        else None
    )
    return MetadataCache(metadata), ResultsCache(results())
