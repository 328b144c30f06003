"""What does ``python -m app`` understand? Commands; each builds its settings and hands over."""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import os
import re
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import structlog
from pydantic import ValidationError
from pydantic_settings import SettingsError

from app import __version__
from app.auth.keys import ID_CHARS, PREFIX
from app.auth.principal import DEFAULT_INSTANCE
from app.config import Settings, secret_variables, variable_of, variables
from app.errors import (
    ConfigurationInvalid,
    JobIsFinal,
    JobNotFound,
    NotFound,
    ServiceError,
    Unavailable,
)
from app.jobs.job import JobStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from pydantic_core import ErrorDetails

    from app.auth.instances import Instance, Quota
    from app.auth.keys import ApiKey
    from app.auth.store import KeyStore
    from app.jobs.job import Job, WorkerReport
    from app.jobs.snapshot import Snapshot
    from app.oversight import Oversight, Use

#: Seconds that requests may take to end when the gateway stops.
GRACE_S = 10
#: Exit status of a command that was interrupted, as shells expect it.
INTERRUPTED = 130
#: Longest value of a setting that is repeated.
SHOWN_CHARS = 64


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="qfleet")
def commands() -> None:
    """Qfleet: a self-hosted, distributed Qiskit Runtime.

    Settings come from the environment: docs/reference/settings.md.
    """


@commands.command()
def up() -> None:
    """Start everything on this machine: Valkey, gateway, worker, driver manager."""
    from app.local.stack import LocalStack

    LocalStack(_settings()).run()


@commands.command()
def serve() -> None:
    """Start a gateway."""
    import uvicorn

    from app.api.server import bounded
    from app.local.addresses import require_free

    settings = _settings()
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

    settings = _with_what_is_here(_settings())
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

    settings = _settings()
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

    with of_drivers.open_operator(_settings(), **reach) as operator:
        of_drivers.show(operator, what)


@drivers.command("load")
@click.argument("name")
@_reaches
def load_driver(name: str, **reach: Any) -> None:
    """Load a driver, or load it again."""
    from app.drivers import commands as of_drivers

    with of_drivers.open_operator(_settings(), **reach) as operator:
        of_drivers.load(operator, name)


@drivers.command("unload")
@click.argument("name")
@_reaches
def unload_driver(name: str, **reach: Any) -> None:
    """Drain a driver and remove its devices."""
    from app.drivers import commands as of_drivers

    with of_drivers.open_operator(_settings(), **reach) as operator:
        of_drivers.unload(operator, name)


@drivers.command("reset-breaker")
@click.argument("name")
@click.argument("device", default="")
@_reaches
def reset_breaker(name: str, device: str, **reach: Any) -> None:
    """Close a driver's circuit breakers, or that of one DEVICE."""
    from app.drivers import commands as of_drivers

    with of_drivers.open_operator(_settings(), **reach) as operator:
        of_drivers.reset_breaker(operator, name, device)


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


@commands.group()
def keys() -> None:
    """Make, list and revoke API keys."""


@keys.command()
@click.option(
    "--owner", required=True, help="Whose key it is; keys of one owner see the same jobs."
)
@click.option("--name", default="", help="What it is for.")
@click.option("--instance", default=DEFAULT_INSTANCE, show_default=True, help="Made if missing.")
@click.option(
    "--plan", help="Plan that the instance has from now on.  [default: as it is, or open]"
)
def create(owner: str, name: str, instance: str, plan: str | None) -> None:
    """Make an API key. It is printed this once."""

    async def issue() -> tuple[str, Instance]:
        async with _keys() as store:
            key = await store.issue(owner=owner, name=name, instance=instance, plan=plan)
            found = await store.instances(owner)
            return key, next(each for each in found if each.name == instance)

    key, made_for = asyncio.run(issue())
    click.echo(key)
    click.echo(f"instance {made_for.name}, plan {made_for.plan}: {made_for.crn}", err=True)


