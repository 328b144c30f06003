"""What do all owners run, and how is it ended? The operator's commands."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import click

from app.commands.settings import find_redis, read_settings
from app.errors import JobIsFinal, NotFound
from app.jobs.job import JobStatus
from app.jobs.session import SessionState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from app.jobs.job import Job, WorkerReport
    from app.jobs.session import Session
    from app.jobs.snapshot import Snapshot
    from app.oversight import Oversight, Use

#: Longest id that is repeated.
SHOWN_CHARS = 64
#: Said of a session that has not ended.
CLOSING = "takes no more jobs"


@click.group()
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
    message = job.failure.message if job.failure else ""
    if job.private:
        # They may quote its program.
        message = log = "for its owner alone: the job is private"
    _show(
        {
            "job": f"{job.id}, {job.program_id}",
            "state": job.status.value,
            "owner": _whose(job.scope),
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
    )


@jobs.command("cancel")
@click.argument("job_ids", metavar="[ID]...", nargs=-1)
@click.option("--owner", help="All that wait or run of this owner.")
@click.pass_context
def cancel_jobs(context: click.Context, job_ids: tuple[str, ...], owner: str | None) -> None:
    """End jobs; those that run stop within a second."""
    _require_one("jobs", job_ids, owner)

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
    _require_one("jobs", job_ids, owner)

    async def end() -> bool:
        async with _oversight() as oversight:
            ids = job_ids if owner is None else await oversight.all(owner)
            if ids and not yes:
                click.confirm(f"Delete {len(ids)} jobs?", abort=True, err=True)
            return await _each(ids, oversight.delete, "deleted", named=owner is None)

    context.exit(0 if asyncio.run(end()) else 1)


@click.group()
def sessions() -> None:
    """See and close sessions and batches, whoever's they are."""


@sessions.command("list")
@click.option("--owner", help="Only theirs.")
@click.option(
    "--state",
    "states",
    type=click.Choice([state.value for state in SessionState]),
    multiple=True,
    help="Only those in it; may be given more than once.",
)
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
def list_sessions(owner: str | None, states: tuple[str, ...], limit: int) -> None:
    """Show sessions, newest first, with the times they were made (UTC) and their jobs."""

    async def read() -> tuple[Session, ...]:
        async with _oversight() as oversight:
            return await oversight.sessions(
                limit=limit,
                owner=owner,
                states=[SessionState(state) for state in states or SessionState],
            )

    found = asyncio.run(read())
    if not found:
        click.echo("there is no such session", err=True)
    for session in found:
        closing = f"  {CLOSING}" if _is_closing(session) else ""
        click.echo(
            f"{session.id}  {session.state:8}  {session.created:%Y-%m-%d %H:%M:%S}"
            f"  {session.mode:9}  {session.queued} queued  {session.running} running"
            f"  {session.scope.replace(':', '  ')}  {session.backend}{closing}"
        )


@sessions.command("show")
@click.argument("session_id", metavar="ID")
def show_session(session_id: str) -> None:
    """Show how a session is, how long it may last, and how many of its jobs wait and run."""

    async def read() -> Session:
        async with _oversight() as oversight:
            return await oversight.session(session_id)

    session = asyncio.run(read())
    _show(
        {
            "session": f"{session.id}, {session.mode}",
            "state": session.state + (f", {CLOSING}" if _is_closing(session) else ""),
            "reason": session.reason,
            "owner": _whose(session.scope),
            "backend": session.backend,
            "executor": session.executor,
            "created": _utc(session.created),
            "started": _utc(session.started),
            "until": "" if session.closed else _utc(session.deadline),
            "ended": _utc(session.closed),
            "jobs": f"{session.queued} queued, {session.running} running",
            "ran": f"{session.run_s:.1f} s",
        }
    )


@sessions.command("close")
@click.argument("session_ids", metavar="[ID]...", nargs=-1)
@click.option("--owner", help="All of this owner.")
@click.option("--cancel", is_flag=True, help="End the jobs that wait, too.")
@click.pass_context
def close_sessions(
    context: click.Context,
    session_ids: tuple[str, ...],
    owner: str | None,
    cancel: bool,  # noqa: FBT001 - click's
) -> None:
    """Let sessions take no more jobs; those they have run to their end.

    With --cancel, only those that run already do; `jobs cancel` ends these, too.
    """
    _require_one("sessions", session_ids, owner)

    async def end() -> bool:
        async with _oversight() as oversight:
            ids = session_ids if owner is None else await oversight.unclosed(owner)
            close = partial(oversight.close, cancel=cancel)
            return await _each(ids, close, "closed", named=owner is None)

    context.exit(0 if asyncio.run(end()) else 1)


def _is_closing(session: Session) -> bool:
    return not session.accepting and session.state is not SessionState.CLOSED


@click.command()
@click.option("--owner", help="Only theirs.")
def usage(owner: str | None) -> None:
    """Show what each instance has queued and running, ran in 28 days, and keeps."""

    async def read() -> tuple[Use, ...]:
        async with _oversight() as oversight:
            return await oversight.uses(owner=owner)

    found = asyncio.run(read())
    if not found:
        click.echo("nobody like that has a key; `keys list` shows who has one", err=True)
    for use in found:
        instance, used = use.instance, use.usage
        ran = _of(f"{used.used_s:.1f}", used.allowed_s)
        keeps = _of(str(used.kept_bytes), used.allowed_bytes)
        click.echo(
            f"{instance.owner}  {instance.name}  plan {instance.plan}  {use.queued} queued"
            f"  {use.running} running  {ran} s  {keeps} bytes kept"
        )


def _of(used: str, allowed: int | None) -> str:
    return used if allowed is None else f"{used} of {allowed}"


@click.command()
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


def _require_one(what: str, ids: tuple[str, ...], owner: str | None) -> None:
    if bool(ids) is (owner is not None):
        message = f"name {what} by their ids, or --owner"
        raise click.UsageError(message)


async def _each(
    ids: Sequence[str], end: Callable[[str], Awaitable[object]], done: str, *, named: bool
) -> bool:
    """End them; gives whether none that a person has ``named`` was refused, and says which were.

    The others may have ended by themselves since they were listed.
    """
    refused = 0
    for each in ids:
        try:
            await end(each)
        except (JobIsFinal, NotFound) as exc:
            refused += 1
            if named:
                click.echo(f"qfleet: {each[:SHOWN_CHARS]}: {exc.message}", err=True)
    click.echo(f"{len(ids) - refused} {done}", err=True)
    return not (refused and named)


def _show(lines: dict[str, str]) -> None:
    """Print what is not empty, a name and its text on a line."""
    for name, text in lines.items():
        if text:
            click.echo(f"{name:9}" + _harmless(text).strip().replace("\n", "\n" + 9 * " "))


def _whose(scope: str) -> str:
    owner, _, instance = scope.partition(":")
    return f"{owner}, instance {instance}"


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


@contextlib.asynccontextmanager
async def _oversight() -> AsyncIterator[Oversight]:
    """Everybody's jobs, in the same Redis."""
    from app.bootstrap import open_oversight

    settings = read_settings()
    async with open_oversight(settings, find_redis(settings)) as oversight:
        yield oversight


#: What ``python -m app`` understands by this module.
COMMANDS = (jobs, sessions, usage, fleet)
