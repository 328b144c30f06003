"""The ledger finds what is wrong: each planted violation is named, and without one there is none."""

from __future__ import annotations

import shlex
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import redis

import app.jobs.sessions
import app.jobs.store
from app.auth.instances import Quota
from app.auth.store import KeyStore
from app.jobs.claims import ClaimStore, Finish
from app.jobs.connection import connect_gateway
from app.jobs.job import JobStatus
from app.jobs.session import SessionMode, SessionRequest
from app.jobs.sessions import SessionStore

from .conftest import WAKEUP, submission
from .ledger import Ledger, forgotten, violations

if TYPE_CHECKING:
    from app.jobs.store import JobStore

pytestmark = pytest.mark.anyio

#: What is done to the keys, and a word of what must be said. ``Q`` waits, ``R`` runs, ``F`` has
#: ended, ``P`` is parked, ``S`` is the session of the first two.
PLANTED = (
    ("HINCRBY queued:jobs * 1", "queued:jobs"),
    ("HINCRBY queued:bytes alice -1", "queued:bytes"),
    ("HINCRBY kept:bytes alice 1", "kept:bytes"),
    ("HINCRBY kept:bytes bob:default -1", "kept:bytes"),
    ("APPEND log:F x", "kept:bytes"),
    ("HINCRBY running aer 1", "running says"),
    ("HINCRBY running:scopes alice:default -1", "running:scopes"),
    ("HSET parked_jobs aer 7", "parked_jobs"),
    ("SADD parked_on:alice:default aer", "parked on"),
    ("HSET plans small|running 9", "nobody would let it in"),
    ("ZREM arrivals:aer Q", "Q is not in arrivals:aer"),
    ("ZADD arrivals:aer 1 Q", "Q is in arrivals:aer at"),
    ("ZADD arrivals:aer 1 R", "R is in arrivals:aer and should not be"),
    ("ZREM ready:aer alice", "alice is not in ready:aer"),
    ("ZREM ready:aer:alice Q", "Q is not in ready:aer:alice"),
    ("ZREM parked:aer:bob:default P", "P is not in ready:aer:bob"),
    ("ZREM session:S:ready Q", "Q is not in session:S:ready"),
    ("ZREM session:S:ready:aer Q", "Q is not in session:S:ready:aer"),
    ("DEL dedicated:aer", "S is not in dedicated:aer"),
    ("ZREM leases R", "R is not in leases"),
    ("DEL held:w1:0", "slots hold"),
    ("HDEL job:R holder", "nobody holds it"),
    ("HSET job:R crashes 2", "crashed more often"),
    ("HSET job:Q started 1", "traces of a run"),
    ("ZREM expiry F", "F is not in expiry"),
    ("HSET job:F commits 2", "ended 2 times"),
    ("HSET job:F status Running", "F"),
    ("ZREM jobs:alice:default:state:final F", "F is not in jobs:alice:default:state:final"),
    ("ZADD jobs:alice:default:state:pending 1 F", "F is in jobs:alice:default:state:pending"),
    ("ZREM jobs:alice:default:tag:t F", "F is not in jobs:alice:default:tag:t"),
    ("ZADD jobs:alice:default:tag:u 1 gone", "gone is in jobs:alice:default:tag:u"),
    ("ZREM workloads:alice:default 'job F'", "job F is not in workloads"),
    ("DEL params:Q:0", "params:Q:0 is missing"),
    ("EXPIRE params:Q:0 100", "params:Q:0 expires"),
    ("SET params:gone:0 x", "belongs to no job"),
    ("SET result:F:7:0 x", "belongs to no job"),
    ("SET log:gone x", "belongs to no job"),
    ("SET idempotency:alice:default:k x", "never expires"),
    ("HINCRBY session:S running 1", "running jobs"),
    ("HSET session:S state closed", "is closed"),
    ("HSET session:S state inactive", "a job of it runs"),
    ("ZREM sessions:due S", "S is not in sessions:due"),
    ("ZADD sessions:due 1 S", "would become inactive"),
    ("ZADD sessions:due 9e15 S", "too late"),
    ("ZADD window:aer:bob:default 1 P", "not where it would start"),
    ("ZADD service:aer -1 bob", "negative"),
    ("SET clock:aer 99999", "behind the clock"),
    ("ZADD service:aer 99999 alice", "noted are 99999"),
    ("SADD someones 1", "no key of ours"),
)


@pytest.fixture
def _letters(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is made next has these ids."""
    letters = iter("SFRQBP")
    names = SimpleNamespace(uuid4=lambda: next(letters))
    monkeypatch.setattr(app.jobs.store, "uuid", names)
    monkeypatch.setattr(app.jobs.sessions, "uuid", names)


@pytest.fixture
async def _one_of_each(_letters: None, redis_url: str, store: JobStore, worker: ClaimStore) -> None:
    """A session, and a job of each kind."""

    async def add(scope: str = "alice:default", **changes: object) -> str:
        asked = submission(**changes)
        job = await store.add(scope=scope, executor="aer", submission=asked, wakeup=WAKEUP)
        return job.id

    def step(finish: Finish | None, *, claim: bool) -> None:
        worker.next(slot="0", executor="aer", wakeup=WAKEUP, finish=finish, claim=claim)

    client = connect_gateway(redis_url)
    keys = KeyStore(client=client, secret="secret", bootstrap_key=None)
    await keys.issue(owner="bob", plan="small")
    await keys.set_plan("small", Quota(running=1))
    request = SessionRequest(
        mode=SessionMode.DEDICATED, backend="simulator@aer", max_ttl_s=100, interactive_ttl_s=10
    )
    sessions = SessionStore(client=client, retention_s=1000)
    session = await sessions.open(scope="alice:default", executor="aer", request=request)
    await client.aclose()
    await add(tags=("t",))
    step(None, claim=True)
    step(Finish(job_id="F", attempt=1, status=JobStatus.COMPLETED, result=b"r"), claim=False)
    await add(session_id=session.id)
    step(None, claim=True)
    await add(session_id=session.id)
    # Of bob one may run, so of two that wait the second is parked.
    for _ in range(2):
        await add("bob:default")


@pytest.mark.usefixtures("_one_of_each")
@pytest.mark.parametrize(("planted", "said"), PLANTED, ids=[planted for planted, _ in PLANTED])
async def test_a_planted_violation_is_named(redis_url: str, planted: str, said: str) -> None:
    with redis.Redis.from_url(redis_url) as raw:
        now = int(raw.time()[0]) * 1000
        before = Ledger.of(raw)
        assert violations(before, now=now) + forgotten(before) == []

        raw.execute_command(*shlex.split(planted))

        after = Ledger.of(raw)
        found = violations(after, now=now) + forgotten(after)
        assert any(said in text for text in found), found
