"""What does ``python -m app`` understand? Commands; each builds its settings and hands over."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import structlog

from app import __version__
from app.commands import access, oversight
from app.commands.settings import read_settings
from app.errors import ConfigurationInvalid, ServiceError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from app.config import Settings

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


for command in (*access.COMMANDS, *oversight.COMMANDS):
    commands.add_command(command)


@commands.command()
def up() -> None:
    """Start everything on this machine: Valkey, gateway, worker, driver manager."""
    from app.local.stack import LocalStack

    LocalStack(read_settings()).run()


@commands.command()
def serve() -> None:
    """Start a gateway."""
    import uvicorn

    from app.api.server import bounded
    from app.local.addresses import require_free

    settings = read_settings()
    require_free(settings.host, settings.port)
    _show_first_key(settings)
    uvicorn.run(
        "app.main:app",
        host=settings.host,
        port=settings.port,
        http=bounded(settings.http),
        loop="uvloop",
        ws="none",
        lifespan="on",
        server_header=False,
        access_log=False,
        forwarded_allow_ips=settings.proxies,
        # The gateway sets up its own logs, its access log among them.
        log_config=None,
        limit_concurrency=settings.http.connections,
        timeout_graceful_shutdown=GRACE_S,
    )


@commands.command()
def worker() -> None:
    """Start a worker of the executors in QFLEET_EXECUTORS."""
    from app.bootstrap import redis_url

    settings = _with_what_is_here(read_settings())
    # Celery would show a traceback.
    redis_url(settings)
    arguments = [
        *(sys.executable, "-m", "celery", "--quiet", "--app", "app.workers.celery_app", "worker"),
        *("--pool", "threads", "--concurrency", str(settings.slots)),
        *("--queues", ",".join(settings.executors), "--loglevel", "WARNING"),
        *("--without-gossip", "--without-mingle", "--without-heartbeat"),
    ]
    # Celery's process reads its settings itself.
    os.environ["QFLEET_EXECUTORS"] = ",".join(settings.executors)
    os.environ["QFLEET_SLOTS"] = str(settings.slots)
    os.execv(sys.executable, arguments)  # noqa: S606 - no shell is wanted


def _with_what_is_here(settings: Settings) -> Settings:
    """Leave out the executor of GPUs where there is none; else, one slot for each GPU.

    Raises:
        ConfigurationInvalid: nothing is left, or GPUs would be shared with other executors.
    """
    from app.executors.gpus import CUSTATEVEC, require_alone, survey
    from app.telemetry.logs import configure_logging

    if CUSTATEVEC not in settings.executors:
        return settings
    configure_logging(level=settings.log_level, environment=settings.environment, service="worker")
    found = survey(measure=False)
    if found.gpus:
        require_alone(settings.executors)
        slots = settings.slots if "slots" in settings.model_fields_set else len(found.gpus)
        return settings.model_copy(update={"slots": min(slots, len(found.gpus))})
    left = tuple(name for name in settings.executors if name != CUSTATEVEC)
    if not left:
        message = f"the executor {CUSTATEVEC!r} cannot be served here: {found.reason}"
        raise ConfigurationInvalid(message)
    structlog.get_logger().warning("executor_left_out", executor=CUSTATEVEC, because=found.reason)
    return settings.model_copy(update={"executors": left})


@commands.group(invoke_without_command=True)
@click.pass_context
def drivers(context: click.Context) -> None:
    """Start a driver manager; or, with a command, speak to the one that runs."""
    if context.invoked_subcommand is not None:
        return
    from app.bootstrap import build_driver_manager
    from app.drivers.server import shape_log
    from app.telemetry.logs import configure_logging

    settings = read_settings()
    configure_logging(
        level=settings.log_level,
        environment=settings.environment,
        service="driver-manager",
        shape=shape_log,
    )
    asyncio.run(build_driver_manager(settings).run())


_File = click.Path(exists=True, dir_okay=False, path_type=Path)
_REACH = (
    click.option("--key", envvar="QFLEET_KEY", help="An API key, if the manager asks for one."),
    click.option("--at", metavar="HOST:PORT", help="Where the manager is, if not here."),
    click.option("--authority", type=_File, help="Whom to trust, if not its certificate (PEM)."),
    click.option(
        "--identity",
        type=_File,
        nargs=2,
        metavar="CERTIFICATE KEY",
        help="What to show to a manager that asks for a certificate (PEM).",
    ),
)


def _reaches(command: Callable[..., None]) -> Callable[..., None]:
    """Say how the manager is reached."""
    for option in reversed(_REACH):
        command = option(command)
    return command


@drivers.command("list")
@click.argument(
    "what",
    default="drivers",
    type=click.Choice(["drivers", "devices", "breakers", "pool", "caches"]),
)
@_reaches
def list_drivers(what: str, **reach: Any) -> None:
    """Show drivers, or devices, breakers, pool or caches."""
    from app.drivers import commands as of_drivers

    with of_drivers.open_operator(read_settings(), **reach) as operator:
        of_drivers.show(operator, what)


@drivers.command("load")
@click.argument("name")
@_reaches
def load_driver(name: str, **reach: Any) -> None:
    """Load a driver, or load it again."""
    from app.drivers import commands as of_drivers

    with of_drivers.open_operator(read_settings(), **reach) as operator:
        of_drivers.load(operator, name)


@drivers.command("unload")
@click.argument("name")
@_reaches
def unload_driver(name: str, **reach: Any) -> None:
    """Drain a driver and remove its devices."""
    from app.drivers import commands as of_drivers

    with of_drivers.open_operator(read_settings(), **reach) as operator:
        of_drivers.unload(operator, name)


@drivers.command("reset-breaker")
@click.argument("name")
@click.argument("device", default="")
@_reaches
def reset_breaker(name: str, device: str, **reach: Any) -> None:
    """Close a driver's circuit breakers, or that of one DEVICE."""
    from app.drivers import commands as of_drivers

    with of_drivers.open_operator(read_settings(), **reach) as operator:
        of_drivers.reset_breaker(operator, name, device)


@commands.command()
@click.pass_context
def doctor(context: click.Context) -> None:
    """Check this machine and these settings; every fault comes with a remedy."""
    from app.local.doctor import examine

    is_well = True
    for finding in examine(read_settings()):
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


def _show_first_key(settings: Settings) -> None:
    """Make the first API key if there is none; a gateway without Redis starts without it."""
    from app.bootstrap import first_key, redis_url

    try:
        key = first_key(settings, redis_url(settings))
    except Unavailable as exc:
        click.echo(f"access: no first key was made: {exc.message}", err=True)
        return
    if key is not None:
        click.echo(f"first key: {key}  (it is shown this once)", err=True)
