"""What do all owners run, and how is it ended? For who runs the service, never for its callers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from app.auth.principal import LOCAL, Principal
from app.auth.store import ADMIN
from app.errors import JobNotFound
from app.jobs.connection import translated
from app.jobs.job import JobFilter

if TYPE_CHECKING:
    import redis.asyncio

    from app.auth.instances import Instance
    from app.auth.store import KeyStore
    from app.dispatcher import Dispatcher
    from app.jobs.job import Job, WorkerReport
    from app.jobs.snapshot import Snapshot, Usage

#: Jobs that are read at once when all of an owner's are meant.
PAGE = 200


@dataclass(frozen=True, kw_only=True)
class Use:
    """What an instance has of the service at this moment."""

    instance: Instance
    queued: int
    running: int
    #: run time in the usage period, and what the plan allows.
    usage: Usage


class Oversight:
    """Everybody's jobs, on one Redis or Valkey.

    Every method raises ``Unavailable`` when Redis does not answer.
    """

    def __init__(
        self, *, client: redis.asyncio.Redis, dispatcher: Dispatcher, keys: KeyStore
    ) -> None:
        """Look; connects with the first call."""
        # redis-py types an answer as all that any command may give, in either colour.
        self._client: Any = client
        self._dispatcher = dispatcher
        self._keys = keys

    async def uses(self, *, owner: str | None = None) -> tuple[Use, ...]:
        """What each instance of each owner of a key has in use; others only if they have jobs.

        Args:
            owner: whose instances; None: everybody's.
        """
        with translated():
            running = await self._client.hgetall("running:scopes")
        with_key = {key.owner for key in await self._keys.list()}
        found = []
        for instance in await self._instances(owner):
            principal = _principal_of(instance)
            pending = await self._dispatcher.list(principal, JobFilter(pending=True), limit=1)
            runs = int(running.get(principal.scope.encode(), 0))
            use = Use(
                instance=instance,
                # Counted a moment later than those that run.
                queued=max(pending.total - runs, 0),
                running=runs,
                usage=await self._dispatcher.usage(principal),
            )
            if instance.owner in with_key or pending.total or use.usage.used_s:
                found.append(use)
        return tuple(found)

    async def jobs(
        self, *, limit: int, owner: str | None = None, pending: bool | None = None
    ) -> tuple[Job, ...]:
        """Jobs of all owners, or of one, newest first.

        Args:
            limit: how many at most.
            owner: whose; None: everybody's.
            pending: True: queued and running ones; False: final ones; None: both.
        """
        found: list[Job] = []
        for instance in await self._instances(owner):
            page = await self._dispatcher.list(
                _principal_of(instance), JobFilter(pending=pending), limit=limit
            )
            found += page.jobs
        found.sort(key=lambda job: job.created, reverse=True)
        return tuple(found[:limit])

    async def job(self, job_id: str) -> tuple[Job, str]:
        """A job, whoever's it is, and what its last run has logged.

        Raises:
            JobNotFound: there is none.
        """
        job = await self._dispatcher.read(await self._whose(job_id), job_id)
        return job, await self._dispatcher.log(job)

    async def cancel(self, job_id: str) -> Job:
        """End a job that is not final, whoever's it is.

        Raises:
            JobNotFound: there is none.
            JobIsFinal: it has ended; nothing changed.
        """
        return await self._dispatcher.cancel(await self._whose(job_id), job_id)

    async def delete(self, job_id: str) -> None:
        """Delete a job, its program, result and log, whoever's it is.

        One that is not final is cancelled before.

        Raises:
            JobNotFound: there is none.
        """
        await self._dispatcher.delete(await self._whose(job_id), job_id)

    async def pending(self, owner: str) -> tuple[str, ...]:
        """Ids of all jobs of an owner that wait or run."""
        return await self._ids(owner, JobFilter(pending=True))

    async def all(self, owner: str) -> tuple[str, ...]:
        """Ids of all jobs of an owner."""
        return await self._ids(owner, JobFilter())

    async def fleet(self) -> tuple[tuple[WorkerReport, ...], Snapshot]:
        """The workers that live, and the queues."""
        return await self._dispatcher.workers(), await self._dispatcher.snapshot()

    async def _instances(self, owner: str | None) -> list[Instance]:
        owners = {ADMIN, LOCAL.owner}.union(key.owner for key in await self._keys.list())
        names = sorted(owners) if owner is None else [owner]
        return [instance for name in names for instance in await self._keys.instances(name)]

    async def _ids(self, owner: str, which: JobFilter) -> tuple[str, ...]:
        found: list[str] = []
        for instance in await self._instances(owner):
            cursor = None
            while True:
                page = await self._dispatcher.list(
                    _principal_of(instance), which, limit=PAGE, cursor=cursor
                )
                found += [job.id for job in page.jobs]
                cursor = page.cursor
                if cursor is None:
                    break
        return tuple(found)

    async def _whose(self, job_id: str) -> Principal:
        """Who may see the job; for anybody else it is not there."""
        with translated():
            scope = await self._client.hget(f"job:{job_id}", "scope")
        if scope is None:
            message = f"there is no job {job_id[:64]!r}; `jobs list` shows those there are"
            raise JobNotFound(message)
        owner, _, instance = scope.decode().partition(":")
        return Principal(owner=owner, instance=instance)


def _principal_of(instance: Instance) -> Principal:
    return Principal(owner=instance.owner, instance=instance.name)