@keys.command("list")
@click.option("--owner", help="Only theirs.")
def list_keys(owner: str | None) -> None:
    """Show API keys, oldest first, without their texts."""

    async def read() -> tuple[ApiKey, ...]:
        async with _keys() as store:
            return await store.list()

    found = [key for key in asyncio.run(read()) if owner in (None, key.owner)]
    if not found:
        click.echo(
            f"there is no key yet: python -m app keys create --owner {owner or 'NAME'}", err=True
        )
    for key in found:
        state = f"revoked {key.revoked:%Y-%m-%d %H:%M}" if key.revoked else "valid"
        click.echo(f"{key.id}  {key.created:%Y-%m-%d %H:%M}  {state:24}  {key.owner}  {key.name}")


@keys.command()
@click.argument("which", metavar="[ID]...", nargs=-1)
@click.option("--owner", help="All keys of this owner.")
def revoke(which: tuple[str, ...], owner: str | None) -> None:
    """Refuse API keys and their tokens from now on.

    ID is what `keys list` shows, or the text of the key. Jobs go on: `jobs cancel --owner`.
    """
    if bool(which) is (owner is not None):
        raise click.UsageError("name keys by their ids, or --owner")

    async def refuse() -> list[str]:
        async with _keys() as store:
            ids = [_key_id(each) for each in which]
            if owner is not None:
                theirs = [key for key in await store.list() if key.owner == owner]
                ids = [key.id for key in theirs if key.revoked is None]
            for key_id in ids:
                await store.revoke(key_id)
            return ids

    refused = asyncio.run(refuse())
    if not refused:
        raise NotFound(f"{owner} has no key that is valid; `keys list` shows those there are")
    for key_id in refused:
        click.echo(
            f"key {key_id} is refused from now on, by every gateway within 2 seconds", err=True
        )


def _key_id(given: str) -> str:
    """The id of a key that is named by it, or by its text: who finds a leaked one has that."""
    return given.removeprefix(PREFIX)[:ID_CHARS] if given.startswith(PREFIX) else given


@commands.group()
def plans() -> None:
    """Say how much instances may use, by plan."""


@plans.command("set")
@click.argument("plan")
@click.option("--queued", type=click.IntRange(min=0), help="Jobs that wait.  [default: any]")
@click.option("--running", type=click.IntRange(min=1), help="Jobs that run.  [default: any]")
@click.option("--seconds", type=click.IntRange(min=0), help="Run time in 28 days.  [default: any]")
def set_plan(plan: str, queued: int | None, running: int | None, seconds: int | None) -> None:
    """Give a plan a quota instead of the one it has; without options: none."""
    from app.auth.instances import Quota

    quota = Quota(queued=queued, running=running, seconds=seconds)

    async def store_it() -> None:
        async with _keys() as store:
            await store.set_plan(plan, quota)

    asyncio.run(store_it())
    click.echo(_plan_line(plan, quota), err=True)


@plans.command("list")
def list_plans() -> None:
    """Show the plans that have a quota."""

    async def read() -> dict[str, Quota]:
        async with _keys() as store:
            return await store.plans()

    found = asyncio.run(read())
    if not found:
        click.echo("no plan has a quota: python -m app plans set PLAN --queued 100", err=True)
    for plan, quota in found.items():
        click.echo(_plan_line(plan, quota))


@plans.command("assign")
@click.argument("plan")
@click.argument("owner")
@click.argument("instance", default=DEFAULT_INSTANCE)
def assign_plan(plan: str, owner: str, instance: str) -> None:
    """Give an OWNER's INSTANCE (default: `default`) another plan."""

    async def store_it() -> tuple[Instance, Quota | None]:
        async with _keys() as store:
            made = await store.assign(owner=owner, instance=instance, plan=plan)
            return made, (await store.plans()).get(plan)

    made, quota = asyncio.run(store_it())
    click.echo(f"{owner}, instance {made.name}: plan {_plan_line(plan, quota)}", err=True)


def _plan_line(plan: str, quota: Quota | None) -> str:
    given = {} if quota is None else asdict(quota)
    limits = [f"{name} {most}" for name, most in given.items() if most is not None]
    return f"{plan}: {', '.join(limits) or 'no quota'}"


@commands.group()
def jobs() -> None:
    """See, end and delete jobs, whoever's they are."""


