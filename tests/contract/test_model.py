"""Random walks through every verb of the store: after each step, every key is as it must be.

What callers and workers were told is kept beside, and what was to be expected is worked out from
the keys before the step. Time is the walk's own: the scripts are given a clock that it moves.
``make test-deep`` walks further.
"""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import redis

import app.auth.store
import app.jobs.claims
import app.jobs.sessions
import app.jobs.store
from app.auth.instances import Quota
from app.auth.store import KeyStore
from app.errors import (
    IdempotencyConflict,
    JobIsFinal,
    JobNotFound,
    QueueFull,
    QuotaExceeded,
    ServiceFull,
    SessionClosed,
    SessionNotFound,
    StorageFull,
)
from app.jobs.claims import Busy, Claim, ClaimStore, Finish
from app.jobs.connection import connect_gateway, connect_worker
from app.jobs.job import Failure, JobFilter, JobStatus, Submission, WorkerReport
from app.jobs.session import SessionMode, SessionRequest
from app.jobs.sessions import SessionStore
from app.jobs.store import JobStore
from app.lua.scripts import source
from app.primitives.programs import Choice
from tests.contract.ledger import (
    FINAL,
    RECORD_BYTES,
    TAG_BYTES,
    Ledger,
    forgotten,
    leftovers,
    order_of,
    violations,
)
from tests.deep.depth import depth

from .conftest import WAKEUP, Stutter

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.anyio

WALKS = depth(4, 40)
STEPS = depth(180, 400)

SCOPES = ("alice:default", "alice:lab", "bob:default", "carol:default")
EXECUTORS = ("aer", "auto", "gpu")
#: worker → executors it serves.
WORKERS = {"w1": ("aer", "auto"), "w2": ("auto", "gpu"), "w3": ("aer",)}
SLOTS = ("0", "1")
WAKEUP_CAP = 3
MAX_ATTEMPTS, MAX_CRASHES = 5, 3
LEASE_MS, RETENTION_MS, MAX_TTL_MS, INTERACTIVE_MS = 10_000, 300_000, 60_000, 3_000
MAX_QUEUED, MAX_QUEUED_OWNER, MAX_BYTES, MAX_BYTES_OWNER = 24, 12, 200, 110
FAILURE = Failure(code="sandbox_crashed", message="it died")
#: small enough that params and results of a few bytes have several chunks.
CHUNK_BYTES = 8
START_MS = 1_800_000_000_000

#: Every key that expires is noted with the time by the walk's clock, and kept from expiring by
#: another one.
_NOTE_EXPIRY = """
local clock = tonumber(redis.call('HGET', 'test:clock', 'ms'))
for _, key in ipairs(redis.call('KEYS', '*')) do
  local left = redis.call('PTTL', key)
  if left == -1 then redis.call('ZREM', 'test:expiry', key)
  elseif left < 1e8 then
    redis.call('ZADD', 'test:expiry', clock + math.ceil(left / 1000) * 1000, key)
    redis.call('PEXPIRE', key, 1e10)
  end
end
"""
_ADVANCE = """
local clock = redis.call('HINCRBY', 'test:clock', 'ms', ARGV[1])
for _, key in ipairs(redis.call('ZRANGEBYSCORE', 'test:expiry', '-inf', clock)) do
  redis.call('DEL', key)
end
redis.call('ZREMRANGEBYSCORE', 'test:expiry', '-inf', clock)
return clock
"""


def timed(verb: str) -> str:
    """The script of a verb, with the walk's clock in the place of the server's."""
    script = source(verb)
    assert script.count("redis.call('TIME')") == 1
    clock = "{math.floor(redis.call('HGET', 'test:clock', 'ms') / 1000), "
    clock += "redis.call('HGET', 'test:clock', 'ms') % 1000 * 1000}"
    return script.replace("redis.call('TIME')", clock)


@dataclass
class Told:
    """What the outside world knows."""

    #: accepted jobs that nobody has deleted.
    accepted: dict[str, Submission] = field(default_factory=dict)
    #: sessions that were opened.
    sessions: list[tuple[str, str]] = field(default_factory=list)
    #: worker, slot → what it believes to run.
    running: dict[tuple[str, str], Claim] = field(default_factory=dict)
    #: claims that are over, or may be.
    zombies: list[tuple[tuple[str, str], Claim]] = field(default_factory=list)
    #: job → the result that was committed.
    results: dict[str, bytes] = field(default_factory=dict)
    #: job → its claims that were handed over, and those that were returned.
    handed_over: Counter[str] = field(default_factory=Counter)
    returned: Counter[str] = field(default_factory=Counter)


