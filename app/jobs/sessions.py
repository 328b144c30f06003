"""What can the gateway ask of sessions? Open, read, close them; list workloads."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, Literal

from app.errors import LimitExceeded, SessionClosed, SessionNotFound
from app.jobs.connection import translated
from app.jobs.records import encode_failure, pairs
from app.jobs.session import CANCELLED, Workload, decode_session
from app.lua.scripts import source

if TYPE_CHECKING:
    import redis.asyncio

    from app.jobs.session import Session, SessionRequest

#: Jobs cancelled by one step of a cancellation: bounds how long it holds Redis.
CANCEL_MOST = 200
#: Sessions of one scope, kept ones included.
MOST_SESSIONS = 10_000


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
        return decode_session(session_id, pairs(record))

    async def read(self, *, scope: str, session_id: str) -> Session:
        """The session.

        Raises:
            SessionNotFound: there is none, or it is somebody else's.
        """
        with translated():
            record = await self._client.hgetall(f"session:{session_id}")
        if record.get(b"scope") != scope.encode():
            raise SessionNotFound(f"session {session_id[:64]!r} not found")
        return decode_session(session_id, record)

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
    ) -> tuple[tuple[Workload, ...], int]:
        """Some jobs outside of sessions, and sessions, by order of arrival; and how many there are.

        Args:
            scope: whose.
            below: highest arrival, as a sorted set's range names it.
            above: lowest arrival, likewise.
            oldest_first: the order.
            limit: most of them.
        """
        key = f"workloads:{scope}"
        with translated():
            pipe = self._client.pipeline(transaction=False)
            if oldest_first:
                pipe.zrangebyscore(key, above, below, start=0, num=limit, withscores=True)
            else:
                pipe.zrevrangebyscore(key, below, above, start=0, num=limit, withscores=True)
            pipe.zcard(key)
            found, total = await pipe.execute()
        return tuple(_workload(member.decode(), arrival) for member, arrival in found), total


def _workload(member: str, arrival: float) -> Workload:
    kind, _, name = member.partition(" ")
    return Workload(id=name, is_session=kind == "session", arrival=int(arrival))
