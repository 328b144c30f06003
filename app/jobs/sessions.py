"""What can the gateway ask of sessions? Open, read, list, close them; list workloads."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, Literal

from app.errors import LimitExceeded, SessionClosed, SessionNotFound
from app.jobs.connection import translated
from app.jobs.records import decode_job, encode_failure, pairs
from app.jobs.session import CANCELLED, Workload, decode_session
from app.lua.scripts import source

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    import redis.asyncio

    from app.jobs.job import Job
    from app.jobs.session import Session, SessionRequest, SessionState

#: Jobs cancelled by one step of a cancellation: bounds how long it holds Redis.
CANCEL_MOST = 200
#: Sessions of one scope, kept ones included.
MOST_SESSIONS = 10_000
#: Sessions that one step of a list reads.
PAGE = 200


class SessionStore:
    """Sessions as callers see them, on one Redis or Valkey.

    Every method raises ``Unavailable`` when Redis does not answer.
    """

    def __init__(self, *, client: redis.asyncio.Redis, retention_s: float) -> None:
        """Make the store; connects with the first call."""
        # redis-py types an answer as all that any command may give, in either colour.
        self._client: Any = client
        self._retention_ms = round(retention_s * 1000)
        self._open = client.register_script(source("open"))
        self._close = client.register_script(source("close"))

    async def open(self, *, scope: str, executor: str, request: SessionRequest) -> Session:
        """Make a session.

        Raises:
            LimitExceeded: the scope has too many; nothing was stored.
        """
        session_id = str(uuid.uuid4())
        with translated():
            outcome, *record = await self._open(
                args=[
                    session_id,
                    scope,
                    executor,
                    request.backend,
                    request.mode,
                    round(request.max_ttl_s * 1000),
                    round(request.interactive_ttl_s * 1000),
                    MOST_SESSIONS,
                ]
            )
        if outcome == b"full":
            kept = int(record[0])
            message = (
                f"{kept} sessions of yours are kept, at most {MOST_SESSIONS} may be;"
                " closed ones are forgotten after a while"
            )
            raise LimitExceeded(message, asked=kept + 1, allowed=MOST_SESSIONS)
        return decode_session(session_id, pairs(record), queued=0)

    async def read(self, *, scope: str, session_id: str) -> Session:
        """The session.

        Raises:
            SessionNotFound: there is none, or it is somebody else's.
        """
        for session in await self._read([session_id]):
            if session.scope == scope:
                return session
        raise SessionNotFound(f"session {session_id[:64]!r} not found")

    async def list(
        self, *, scope: str, states: Collection[SessionState], limit: int
    ) -> tuple[Session, ...]:
        """Sessions that are in one of these states, newest first."""
        with translated():
            members = await self._client.zrevrange(f"sessions:{scope}", 0, -1)
        ids = [member.decode() for member in members]
        found: list[Session] = []
        for start in range(0, len(ids), PAGE):
            page = await self._read(ids[start : start + PAGE])
            found += [session for session in page if session.state in states]
            if len(found) >= limit:
                break
        return tuple(found[:limit])

    async def close(
        self, *, scope: str, session_id: str, how: Literal["stop", "resume", "cancel"]
    ) -> None:
        """Take no more jobs (``stop``), take them again, or also cancel those that wait.

        Raises:
            SessionNotFound: there is none, or it is somebody else's.
            SessionClosed: it has ended and cannot be resumed; nothing changed.
        """
        while True:
            with translated():
                outcome, *left = await self._close(
                    args=[
                        scope,
                        session_id,
                        how,
                        encode_failure(CANCELLED),
                        self._retention_ms,
                        CANCEL_MOST,
                    ]
                )
            if outcome == b"missing":
                raise SessionNotFound(f"session {session_id[:64]!r} not found")
            if outcome == b"closed":
                if how == "resume":
                    raise SessionClosed("the session has ended; open another one")
                return
            if left[0] == 0:
                return

    async def workloads(
        self, *, scope: str, below: str, above: str, oldest_first: bool, limit: int
    ) -> tuple[Workload, ...]:
        """Some jobs outside of sessions, and sessions, by order of arrival.

        Args:
            scope: whose.
            below: highest arrival, as a sorted set's range names it.
            above: lowest arrival, likewise.
            oldest_first: the order.
            limit: most of them.
        """
        key = f"workloads:{scope}"
        with translated():
            if oldest_first:
                found = await self._client.zrangebyscore(
                    key, above, below, start=0, num=limit, withscores=True
                )
            else:
                found = await self._client.zrevrangebyscore(
                    key, below, above, start=0, num=limit, withscores=True
                )
            members = [(*member.decode().split(" "), int(arrival)) for member, arrival in found]
            pipe = self._client.pipeline(transaction=False)
            for kind, name, _ in members:
                pipe.hgetall(f"{kind}:{name}")
                if kind == "session":
                    pipe.zcard(f"session:{name}:ready")
            answers = iter(await pipe.execute())
        return tuple(
            Workload(arrival=arrival, of=_decode(kind, name, answers))
            for kind, name, arrival in members
        )

    async def count_workloads(self, *, scope: str, below: str, above: str) -> int:
        """How many of them there are."""
        with translated():
            return int(await self._client.zcount(f"workloads:{scope}", above, below))

    async def _read(self, session_ids: Sequence[str]) -> tuple[Session, ...]:
        """Those of the sessions that there are."""
        with translated():
            pipe = self._client.pipeline(transaction=False)
            for session_id in session_ids:
                pipe.hgetall(f"session:{session_id}")
                pipe.zcard(f"session:{session_id}:ready")
            answers = await pipe.execute()
        found = zip(session_ids, answers[::2], answers[1::2], strict=True)
        return tuple(
            decode_session(session_id, record, queued=queued)
            for session_id, record, queued in found
            if record
        )


def _decode(kind: str, name: str, answers: Iterator[Any]) -> Job | Session | None:
    """A workload, of the answers about it; None when it is not there."""
    record = next(answers)
    if kind == "job":
        return decode_job(name, record) if record else None
    queued = next(answers)
    return decode_session(name, record, queued=queued) if record else None
