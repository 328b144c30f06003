"""What does ``python -m app`` understand? Commands; each builds its settings and hands over."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click
from pydantic import ValidationError
from pydantic_settings import SettingsError

from app import __version__
from app.config import Settings
from app.errors import ConfigurationInvalid, ServiceError

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Seconds that requests may take to end when the gateway stops.
GRACE_S = 10
#: Exit status of a command that was interrupted, as shells expect it.
INTERRUPTED = 130


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="qfleet")
def commands() -> None:
    """Qfleet: a self-hosted, distributed Qiskit Runtime.

    Settings come from the environment: docs/reference/settings.md.
    """


@commands.command()
def up() -> None:
    """Start everything on this machine: Valkey, gateway, worker."""
    from app.local.stack import LocalStack

    LocalStack(_settings()).run()


@commands.command()
def serve() -> None:
    """Start a gateway."""
    import uvicorn

    from app.local.addresses import require_free

    settings = _settings()
    require_free(settings.host, settings.port)
    uvicorn.run(
        "app.main:app",
        host=settings.host,
        port=settings.port,
        http="httptools",
        loop="uvloop",
        ws="none",
        lifespan="on",
        server_header=False,
        access_log=False,
        # The gateway sets up its own logs, its access log among them.
        log_config=None,
        limit_concurrency=settings.http.connections,
        timeout_graceful_shutdown=GRACE_S,
    )


@commands.command()
def worker() -> None:
    """Start a worker of the executors in QFLEET_EXECUTORS."""
    settings = _settings()
    arguments = [
        *(sys.executable, "-m", "celery", "--quiet", "--app", "app.workers.celery_app", "worker"),
        *("--pool", "threads", "--concurrency", str(settings.slots)),
        *("--queues", ",".join(settings.executors), "--loglevel", "WARNING"),
        *("--without-gossip", "--without-mingle", "--without-heartbeat"),
    ]
    os.execv(sys.executable, arguments)  # noqa: S606 - no shell is wanted


@commands.command()
@click.pass_context
def doctor(context: click.Context) -> None:
    """Check this machine and these settings; every fault comes with a remedy."""
    from app.local.doctor import examine

    is_well = True
    for finding in examine(_settings()):
        is_well = is_well and not finding.remedy
        mark = "fail" if finding.remedy else "ok"
        click.echo(f"{mark:5}{finding.name}: {finding.found}")
        if finding.remedy:
            click.echo(f"     {finding.remedy}")
    context.exit(0 if is_well else 1)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command; gives the exit status. A deliberate failure is one line on stderr."""
    try:
        status = commands.main(args=arguments, prog_name="python -m app", standalone_mode=False)
    except click.ClickException as exc:
        exc.show()
        return exc.exit_code
    except click.Abort:
        return INTERRUPTED
    except ServiceError as exc:
        click.echo(f"qfleet: {exc.message}", err=True)
        return 1
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.partition(".")[0] == "app":
            raise
        remedy = f"{sys.executable} -m pip install -r requirements.txt"
        click.echo(f"qfleet: this Python lacks {exc.name}: {remedy}", err=True)
        return 1
    return status if isinstance(status, int) else 0


def _settings() -> Settings:
    """The settings of the environment.

    Raises:
        ConfigurationInvalid: one is not allowed; the message names it and says why.
    """
    try:
        return Settings()
    except ValidationError as exc:
        faults = [f"{_variable(fault['loc'])}: {fault['msg']}" for fault in exc.errors()]
        raise ConfigurationInvalid("; ".join(faults)) from exc
    except SettingsError as exc:
        raise ConfigurationInvalid(str(exc)) from exc


def _variable(path: tuple[int | str, ...]) -> str:
    """The environment variable of a setting, given where pydantic found the fault."""
    name = "__".join(str(part) for part in path).upper()
    return name if name.startswith("QFLEET_") else f"QFLEET_{name}"
