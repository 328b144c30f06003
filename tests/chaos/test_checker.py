"""The checker finds every violation that is planted, names it, and finds nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from .checker import Limits, Rest, Violation, check, unlucky
from .history import Event, History, Order

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

LIMITS = Limits(max_attempts=5, max_crashes=3)
COUNTS = {"00": 12, "11": 8}


class World:
    """A run in which every promise was kept; a test breaks one."""

    def __init__(self) -> None:
        self.orders = {
            "key-good": Order(kind="bell", seed=1),
            "key-wrong": Order(kind="wrong", seed=0),
            "key-poison": Order(kind="poison", seed=0),
            "key-gone": Order(kind="bell", seed=2),
        }
        self.references: dict[Order, Mapping[str, int]] = {
            order: COUNTS for order in self.orders.values() if order.kind == "bell"
        }
        self.events = [
            event("submit", "key-good", "unknown"),
            event("submit", "key-good", "ok", "good", at=1),
            event("submit", "key-good", "ok", "good", at=2),
            event("submit", "key-wrong", "ok", "wrong"),
            event("submit", "key-poison", "ok", "poison"),
            event("submit", "key-gone", "ok", "gone"),
            event("read", "good", "ok", "Queued", at=3, attempt=0),
            event("read", "good", "ok", "Running", at=4, attempt=1),
            event("read", "good", "ok", "Completed", at=6, attempt=2, result=COUNTS),
            event("cancel", "good", "fail", "Completed", at=7),
            event("cancel", "gone", "ok", at=3),
            event("read", "gone", "ok", "Cancelled", at=4, attempt=1),
        ]
        self.records: dict[str, dict[str, str]] = {
            "good": record("Completed", attempt=2),
            "wrong": record("Failed", attempt=1, code="invalid_program"),
            "poison": record("Failed", attempt=3, crashes=3, code="sandbox_crashed"),
            "gone": record("Cancelled", attempt=1),
        }
        self.results: dict[str, dict[int, Mapping[str, int]]] = {"good": {2: COUNTS}}
        self.listed = set(self.records)
        self.leftovers: set[str] = set()
        self.running = {"aer": 0}

    def rest(self) -> Rest:
        return Rest(
            records=self.records,
            results=self.results,
            listed=frozenset(self.listed),
            leftovers=frozenset(self.leftovers),
            running=self.running,
        )

    def check(self) -> list[Violation]:
        return check(
            orders=self.orders,
            events=self.events,
            rest=self.rest(),
            references=self.references,
            limits=LIMITS,
        )


def event(
    operation: Any, subject: str, outcome: Any, value: str = "", *, at: float = 0, **more: Any
) -> Event:
    return Event(
        began_s=at,
        ended_s=at + 0.5,
        operation=operation,
        subject=subject,
        outcome=outcome,
        value=value,
        **more,
    )


def record(status: str, *, attempt: int, crashes: int = 0, code: str = "") -> dict[str, str]:
    failure = json.dumps({"code": code, "message": "why"}) if code else ""
    return {
        "status": status,
        "attempt": str(attempt),
        "crashes": str(crashes),
        "commits": "1",
        "failure": failure,
        "reason_code": "",
    }


def lose(world: World) -> None:
    world.records["good"]["status"] = "Running"


def forget(world: World) -> None:
    del world.records["good"]


def do_not_find(world: World) -> None:
    world.events.append(event("read", "good", "ok", "missing", at=5))


def commit_twice(world: World) -> None:
    world.records["good"]["commits"] = "2"


def never_commit(world: World) -> None:
    del world.records["good"]["commits"]


def change_a_final_state(world: World) -> None:
    world.events.append(event("read", "gone", "ok", "Completed", at=2))


def leave_a_final_state(world: World) -> None:
    world.events.append(event("read", "good", "ok", "Running", at=8))


def ignore_a_confirmed_cancel(world: World) -> None:
    world.events.append(event("cancel", "good", "ok", at=5))


def refuse_a_cancel_with_another_state(world: World) -> None:
    world.events.append(event("cancel", "good", "fail", "Failed", at=5))


def cancel_what_nobody_cancelled(world: World) -> None:
    world.events = [e for e in world.events if (e.operation, e.subject) != ("cancel", "gone")]


def cancel_what_was_refused(world: World) -> None:
    cancel_what_nobody_cancelled(world)
    world.events.append(event("cancel", "gone", "fail", "503", at=3))


def count_attempts_down(world: World) -> None:
    world.events.append(event("read", "good", "ok", "Running", at=5, attempt=0))


def see_an_attempt_that_never_was(world: World) -> None:
    world.events.append(event("read", "gone", "ok", "Running", at=1, attempt=3))


def end_without_an_attempt(world: World) -> None:
    world.records["wrong"]["attempt"] = "0"


def keep_a_stale_result(world: World) -> None:
    world.results["good"] = {1: COUNTS}


def keep_two_results(world: World) -> None:
    world.results["good"][1] = COUNTS


def keep_a_result_of_a_cancelled_job(world: World) -> None:
    world.results["gone"] = {1: COUNTS}


def lose_a_result(world: World) -> None:
    del world.results["good"]


def store_other_counts(world: World) -> None:
    world.results["good"] = {2: {"00": 20}}


def read_other_counts(world: World) -> None:
    world.events.append(event("read", "good", "ok", "Completed", at=9, result={"11": 20}))


def complete_a_poison(world: World) -> None:
    world.records["poison"] = record("Completed", attempt=1)
    world.results["poison"] = {1: COUNTS}
    world.references[world.orders["key-poison"]] = COUNTS


def give_up_too_early(world: World) -> None:
    world.records["poison"] = record("Failed", attempt=2, crashes=2, code="sandbox_crashed")


def try_too_often(world: World) -> None:
    world.records["poison"]["crashes"] = "4"


def fail_without_a_reason(world: World) -> None:
    world.records["wrong"]["failure"] = json.dumps({"code": "invalid_program", "message": ""})


def blame_a_good_circuit(world: World) -> None:
    world.records["good"] = record("Failed", attempt=2, code="invalid_program")
    world.results.clear()
    world.events = [e for e in world.events if e.subject != "good"]


def fail_for_another_reason(world: World) -> None:
    world.records["wrong"] = record("Failed", attempt=1, code="internal_error")


def crash_on_wrong_source(world: World) -> None:
    world.records["wrong"] = record("Failed", attempt=3, crashes=3, code="sandbox_crashed")


def leave_a_lease(world: World) -> None:
    world.leftovers.add("leases")


def count_a_running_job(world: World) -> None:
    world.running["aer"] = 1


def make_two_jobs_of_one_key(world: World) -> None:
    world.events.append(event("submit", "key-good", "ok", "second", at=3))
    world.records["second"] = record("Completed", attempt=1)
    world.results["second"] = {1: COUNTS}
    world.listed.add("second")


def make_one_job_of_two_keys(world: World) -> None:
    world.orders["key-other"] = world.orders["key-good"]
    world.events.append(event("submit", "key-other", "ok", "good", at=3))


def never_accept(world: World) -> None:
    world.orders["key-other"] = world.orders["key-good"]


def make_a_job_that_nobody_knows(world: World) -> None:
    world.listed.add("nobody's")


def list_nothing(world: World) -> None:
    world.listed.discard("good")


PLANTED: dict[str, list[Callable[[World], None]]] = {
    "I1": [lose, forget, do_not_find],
    "I2": [commit_twice, never_commit],
    "I3": [
        change_a_final_state,
        leave_a_final_state,
        ignore_a_confirmed_cancel,
        refuse_a_cancel_with_another_state,
        cancel_what_nobody_cancelled,
        cancel_what_was_refused,
    ],
    "I4": [
        count_attempts_down,
        see_an_attempt_that_never_was,
        end_without_an_attempt,
        keep_a_stale_result,
        keep_two_results,
        keep_a_result_of_a_cancelled_job,
        lose_a_result,
    ],
    "I5": [store_other_counts, read_other_counts],
    "I6": [
        complete_a_poison,
        give_up_too_early,
        try_too_often,
        fail_without_a_reason,
        blame_a_good_circuit,
        fail_for_another_reason,
        crash_on_wrong_source,
    ],
    "I7": [leave_a_lease, count_a_running_job],
    "I8": [
        make_two_jobs_of_one_key,
        make_one_job_of_two_keys,
        never_accept,
        make_a_job_that_nobody_knows,
        list_nothing,
    ],
}


def test_kept_promises_are_no_violation() -> None:
    world = World()

    assert world.check() == []
    assert unlucky(world.orders, world.events, world.rest()) == []


@pytest.mark.parametrize(
    ("invariant", "plant"),
    [(invariant, plant) for invariant, plants in PLANTED.items() for plant in plants],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_planted_violation_is_found(invariant: str, plant: Callable[[World], None]) -> None:
    world = World()

    plant(world)

    assert {violation.invariant for violation in world.check()} == {invariant}


def test_a_job_that_ran_too_long_may_be_cancelled_by_the_clock() -> None:
    world = World()
    cancel_what_nobody_cancelled(world)
    world.records["gone"]["reason_code"] = "1305"

    assert world.check() == []


def test_a_cancel_whose_answer_was_lost_may_have_happened_or_not() -> None:
    world = World()
    world.events = [
        replace(e, outcome="unknown") if e.operation == "cancel" else e for e in world.events
    ]

    assert world.check() == []


def test_reads_that_overlap_may_be_answered_in_either_order() -> None:
    world = World()
    # Began before the read that saw the end had its answer.
    world.events.append(event("read", "good", "ok", "Running", at=6.25, attempt=1))

    assert world.check() == []


def test_a_job_that_faults_hit_too_often_is_counted_and_no_violation() -> None:
    world = World()
    blame_a_good_circuit(world)
    world.records["good"] = record("Failed", attempt=3, crashes=3, code="sandbox_crashed")

    assert world.check() == []
    assert unlucky(world.orders, world.events, world.rest()) == ["good"]


def test_a_history_keeps_what_was_told_and_what_was_not(tmp_path: Path) -> None:
    history = History(tmp_path / "history.jsonl")
    with history.invoke("submit", "key") as submission:
        submission.end("ok", "task")
    with pytest.raises(OSError, match="gone"), history.invoke("cancel", "task"):
        raise OSError("gone")
    history.close()

    submitted, cancelled = history.events()

    assert (submitted.outcome, submitted.value) == ("ok", "task")
    assert cancelled.outcome == "unknown"
    assert submitted.began_s <= submitted.ended_s <= cancelled.began_s
    written = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [line["outcome"] for line in written] == ["ok", "unknown"]
