"""What does ``driver_manager.yaml`` say? Every key, validated; a fault names line and key."""

from __future__ import annotations

import re
from pathlib import Path  # noqa: TC003 - pydantic reads annotations
from typing import TYPE_CHECKING, Any, Literal

import orjson
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from app.errors import ConfigurationInvalid

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: Longest file.
FILE_BYTES = 1 << 20
#: Names of drivers: the right half of a backend's name.
DRIVER_NAME = r"^[a-z][a-z0-9_]{0,31}$"
#: Names of devices: the left half.
DEVICE_ID = r"^[a-z][a-z0-9_]{0,63}$"
#: Longest time, seconds. Waits of much more overflow.
MOST_S = 1e7
_DEEPEST = 20
_FAULTS = 5


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PoolConfig(_Section):
    """Connections of one driver; each is a process with an instance of the driver."""

    max_size: int = Field(default=2, ge=1, le=64)
    idle_timeout_s: float = Field(default=300.0, gt=0, le=MOST_S)
    wait_s: float = Field(default=5.0, gt=0, le=60)
    health_check_after_s: float = Field(default=5.0, ge=0, le=MOST_S)
    health_check_timeout_s: float = Field(default=2.0, gt=0, le=MOST_S)


class RetryConfig(_Section):
    """Retries of calls that may succeed a moment later."""

    attempts: int = Field(default=3, ge=1, le=20)
    first_wait_s: float = Field(default=0.1, gt=0, le=MOST_S)
    max_wait_s: float = Field(default=5.0, gt=0, le=MOST_S)


class BreakerConfig(_Section):
    """Circuit breakers, one per driver and one per device."""

    fail_max: int = Field(default=5, ge=1)
    #: an open one lets a call through after this time, and after twice as long when that one fails.
    reset_first_s: float = Field(default=1.0, gt=0, le=MOST_S)
    #: longest such time.
    reset_timeout_s: float = Field(default=30.0, gt=0, le=MOST_S)


class ResilienceConfig(_Section):
    """What is done about faults."""

    retry: RetryConfig = RetryConfig()
    breaker: BreakerConfig = BreakerConfig()
    #: a driver that does not start is tried again after this time, and then after twice as long.
    restart_first_s: float = Field(default=0.5, gt=0, le=MOST_S)
    restart_max_s: float = Field(default=60.0, gt=0, le=MOST_S)
    drain_s: float = Field(default=30.0, gt=0, le=MOST_S)


class CacheConfig(_Section):
    """What is remembered, and for how long."""

    backend: Literal["memory", "redis"] = "memory"
    metadata_ttl_s: float = Field(default=5.0, ge=0, le=MOST_S)
    results_ttl_s: float = Field(default=300.0, ge=0, le=MOST_S)
    results_max: int = Field(default=256, ge=1)


class MonitoringConfig(_Section):
    """How the manager watches its drivers."""

    probe_s: float = Field(default=2.0, gt=0, le=MOST_S)
    watch_files: bool = True


class DriverConfig(_Section):
    """One driver, by name."""

    #: a file, or ``module:attribute``; without it, the file or the entry point of that name.
    source: str | None = Field(default=None, min_length=1)
    enabled: bool = True
    config: dict[str, Any] = {}
    environment: tuple[str, ...] = ()
    memory_bytes: int = Field(default=2 << 30, ge=64 << 20)
    threads: int = Field(default=1, ge=1)
    start_timeout_s: float = Field(default=30.0, gt=0, le=MOST_S)
    call_timeout_s: float = Field(default=10.0, gt=0, le=MOST_S)
    pool: PoolConfig | None = None

    @field_validator("config")
    @classmethod
    def _check_config(cls, config: dict[str, Any]) -> dict[str, Any]:
        try:
            orjson.dumps(config)
        except TypeError as exc:
            message = f"a driver is given JSON, which this is not: {exc}"
            raise ValueError(message) from exc
        return config


