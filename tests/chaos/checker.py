"""Was a promise broken? Judges a history and what lies in the store when all has come to rest.

- I1 every accepted job is final
- I2 it was committed exactly once
- I3 a final state that somebody was told never changes; a confirmed cancel is final, and nothing is
  cancelled that nobody cancelled
- I4 attempts only grow, and the result that is kept is that of the last one
- I5 a completed job's counts are those of its circuit and seed, wherever they are read
- I6 what is wrong or poisonous fails with its reason, after as many tries as are allowed; nothing
  else fails but for as many crashes
- I7 nothing is left over: no lease, no claim, no queued job
- I8 one Idempotency-Key made one job, and there is no job without one

Nothing here talks to anybody: what it is given decides what it says.
"""

from __future__ import annotations

import collections
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from .history import Event, Order

#: What a read says when there is no such task.
MISSING = "missing"
FINAL = frozenset({"Completed", "Failed", "Cancelled"})
#: The program is refused by whoever reads it.
WRONG = "wrong"
#: The circuit kills the sandbox that runs it.
POISON = "poison"
#: reason code of a job that ran too long: the clock may cancel too.
RAN_TOO_LONG = "1305"
#: what is recorded with a job that was tried too often.
TRIED_TOO_OFTEN = frozenset({"sandbox_crashed", "worker_lost"})


