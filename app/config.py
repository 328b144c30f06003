"""Which knobs does the operator have? Every setting, read once from the environment.

Names carry the prefix ``QFLEET_``; nested limits join with two underscores, as in
``QFLEET_PROGRAM__QUBITS``. Units end names; a name without one is a count. The deployment names
``REDIS_HOST``, ``REDIS_PORT``, ``REDIS_DB``, ``REDIS_PASSWORD``, ``BROKER_URL``, ``LOG_LEVEL`` and
``ENVIRONMENT`` are understood without the prefix too. A secret may stand in a file: ``NAME_FILE``
says where.
"""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import quote, urlencode

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

_ORIGIN = re.compile(r"https?://[A-Za-z0-9.\[\]:-]+")

KIB = 1024
MIB = 1024 * KIB


class ProgramLimits(BaseModel):
    """What one program may ask for; checked in the sandbox, before anything is run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source_bytes: int = Field(default=MIB, gt=0, description="OpenQASM source")
    tokens: int = Field(default=400_000, gt=0, description="tokens of the source")
    statements: int = Field(default=60_000, gt=0, description="statements of the source")
    bracket_depth: int = Field(default=48, gt=0, description="nesting of brackets and braces")
    statement_operators: int = Field(default=200, gt=0, description="operators in one statement")
    identifier_chars: int = Field(default=128, gt=0, description="length of an identifier")
    number_chars: int = Field(default=32, gt=0, description="length of a numeric literal")
    qubits: int = Field(default=256, gt=0, description="declared qubits")
    clbits: int = Field(default=4096, gt=0, description="declared classical bits")
    gate_definitions: int = Field(default=2000, gt=0, description="user-defined gates")
    gate_depth: int = Field(default=24, gt=0, description="nesting of gate definitions and blocks")
    gate_operations: int = Field(default=4096, gt=0, description="operations in one expanded gate")
    user_operations: int = Field(
        default=20_000, gt=0, description="operations that calls of user gates expand to"
    )
    operations: int = Field(default=200_000, gt=0, description="operations of the whole program")
    loop_iterations: int = Field(default=10_000, gt=0, description="iterations of one for loop")
    controls: int = Field(default=12, gt=0, description="controls added by one ctrl modifier")
    power: int = Field(default=1024, gt=0, description="absolute value of an integer pow modifier")
    power_qubits: int = Field(default=6, gt=0, description="qubits under a fractional pow modifier")
    shots: int = Field(
        default=1_000_000, gt=0, description="shots of one task, or of one parameter set of a pub"
    )
    json_depth: int = Field(
        default=32, gt=0, le=200, description="nesting of the JSON of params and circuit metadata"
    )
    json_values: int = Field(default=1_000_000, gt=0, description="values in that JSON")
    metadata_bytes: int = Field(default=64 * KIB, gt=0, description="metadata of one circuit")
    circuit_bytes: int = Field(
        default=16 * MIB, gt=0, description="decompressed QPY of all circuits of a program"
    )
    samplex_bytes: int = Field(
        default=16 * MIB, gt=0, description="JSON of all samplexes of a program"
    )
    array_bytes: int = Field(default=64 * MIB, gt=0, description="decompressed arrays of a program")
    pubs: int = Field(default=1000, gt=0, description="pubs of one program")
    parameter_sets: int = Field(
        default=10_000, gt=0, description="parameter sets of all pubs of a program"
    )
    observables: int = Field(
        default=100_000, gt=0, description="observables of all pubs of a program"
    )
    terms: int = Field(
        default=500_000, gt=0, description="Pauli strings in all observables of a program"
    )
    total_shots: int = Field(
        default=10_000_000, gt=0, description="shots of all parameter sets of all pubs of a program"
    )


class SandboxLimits(BaseModel):
    """What one sandbox child may use."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    memory_bytes: int = Field(
        default=0, ge=0, description="memory of one child; 0: 80 % of the machine's, split by slots"
    )
    time_limit_s: float = Field(
        default=300.0, gt=0, description="run time of a job, whatever it asks for"
    )
    jobs_per_child: int = Field(default=1000, gt=0, description="jobs before a child is replaced")
    growth_bytes: int = Field(
        default=512 * MIB, gt=0, description="growth of a child's memory before it is replaced"
    )
    output_bytes: int = Field(default=64 * KIB, gt=0, description="kept stdout and stderr of a job")
    open_files: int = Field(default=64, gt=0, description="open files of a child")