class Walk:
    """One walk."""

    def __init__(self, *, redis_url: str, seed: int) -> None:
        self.dice = random.Random(seed)
        #: few walks come to where an owner's jobs take all that they may.
        self.most_kept = self.dice.choice([None, 15_000, 25_000])
        self.stutter = Stutter()
        self.raw = redis.Redis.from_url(redis_url)
        self.raw.hset("test:clock", "ms", START_MS)
        self.gateway = self.stutter.of_gateway(connect_gateway(redis_url))
        self.store = JobStore(
            client=self.gateway,
            wakeup_cap=WAKEUP_CAP,
            max_queued=MAX_QUEUED,
            max_queued_per_owner=MAX_QUEUED_OWNER,
            max_queued_bytes=MAX_BYTES,
            max_queued_bytes_per_owner=MAX_BYTES_OWNER,
            idempotency_s=60,
            retention_s=RETENTION_MS / 1000,
            max_kept_bytes_per_owner=self.most_kept,
        )
        self.session_store = SessionStore(client=self.gateway, retention_s=RETENTION_MS / 1000)
        self.keys = KeyStore(client=self.gateway, secret="secret", bootstrap_key=None)
        self.clients = [self.stutter.of_worker(connect_worker(redis_url)) for _ in WORKERS]
        self.workers = {
            name: ClaimStore(
                client=client,
                worker=name,
                lease_s=LEASE_MS / 1000,
                wakeup_cap=WAKEUP_CAP,
                max_attempts=MAX_ATTEMPTS,
                max_crashes=MAX_CRASHES,
                retention_s=RETENTION_MS / 1000,
            )
            for name, client in zip(WORKERS, self.clients, strict=True)
        }
        self.told = Told()
        self.now = self.latest = START_MS
        self.made = 0
        #: a quota has changed and nobody has reaped since.
        self.quota_changed = False
        #: counters that the store should have by now.
        self.counted: Counter[str] = Counter()
        self.used_ms: Counter[str] = Counter()
        self.history: list[str] = []
        self.before = Ledger.of(self.raw)
        self.after = self.before
        self.weights = self._weights()

    def _weights(self) -> dict[Callable[[], Any], float]:
        """How often each rule is followed. Every walk prefers others, or some states are rare."""
        usual: dict[Callable[[], Any], float] = {
            self.add: 30,
            self.repeat_add: 2,
            self.answer: 1,
            self.claim: 24,
            self.finish: 8,
            self.finish_and_claim: 8,
            self.stop: 2,
            self.give_back: 5,
            self.hand_over: 10,
            self.haunt: 4,
            self.echo: 2,
            self.beat: 8,
            self.reap: 6,
            self.leave: 0.5,
            self.wait: 4,
            self.live: 6,
            self.cancel: 3,
            self.delete: 2,
            self.tag: 1,
            self.take: 1,
            self.list: 1,
            self.open_session: 3,
            self.close_session: 2,
            self.change_quota: 3,
            self.change_plan: 1,
            self.lose_wakeups: 1,
            self.trespass: 1,
        }
        return {rule: weight * self.dice.choice([0.3, 1, 2]) for rule, weight in usual.items()}

    async def begin(self) -> None:
        """Workers live, and plans have quotas, in most walks."""
        for name in WORKERS:
            self._beat_all(name)
        for scope, plan in zip(SCOPES, ("open", "small", "open", "large"), strict=True):
            owner, _, instance = scope.partition(":")
            await self.keys.issue(owner=owner, instance=instance, plan=plan)
        for _ in range(self.dice.randrange(4)):
            await self.change_quota()
        await self.open_session()
        self.look()

    async def close(self) -> None:
        self.raw.close()
        await self.gateway.aclose()
        for client in self.clients:
            client.close()

    # --- what holds between two steps -------------------------------------------------------------

    def look(self) -> None:
        """Read every key, and compare with what must be."""
        self.raw.eval(_NOTE_EXPIRY, 0)
        self.after = Ledger.of(self.raw)
        wrong = violations(self.after, now=self.latest)
        if not self.quota_changed:
            wrong += forgotten(self.after)
        wrong += self._moves()
        wrong += self._unwoken()
        wrong += self._miscounted()
        assert not wrong, "\n".join([*wrong, "", *self.history[-12:]])
        self.before = self.after

    def _moves(self) -> list[str]:
        """No job is lost, ends twice, or moves where it cannot."""
        wrong = []
        old, new = self.before.jobs, self.after.jobs
        for job_id in self.told.accepted.keys() - new.keys():
            was = old.get(job_id)
            is_over = was and was["status"] in FINAL
            kept_until = self.before.zsets.get("expiry", {}).get(job_id, 0)
            if not is_over or kept_until > self.now:
                wrong.append(f"{job_id} is lost")
            del self.told.accepted[job_id]
        strangers = new.keys() - self.told.accepted.keys()
        wrong += [f"{job_id} was never accepted, or was deleted" for job_id in strangers]
        for job_id, is_now in new.items():
            was = old.get(job_id)
            if was is None:
                self.counted["submitted"] += is_now["listed"] == "1"
                if (is_now["status"], is_now["attempt"]) != ("Queued", "0"):
                    wrong.append(f"{job_id} did not begin in the queue")
            else:
                wrong += self._moved(job_id, was, is_now)
        for job_id in old.keys() - new.keys():
            was = old[job_id]
            if was["status"] not in FINAL:
                self._ended(was | {"status": "Cancelled"}, was)
                if was["status"] == "Running":
                    self.used_ms[was["scope"]] += max(self.now - int(was["started"]), 1)
        return wrong

    def _moved(self, job_id: str, was: dict[str, str], is_now: dict[str, str]) -> list[str]:
        wrong = []
        move = (was["status"], is_now["status"])
        ran_ms = int(is_now.get("run_ms", 0)) - int(was.get("run_ms", 0))
        self.used_ms[is_now["scope"]] += ran_ms
        if was["status"] in FINAL:
            changed = {
                name for name in was.keys() | is_now.keys() if was.get(name) != is_now.get(name)
            }
            if changed - {"tags", "result_chunks", "taken_by", "taken_chunks", "kept_bytes"}:
                wrong.append(f"{job_id} was final, and changed: {changed}")
        elif is_now["status"] in FINAL:
            self._ended(is_now, was)
        for name, counter in (
            ("handed_over", self.told.handed_over),
            ("returned", self.told.returned),
        ):
            if int(is_now.get(name, 0)) != counter[job_id]:
                wrong.append(
                    f"{job_id} was {name} {counter[job_id]} times, noted are {is_now.get(name)}"
                )
        claimed = move == ("Queued", "Running")
        self.counted["claimed"] += claimed
        if int(is_now["attempt"]) != int(was["attempt"]) + claimed:
            wrong.append(f"{job_id}: attempt {was['attempt']} → {is_now['attempt']}, {move}")
        if was["status"] == "Running" and is_now["status"] != "Running":
            if ran_ms != max(self.now - int(was["started"]), 1):
                wrong.append(f"{job_id} has run {self.now - int(was['started'])} ms, not {ran_ms}")
        elif ran_ms:
            wrong.append(f"{job_id} did not run and has {ran_ms} ms more")
        return wrong

    def _ended(self, job: dict[str, str], was: dict[str, str]) -> None:
        self.counted[f"finished {job['status']}"] += job["listed"] == "1"
        # Without a holder it came back first, and was cancelled with its session then.
        self.counted["run"] += was["status"] == "Running" and "holder" in job

    def _unwoken(self) -> list[str]:
        """Who is let in by a quota is told to a worker, if there has been one."""
        return [
            f"{job_id} may start, and nobody is woken"
            for job_id, job in self.after.jobs.items()
            if job["status"] == self.before.jobs.get(job_id, {}).get("status") == "Queued"
            and job["executor"] == self.before.jobs[job_id]["executor"]
            and self.before.is_parked(job_id)
            and not self.after.is_parked(job_id)
            and not self.after.lists.get(job["executor"])
        ]

    def _miscounted(self) -> list[str]:
        found: Counter[str] = Counter()
        for name, value in self.after.hashes.get("stats", {}).items():
            kind, *labels = name.split("|")
            match kind:
                case "jobs_submitted_total":
                    found["submitted"] += int(value)
                case "jobs_finished_total":
                    found[f"finished {labels[0]}"] += int(value)
                case "job_queue_seconds" if labels[1] != "sum_ms":
                    found["claimed"] += int(value)
                case "job_run_seconds" if labels[1] != "sum_ms":
                    found["run"] += int(value)
        wrong = []
        if found != +self.counted:
            wrong.append(f"stats count {dict(found)}, seen were {dict(+self.counted)}")
        for scope in SCOPES:
            days = self.after.hashes.get(f"usage:{scope}", {})
            if sum(map(int, days.values())) != self.used_ms[scope]:
                wrong.append(f"{scope} has used {self.used_ms[scope]} ms, noted are {days}")
        return wrong

    # --- steps ------------------------------------------------------------------------------------

    async def step(self) -> None:
        idle = self._idle_rules()
        rules = {rule: weight for rule, weight in self.weights.items() if rule not in idle}
        rule = self.dice.choices(list(rules), list(rules.values()))[0]
        self.stutter.on = self.dice.random() < 0.15
        self.note(f"--- {rule.__name__}{' twice' if self.stutter.on else ''}")
        outcome = rule()
        if outcome is not None:
            await outcome
        self.stutter.on = False
        self.look()

    def _idle_rules(self) -> set[Callable[[], Any]]:
        """Those that would find nothing to do."""
        idle: set[Callable[[], Any]] = set()
        running = self.told.running
        if not running:
            idle |= {self.finish, self.finish_and_claim, self.give_back}
        if len(running) == len(WORKERS) * len(SLOTS) or "leases" not in self.before.zsets:
            idle.add(self.stop)
        if all(claim.job.executor != "auto" for claim in running.values()):
            idle.add(self.hand_over)
        if len(running) == len(WORKERS) * len(SLOTS) or not self.before.counted("queued:jobs", "*"):
            idle.add(self.claim)
        return idle

    def note(self, text: str) -> None:
        self.history.append(text)

    def pick(self, things: Any) -> Any:
        """One of them; None of none."""
        things = list(things)
        return self.dice.choice(things) if things else None

    def refused(self) -> None:
        """A refusal changes nothing."""
        self.raw.eval(_NOTE_EXPIRY, 0)
        now = Ledger.of(self.raw)
        assert without_expiring(now) == without_expiring(self.before)

    # --- callers ----------------------------------------------------------------------------------

    async def add(self) -> None:
        await self._add(self.pick(SCOPES), self._submission())

    def _submission(self) -> Submission:
        self.made += 1
        session = ""
        if self.dice.random() < 0.5 and self.told.sessions:
            session = self.dice.choice(self.told.sessions[-3:])[0]
        return Submission(
            program_id=self.dice.choice(["qasm3", "sampler"]),
            params=f"p{self.made}".encode().ljust(self.dice.choice([4, 8, 20]), b"."),
            backend=f"simulator@{self._some_executor()}",
            tags=tuple(self.dice.sample(["a", "ä\n", "state:pending"], self.dice.randrange(3))),
            priority=self.dice.choice([-100, 0, 0, 0, 1, 100]),
            idempotency_key=f"k{self.dice.randrange(12)}" if self.dice.random() < 0.2 else None,
            listed=self.dice.random() < 0.9,
            session_id=session,
            retry_s=self.dice.choice([0, 30]),
        )

    def _some_executor(self) -> str:
        return self.dice.choices(EXECUTORS, (3, 4, 1))[0]

    async def repeat_add(self) -> None:
        """Somebody sends again what was sent before."""
        job_id = self.pick(self.told.accepted)
        if job_id is not None:
            # While the answer to the first may be under way, the second would wait.
            self._pass(1000)
            await self._add(self.before.jobs[job_id]["scope"], self.told.accepted[job_id])

    async def _add(self, scope: str, submission: Submission) -> None:
        if submission.session_id:
            # Of somebody's session, mostly by them and for its backend.
            record = self.before.sessions.get(submission.session_id)
            if record and self.dice.random() < 0.9:
                scope = record["scope"]
                submission = replaced(submission, backend=record["backend"])
        self.note(f"{scope} {submission}")
        expected = self._expected_add(scope, submission)
        executor = submission.backend.partition("@")[2]
        woken = len(self.before.lists.get(executor, []))
        asked = self.store.add(scope=scope, executor=executor, submission=submission, wakeup=WAKEUP)
        if isinstance(expected, type):
            with pytest.raises(expected) as caught:
                await asked
            assert type(caught.value) is expected
            self.refused()
            return
        job = await asked
        assert expected in ("new", job.id), (expected, job)
        if expected == "new":
            assert job.id not in self.before.jobs
            self.told.accepted[job.id] = submission
            assert await self.store.params(job_id=job.id) == submission.params
            now = Ledger.of(self.raw)
            queued = len(now.zsets[f"arrivals:{executor}"])
            if not now.is_parked(job.id):
                least = min(WAKEUP_CAP, queued)
                assert len(now.lists.get(executor, [])) >= max(woken, min(least, woken + 1))

    def _expected_add(self, scope: str, submission: Submission) -> Any:
        """'new', the id of the job that it is already, or the error."""
        fingerprint = app.jobs.store._fingerprint(submission)
        ledger, size = self.before, len(submission.params)
        owner = scope.partition(":")[0]
        if submission.idempotency_key is not None:
            known = ledger.strings.get(f"idempotency:{scope}:{submission.idempotency_key}")
            if known is not None:
                same, _, job_id = known.decode().partition(" ")
                if same != fingerprint:
                    return IdempotencyConflict
                return job_id if job_id in ledger.jobs else JobNotFound
        elif submission.retry_s:
            known = ledger.strings.get(f"unanswered:{scope}:{fingerprint}")
            if known is not None and known.decode() in ledger.jobs:
                return known.decode()
        if submission.session_id:
            session = ledger.sessions.get(submission.session_id)
            if session is None or session["scope"] != scope:
                return SessionNotFound
            if session["accepting"] == "0" or session["backend"] != submission.backend:
                return SessionClosed
        asked = size + RECORD_BYTES + len(submission.tags) * TAG_BYTES
        if self.most_kept and ledger.counted("kept:bytes", owner) + asked > self.most_kept:
            return StorageFull
        queued, queued_bytes = "queued:jobs", "queued:bytes"
        if ledger.counted(queued, owner) >= MAX_QUEUED_OWNER:
            return QueueFull
        if ledger.counted(queued_bytes, owner) + size > MAX_BYTES_OWNER:
            return QueueFull
        if ledger.counted(queued, "*") >= MAX_QUEUED:
            return ServiceFull
        if ledger.counted(queued_bytes, "*") + size > MAX_BYTES:
            return ServiceFull
        waiting = sum(
            job["scope"] == scope and job["status"] == "Queued" and job["listed"] == "1"
            for job in ledger.jobs.values()
        )
        most = ledger.quota(scope, "queued")
        if most is not None and waiting >= most:
            return QuotaExceeded
        seconds = ledger.quota(scope, "seconds")
        if seconds is not None and self.used_ms[scope] >= seconds * 1000:
            return QuotaExceeded
        kept = ledger.quota(scope, "kept_bytes")
        if kept is not None and ledger.counted("kept:bytes", scope) + asked > kept:
            return QuotaExceeded
        return "new"

    async def answer(self) -> None:
        job_id = self.pick(self.told.accepted)
        if job_id is not None:
            await self.store.answered(
                scope=self.before.jobs[job_id]["scope"],
                submission=self.told.accepted[job_id],
                job_id=job_id,
            )

    async def cancel(self) -> None:
        job_id = self.pick(self.told.accepted)
        if job_id is None:
            return
        was = self.before.jobs[job_id]
        self.note(f"{job_id} {was['status']}")
        try:
            job = await self.store.cancel(scope=was["scope"], job_id=job_id)
        except JobIsFinal:
            if was["status"] in FINAL:
                self.refused()
            else:
                assert self.stutter.on
        else:
            assert job.status is JobStatus.CANCELLED
            assert was["status"] not in FINAL

    async def delete(self) -> None:
        job_id = self.pick(self.told.accepted)
        if job_id is None:
            return
        self.note(f"{job_id} {self.before.jobs[job_id]['status']}")
        try:
            await self.store.delete(scope=self.before.jobs[job_id]["scope"], job_id=job_id)
        except JobNotFound:
            assert self.stutter.on
        del self.told.accepted[job_id]
        assert job_id not in Ledger.of(self.raw).jobs

    async def tag(self) -> None:
        job_id = self.pick(self.told.accepted)
        if job_id is not None:
            tags = self.dice.sample(["a", "b", "ä\n"], self.dice.randrange(3))
            scope = self.before.jobs[job_id]["scope"]
            await self.store.tag(scope=scope, job_id=job_id, tags=tags)
            assert list((await self.store.read(scope=scope, job_id=job_id)).tags) == tags

    async def take(self) -> None:
        """Somebody reads a result, or, of a private job, takes it."""
        job_id = self.pick(
            id_ for id_ in self.told.accepted if self.before.jobs[id_]["status"] in FINAL
        )
        if job_id is None:
            return
        job = await self.store.read(scope=self.before.jobs[job_id]["scope"], job_id=job_id)
        result = self.told.results.get(job_id, b"")
        assert await self.store.result(job=job) == result
        if self.dice.random() < 0.5:
            assert await self.store.take_result(job=job) == result
            self.told.results.pop(job_id, None)
            self.stutter.on = False
            assert await self.store.take_result(job=job) == b""

    async def list(self) -> None:
        scope = self.dice.choice(SCOPES)
        which = JobFilter(
            program_id=self.pick([None, "qasm3"]),
            backend=self.pick([None, "simulator@aer"]),
            pending=self.pick([None, True, False]),
            tags=self.pick([(), ("a",), ("a", "ä\n")]),
            oldest_first=self.dice.random() < 0.5,
        )
        meant = [
            (int(job["arrival"]), job_id)
            for job_id, job in self.before.jobs.items()
            if job["scope"] == scope
            and job["listed"] == "1"
            and which.program_id in (None, job["program_id"])
            and which.backend in (None, job["backend"])
            and which.pending in (None, job["status"] not in FINAL)
            and set(which.tags) <= set(json.loads(job["tags"]))
        ]
        page = await self.store.list(scope=scope, which=which, limit=1000)
        meant.sort(reverse=not which.oldest_first)
        assert [job.id for job in page.jobs] == [job_id for _, job_id in meant]
        assert page.total == len(meant)
        self.refused()

    async def open_session(self) -> None:
        scope, executor = self.dice.choice(SCOPES), self._some_executor()
        request = SessionRequest(
            mode=self.dice.choice([SessionMode.DEDICATED, SessionMode.BATCH]),
            backend=f"simulator@{executor}",
            max_ttl_s=MAX_TTL_MS / 1000,
            interactive_ttl_s=INTERACTIVE_MS / 1000,
        )
        session = await self.session_store.open(scope=scope, executor=executor, request=request)
        self.note(f"{session.id} {scope} {executor} {request.mode}")
        self.told.sessions.append((session.id, scope))

    async def close_session(self) -> None:
        known = self.pick(self.told.sessions[-4:])
        if known is None:
            return
        session_id, scope = known
        how = self.dice.choice(["stop", "resume", "cancel"])
        record = self.before.sessions.get(session_id)
        self.note(f"{session_id} {how}, it was {record and record['state']}")
        try:
            await self.session_store.close(scope=scope, session_id=session_id, how=how)
        except SessionNotFound:
            assert record is None
        except SessionClosed:
            assert record is not None
            assert how == "resume"
            deadline = int(record.get("started") or record["created"]) + MAX_TTL_MS
            assert record["state"] == "closed" or self.now >= deadline
            self.refused()
        else:
            assert record is not None
            now = Ledger.of(self.raw)
            assert now.sessions[session_id]["accepting"] == ("1" if how == "resume" else "0")
            if how == "cancel":
                assert f"session:{session_id}:ready" not in now.zsets

    async def trespass(self) -> None:
        """Somebody uses the id of another's job or session."""
        job_id, session = self.pick(self.told.accepted), self.pick(self.told.sessions)
        if job_id is not None:
            scope = self._stranger_to(self.before.jobs[job_id]["scope"])
            for act in (self.store.cancel, self.store.delete, self.store.read):
                with pytest.raises(JobNotFound):
                    await act(scope=scope, job_id=job_id)
            with pytest.raises(JobNotFound):
                await self.store.tag(scope=scope, job_id=job_id, tags=["x"])
        if session is not None:
            scope = self._stranger_to(session[1])
            with pytest.raises(SessionNotFound):
                await self.session_store.close(scope=scope, session_id=session[0], how="cancel")
        self.refused()

    def _stranger_to(self, scope: str) -> str:
        return self.dice.choice([other for other in SCOPES if other != scope])

    # --- operators --------------------------------------------------------------------------------

    async def change_quota(self) -> None:
        quota = Quota(
            queued=self.pick([None, None, 4, 8]),
            running=self.pick([None, 1, 2, 3]),
            seconds=self.pick([None, None, None, 60]),
            kept_bytes=self.pick([None, None, None, 12_000]),
        )
        plan = self.dice.choice(["open", "small"])
        self.note(f"{plan} {quota}")
        await self.keys.set_plan(plan, quota)
        self.quota_changed = True

    async def change_plan(self) -> None:
        owner, _, instance = self.dice.choice(SCOPES).partition(":")
        await self.keys.issue(
            owner=owner, instance=instance, plan=self.dice.choice(["open", "small", "large"])
        )
        self.quota_changed = True

    # --- workers ----------------------------------------------------------------------------------

    def claim(self) -> None:
        """A free slot claims; the answer may be lost for good."""
        place = self.pick(
            (name, slot)
            for name in WORKERS
            for slot in SLOTS
            if (name, slot) not in self.told.running
        )
        if place is None:
            return
        executors = WORKERS[place[0]]
        busy = [name for name in executors if f"ready:{name}" in self.before.zsets]
        executor = self.dice.choice(busy or executors)
        expected = self._expected_claim(place, executor)
        claim = self._next(place, executor, None, claim=True)
        self.note(f"{place} {executor}: {claim and claim.job.id}")
        assert (claim.job.id if claim else None) == expected
        if claim is None:
            return
        assert claim.params == self.told.accepted[claim.job.id].params
        if self.dice.random() < 0.1:
            self.note("nobody hears of it")
            self.told.zombies.append((place, claim))
            del self.told.running[place]

    def _expected_claim(self, place: tuple[str, str], executor: str) -> str | None:
        """The one job that this slot may be given, of all that wait."""
        ledger, jobs = self.before, self.before.jobs
        held = ledger.strings.get(f"held:{place[0]}:{place[1]}")
        if held is not None:
            return held.decode()
        able = []
        for job_id, job in jobs.items():
            if job["status"] != "Queued" or job["executor"] != executor:
                continue
            limit = ledger.quota(job["scope"], "running") if job["listed"] == "1" else None
            is_full = limit is not None and ledger.running_of(job["scope"]) >= limit
            if not is_full and not ledger.is_parked(job_id):
                able.append(job_id)
        if not able:
            return None
        turns = ledger.zsets.get(f"dedicated:{executor}", {})
        first = [job_id for job_id in able if jobs[job_id]["session_id"] in turns]
        if first:
            turn = min(
                {jobs[id_]["session_id"] for id_ in first}, key=lambda id_: (turns[id_], id_)
            )
            best = [job_id for job_id in first if jobs[job_id]["session_id"] == turn]
        else:
            tags = ledger.zsets[f"ready:{executor}"]
            turn = min({jobs[id_]["owner"] for id_ in able}, key=lambda owner: (tags[owner], owner))
            best = [job_id for job_id in able if jobs[job_id]["owner"] == turn]
        return min(best, key=lambda job_id: order_of(jobs[job_id]))

    def _next(
        self, place: tuple[str, str], executor: str, finish: Finish | None, *, claim: bool
    ) -> Claim | None:
        outcome, found = self.workers[place[0]].next(
            slot=place[1], executor=executor, wakeup=WAKEUP, finish=finish, claim=claim
        )
        if finish is None:
            assert outcome == "none"
        else:
            self._check_finish(place, finish, outcome)
        if found is not None:
            assert found.job.status is JobStatus.RUNNING
            self.told.running[place] = found
        return found

    def _check_finish(self, place: tuple[str, str], finish: Finish, outcome: str) -> None:
        is_current = self._is_current(place, finish.job_id, finish.attempt)
        committed = is_current and not self.stutter.on
        assert outcome == ("committed" if committed else "fenced")
        if is_current:
            job = Ledger.of(self.raw).jobs[finish.job_id]
            assert (job["status"], job["finished"]) == (finish.status.value, str(self.now))
            if finish.result is not None:
                self.told.results[finish.job_id] = finish.result

    def _is_current(self, place: tuple[str, str], job_id: str, attempt: int) -> bool:
        job = self.before.jobs.get(job_id, {})
        return (job.get("status"), job.get("holder"), job.get("attempt")) == (
            "Running",
            ":".join(place),
            str(attempt),
        )

    def _some_end(self, claim: Claim) -> Finish:
        size = self.dice.choice([None, 5, 20])
        return Finish(
            job_id=claim.job.id,
            attempt=claim.job.attempt,
            status=JobStatus.FAILED if size is None else JobStatus.COMPLETED,
            result=None if size is None else f"r{self.made}".encode().ljust(size, b".")[:size],
            failure=FAILURE if size is None else None,
            metadata=self.dice.choice([{}, {"seed": 1}]),
            log=self.dice.choice(["", "log"]),
        )

    def finish(self) -> None:
        place = self.pick(self.told.running)
        if place is not None:
            claim = self.told.running.pop(place)
            self.note(f"{place} {claim.job.id} {claim.job.attempt}")
            self._next(place, claim.job.executor, self._some_end(claim), claim=False)
            self.told.zombies.append((place, claim))

    def finish_and_claim(self) -> None:
        place = self.pick(self.told.running)
        if place is not None:
            claim = self.told.running.pop(place)
            executor = self.dice.choice(WORKERS[place[0]])
            found = self._next(place, executor, self._some_end(claim), claim=True)
            self.note(f"{place} {claim.job.id} {claim.job.attempt}, then {found and found.job.id}")
            self.told.zombies.append((place, claim))

    def stop(self) -> None:
        """A slot that runs nothing stops: what it was given unheard goes back."""
        place = self.pick(
            (name, slot)
            for name in WORKERS
            for slot in SLOTS
            if (name, slot) not in self.told.running
        )
        if place is None:
            return
        executor = self.dice.choice(WORKERS[place[0]])
        held = self.before.strings.get(f"held:{place[0]}:{place[1]}")
        if held is not None:
            self.told.returned[held.decode()] += 1
        assert self._next(place, executor, None, claim=False) is None
        now = Ledger.of(self.raw)
        assert f"held:{place[0]}:{place[1]}" not in now.strings
        if f"ready:{executor}" in now.zsets:
            assert now.lists.get(executor)

    def haunt(self) -> None:
        """A claim that is over is used once more; if it is not current, nothing changes."""
        jobs = self.before.jobs
        busy = [known for known in self.told.zombies if known[1].job.id in jobs
                and jobs[known[1].job.id]["status"] == "Running"]  # fmt: skip
        # An older attempt of the same slot at the same job is told apart by its number alone.
        again = [
            (place, claim)
            for place, claim in busy
            if ":".join(place) == jobs[claim.job.id]["holder"]
            and str(claim.job.attempt) != jobs[claim.job.id]["attempt"]
        ]
        known = self.pick(again or busy[-6:] or self.told.zombies[-6:])
        if known is None:
            return
        place, claim = known
        if self.dice.random() < 0.3 and self.told.running:
            # Somebody speaks of another's claim.
            claim = self.told.running[self.pick(self.told.running)]
        self.note(f"{place} {claim.job.id} {claim.job.attempt}")
        if self._is_current(place, claim.job.id, claim.job.attempt):
            return
        worker, was = self.workers[place[0]], self.before
        if self.dice.random() < 0.3 and place not in self.told.running:
            # It finishes and claims: what it claims while it is fenced is its own all the same.
            self._next(place, claim.job.executor, self._some_end(claim), claim=True)
            return
        if (place, claim) in again and self.dice.random() < 0.5:
            self._next(place, claim.job.executor, self._some_end(claim), claim=False)
            assert Ledger.of(self.raw).jobs[claim.job.id] == jobs[claim.job.id]
            return
        held = was.strings.get(f"held:{place[0]}:{place[1]}")
        choice = Choice(executor="gpu", because="test")
        kind: Any = self.dice.choice(["crash", "lost", "returned"])
        assert (
            worker.lost(slot=place[1], job=claim.job, kind=kind, failure=FAILURE, wakeup=WAKEUP)
            is None
        )
        outcome = worker.hand_over(slot=place[1], job=claim.job, choice=choice, wakeup=WAKEUP)
        assert outcome == "stale"
        now = Ledger.of(self.raw)
        assert now.strings.get(f"held:{place[0]}:{place[1]}") == held
        self.refused()
        named = Busy(slot=place[1], job_id=claim.job.id, attempt=claim.job.attempt)
        assert worker.beat(report=self._report(place[0]), busy=[named]) == (named,)
        now = Ledger.of(self.raw)
        assert now.zsets.get("leases") == was.zsets.get("leases")

    def echo(self) -> None:
        """What a worker has sent arrives again, late: on another connection it has overtaken itself.

        Not `next`, which would claim for a slot that has long gone on.
        """
        late = {
            script.sha
            for worker in self.workers.values()
            for script in (
                worker._lost,
                worker._hand_over,
                worker._beat,
                worker._reap,
                worker._keep,
            )
        }
        sent = [known for known in self.stutter.sent[-40:] if known[1][0] in late]
        known = self.pick(sent)
        if known is None:
            return
        again, args = known
        self.note(str(args[2:6]))
        again(*args)
        if args[0] == self.workers["w1"]._reap.sha:
            self.quota_changed = False

    def give_back(self) -> None:
        place = self.pick(self.told.running)
        if place is None:
            return
        claim = self.told.running.pop(place)
        job = self.before.jobs.get(claim.job.id, {})
        kind: Any = self.dice.choice(["crash", "lost", "returned"])
        expected: JobStatus | None = None
        if self._is_current(place, claim.job.id, claim.job.attempt):
            crashes = int(job["crashes"]) + (kind == "crash")
            uncounted = self.told.handed_over[claim.job.id] + self.told.returned[claim.job.id]
            tries = int(job["attempt"]) - uncounted
            often = crashes >= MAX_CRASHES or tries >= MAX_ATTEMPTS
            is_over = kind != "returned" and often
            expected = JobStatus.FAILED if is_over else JobStatus.QUEUED
            self.told.returned[claim.job.id] += kind == "returned"
        self.note(f"{place} {claim.job.id} {kind}: {expected}")
        status = self.workers[place[0]].lost(
            slot=place[1], job=claim.job, kind=kind, failure=FAILURE, wakeup=WAKEUP
        )
        self.told.zombies.append((place, claim))
        assert status is (None if self.stutter.on else expected)
        if expected is not None:
            assert Ledger.of(self.raw).jobs[claim.job.id]["status"] == expected.value

    def hand_over(self) -> None:
        place = self.pick(
            place for place, claim in self.told.running.items() if claim.job.executor == "auto"
        )
        if place is None:
            return
        claim = self.told.running.pop(place)
        choice = Choice(executor=self.dice.choice(["aer", "gpu"]), because="test")
        live = {
            name for worker in WORKERS if f"worker:{worker}" in self.before.strings
            for name in WORKERS[worker]
        }  # fmt: skip
        is_current = self._is_current(place, claim.job.id, claim.job.attempt)
        expected = "stale"
        if is_current:
            expected = "Queued" if choice.executor in live else "unserved"
        self.note(f"{place} {claim.job.id} {choice.executor}: {expected}")
        outcome = self.workers[place[0]].hand_over(
            slot=place[1], job=claim.job, choice=choice, wakeup=WAKEUP
        )
        repeated = "stale" if expected == "Queued" else expected
        assert outcome == (repeated if self.stutter.on else expected)
        if expected == "Queued":
            self.told.handed_over[claim.job.id] += 1
            self.told.zombies.append((place, claim))
            now = Ledger.of(self.raw)
            assert now.jobs[claim.job.id]["executor"] == choice.executor
            assert now.lists.get(choice.executor) or now.is_parked(claim.job.id)
        else:
            self.refused()
            if is_current:
                self.told.running[place] = claim

    def beat(self) -> None:
        """A worker beats, and stops what is no longer its own."""
        name = self.dice.choice(list(WORKERS))
        busy = [
            Busy(slot=slot, job_id=claim.job.id, attempt=claim.job.attempt)
            for (worker, slot), claim in self.told.running.items()
            if worker == name
        ]
        stale = self.workers[name].beat(report=self._report(name), busy=busy)
        assert set(stale) == {
            each
            for each in busy
            if not self._is_current((name, each.slot), each.job_id, each.attempt)
        }
        now = Ledger.of(self.raw)
        for each in busy:
            if each not in stale:
                assert now.zsets["leases"][each.job_id] == self.now + LEASE_MS
            elif self.dice.random() < 0.7:
                place = (name, each.slot)
                self.told.zombies.append((place, self.told.running.pop(place)))

    def _report(self, name: str) -> WorkerReport:
        return WorkerReport(
            id=name, host="h", pid=1, executors=WORKERS[name], slots=2, busy=0, versions={}
        )

    def reap(self) -> None:
        self._reap(self.dice.choice(list(WORKERS)))

    def _reap(self, name: str) -> None:
        passed_ms = self.now - self.before.number("reaper:tick")
        is_blind = passed_ms > LEASE_MS / 2 or passed_ms < 0
        self.workers[name].reap(wakeups=dict.fromkeys(WORKERS[name], WAKEUP))
        self.note(f"{name} {'blind' if is_blind else ''}")
        self.quota_changed = False
        now = Ledger.of(self.raw)
        for job_id, until in self.before.zsets.get("leases", {}).items():
            if is_blind or until > self.now:
                assert now.jobs[job_id]["status"] == "Running"
                assert now.zsets["leases"][job_id] > self.now
            else:
                # With its session, whose time is over too, it may be cancelled at once.
                statuses = ["Queued", "Failed"]
                if self.before.jobs[job_id]["session_id"]:
                    statuses.append("Cancelled")
                assert now.jobs[job_id]["status"] in statuses
        assert all(until > self.now for until in now.zsets.get("expiry", {}).values())
        assert all(due > self.now for due in now.zsets.get("sessions:due", {}).values())
        for session_id, was in self.before.sessions.items():
            session = now.sessions.get(session_id)
            if session and (was["state"], session["state"]) == ("active", "inactive"):
                pending = [
                    job_id
                    for job_id, job in self.before.jobs.items()
                    if job["session_id"] == session_id and job["status"] not in FINAL
                ]
                assert pending == [], "an active session with work has become inactive"
        for executor in WORKERS[name]:
            ready = [
                job_id
                for job_id, job in now.jobs.items()
                if (job["executor"], job["status"]) == (executor, "Queued")
                and not now.is_parked(job_id)
            ]
            assert len(now.lists.get(executor, [])) >= min(len(ready), WAKEUP_CAP)
        for executor in EXECUTORS:
            served = any(
                executor in WORKERS[worker]
                for worker in WORKERS
                if f"worker:{worker}" in self.before.strings
            )
            assert served or f"handed_over:{executor}" not in now.zsets

    def leave(self) -> None:
        """A worker goes, and comes again with nothing in its hands."""
        name = self.dice.choice(list(WORKERS))
        if all(worker != name for worker, _ in self.told.running):
            self.workers[name].leave()

    def lose_wakeups(self) -> None:
        """Wake-ups are taken, and nobody acts on them."""
        for executor in EXECUTORS:
            while self.workers["w1"].await_wakeup(executors=[executor], timeout_s=0.001):
                pass

    def wait(self) -> None:
        """Time passes."""
        usual = [1, 40, 500, 500, INTERACTIVE_MS, INTERACTIVE_MS, LEASE_MS]
        rare = self.dice.random() < 0.1
        # Somebody may set the clock back, too.
        self._pass(self.dice.choice([MAX_TTL_MS, RETENTION_MS, -20_000] if rare else usual))

    def live(self) -> None:
        """Time passes in ticks; at each, some worker reaps, and some beats and keeps its jobs."""
        for _ in range(self.dice.randrange(1, 7)):
            self._pass(LEASE_MS // 4)
            self._reap(self.dice.choice(list(WORKERS)))
            self.look()
            if self.dice.random() < 0.5:
                self.beat()
                self.look()

    def _pass(self, ms: int) -> None:
        self.now = int(self.raw.eval(_ADVANCE, 0, ms))  # type: ignore[arg-type]
        self.latest = max(self.now, self.latest)
        self.note(f"{ms} ms later")
        self.raw.eval(_NOTE_EXPIRY, 0)
        self.before = Ledger.of(self.raw)

    # --- the end ----------------------------------------------------------------------------------

    def rest(self) -> None:
        """Nothing more is asked for: every job ends, and is forgotten with its time."""
        while any(job["status"] not in FINAL for job in self.before.jobs.values()):
            before = self.before
            for name, executors in WORKERS.items():
                self._beat_all(name)
                self._reap(name)
                self.look()
                for slot in SLOTS:
                    for executor in executors:
                        claim = self.told.running.pop((name, slot), None)
                        finish = claim and self._some_end(claim)
                        self._next((name, slot), executor, finish, claim=True)
                        self.look()
            assert self.before != before, "nothing moves"
        self.told.running.clear()
        for _ in range(4):
            self._pass(RETENTION_MS)
            for name in WORKERS:
                self._beat_all(name)
                self._reap(name)
                self.look()
        assert leftovers(self.after) == []

    def _beat_all(self, name: str) -> None:
        self.workers[name].beat(report=self._report(name), busy=[])
        self.raw.eval(_NOTE_EXPIRY, 0)
        self.before = Ledger.of(self.raw)


def without_expiring(ledger: Ledger) -> Ledger:
    """It without what goes by itself, and without what only counts or numbers."""
    kept = {
        "hashes": ledger.hashes,
        "zsets": ledger.zsets,
        "sets": ledger.sets,
        "lists": ledger.lists,
        "strings": ledger.strings,
    }
    passing = {*ledger.expiring, "stats", "test:expiry"}
    return Ledger(
        **{
            kind: {key: value for key, value in found.items() if key not in passing}
            for kind, found in kept.items()
        },  # type: ignore[arg-type]
        expiring={},
    )


def replaced(submission: Submission, **changes: Any) -> Submission:
    return Submission(**{**submission.__dict__, **changes})


@pytest.fixture
def _own_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripts ask the walk for the time; params and results come in small chunks."""
    for module in (app.jobs.store, app.jobs.claims, app.jobs.sessions, app.auth.store):
        monkeypatch.setattr(module, "source", timed)
    monkeypatch.setattr("app.jobs.records.CHUNK_BYTES", CHUNK_BYTES)
    numbers = itertools.count(1)
    names = SimpleNamespace(uuid4=lambda: f"id-{next(numbers)}")
    monkeypatch.setattr(app.jobs.store, "uuid", names)
    monkeypatch.setattr(app.jobs.sessions, "uuid", names)


@pytest.mark.usefixtures("_own_clock")
@pytest.mark.parametrize("seed", range(WALKS))
async def test_whatever_happens_every_key_is_as_it_must_be(redis_url: str, seed: int) -> None:
    walk = Walk(redis_url=redis_url, seed=seed)
    try:
        await walk.begin()
        for _ in range(STEPS):
            await walk.step()
        walk.rest()
    finally:
        await walk.close()