@dataclass(frozen=True, kw_only=True)
class Rest:
    """The store when nothing moves any more."""

    #: task → its record.
    records: Mapping[str, Mapping[str, str]]
    #: task → attempt → counts of the result that is kept.
    results: Mapping[str, Mapping[int, Mapping[str, int]]]
    #: tasks in the list of the callers.
    listed: frozenset[str]
    #: keys that speak of queued or running jobs.
    leftovers: frozenset[str] = frozenset()
    #: executor → jobs that are said to run.
    running: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How often a job is tried."""

    max_attempts: int
    max_crashes: int


@dataclass(frozen=True, kw_only=True)
class Violation:
    """A broken promise."""

    #: I1 to I8.
    invariant: str
    #: the key or task.
    subject: str
    what: str


def check(
    *,
    orders: Mapping[str, Order],
    events: Sequence[Event],
    rest: Rest,
    references: Mapping[Order, Mapping[str, int]],
    limits: Limits,
) -> list[Violation]:
    """Every broken promise.

    Args:
        orders: Idempotency-Key → what was submitted with it.
        events: the history.
        rest: the store afterwards.
        references: counts of every order that can complete.
        limits: how often a job is tried.
    """
    made = _made(events)
    order_of = {task: orders[key] for key, tasks in made.items() for task in tasks}
    of_task = collections.defaultdict(list)
    for event in events:
        if event.operation != "submit":
            of_task[event.subject].append(event)
    found = [*_keys(orders, made, rest)]
    for task, order in order_of.items():
        record = rest.records.get(task)
        if record is None or record["status"] not in FINAL:
            state = "missing" if record is None else record["status"]
            found.append(Violation(invariant="I1", subject=task, what=f"it is {state}"))
            continue
        found += _record(task, order, record, limits)
        found += _told(task, of_task[task], record)
        found += _attempts(task, of_task[task], record)
        found += _results(task, of_task[task], record, rest, references.get(order))
    found += [
        Violation(invariant="I7", subject=key, what="it is left over")
        for key in sorted(rest.leftovers)
    ]
    found += [
        Violation(invariant="I7", subject=executor, what=f"{jobs} jobs are said to run")
        for executor, jobs in rest.running.items()
        if jobs
    ]
    return found


def unlucky(orders: Mapping[str, Order], events: Sequence[Event], rest: Rest) -> list[str]:
    """Jobs that failed only because faults hit them as often as a job is tried."""
    return [
        task
        for key, tasks in _made(events).items()
        for task in tasks
        if orders[key].kind not in (WRONG, POISON)
        and rest.records.get(task, {}).get("status") == "Failed"
    ]


def _made(events: Sequence[Event]) -> dict[str, list[str]]:
    """Idempotency-Key → the tasks that were said to come of it, each once."""
    made: dict[str, list[str]] = {}
    for event in events:
        if event.operation == "submit" and event.outcome == "ok":
            tasks = made.setdefault(event.subject, [])
            if event.value not in tasks:
                tasks.append(event.value)
    return made


def _keys(
    orders: Mapping[str, Order], made: Mapping[str, Sequence[str]], rest: Rest
) -> Iterator[Violation]:
    for key in orders:
        tasks = made.get(key, [])
        if len(tasks) != 1:
            yield Violation(invariant="I8", subject=key, what=f"{len(tasks)} tasks: {tasks}")
    makers = collections.Counter(task for tasks in made.values() for task in tasks)
    for task, keys in makers.items():
        if keys > 1:
            yield Violation(invariant="I8", subject=task, what=f"{keys} keys made it")
    for task in rest.listed.difference(makers):
        yield Violation(invariant="I8", subject=task, what="nobody was told of it")
    for task in set(makers).difference(rest.listed):
        yield Violation(invariant="I8", subject=task, what="no list has it")


def _record(
    task: str, order: Order, record: Mapping[str, str], limits: Limits
) -> Iterator[Violation]:
    if record.get("commits") != "1":
        commits = record.get("commits", "0")
        yield Violation(invariant="I2", subject=task, what=f"it was committed {commits} times")
    attempt, crashes = int(record["attempt"]), int(record["crashes"])
    if record["status"] == "Completed" and order.kind in (WRONG, POISON):
        yield Violation(invariant="I6", subject=task, what=f"{order.kind}, yet it completed")
    if record["status"] != "Failed":
        return
    failure = json.loads(record["failure"])
    code, message = failure["code"], failure["message"]
    if not message:
        yield Violation(invariant="I6", subject=task, what=f"{code} without a reason")
    tried = crashes >= limits.max_crashes or attempt >= limits.max_attempts
    if code in TRIED_TOO_OFTEN:
        if order.kind == WRONG:
            yield Violation(invariant="I6", subject=task, what=f"wrong, yet {code}")
        if not tried:
            what = f"{code} after {attempt} attempts and {crashes} crashes"
            yield Violation(invariant="I6", subject=task, what=what)
    elif code != "invalid_program" or order.kind != WRONG:
        yield Violation(invariant="I6", subject=task, what=f"{order.kind}, yet {code}: {message}")
    if crashes > limits.max_crashes:
        yield Violation(invariant="I6", subject=task, what=f"it crashed {crashes} times")


def _told(task: str, events: Sequence[Event], record: Mapping[str, str]) -> Iterator[Violation]:
    """What clients were told of its state, against what it is and what they were told before."""
    status = record["status"]
    reads = [e for e in events if e.operation == "read" and e.outcome == "ok"]
    if any(event.value == MISSING for event in reads):
        yield Violation(invariant="I1", subject=task, what="somebody could not find it")
    reads = [event for event in reads if event.value != MISSING]
    final = [event for event in reads if event.value in FINAL]
    for event in final:
        if event.value != status:
            what = f"somebody was told {event.value}, it is {status}"
            yield Violation(invariant="I3", subject=task, what=what)
    if final:
        first = min(event.ended_s for event in final)
        for event in reads:
            if event.value not in FINAL and event.began_s > first:
                what = f"it was final, and then {event.value}"
                yield Violation(invariant="I3", subject=task, what=what)
    cancels = [event for event in events if event.operation == "cancel"]
    for event in cancels:
        if event.outcome == "ok" and status != "Cancelled":
            what = f"the cancel was confirmed, it is {status}"
            yield Violation(invariant="I3", subject=task, what=what)
        if event.outcome == "fail" and event.value in FINAL and event.value != status:
            what = f"the cancel was refused because it is {event.value}, it is {status}"
            yield Violation(invariant="I3", subject=task, what=what)
    wanted = any(event.outcome != "fail" for event in cancels)
    if status == "Cancelled" and not wanted and record.get("reason_code") != RAN_TOO_LONG:
        yield Violation(invariant="I3", subject=task, what="nobody has cancelled it")


def _attempts(task: str, events: Sequence[Event], record: Mapping[str, str]) -> Iterator[Violation]:
    attempt = int(record["attempt"])
    seen = sorted(
        (e for e in events if e.operation == "read" and e.attempt is not None),
        key=lambda event: event.began_s,
    )
    highest, highest_ended_s = 0, float("-inf")
    for event in seen:
        if (event.attempt or 0) < highest and event.began_s > highest_ended_s:
            what = f"attempt {highest}, and then {event.attempt}"
            yield Violation(invariant="I4", subject=task, what=what)
        if (event.attempt or 0) > highest:
            highest, highest_ended_s = event.attempt or 0, event.ended_s
    if highest > attempt:
        what = f"somebody saw attempt {highest}, it is {attempt}"
        yield Violation(invariant="I4", subject=task, what=what)
    if record["status"] != "Cancelled" and attempt < 1:
        yield Violation(invariant="I4", subject=task, what="it ended without an attempt")


def _results(
    task: str,
    events: Sequence[Event],
    record: Mapping[str, str],
    rest: Rest,
    reference: Mapping[str, int] | None,
) -> Iterator[Violation]:
    kept = rest.results.get(task, {})
    expected = {int(record["attempt"])} if record["status"] == "Completed" else set()
    if set(kept) != expected:
        what = f"results of attempts {sorted(kept)} are kept, not of {sorted(expected)}"
        yield Violation(invariant="I4", subject=task, what=what)
    seen = [e.result for e in events if e.operation == "read" and e.result is not None]
    for counts in (*kept.values(), *seen):
        if counts != reference:
            what = f"counts {dict(counts)}, not {reference}"
            yield Violation(invariant="I5", subject=task, what=what)