class HttpLimits(BaseModel):
    """What one HTTP request may look like."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    body_bytes: int = Field(default=16 * MIB, gt=0, description="request body")
    body_timeout_s: float = Field(default=20.0, gt=0, description="time to send the body")
    head_timeout_s: float = Field(default=20.0, gt=0, description="time to send the head")
    headers: int = Field(default=100, gt=0, description="number of headers")
    header_bytes: int = Field(default=32 * KIB, gt=0, description="all headers together")
    target_bytes: int = Field(default=4 * KIB, gt=0, description="path and query string")
    connections: int = Field(default=4000, gt=0, description="open connections of one gateway")
    wait_s: float = Field(default=60.0, gt=0, description="longest ?wait=")
    waiters: int = Field(default=1000, gt=0, description="requests that may wait at the same time")
    requests_per_minute: int = Field(
        default=60_000, ge=0, description="requests of one key to one gateway; 0: any number"
    )
    failed_logins_per_minute: int = Field(
        default=60, ge=0, description="wrong keys and tokens from one address; 0: any number"
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server at that address."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    # Python before 3.13 does not look into an IPv4 address that is written as an IPv6 one.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _checking(url: str) -> str:
    """The URL, which asks for a valid certificate if it asks for TLS and says nothing of that.

    kombu checks none otherwise. In the URL, so that redis-py reads the same.
    """
    if not url.startswith("rediss://") or "ssl_cert_reqs=" in url:
        return url
    return f"{url}{'&' if '?' in url else '?'}ssl_cert_reqs=required"


def default_slots() -> int:
    """One slot per core this process may use."""
    return len(os.sched_getaffinity(0))


#: Settings that may stand in a file instead, which a variable NAME_FILE names.
SECRETS = ("redis_url", "redis_password", "bootstrap_key", "secret")


class SecretFiles(PydanticBaseSettingsSource):
    """Reads a secret from the file that ``NAME_FILE`` names, for every name of the setting."""

    def __call__(self) -> dict[str, str]:
        """Setting → content of its file, without white space around it.

        Raises:
            SettingsError: a file cannot be read, or the secret is given in both ways.
        """
        found = {}
        for setting in SECRETS:
            for name in names_of(setting):
                path = os.environ.get(f"{name}_FILE")
                if not path:
                    continue
                if os.environ.get(name):
                    message = f"{name} and {name}_FILE are both set; keep one"
                    raise SettingsError(message)
                try:
                    found[setting] = Path(path).read_text().strip()
                except (OSError, UnicodeDecodeError) as exc:
                    message = f"{name}_FILE: {path} cannot be read: {exc}"
                    raise SettingsError(message) from exc
        return found

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Not asked: all values come at once."""
        raise NotImplementedError


