"""What do all owners run, and how is it ended? For who runs the service, never for its callers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from app.auth.principal import LOCAL, Principal
from app.auth.store import ADMIN
from app.errors import JobNotFound, SessionNotFound
from app.jobs.connection import translated
from app.jobs.job import JobFilter
from app.jobs.session import SessionState
from app.jobs.sessions import MOST_SESSIONS

if TYPE_CHECKING:
    from collections.abc import Collection

    import redis.asyncio

    from app.auth.instances import Instance
    from app.auth.store import KeyStore
    from app.dispatcher import Dispatcher
    from app.jobs.job import Job, WorkerReport
    from app.jobs.session import Session
    from app.jobs.snapshot import Snapshot, Usage

#: Jobs that are read at once when all of an owner's are meant.
PAGE = 200

_NOT_FOUND = {"job": JobNotFound, "session": SessionNotFound}


@dataclass(frozen=True, kw_only=True)
class Use:
    """What an instance has of the service at this moment."""

    instance: Instance
    queued: int
    running: int
    #: run time in the usage period, and what the plan allows.
    usage: Usage


class Oversight:
    """Everybody's jobs and sessions, on one Redis or Valkey.

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
        job = await self._dispatcher.read(await self._whose("job", job_id), job_id)
        return job, await self._dispatcher.log(job)

    async def cancel(self, job_id: str) -> Job:
        """End a job that is not final, whoever's it is.

        Raises:
            JobNotFound: there is none.
            JobIsFinal: it has ended; nothing changed.
        """
        return await self._dispatcher.cancel(await self._whose("job", job_id), job_id)

    async def delete(self, job_id: str) -> None:
        """Delete a job, its program, result and log, whoever's it is.

        One that is not final is cancelled before.

        Raises:
            JobNotFound: there is none.
        """
        await self._dispatcher.delete(await self._whose("job", job_id), job_id)

    async def pending(self, owner: str) -> tuple[str, ...]:
        """Ids of all jobs of an owner that wait or run."""
        return await self._ids(owner, JobFilter(pending=True))

    async def all(self, owner: str) -> tuple[str, ...]:
        """Ids of all jobs of an owner."""
        return await self._ids(owner, JobFilter())

    async def sessions(
        self,
        *,
        limit: int,
        owner: str | None = None,
        states: Collection[SessionState] = tuple(SessionState),
    ) -> tuple[Session, ...]:
        """Sessions of all owners, or of one, newest first.

        Args:
            limit: how many at most.
            owner: whose; None: everybody's.
            states: those that are in one of these.
        """
        found: list[Session] = []
        for instance in await self._instances(owner):
            found += await self._dispatcher.sessions(
                _principal_of(instance), states=states, limit=limit
            )
        found.sort(key=lambda session: session.created, reverse=True)
        return tuple(found[:limit])

    async def session(self, session_id: str) -> Session:
        """A session, whoever's it is.

        Raises:
            SessionNotFound: there is none.
        """
        return await self._dispatcher.session(await self._whose("session", session_id), session_id)

    async def close(self, session_id: str, *, cancel: bool) -> None:
        """Let a session take no more jobs, whoever's it is; one that has ended stays as it is.

        Args:
            session_id: which.
            cancel: end those of its jobs that wait as well; else they run.

        Raises:
            SessionNotFound: there is none.
        """
        principal = await self._whose("session", session_id)
        how: Literal["cancel", "stop"] = "cancel" if cancel else "stop"
        await self._dispatcher.close_session(principal, session_id, how)

    async def unclosed(self, owner: str) -> tuple[str, ...]:
        """Ids of all sessions of an owner that have not ended."""
        found: list[str] = []
        for instance in await self._instances(owner):
            sessions = await self._dispatcher.sessions(
                _principal_of(instance),
                states=set(SessionState) - {SessionState.CLOSED},
                limit=MOST_SESSIONS,
            )
            found += [session.id for session in sessions]
        return tuple(found)

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

    async def _whose(self, kind: Literal["job", "session"], which: str) -> Principal:
        """Who may see a job or session; for anybody else it is not there.

        Raises:
            JobNotFound: there is no such job.
            SessionNotFound: there is no such session.
        """
        scope = None
        # Other keys have names with a colon behind a session's.
        if ":" not in which:
            with translated():
                scope = await self._client.hget(f"{kind}:{which}", "scope")
        if scope is None:
            message = f"there is no {kind} {which[:64]!r}; `{kind}s list` shows those there are"
            raise _NOT_FOUND[kind](message)
        owner, _, instance = scope.decode().partition(":")
        return Principal(owner=owner, instance=instance)


def _principal_of(instance: Instance) -> Principal:
    return Principal(owner=instance.owner, instance=instance.name)
