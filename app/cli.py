"""What does ``python -m app`` understand? Commands; each builds its settings and hands over."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from app import __version__
from app.config import Settings
from app.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Seconds that requests may take to end when the gateway stops.
GRACE_S = 10


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

    LocalStack(Settings()).run()


@commands.command()
def serve() -> None:
    """Start the gateway."""
    import uvicorn

    settings = Settings()
    uvicorn.run(
        "app.main:app",
        host=settings.host,
        port=settings.port,
        http="httptools",
        loop="uvloop",
        server_header=False,
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=GRACE_S,
        limit_concurrency=settings.http.connections,
    )


@commands.command()
def worker() -> None:
    """Start a worker of the executors in QFLEET_EXECUTORS."""
    settings = Settings()
    arguments = [
        *(sys.executable, "-m", "celery", "--app", "app.workers.celery_app", "worker"),
        *("--pool", "threads", "--concurrency", str(settings.slots)),
        *("--queues", ",".join(settings.executors), "--loglevel", "WARNING"),
        *("--without-gossip", "--without-mingle", "--without-heartbeat"),
    ]
    os.execv(sys.executable, arguments)  # noqa: S606 - the command is ours


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command; gives the exit status. A deliberate failure is one line on stderr."""
    try:
        commands.main(args=arguments, prog_name="python -m app", standalone_mode=False)
    except click.exceptions.Exit as exc:
        return exc.exit_code
    except click.ClickException as exc:
        exc.show()
        return exc.exit_code
    except click.Abort:
        return 130
    except ServiceError as exc:
        click.echo(f"qfleet: {exc.message}", err=True)
        return 1
    return 0