class ManagerConfig(_Section):
    """The whole file."""

    #: folders whose ``NAME.py`` are drivers.
    driver_paths: tuple[Path, ...] = ()
    #: whether installed packages may bring drivers.
    entry_points: bool = True
    drivers: dict[str, DriverConfig] = {}
    pool: PoolConfig = PoolConfig()
    resilience: ResilienceConfig = ResilienceConfig()
    caches: CacheConfig = CacheConfig()
    monitoring: MonitoringConfig = MonitoringConfig()
    #: device → devices that take its jobs while it cannot.
    fallback_devices: dict[str, tuple[str, ...]] = {}

    @field_validator("drivers")
    @classmethod
    def _check_names(cls, drivers: dict[str, DriverConfig]) -> dict[str, DriverConfig]:
        for name in drivers:
            if re.fullmatch(DRIVER_NAME, name) is None:
                message = f"{name!r} is no name of a driver: a lower case letter, then at most 31"
                raise ValueError(message + " lower case letters, digits or underscores")
        return drivers

    @model_validator(mode="after")
    def _check_fallbacks(self) -> ManagerConfig:
        for device, others in self.fallback_devices.items():
            if device in others:
                message = f"fallback_devices: {device!r} cannot be its own fallback"
                raise ValueError(message)
        return self


def read_configuration(path: Path | None, *, empty_is_default: bool = True) -> ManagerConfig:
    """The configuration in a file; without a file, the default one.

    Args:
        path: of the file.
        empty_is_default: whether an empty file means so, and not that it is being written.

    Raises:
        ConfigurationInvalid: the file cannot be read, or is not valid; names line and key.
    """
    if path is None:
        return ManagerConfig()
    try:
        text = path.read_bytes()[: FILE_BYTES + 1]
    except OSError as exc:
        message = f"QFLEET_DRIVER_CONFIG: {path} cannot be read: {exc.strerror}"
        raise ConfigurationInvalid(message) from exc
    if len(text) > FILE_BYTES:
        raise ConfigurationInvalid(f"{path} has more than {FILE_BYTES} bytes")
    if not (text.strip() or empty_is_default):
        message = f"{path} is empty, so the configuration stays; write {{}} to use the default one"
        raise ConfigurationInvalid(message)
    return parse_configuration(text.decode(errors="replace"), str(path), folder=path.parent)


def parse_configuration(text: str, name: str, *, folder: Path) -> ManagerConfig:
    """The configuration in a text; paths in it count from ``folder``.

    Raises:
        ConfigurationInvalid: it is not valid; names line and key.
    """
    try:
        _refuse_aliases(text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        lines = dict(_lines(node, (), _DEEPEST)) if node is not None else {}
        document = yaml.safe_load(text)
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark
        where = f"line {mark.line + 1}" if mark is not None else "somewhere"
        raise ConfigurationInvalid(f"{name}: {where}: this is no YAML: {exc.problem}") from exc
    except (yaml.YAMLError, RecursionError) as exc:
        raise ConfigurationInvalid(f"{name}: this is no YAML: {exc}") from exc
    except _Fault as exc:
        raise ConfigurationInvalid(f"{name}: {exc}") from exc
    try:
        config = ManagerConfig.model_validate({} if document is None else document)
    except ValidationError as exc:
        faults = [
            f"line {_line_of(fault['loc'], lines)}: {_key(fault['loc'])}: {fault['msg']}"
            for fault in exc.errors(include_url=False, include_input=False)[:_FAULTS]
        ]
        raise ConfigurationInvalid(f"{name}: {'; '.join(faults)}") from exc
    paths = tuple((folder / path).resolve() for path in config.driver_paths)
    return config.model_copy(update={"driver_paths": paths})


class _Fault(Exception):
    pass


def _refuse_aliases(text: str) -> None:
    """A few lines of aliases of aliases are a document without end."""
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            mark = event.start_mark
            where = "somewhere" if mark is None else f"line {mark.line + 1}"
            raise _Fault(f"{where}: *{event.anchor}: aliases are not read")


def _lines(
    node: yaml.Node, path: tuple[str, ...], depth: int
) -> Iterator[tuple[tuple[str, ...], int]]:
    """The line of every key and element."""
    if not depth:
        raise _Fault(f"line {node.start_mark.line + 1}: nested more than {_DEEPEST} deep")
    yield path, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _Fault(f"line {key.start_mark.line + 1}: a key must be a word")
            if key.value in seen:
                message = f"line {key.start_mark.line + 1}: {'.'.join((*path, key.value))}: twice"
                raise _Fault(message)
            seen.add(key.value)
            inner = (*path, str(key.value))
            yield from _lines(value, inner, depth - 1)
            yield inner, key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _lines(value, (*path, str(index)), depth - 1)


def _line_of(path: Sequence[int | str], lines: dict[tuple[str, ...], int]) -> int:
    """The line of the key, or of the innermost one around it that is there."""
    key = tuple(map(str, path))
    while key and key not in lines:
        key = key[:-1]
    return lines.get(key, 1)


def _key(path: Sequence[int | str]) -> str:
    return ".".join(map(str, path)) or "the file"