@jobs.command("list")
@click.option("--owner", help="Only theirs.")
@click.option(
    "--pending/--ended", default=None, help="Only those that wait or run; only those that ended."
)
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
def list_jobs(owner: str | None, pending: bool | None, limit: int) -> None:  # noqa: FBT001 - click's
    """Show jobs, newest first, with the times they were created (UTC) and the times they ran."""

    async def read() -> tuple[Job, ...]:
        async with _oversight() as oversight:
            return await oversight.jobs(limit=limit, owner=owner, pending=pending)

    found = asyncio.run(read())
    if not found:
        click.echo("there is no such job", err=True)
    for job in found:
        failure = f"  {job.failure.code}" if job.failure else ""
        click.echo(
            f"{job.id}  {job.status:9}  {job.created:%Y-%m-%d %H:%M:%S}  {_ran(job):>9}"
            f"  {job.scope.replace(':', '  ')}  {job.backend}{failure}"
        )


@jobs.command("show")
@click.argument("job_id", metavar="ID")
def show_job(job_id: str) -> None:
    """Show what became of a job, and what its run logged; neither its program nor its result."""

    async def read() -> tuple[Job, str]:
        async with _oversight() as oversight:
            return await oversight.job(job_id)

    job, log = asyncio.run(read())
    owner, _, instance = job.scope.partition(":")
    message = job.failure.message if job.failure else ""
    if job.private:
        # They may quote its program.
        message = log = "for its owner alone: the job is private"
    lines = {
        "job": f"{job.id}, {job.program_id}",
        "state": job.status.value,
        "owner": f"{owner}, instance {instance}",
        "backend": job.backend,
        "session": job.session_id,
        "created": _utc(job.created),
        "started": _utc(job.started),
        "ended": _utc(job.finished),
        "ran": _ran(job),
        "tries": f"{job.attempt}, of which {job.crashes} crashed" if job.crashes else "",
        "error": job.failure.code if job.failure else "",
        "message": message,
        "log": log,
    }
    for name, text in lines.items():
        if text:
            click.echo(f"{name:9}" + _harmless(text).strip().replace("\n", "\n" + 9 * " "))


@jobs.command("cancel")
@click.argument("job_ids", metavar="[ID]...", nargs=-1)
@click.option("--owner", help="All that wait or run of this owner.")
@click.pass_context
def cancel_jobs(context: click.Context, job_ids: tuple[str, ...], owner: str | None) -> None:
    """End jobs; those that run stop within a second."""
    _require_one(job_ids, owner)

    async def end() -> bool:
        async with _oversight() as oversight:
            ids = job_ids if owner is None else await oversight.pending(owner)
            return await _each(ids, oversight.cancel, "cancelled", named=owner is None)

    context.exit(0 if asyncio.run(end()) else 1)


