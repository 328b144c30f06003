"""What must the keys say at any moment? Counts all of them from the jobs, and names what differs.

The jobs' and sessions' own hashes are the truth; every queue, list, index and counter is derived
from them a second time here, and compared whole.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import redis

PRIORITY_STEP = 30_000_000_000_000
#: What a job is taken to need beside its strings, and for each tag.
RECORD_BYTES, TAG_BYTES = 2048, 512
FINAL = ("Completed", "Failed", "Cancelled")

#: Reads every key at one moment; gives key, type, ms until it expires or -1, content.
_READ = """
local everything = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
  local kind = redis.call('TYPE', key).ok
  local content
  if kind == 'hash' then content = redis.call('HGETALL', key)
  elseif kind == 'zset' then content = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
  elseif kind == 'set' then content = redis.call('SMEMBERS', key)
  elseif kind == 'list' then content = redis.call('LRANGE', key, 0, -1)
  else content = redis.call('GET', key) end
  everything[#everything + 1] = {key, kind, redis.call('PTTL', key), content}
end
return everything
"""

#: What is kept of the fleet as a whole, and of owners, when no job is left.
_LASTING = (
    "stats", "sequence", "wakeup:sequence", "reaper:tick", "workers", "running", "wakeups", "dead",
    "plans", "handed_over", "secret", "apikeys", "test:clock", "test:expiry",
)  # fmt: skip
_LASTING_PREFIXES = ("clock:", "service:", "worker:", "usage:", "instances:", "apikey:")
_EXPIRING = ("idempotency:", "unanswered:", "worker:")


@dataclass(frozen=True)
class Ledger:
    """Every key at one moment, decoded."""

    hashes: dict[str, dict[str, str]]
    zsets: dict[str, dict[str, float]]
    sets: dict[str, set[str]]
    lists: dict[str, list[str]]
    strings: dict[str, bytes]
    #: keys that expire → in how many ms.
    expiring: dict[str, int] = field(compare=False)

    @classmethod
    def of(cls, raw: redis.Redis) -> Ledger:
        """Read it; the connection must not decode."""
        ledger = cls({}, {}, {}, {}, {}, {})
        reply: Any = raw.eval(_READ, 0)
        for name, kind, ttl, content in reply:
            key = name.decode()
            if ttl >= 0:
                ledger.expiring[key] = ttl
            match kind:
                case b"hash":
                    ledger.hashes[key] = _pairs(content)
                case b"zset":
                    scores = _pairs(content)
                    ledger.zsets[key] = {member: float(score) for member, score in scores.items()}
                case b"set":
                    ledger.sets[key] = {member.decode() for member in content}
                case b"list":
                    ledger.lists[key] = [member.decode() for member in content]
                case _:
                    ledger.strings[key] = content
        return ledger

    @property
    def keys(self) -> set[str]:
        """Names of all keys."""
        kinds = (self.hashes, self.zsets, self.sets, self.lists, self.strings)
        return {key for kind in kinds for key in kind}  # type: ignore[attr-defined]

    @cached_property
    def jobs(self) -> dict[str, dict[str, str]]:
        """The jobs' records by id."""
        return self._records("job:")

    @cached_property
    def sessions(self) -> dict[str, dict[str, str]]:
        """The sessions' records by id."""
        return self._records("session:")

    def _records(self, prefix: str) -> dict[str, dict[str, str]]:
        return {
            key.removeprefix(prefix): record
            for key, record in self.hashes.items()
            if key.startswith(prefix)
        }

    def number(self, key: str) -> int:
        """A string that is a number; 0 when it is not there."""
        return int(self.strings.get(key, b"0"))

    def counted(self, key: str, field: str) -> int:
        """A field of a hash that is a number; 0 when it is not there."""
        return int(self.hashes.get(key, {}).get(field, 0))

    def quota(self, scope: str, what: str) -> int | None:
        """What the plan of a scope allows."""
        owner, _, instance = scope.partition(":")
        plan = self.hashes.get(f"instances:{owner}", {}).get(instance, "open")
        allowed = self.hashes.get("plans", {}).get(f"{plan}|{what}", "")
        return int(allowed) if allowed else None

    def running_of(self, scope: str) -> int:
        """Running jobs of a scope, validations left out."""
        return self.counted("running:scopes", scope)

    def is_parked(self, job_id: str) -> bool:
        """Whether a queued job waits for its scope's quota."""
        job = self.jobs[job_id]
        return job_id in self.zsets.get(f"parked:{job['executor']}:{job['scope']}", {})


def _pairs(flat: list[bytes]) -> dict[str, str]:
    parts = iter(flat)
    return {name.decode(): value.decode() for name, value in zip(parts, parts, strict=True)}


def order_of(job: dict[str, str]) -> int:
    """A job's place among its owner's: priority first, then arrival."""
    return int(job["sequence"]) - int(job["priority"]) * PRIORITY_STEP


def violations(ledger: Ledger, *, now: int) -> list[str]:
    """Everything that is not as it must be, in words; empty when all is well.

    Args:
        ledger: every key.
        now: the latest time that the clock of the scripts has shown, ms.
    """
    return [
        *_wrong_places(ledger),
        *_wrong_counts(ledger),
        *_wrong_records(ledger),
        *_wrong_sessions(ledger),
        *_wrong_quotas(ledger),
        *_wrong_service(ledger),
        *_wrong_strings(ledger),
        *_strangers(ledger),
        *_wrong_times(ledger, now),
    ]


# --- where jobs lie -------------------------------------------------------------------------------


def _places(ledger: Ledger) -> dict[str, dict[str, float | None]]:
    """Every sorted set that is made of jobs and sessions → member → score; None: any score."""
    places: dict[str, dict[str, float | None]] = defaultdict(dict)
    for job_id, job in ledger.jobs.items():
        if job["listed"] == "1":
            _list(places, job_id, job)
        if job["status"] == "Queued":
            _queue(places, ledger, job_id, job)
        elif job["status"] == "Running":
            places["leases"][job_id] = None
        else:
            places["expiry"][job_id] = None
    for session_id, session in ledger.sessions.items():
        scope, arrival = session["scope"], float(session["arrival"])
        places[f"sessions:{scope}"][session_id] = arrival
        places[f"workloads:{scope}"][f"session {session_id}"] = arrival
        places["sessions:due"][session_id] = None
    return places


def _list(places: dict[str, dict[str, float | None]], job_id: str, job: dict[str, str]) -> None:
    every, arrival = f"jobs:{job['scope']}", float(job["arrival"])
    names = [f"backend:{job['backend']}", f"program:{job['program_id']}"]
    names.append(f"state:{'final' if job['status'] in FINAL else 'pending'}")
    names += [f"tag:{tag}" for tag in json.loads(job["tags"])]
    if job["session_id"]:
        names.append(f"session:{job['session_id']}")
    else:
        places[f"workloads:{job['scope']}"][f"job {job_id}"] = arrival
    for key in (every, *(f"{every}:{name}" for name in names)):
        places[key][job_id] = arrival


def _queue(
    places: dict[str, dict[str, float | None]],
    ledger: Ledger,
    job_id: str,
    job: dict[str, str],
) -> None:
    executor, scope, session = job["executor"], job["scope"], job["session_id"]
    order = float(order_of(job))
    places[f"arrivals:{executor}"][job_id] = float(job["created"])
    if session:
        places[f"session:{session}:ready"][job_id] = order
    if job.get("handed_from"):
        places[f"handed_over:{executor}"][job_id] = float(job["created"])
    if ledger.is_parked(job_id):
        places[f"parked:{executor}:{scope}"][job_id] = order
        places["parked_scopes"][scope] = None
        return
    places[f"ready:{executor}"][job["owner"]] = None
    places[f"ready:{executor}:{job['owner']}"][job_id] = order
    if session:
        places[f"session:{session}:ready:{executor}"][job_id] = order
        record = ledger.sessions.get(session, {})
        if record.get("mode") == "dedicated" and record.get("state") == "active":
            places[f"dedicated:{executor}"][session] = None


def _wrong_places(ledger: Ledger) -> list[str]:
    wrong = []
    places = _places(ledger)
    kept = {
        key: found
        for key, found in ledger.zsets.items()
        if key not in _LASTING and not key.startswith((*_LASTING_PREFIXES, "window:"))
    }
    for key in sorted(places.keys() | kept.keys()):
        meant, found = places.get(key, {}), kept.get(key, {})
        for member in sorted(meant.keys() | found.keys()):
            if member not in found:
                wrong.append(f"{member} is not in {key}")
            elif member not in meant:
                wrong.append(f"{member} is in {key} and should not be")
            elif meant[member] is not None and meant[member] != found[member]:
                wrong.append(f"{member} is in {key} at {found[member]}, not at {meant[member]}")
    return wrong


# --- counters -------------------------------------------------------------------------------------


def kept_bytes(ledger: Ledger, job_id: str) -> int:
    """What a job takes until it is deleted; a result that was taken is not its own any more."""
    job = ledger.jobs[job_id]
    chunks = [f"params:{job_id}:{i}" for i in range(int(job["params_chunks"]))]
    chunks += [
        f"result:{job_id}:{job['attempt']}:{i}" for i in range(int(job.get("result_chunks", 0)))
    ]
    strings = [
        ledger.strings.get(key, b"") for key in (*chunks, f"log:{job_id}", f"provenance:{job_id}")
    ]
    strings.append(job.get("failure", "").encode())
    return RECORD_BYTES + len(json.loads(job["tags"])) * TAG_BYTES + sum(map(len, strings))


def _wrong_counts(ledger: Ledger) -> list[str]:
    queued_jobs: Counter[str] = Counter()
    queued_bytes: Counter[str] = Counter()
    running: Counter[str] = Counter()
    running_scopes: Counter[str] = Counter()
    kept: Counter[str] = Counter()
    parked: Counter[str] = Counter()
    parked_on: dict[str, set[str]] = defaultdict(set)
    for job_id, job in ledger.jobs.items():
        for name in (job["owner"], job["scope"]):
            kept[name] += kept_bytes(ledger, job_id)
        if job["status"] == "Queued":
            for name in ("*", job["owner"]):
                queued_jobs[name] += 1
                queued_bytes[name] += int(job["params_bytes"])
            if ledger.is_parked(job_id):
                parked[job["executor"]] += 1
                parked_on[f"parked_on:{job['scope']}"].add(job["executor"])
        elif job["status"] == "Running":
            running[job["executor"]] += 1
            running_scopes[job["scope"]] += job["listed"] == "1"
    meant = {
        "queued:jobs": queued_jobs,
        "queued:bytes": queued_bytes,
        "kept:bytes": kept,
        "running": running,
        "running:scopes": running_scopes,
        "parked_jobs": parked,
    }
    wrong = []
    for key, counted in meant.items():
        found = {field: int(value) for field, value in ledger.hashes.get(key, {}).items()}
        if key == "running":
            found = {executor: number for executor, number in found.items() if number}
        if found != {field: number for field, number in counted.items() if number}:
            wrong.append(f"{key} says {found}, counted are {dict(counted)}")
    sets = {key: found for key, found in ledger.sets.items() if key.startswith("parked_on:")}
    if sets != parked_on:
        wrong.append(f"jobs are parked on {dict(parked_on)}, noted are {sets}")
    return wrong


# --- records --------------------------------------------------------------------------------------


def _wrong_records(ledger: Ledger) -> list[str]:
    wrong, held = [], {}
    for job_id, job in ledger.jobs.items():
        status, has = job["status"], job.keys()
        if status == "Running":
            if not {"holder", "started"} <= has:
                wrong.append(f"{job_id} runs, nobody holds it")
            else:
                held[f"held:{job['holder']}"] = job_id
        elif status == "Queued":
            if {"holder", "started", "finished", "commits", "result_chunks"} & has:
                wrong.append(f"{job_id} is queued and has traces of a run: {sorted(has)}")
        elif status not in FINAL or job.get("commits") != "1" or "finished" not in has:
            wrong.append(f"{job_id} is {status}, ended {job.get('commits')} times")
        if int(job["crashes"]) > int(job["attempt"]):
            wrong.append(f"{job_id} crashed more often than it was tried")
    found = {
        key: value.decode() for key, value in ledger.strings.items() if key.startswith("held:")
    }
    if found != held:
        wrong.append(f"slots hold {held}, noted are {found}")
    return wrong


def _wrong_strings(ledger: Ledger) -> list[str]:
    """Chunks, logs, provenances: those of a job that is there, as many as it says, for ever."""
    wrong = []
    meant: set[str] = set()
    may: set[str] = set()
    for job_id, job in ledger.jobs.items():
        meant.update(f"params:{job_id}:{i}" for i in range(int(job["params_chunks"])))
        chunks = int(job.get("result_chunks", 0))
        meant.update(f"result:{job_id}:{job['attempt']}:{i}" for i in range(chunks))
        if job["status"] in FINAL:
            may.update((f"log:{job_id}", f"provenance:{job_id}"))
    for key in sorted(meant):
        if key not in ledger.strings:
            wrong.append(f"{key} is missing")
        elif key in ledger.expiring:
            wrong.append(f"{key} expires before its job does")
    for key in sorted(ledger.strings.keys() - meant - may):
        is_chunk = key.startswith(("params:", "result:"))
        if is_chunk or key.startswith(_EXPIRING):
            if key not in ledger.expiring:
                wrong.append(f"{key} belongs to no job and never expires")
        elif key.startswith(("log:", "provenance:")):
            wrong.append(f"{key} belongs to no job that has ended")
    return wrong


# --- sessions -------------------------------------------------------------------------------------


def _wrong_sessions(ledger: Ledger) -> list[str]:
    wrong = []
    running: Counter[str] = Counter()
    pending: Counter[str] = Counter()
    for job in ledger.jobs.values():
        running[job["session_id"]] += job["status"] == "Running"
        pending[job["session_id"]] += job["status"] not in FINAL
    for session_id, session in ledger.sessions.items():
        state = session["state"]
        if int(session["running"]) != running[session_id]:
            wrong.append(
                f"session {session_id} has {running[session_id]} running jobs,"
                f" noted are {session['running']}"
            )
        if state == "closed" and pending[session_id]:
            wrong.append(f"session {session_id} is closed, jobs of it are not final")
        if state == "closed" and session["accepting"] == "1":
            wrong.append(f"session {session_id} is closed and takes jobs")
        if state in ("open", "inactive") and running[session_id]:
            wrong.append(f"session {session_id} is {state}, a job of it runs")
        if state != "closed" and session["accepting"] == "0" and not pending[session_id]:
            wrong.append(f"session {session_id} takes no jobs, has none, and is not closed")
        if int(session["active_ms"]) < 0 or int(session["run_ms"]) < 0:
            wrong.append(f"session {session_id} has been active, or has run, for less than nothing")
    gone = pending.keys() - {""} - ledger.sessions.keys()
    wrong += [f"session {each} is gone, jobs of it are not final" for each in gone if pending[each]]
    return wrong


def _wrong_times(ledger: Ledger, now: int) -> list[str]:
    """Everything that waits for time is looked at in time."""
    wrong = []
    pending = {
        job["session_id"] for job in ledger.jobs.values() if job["status"] in ("Queued", "Running")
    }
    for session_id, session in ledger.sessions.items():
        due = ledger.zsets.get("sessions:due", {}).get(session_id)
        if due is None:
            continue
        began = int(session.get("started") or session["created"])
        deadline = began + int(session["max_ttl_ms"])
        if session["state"] == "closed":
            # What ends a session may be a worker or a gateway: their retention is one setting.
            if due < int(session.get("closed", 0)):
                wrong.append(f"session {session_id} is forgotten before it was closed")
        elif due > max(deadline, now + 60_000):
            wrong.append(f"session {session_id} is looked at {due - deadline} ms too late")
        elif session["state"] == "active" and session_id in pending and due < deadline:
            wrong.append(f"session {session_id} has work and would become inactive")
    return wrong


# --- quotas and fairness --------------------------------------------------------------------------


def _wrong_quotas(ledger: Ledger) -> list[str]:
    """What may start is in its scope's window, and nothing else is."""
    wrong = []
    for key, members in ledger.zsets.items():
        if not key.startswith("window:"):
            continue
        _, executor, scope = key.split(":", 2)
        ready = ledger.zsets.get(f"ready:{executor}:{scope.partition(':')[0]}", {})
        for job_id, order in members.items():
            if ready.get(job_id) != order or ledger.jobs[job_id]["scope"] != scope:
                wrong.append(f"{job_id} is in {key}, not where it would start")
    return wrong


def forgotten(ledger: Ledger) -> list[str]:
    """Jobs that wait for a quota that has room: holds unless a quota has just changed."""
    wrong = []
    for key in ledger.zsets:
        if key.startswith("parked:"):
            _, executor, scope = key.split(":", 2)
            limit = ledger.quota(scope, "running")
            window = len(ledger.zsets.get(f"window:{executor}:{scope}", {}))
            if limit is None or ledger.running_of(scope) + window < limit:
                wrong.append(f"{key} waits, and nobody would let it in")
    return wrong


def _wrong_service(ledger: Ledger) -> list[str]:
    """Who waits is ordered by the service that is noted, never behind the virtual time."""
    wrong = []
    for key, owners in ledger.zsets.items():
        kind, _, rest = key.partition(":")
        if kind == "service" and min(owners.values()) < 0:
            wrong.append(f"{key} is negative: {owners}")
        if kind != "ready" or ":" in rest:
            continue
        clock = ledger.number(f"clock:{rest}")
        service = ledger.zsets.get(f"service:{rest}", {})
        for owner, tag in owners.items():
            if tag < clock:
                wrong.append(f"{owner} is {clock - tag} ms behind the clock of {rest}")
            if service.get(owner) != tag:
                wrong.append(f"{owner} waits at {tag} on {rest}, noted are {service.get(owner)}")
    return wrong


# --- what should not be there ---------------------------------------------------------------------


def _strangers(ledger: Ledger) -> list[str]:
    """Hashes, sets, lists and strings of no kind that is known, or of what is gone."""
    wrong = []
    known = (
        *_LASTING,
        "queued:jobs",
        "queued:bytes",
        "kept:bytes",
        "running:scopes",
        "parked_jobs",
    )
    prefixes = (*_LASTING_PREFIXES, *_EXPIRING, "held:", "params:", "result:", "log:",
                "provenance:", "parked_on:")  # fmt: skip
    for key in sorted(ledger.keys - ledger.zsets.keys() - ledger.lists.keys()):
        is_record = key in ledger.hashes and key.startswith(("job:", "session:"))
        if not is_record and key not in known and not key.startswith(prefixes):
            wrong.append(f"{key} is no key of ours")
    return wrong


def leftovers(ledger: Ledger) -> list[str]:
    """Keys that should be gone with the last job and session."""
    return sorted(
        key
        for key in ledger.keys - ledger.expiring.keys() - ledger.lists.keys()
        if key not in _LASTING and not key.startswith(_LASTING_PREFIXES)
    )