class Settings(BaseSettings):
    """All settings of all processes. Built by entry points only."""

    model_config = SettingsConfigDict(
        env_prefix="QFLEET_",
        env_nested_delimiter="__",
        env_ignore_empty=True,
        populate_by_name=True,
        frozen=True,
        extra="ignore",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What is given, the environment, and the files that the environment names."""
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, SecretFiles(settings_cls)

    host: str = Field(default="127.0.0.1", description="address the gateway listens on")
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="origins whose pages may call the API, e.g. https://lab.example"
    )
    proxies: str = Field(
        default="127.0.0.1",
        description="addresses or networks of proxies whose X-Forwarded-For is believed",
    )
    port: int = Field(default=8000, ge=0, le=65535, description="port of the gateway")
    data: Path = Field(default=Path("var"), description="folder of the local stack")
    fsync: Literal["auto", "always", "everysec"] = Field(
        default="auto",
        description="when the local stack's Valkey syncs its file; auto: always on a quick disk",
    )
    valkey_memory_bytes: int = Field(
        default=0,
        ge=0,
        description="memory at which the local stack's Valkey takes no new jobs;"
        " 0: an eighth of the machine's",
    )
    executors: Annotated[tuple[str, ...], NoDecode] = Field(
        default=("aer", "noisy", "auto"),
        description="executors a worker serves, separated by commas",
    )
    aliases: Annotated[dict[str, str], NoDecode] = Field(
        default={}, description="further names of backends: NAME=METADATA@EXECUTOR, …"
    )
    simulator_qubits: int = Field(
        default=30,
        gt=0,
        description="qubits of simulator backends while no worker says how many it can hold",
    )
    slots: int = Field(
        default_factory=default_slots,
        gt=0,
        description="jobs a worker runs at once (default: cores)",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO",
        validation_alias=AliasChoices("QFLEET_LOG_LEVEL", "LOG_LEVEL", "log_level"),
        description="least severe log event that is written",
    )
    environment: str = Field(
        default="production",
        validation_alias=AliasChoices("QFLEET_ENVIRONMENT", "ENVIRONMENT", "environment"),
        description="name of the deployment, a field of every log line",
    )

    redis_url: str | None = Field(
        default=None,
        validation_alias=AliasChoices("QFLEET_REDIS_URL", "REDIS_URL", "BROKER_URL", "redis_url"),
        description="Redis or Valkey; without it the local stack starts its own",
    )
    redis_host: str | None = Field(
        default=None,
        validation_alias=AliasChoices("QFLEET_REDIS_HOST", "REDIS_HOST", "redis_host"),
        description="host of Redis, when redis_url is not given",
    )
    redis_port: int = Field(
        default=6379,
        ge=1,
        le=65535,
        validation_alias=AliasChoices("QFLEET_REDIS_PORT", "REDIS_PORT", "redis_port"),
        description="port of Redis, when redis_url is not given",
    )
    redis_db: int = Field(
        default=0,
        ge=0,
        validation_alias=AliasChoices("QFLEET_REDIS_DB", "REDIS_DB", "redis_db"),
        description="database of Redis, when redis_url is not given",
    )
    redis_username: str | None = Field(
        default=None,
        validation_alias=AliasChoices("QFLEET_REDIS_USERNAME", "REDIS_USERNAME", "redis_username"),
        description="user of Redis, when redis_url is not given; without it Redis has one user",
    )
    redis_tls: bool = Field(
        default=False,
        validation_alias=AliasChoices("QFLEET_REDIS_TLS", "REDIS_TLS", "redis_tls"),
        description="whether Redis is spoken to by TLS, when redis_url is not given",
    )
    redis_ca_file: Path | None = Field(
        default=None,
        validation_alias=AliasChoices("QFLEET_REDIS_CA_FILE", "REDIS_CA_FILE", "redis_ca_file"),
        description="certificates that Redis's is checked by; without it the system's",
    )
    redis_password: str | None = Field(
        default=None,
        repr=False,
        validation_alias=AliasChoices("QFLEET_REDIS_PASSWORD", "REDIS_PASSWORD", "redis_password"),
        description="password of Redis, when redis_url is not given",
    )

    auth: Literal["auto", "on", "off"] = Field(
        default="auto", description="whether callers need a key; auto: unless host is loopback"
    )
    bootstrap_key: str | None = Field(
        default=None,
        repr=False,
        min_length=8,
        max_length=256,
        pattern=r"^[A-Za-z0-9_+/=-]+$",
        description="an API key of owner `admin`, valid as long as it stands here",
    )
    secret: str | None = Field(
        default=None,
        repr=False,
        min_length=32,
        description="digests of keys and tokens depend on it; without it one is kept in Redis",
    )
    token_s: float = Field(default=3600.0, ge=600, description="how long a token is good for")

    default_shots: int = Field(default=1024, gt=0, description="shots of a task that names none")
    lease_s: float = Field(default=15.0, gt=0, description="silence before a worker's jobs go back")
    beat_s: float = Field(default=1.0, gt=0, description="time between two heartbeats of a worker")
    slice_s: float = Field(default=0.05, gt=0, description="how long one wake-up serves jobs")
    wakeup_cap: int = Field(
        default=64, gt=0, description="wake-ups in one queue; at least the slots of the fleet"
    )
    max_attempts: int = Field(default=5, gt=0, description="claims of one job before it fails")
    max_crashes: int = Field(
        default=3, gt=0, description="sandbox crashes of one job before it fails"
    )
    retention_s: float = Field(
        default=7 * 86400.0, gt=0, description="how long a final job and its result are kept"
    )
    idempotency_s: float = Field(
        default=86400.0, gt=0, description="how long an Idempotency-Key is remembered"
    )
    session_max_s: int = Field(
        default=28_800,
        gt=0,
        description="longest max_ttl of a session, and what it is if not given",
    )
    session_interactive_s: int = Field(
        default=60, gt=0, description="how long a session with nothing to do stays active"
    )
    max_queued: int = Field(default=100_000, gt=0, description="queued jobs of all owners")
    max_queued_per_owner: int = Field(default=50_000, gt=0, description="queued jobs of one owner")
    max_queued_bytes: int = Field(
        default=256 * MIB, gt=0, description="programs of the queued jobs of all owners"
    )
    max_queued_bytes_per_owner: int = Field(
        default=128 * MIB, gt=0, description="programs of the queued jobs of one owner"
    )
    max_kept_bytes_per_owner: int = Field(
        default=0,
        ge=0,
        description="what all jobs of one owner take until they are deleted: programs, results,"
        " logs, 2 KiB for each; 0: half of Redis's memory, or, where nobody needs a key, any",
    )
    max_result_bytes: int = Field(default=32 * MIB, gt=0, description="encoded result of one job")
    drain_s: float = Field(
        default=30.0, gt=0, description="how long a stopping worker waits for its running jobs"
    )

    drivers: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="whether the local stack starts the driver manager; auto: if gRPC is installed"
        " and its ports are free",
    )
    driver_config: Path | None = Field(
        default=None, description="configuration of the driver manager: driver_manager.yaml"
    )
    grpc_host: str = Field(default="127.0.0.1", description="address the driver manager listens on")
    grpc_port: int = Field(default=50061, ge=0, le=65535, description="port of the driver manager")
    driver_metrics_port: int = Field(
        default=9092, ge=0, le=65535, description="port of its metrics and of /healthz"
    )
    grpc_tls_certificate: Path | None = Field(
        default=None, description="PEM file; with it and its key, gRPC is encrypted"
    )
    grpc_tls_key: Path | None = Field(default=None, description="PEM file of the private key")
    grpc_tls_clients: Path | None = Field(
        default=None, description="PEM file of the authority whose certificates clients must show"
    )

    heartbeat_file: Path | None = Field(
        default=None, description="file a worker touches with every heartbeat, for liveness probes"
    )

    program: ProgramLimits = Field(default=ProgramLimits(), description="limits of one program")
    sandbox: SandboxLimits = Field(default=SandboxLimits(), description="limits of one child")
    http: HttpLimits = Field(default=HttpLimits(), description="limits of one HTTP request")

    @field_validator("executors", "cors_origins", mode="before")
    @classmethod
    def _split_words(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(name.strip() for name in value.split(",") if name.strip())
        return value

    @field_validator("executors")
    @classmethod
    def _check_executors(cls, executors: tuple[str, ...]) -> tuple[str, ...]:
        if not executors:
            message = "it names no executor; name some, as aer,noisy,auto"
            raise ValueError(message)
        return executors

    @field_validator("log_level", mode="before")
    @classmethod
    def _raise_case(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator("redis_url")
    @classmethod
    def _check_scheme(cls, url: str | None) -> str | None:
        if url and not url.startswith(("redis://", "rediss://")):
            message = "it must begin with redis:// or, for TLS, rediss://"
            raise ValueError(message)
        return url

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if _ORIGIN.fullmatch(origin) is None:
                message = f"{origin!r} is no origin: SCHEME://HOST or SCHEME://HOST:PORT, never *"
                raise ValueError(message)
        return origins

    @field_validator("aliases", mode="before")
    @classmethod
    def _split_aliases(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        pairs = [pair.partition("=") for pair in value.split(",") if pair.strip()]
        aliases = {name.strip(): backend.strip() for name, _, backend in pairs}
        if len(aliases) < len(pairs) or not all(aliases.values()):
            message = "give each name once, as NAME=METADATA@EXECUTOR"
            raise ValueError(message)
        return aliases

    @property
    def asks_for_keys(self) -> bool:
        """Whether callers must prove who they are."""
        return self.auth == "on" or (self.auth == "auto" and not is_loopback(self.host))

    @property
    def asks_for_keys_over_grpc(self) -> bool:
        """Whether callers of the driver manager must prove who they are: as over HTTP at least."""
        return self.asks_for_keys or (self.auth == "auto" and not is_loopback(self.grpc_host))

    @property
    def redis(self) -> str | None:
        """URL of the configured Redis, or None when none is configured."""
        if self.redis_url:
            return _checking(self.redis_url)
        if not self.redis_host:
            return None
        user, password = (
            quote(word or "", safe="") for word in (self.redis_username, self.redis_password)
        )
        login = f"{user}:{password}@" if user or password else ""
        place = f"{login}{self.redis_host}:{self.redis_port}/{self.redis_db}"
        if not self.redis_tls:
            return f"redis://{place}"
        authority = (
            f"?{urlencode({'ssl_ca_certs': self.redis_ca_file})}" if self.redis_ca_file else ""
        )
        return _checking(f"rediss://{place}{authority}")


def names_of(setting: str) -> tuple[str, ...]:
    """The variables that a setting is read from; the first that is set counts."""
    alias = Settings.model_fields[setting].validation_alias
    if isinstance(alias, AliasChoices):
        return tuple(str(name) for name in alias.choices if str(name).isupper())
    return (f"QFLEET_{setting.upper()}",)


def variables() -> tuple[str, ...]:
    """Every variable that is read."""
    found: list[str] = []
    for setting, field in Settings.model_fields.items():
        names = names_of(setting)
        if isinstance(field.default, BaseModel):
            parts = type(field.default).model_fields
            found += [f"{names[0]}__{part.upper()}" for part in parts]
            continue
        found += names
        if setting in SECRETS:
            found += [f"{name}_FILE" for name in names]
    return tuple(found)


def secret_variables() -> frozenset[str]:
    """The variables whose values are shown nowhere."""
    return frozenset(name for setting in SECRETS for name in names_of(setting))


def variable_of(setting: str, *parts: str) -> str:
    """The variable that a setting, or a part of one, came from, or would have."""
    names = (setting,) if setting.startswith("QFLEET_") else names_of(setting)
    known = next((all_ for all_ in map(names_of, Settings.model_fields) if names[0] in all_), names)
    ways = [way for each in known for way in (each, f"{each}_FILE")]
    name = next((way for way in ways if os.environ.get(way)), known[0])
    return "__".join((name, *(part.upper() for part in parts)))