@jobs.command("delete")
@click.argument("job_ids", metavar="[ID]...", nargs=-1)
@click.option("--owner", help="All of this owner.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_context
def delete_jobs(
    context: click.Context,
    job_ids: tuple[str, ...],
    owner: str | None,
    yes: bool,  # noqa: FBT001 - click's
) -> None:
    """Delete jobs, with their programs, results and logs; those that have not ended end before."""
    _require_one(job_ids, owner)

    async def end() -> bool:
        async with _oversight() as oversight:
            ids = job_ids if owner is None else await oversight.all(owner)
            if ids and not yes:
                click.confirm(f"Delete {len(ids)} jobs?", abort=True, err=True)
            return await _each(ids, oversight.delete, "deleted", named=owner is None)

    context.exit(0 if asyncio.run(end()) else 1)


def _require_one(job_ids: tuple[str, ...], owner: str | None) -> None:
    if bool(job_ids) is (owner is not None):
        raise click.UsageError("name jobs by their ids, or --owner")


async def _each(
    job_ids: Sequence[str], end: Callable[[str], Awaitable[object]], done: str, *, named: bool
) -> bool:
    """End jobs; gives whether none that a person has ``named`` was refused, and says which were.

    The others may have ended by themselves since they were listed.
    """
    refused = 0
    for job_id in job_ids:
        try:
            await end(job_id)
        except (JobIsFinal, JobNotFound) as exc:
            refused += 1
            if named:
                click.echo(f"qfleet: {job_id[:SHOWN_CHARS]}: {exc.message}", err=True)
    click.echo(f"{len(job_ids) - refused} {done}", err=True)
    return not (refused and named)


@commands.command()
@click.option("--owner", help="Only theirs.")
def usage(owner: str | None) -> None:
    """Show what each instance has queued and running, and how long it ran in 28 days."""

    async def read() -> tuple[Use, ...]:
        async with _oversight() as oversight:
            return await oversight.uses(owner=owner)

    found = asyncio.run(read())
    if not found:
        click.echo("nobody like that has a key; `keys list` shows who has one", err=True)
    for use in found:
        instance, used = use.instance, use.usage
        allowed = "" if used.allowed_s is None else f" of {used.allowed_s}"
        click.echo(
            f"{instance.owner}  {instance.name}  plan {instance.plan}  {use.queued} queued"
            f"  {use.running} running  {used.used_s:.1f}{allowed} s"
        )


@commands.command()
def fleet() -> None:
    """Show the workers that live, and the queues."""

    async def read() -> tuple[tuple[WorkerReport, ...], Snapshot]:
        async with _oversight() as oversight:
            return await oversight.fleet()

    workers, snapshot = asyncio.run(read())
    for worker in workers:
        click.echo(
            f"worker {worker.id}  {worker.host}, process {worker.pid}  {worker.busy} of"
            f" {worker.slots} slots busy  {', '.join(worker.executors)}"
        )
    if not workers:
        click.echo("no worker lives: jobs wait", err=True)
    for executor, queue in sorted(snapshot.queues.items()):
        oldest = f", the oldest for {queue.oldest_queued_s:.0f} s" if queue.queued else ""
        click.echo(f"queue {executor}  {queue.queued} queued{oldest}  {queue.running} running")


def _ran(job: Job) -> str:
    """For how long a job ran, or has been running by this machine's clock."""
    if job.status is JobStatus.RUNNING and job.started is not None:
        return f"{max((datetime.now(UTC) - job.started).total_seconds(), 0):.0f} s so far"
    return f"{job.run_s:.1f} s" if job.attempt else "-"


def _utc(time: datetime | None) -> str:
    return "" if time is None else f"{time:%Y-%m-%d %H:%M:%S} UTC"


def _harmless(text: str) -> str:
    """The text without what steers a terminal: a message may quote a caller's program."""
    return "".join(each if each.isprintable() or each == "\n" else "\ufffd" for each in text)


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


@contextlib.asynccontextmanager
async def _keys() -> AsyncIterator[KeyStore]:
    """The keys in the configured Redis, or else in that of the local stack, if it runs."""
    from app.bootstrap import open_keys

    settings = _settings()
    async with open_keys(settings, _redis_url(settings)) as store:
        yield store


@contextlib.asynccontextmanager
async def _oversight() -> AsyncIterator[Oversight]:
    """Everybody's jobs, in the same Redis."""
    from app.bootstrap import open_oversight

    settings = _settings()
    async with open_oversight(settings, _redis_url(settings)) as oversight:
        yield oversight


def _redis_url(settings: Settings) -> str:
    from app.local.valkey import running_url

    return settings.redis or running_url(settings.data / "valkey")


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


def _settings() -> Settings:
    """The settings of the environment.

    Raises:
        ConfigurationInvalid: one is not allowed; the message names it and says why.
    """
    try:
        return Settings()
    except ValidationError as exc:
        raise ConfigurationInvalid("; ".join(map(_fault, exc.errors()))) from exc
    except SettingsError as exc:
        whole = re.match('error parsing value for field "([a-z]+)"', str(exc))
        if whole is None:
            raise ConfigurationInvalid(str(exc)) from exc
        name = variable_of(whole[1])
        near = ", ".join([each for each in variables() if each.startswith(name)][:3])
        message = f"{name}: it is not JSON; set its parts instead: {near}, …"
        raise ConfigurationInvalid(message) from exc


def _fault(fault: ErrorDetails) -> str:
    """One line about a variable: its name, what is wrong, and what stands in it."""
    name = variable_of(*map(str, fault["loc"]))
    if fault["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, variables(), n=1)
        return f"{name}: there is no such setting" + (f"; {near[0]} is one" if near else "")
    text = f"{name}: {fault['msg'].removeprefix('Value error, ')}"
    given = fault["input"]
    shown = isinstance(given, str) and len(given) <= SHOWN_CHARS and name not in secret_variables()
    return f"{text}; it is {given!r}" if shown else text
