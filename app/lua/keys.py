"""Which keys lie in Redis, and what is in them? The whole schema; the scripts build these names.

Times are milliseconds of Redis ``TIME``; no clock of a host is ever compared with another. A
*holder* is ``worker:slot``. ``docs/reference/redis-keys.md`` is this page for operators; a test
holds the two, and a live database, against each other.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Key:
    """One kind of key."""

    #: name with its variable parts in braces.
    pattern: str
    #: Redis type.
    type: str
    #: what is in it.
    content: str


SCHEMA: tuple[Key, ...] = (
    Key(
        pattern="job:{id}",
        type="hash",
        content="the job's record: status, attempt, owner, holder, times, failure. The truth.",
    ),
    Key(
        pattern="params:{id}:{chunk}",
        type="string",
        content="the encoded program as received, in chunks of at most 1 MiB",
    ),
    Key(
        pattern="result:{id}:{attempt}:{chunk}",
        type="string",
        content="the encoded result of that attempt, in chunks of at most 1 MiB",
    ),
    Key(
        pattern="ready:{executor}",
        type="zset",
        content="owners with queued jobs → service consumed (start tag, ms)",
    ),
    Key(
        pattern="ready:{executor}:{owner}",
        type="zset",
        content="that owner's queued jobs → order: priority first, then arrival",
    ),
    Key(
        pattern="window:{executor}:{owner}:{instance}",
        type="zset",
        content="those that may start by its running quota, if its plan has one → order",
    ),
    Key(
        pattern="parked:{executor}:{owner}:{instance}",
        type="zset",
        content="those that wait for its running quota → order",
    ),
    Key(
        pattern="parked_on:{owner}:{instance}",
        type="set",
        content="executors on which jobs wait for its running quota",
    ),
    Key(
        pattern="parked_scopes",
        type="zset",
        content="`owner:instance` with such jobs → when they were looked at last",
    ),
    Key(pattern="parked_jobs", type="hash", content="executor → number of such jobs"),
    Key(
        pattern="wakeups",
        type="hash",
        content="executor → message that wakes a worker when such a job may start",
    ),
    Key(
        pattern="queued:jobs",
        type="hash",
        content="number of queued jobs: of all (`*`), of an owner",
    ),
    Key(
        pattern="queued:bytes",
        type="hash",
        content="bytes of the params of queued jobs: of all (`*`), of an owner",
    ),
    Key(
        pattern="kept:bytes",
        type="hash",
        content="bytes that all jobs take until they are deleted: of an owner, `owner:instance`",
    ),
    Key(
        pattern="running:scopes",
        type="hash",
        content="`owner:instance` → number of running jobs, validations left out",
    ),
    Key(
        pattern="arrivals:{executor}",
        type="zset",
        content="queued jobs → when they were created: queue length and oldest age",
    ),
    Key(
        pattern="service:{executor}",
        type="zset",
        content="owners served lately → service consumed (start tag, ms)",
    ),
    Key(
        pattern="clock:{executor}",
        type="string",
        content="virtual time of the fair queue: the start tag served last (ms)",
    ),
    Key(
        pattern="handed_over:{executor}",
        type="zset",
        content="jobs that `auto` gave to this executor, while they wait for it → creation",
    ),
    Key(pattern="handed_over", type="set", content="executors that such jobs wait for, or did"),
    Key(pattern="leases", type="zset", content="running jobs → when their lease ends"),
    Key(pattern="running", type="hash", content="executor → number of running jobs"),
    Key(
        pattern="held:{worker}:{slot}",
        type="string",
        content="the running job that this slot claimed last",
    ),
    Key(
        pattern="worker:{worker}",
        type="string",
        content="the worker's last report (JSON); expires when it goes silent",
    ),
    Key(pattern="workers", type="zset", content="workers → time of their last report"),
    Key(
        pattern="jobs:{owner}:{instance}",
        type="zset",
        content="the listed jobs of that owner's instance → order of arrival (µs)",
    ),
    Key(
        pattern="jobs:{owner}:{instance}:{dimension}:{value}",
        type="zset",
        content="those of one backend, program, session, state (pending, final) or tag",
    ),
    Key(
        pattern="workloads:{owner}:{instance}",
        type="zset",
        content="its sessions, and its jobs outside of sessions → order of arrival (µs)",
    ),
    Key(
        pattern="usage:{owner}:{instance}",
        type="hash",
        content="day (since 1970) → how long its jobs have run, ms; of the last 62 days",
    ),
    Key(
        pattern="log:{id}",
        type="string",
        content="what the job's last run has logged",
    ),
    Key(
        pattern="provenance:{id}",
        type="string",
        content="what the job's last run was (JSON): executor, method, seed, versions, times",
    ),
    Key(
        pattern="session:{id}",
        type="hash",
        content="the session's record: state, mode, backend, times. The truth.",
    ),
    Key(
        pattern="session:{id}:ready",
        type="zset",
        content="its queued jobs → order: priority first, then arrival",
    ),
    Key(
        pattern="session:{id}:ready:{executor}",
        type="zset",
        content="those of one executor: a job may have been handed over to another",
    ),
    Key(
        pattern="sessions:{owner}:{instance}",
        type="zset",
        content="the sessions of that owner's instance → order of arrival (µs)",
    ),
    Key(
        pattern="sessions:due",
        type="zset",
        content="sessions → when time changes them next",
    ),
    Key(
        pattern="dedicated:{executor}",
        type="zset",
        content="active dedicated sessions with queued jobs → when one was served last",
    ),
    Key(
        pattern="idempotency:{owner}:{instance}:{key}",
        type="string",
        content="fingerprint of the request and id of the job it made; expires",
    ),
    Key(
        pattern="driver-cache:{digest}",
        type="string",
        content="counts of a request that gave a seed, if driver caches are kept here; expires",
    ),
    Key(
        pattern="unanswered:{owner}:{instance}:{fingerprint}",
        type="string",
        content="job made or deleted, its caller has no answer: repeated, it is the same; expires",
    ),
    Key(
        pattern="apikey:{id}",
        type="hash",
        content="an API key: owner, name, digest (its text is nowhere), created, revoked",
    ),
    Key(
        pattern="apikeys",
        type="zset",
        content="all API keys, the revoked ones too → when they were created",
    ),
    Key(
        pattern="instances:{owner}",
        type="hash",
        content="the owner's instances → plan; `default` is one even if it is not here",
    ),
    Key(
        pattern="plans",
        type="hash",
        content="`plan|quota` → what it allows: queued, running, seconds, kept_bytes; empty: any",
    ),
    Key(
        pattern="failed_logins:{address}",
        type="string",
        content="wrong keys and tokens from that address in a minute; written by `limits`; expires",
    ),
    Key(
        pattern="secret",
        type="string",
        content="what digests and tokens are made with, unless QFLEET_SECRET says it",
    ),
    Key(pattern="expiry", type="zset", content="final jobs → when they are deleted"),
    Key(
        pattern="dead",
        type="list",
        content="last 1000 jobs that failed because their sandbox or worker died too often",
    ),
    Key(
        pattern="sequence",
        type="string",
        content="order of arrival given last: a time in µs, made unique",
    ),
    Key(pattern="wakeup:sequence", type="string", content="counts wake-ups: makes each unique"),
    Key(pattern="reaper:tick", type="string", content="time of the last reap by any worker"),
    Key(pattern="stats", type="hash", content="counters and histograms of /metrics"),
    Key(pattern="probe", type="string", content="written by readiness checks; expires"),
    Key(
        pattern="{executor}",
        type="list",
        content="wake-ups: the Celery queue of that executor (kombu's format)",
    ),
    Key(
        pattern="_kombu.binding.{exchange}",
        type="set",
        content="kombu's own: which queues an exchange feeds",
    ),
    Key(
        pattern="_kombu.binding_permanent.{exchange}",
        type="set",
        content="kombu's own: those of them that stay",
    ),
)

#: Channel on which the id of every job that becomes final is published.
DONE_CHANNEL = "done"
#: Channel on which ``worker:slot id`` of every running job that is cancelled is published.
CANCEL_CHANNEL = "cancel"

#: Upper bounds of the buckets of the histograms in ``stats``, seconds.
BUCKETS_S: tuple[float, ...] = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
)  # fmt: skip

#: Plan of an instance that nobody gave another.
DEFAULT_PLAN = "open"

#: Stands in a rendered wake-up where each pushed copy needs a value of its own.
WAKEUP_MARK = "@UNIQUE@"
