"""Thousands of jobs while everything is killed, frozen and cut off; then the checker has its say."""

from __future__ import annotations

import collections
import contextlib
import http.client
import json
import random
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psutil
import redis

from app.local.addresses import free_port
from app.local.processes import last_line
from tests.integration.fleet import BELL, Fleet, runs_long, wait_until

from .checker import FINAL, MISSING, POISON, WRONG, Limits, Rest, Violation, check, unlucky
from .history import History, Order
from .proxy import Proxy

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Mapping, Sequence

SOURCES = {
    "bell": BELL,
    "long": runs_long(),
    WRONG: 'OPENQASM 3.0; include "stdgates.inc"; qubit q; nonsense q;',
    POISON: BELL,
}
#: Of a hundred jobs, these are not Bell circuits.
KINDS = {7: WRONG, 37: WRONG, 67: WRONG, 17: POISON, 57: POISON} | dict.fromkeys(
    (3, 33, 63), "long"
)
BACKENDS = {POISON: "simulator@poison"}
EXECUTORS = "aer,poison"
SHOTS, LONG_SHOTS, SEEDS = 20, 8, 4
#: Of all submissions: cancelled at once, and sent again after they were accepted.
CANCELLED_AT_ONCE, SENT_AGAIN = 0.03, 0.05
#: Of what a watcher reads: cancelled.
CANCELLED_BY_WATCHERS = 0.004
#: What a client waits for an answer, and how long it keeps trying.
ANSWER_S, STUBBORN_S = 5.0, 120.0
#: How long a fleet that is in trouble is left alone before it has more.
PATIENCE_S = 0.4
#: How many jobs a watcher looks at in one go; every other time they are recent ones.
WATCHED, RECENT = 20, 100
#: Violations that a table shows.
MARKED = 20
LIMITS = Limits(max_attempts=5, max_crashes=3)
#: What is shown of the log of a worker that did not drain.
LOG_CHARS = 6000
#: Keys that speak of jobs which are queued or run.
ACTIVE_KEYS = ("ready:*", "arrivals:*", "held:*", "leases", "handed_over*", "jobs:*:state:pending")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How large a campaign is."""

    jobs: int
    #: of all random choices: of faults, of what is cancelled, of what is looked at.
    seed: int
    #: fault → how many there are of it; a name of ``Campaign.FAULTS``.
    faults: Mapping[str, int]
    #: jobs per second, all clients together.
    rate: float
    clients: int = 4
    workers: int = 2
    gateways: int = 2
    #: afterwards, a fleet in which nothing happens for so long is stuck.
    stuck_s: float = 30.0


@dataclass(kw_only=True)
class Report:
    """What happened."""

    violations: list[Violation]
    accepted: int
    states: collections.Counter[str]
    faults: collections.Counter[str]
    figures: dict[str, object] = field(default_factory=dict)
    unlucky: list[str] = field(default_factory=list)
    last_words: list[str] = field(default_factory=list)

    def table(self) -> str:
        """Rows for people."""
        rows = {"jobs accepted": self.accepted}
        rows |= {f"fault: {name}": number for name, number in sorted(self.faults.items())}
        rows |= self.figures  # type: ignore[assignment]
        rows |= {"failed for faults alone": len(self.unlucky), "violations": len(self.violations)}
        width = max(map(len, rows))
        lines = [f"{name:{width}}  {value}" for name, value in rows.items()]
        marked = [*self.last_words, *self.violations][:MARKED]
        return "\n".join(lines + [f"! {each}" for each in marked])


def unanswered() -> contextlib.suppress:
    """No answer, or half of one: whoever was asked was killed, frozen or cut off."""
    return contextlib.suppress(redis.RedisError, OSError, http.client.HTTPException, ValueError)


class Campaign:
    """One campaign on one fleet, whose Valkey runs and whose other processes it starts.

    ``run`` breaks things in the thread that calls it, which must have started Valkey: Valkey dies
    with that thread.
    """

    def __init__(self, *, fleet: Fleet, plan: Plan, history: History) -> None:
        self._fleet = fleet
        self._plan = plan
        self._history = history
        self._chance = random.Random(plan.seed)
        self._proxy = Proxy(fleet.valkey.port)
        self._behind_proxy: set[int] = set()
        self._orders: dict[str, Order] = {}
        #: an ordered set of tasks.
        self._accepted: dict[str, None] = {}
        self._stop = threading.Event()
        self._faults: collections.Counter[str] = collections.Counter()
        self._timers: list[threading.Timer] = []
        self._leaving: list[subprocess.Popen[bytes]] = []
        #: of processes that nobody has killed.
        self._last_words: list[str] = []
        self._faults_by_name: dict[str, Callable[[], bool]] = {
            "worker killed": self._kill_worker,
            "worker frozen": self._freeze_worker,
            "worker drained": self._drain_worker,
            "sandbox killed": self._kill_child,
            "sandbox frozen": self._freeze_child,
            "gateway killed": self._kill_gateway,
            "gateway frozen": self._freeze_gateway,
            "Valkey killed": self._kill_valkey,
            "Valkey frozen": self._freeze_valkey,
            "line slow": lambda: self._spoil_line(lambda: self._proxy.slow(0.1)),
            "line stalled": lambda: self._spoil_line(self._proxy.stall),
            "line deaf": lambda: self._spoil_line(self._proxy.deafen),
            "line cut": self._cut_line,
        }

    def run(self) -> Report:
        """Submit, break, come to rest, judge."""
        began = time.monotonic()
        try:
            self._start()
            references = self._references()
            submitting = self._threads("client", self._submit_share, self._plan.clients)
            watching = self._threads("watcher", self._watch, 2)
            broke = time.monotonic()
            try:
                self._break_things(submitting)
            finally:
                self._heal()
                for thread in submitting:
                    thread.join()
                self._stop.set()
                for thread in watching:
                    thread.join()
            calm, left = time.monotonic(), self._states()
            states = self._come_to_rest()
            rested = time.monotonic()
        finally:
            self._stop.set()
            self._proxy.close()
        rest, events = self._rest(), self._history.events()
        report = Report(
            violations=check(
                orders=self._orders,
                events=events,
                rest=rest,
                references=references,
                limits=LIMITS,
            ),
            accepted=len(self._accepted),
            states=states,
            faults=self._faults,
            unlucky=unlucky(self._orders, events, rest),
            last_words=self._last_words,
        )
        outcomes = collections.Counter((e.operation, e.outcome) for e in events)
        attempts = collections.Counter(record["attempt"] for record in rest.records.values())
        report.figures = {
            "states": dict(states),
            "attempts of a job": dict(sorted(attempts.items())),
            **{f"{operation}: {outcome}": n for (operation, outcome), n in outcomes.items()},
            **self._counters(),
            "left when the faults ended": sum(n for word, n in left.items() if word not in FINAL),
            "seconds with faults": round(calm - broke, 1),
            "seconds to come to rest": round(rested - calm, 1),
            "seconds in all": round(time.monotonic() - began, 1),
        }
        return report

    # --- the fleet --------------------------------------------------------------------------------

    def _start(self) -> None:
        for _ in range(self._plan.gateways):
            self._start_gateway()
        for _ in range(self._plan.workers):
            self._start_worker()
        wait_until(lambda: len(self._serving()) == self._plan.workers, 60, "all workers serve")
        wait_until(
            lambda: all(map(self._fleet.gateway_answers, self._fleet.gateways)), 30, "gateways"
        )

    def _start_gateway(self, port: int | None = None) -> None:
        if port is None and self._fleet.gateway is not None:
            port = free_port()
        self._fleet.start_gateway(port, wait=False)

    def _start_worker(self) -> None:
        """Start one; half of them behind the proxy."""
        settings = {}
        behind = sum(worker.pid in self._behind_proxy for worker in self._fleet.workers)
        through = 2 * behind < len(self._fleet.workers)
        if through:
            url = self._fleet.valkey.url
            direct, proxied = f":{self._fleet.valkey.port}/", f":{self._proxy.port}/"
            settings["QFLEET_REDIS_URL"] = url.replace(direct, proxied)
        worker = self._fleet.start_worker(wait=False, **settings)
        if through:
            self._behind_proxy.add(worker.pid)

    def _serving(self) -> list[subprocess.Popen[bytes]]:
        """Workers that beat; none while Valkey is away."""
        try:
            with self._fleet.redis() as client:
                names = client.zrange("workers", 0, -1)
                reports = client.mget([f"worker:{name}" for name in names]) if names else []
        except redis.RedisError:
            return []
        beating = {json.loads(report)["pid"] for report in reports if report}
        return [worker for worker in self._fleet.workers if worker.pid in beating]

    def _replace_the_dead(self) -> None:
        for worker in list(self._fleet.workers):
            if worker.poll() is not None:
                self._faults["worker ended by itself"] += 1
                self._last_words.append(self._words_of(worker))
                self._fleet.workers.remove(worker)
                self._start_worker()
        for port, gateway in list(self._fleet.gateways.items()):
            if gateway.poll() is not None:
                self._faults["gateway ended by itself"] += 1
                self._last_words.append(self._words_of(gateway))
                self._start_gateway(port)

    def _words_of(self, process: subprocess.Popen[bytes]) -> str:
        return f"exit status {process.returncode}: {last_line(self._fleet.logs[process.pid])}"

    # --- clients ----------------------------------------------------------------------------------

    def _threads(
        self, name: str, work: Callable[[int, random.Random], None], number: int
    ) -> list[threading.Thread]:
        threads = [
            threading.Thread(
                target=work, args=(i, random.Random(f"{self._plan.seed} {name} {i}")), name=name
            )
            for i in range(number)
        ]
        for thread in threads:
            thread.start()
        return threads

    def _references(self) -> dict[Order, dict[str, int]]:
        """What every order that can complete gives, run while nothing is broken."""
        references = {}
        for kind in ("bell", "long"):
            for seed in range(SEEDS):
                order = Order(kind=kind, seed=seed)
                task = self._submit(f"reference-{kind}-{seed}", order, self._chance)
                references[order] = self._fleet.wait(task)["result"]
        return references

    def _submit_share(self, client: int, chance: random.Random) -> None:
        pause_s = self._plan.clients / self._plan.rate
        pause = threading.Event()
        for number in range(client, self._plan.jobs, self._plan.clients):
            due = time.monotonic() + pause_s * chance.uniform(0.5, 1.5)
            order = Order(kind=KINDS.get(number % 100, "bell"), seed=chance.randrange(SEEDS))
            task = self._submit(f"key-{number}", order, chance)
            if chance.random() < SENT_AGAIN:
                self._submit(f"key-{number}", order, chance)
            if chance.random() < CANCELLED_AT_ONCE:
                # About as long as a job takes: some are queued, some run, some have ended.
                pause.wait(chance.uniform(0, 0.03))
                self._cancel(task, chance)
            pause.wait(max(due - time.monotonic(), 0))

    def _submit(self, key: str, order: Order, chance: random.Random) -> str:
        """Repeat until it is accepted, as a careful client does."""
        self._orders[key] = order
        body = {
            "circuit": SOURCES[order.kind],
            "seed": order.seed,
            "shots": LONG_SHOTS if order.kind == "long" else SHOTS,
            "backend": BACKENDS.get(order.kind, "simulator@aer"),
        }
        pause, end = threading.Event(), time.monotonic() + STUBBORN_S
        while time.monotonic() < end:
            with unanswered(), self._history.invoke("submit", key) as submission:
                status, answer = self._ask("POST", "/tasks", chance, body, Idempotency_Key=key)
                if status == 200:
                    submission.end("ok", answer["task_id"])
                    self._accepted[answer["task_id"]] = None
                    return str(answer["task_id"])
                # A server that says 5xx may have stored it before it lost Valkey.
                submission.end("fail" if status < 500 else "unknown", str(status))
            pause.wait(0.05)
        raise AssertionError(f"{key} was not accepted within {STUBBORN_S:g} s")

    def _cancel(self, task: str, chance: random.Random) -> None:
        with unanswered(), self._history.invoke("cancel", task) as cancel:
            status, answer = self._ask("DELETE", f"/tasks/{task}", chance)
            if status == 204:
                cancel.end("ok")
            elif status == 409:
                cancel.end("fail", answer["state"])
            elif status < 500:
                cancel.end("fail", str(status))

    def _watch(self, watcher: int, chance: random.Random) -> None:
        """Look at some jobs again and again: one through the gateways, the other in the store."""
        look = self._look_through_a_gateway if watcher == 0 else self._look_into_the_store
        while not self._stop.wait(0.05):
            tasks = list(self._accepted)
            tasks = tasks[-RECENT:] if chance.random() < 0.5 else tasks
            for task in chance.sample(tasks, min(WATCHED, len(tasks))):
                with unanswered():
                    look(task, chance)
                if chance.random() < CANCELLED_BY_WATCHERS:
                    self._cancel(task, chance)

    def _look_through_a_gateway(self, task: str, chance: random.Random) -> None:
        with self._history.invoke("read", task) as read:
            status, answer = self._ask("GET", f"/tasks/{task}", chance)
            if status == 200:
                read.end("ok", answer["state"], result=answer.get("result"))
            elif status == 404:
                read.end("ok", MISSING)

    def _look_into_the_store(self, task: str, chance: random.Random) -> None:
        del chance
        with self._history.invoke("read", task) as read, self._fleet.redis() as client:
            status, attempt = client.hmget(f"job:{task}", "status", "attempt")
            if status is None:
                read.end("ok", MISSING)
            else:
                read.end("ok", status, attempt=int(attempt))

    def _ask(
        self, method: str, path: str, chance: random.Random, body: object = None, **headers: str
    ) -> tuple[int, Any]:
        port = chance.choice(list(self._fleet.gateways))
        return self._fleet.request(method, path, body, port=port, timeout_s=ANSWER_S, **headers)

    # --- faults -----------------------------------------------------------------------------------

    def _break_things(self, submitting: list[threading.Thread]) -> None:
        """All faults of the plan in random order, and then more until all is submitted.

        The next one comes when the fleet has done its share of the jobs, or has had time for it.
        """
        due = [name for name, number in self._plan.faults.items() for _ in range(number)]
        self._chance.shuffle(due)
        share = self._plan.jobs / len(due)
        give_up = time.monotonic() + 10 * self._plan.jobs / self._plan.rate + 120
        while due or any(thread.is_alive() for thread in submitting):
            assert time.monotonic() < give_up, f"left to do: {collections.Counter(due)}"
            self._replace_the_dead()
            if not due:
                due = [self._chance.choice(list(self._plan.faults))]
            done = self._finished()
            name = due.pop(0)
            if not self._faults_by_name[name]():
                # Nobody is there to be hit: later.
                due.insert(self._chance.randint(0, len(due)), name)
                threading.Event().wait(0.02)
                continue
            self._faults[name] += 1
            self._let_work(done + share * self._chance.uniform(0.5, 1.5))

    def _let_work(self, target: float) -> None:
        end, pause = time.monotonic() + PATIENCE_S, threading.Event()
        while self._finished() < target and time.monotonic() < end:
            pause.wait(0.05)

    def _finished(self) -> int:
        """Jobs that are final; 0 while Valkey is away."""
        with contextlib.suppress(redis.RedisError), self._fleet.redis() as client:
            return int(client.zcard("jobs:local:default:state:final"))
        return 0

    def _later(self, after_s: float, what: Callable[[], object]) -> None:
        timer = threading.Timer(after_s, what)
        timer.start()
        self._timers.append(timer)

    def _heal(self) -> None:
        for timer in self._timers:
            timer.join()
        self._proxy.heal()
        for worker in self._leaving:
            # Frozen or cut off while it drained, it may need its lease's time and more.
            status = worker.wait(60)
            log = self._fleet.logs[worker.pid].read_text(errors="replace")
            assert status == 0, f"a worker that drained ended with {status}:\n{log[-LOG_CHARS:]}"

    def _victim(self) -> subprocess.Popen[bytes] | None:
        """A worker that serves; rather one that computes."""
        serving = self._serving()
        busy = [worker for worker in serving if self._computing([worker])]
        return self._chance.choice(busy or serving) if serving else None

    def _kill_worker(self) -> bool:
        worker = self._victim()
        if worker is None:
            return False
        self._fleet.kill(worker)
        self._start_worker()
        return True

    def _freeze_worker(self) -> bool:
        worker = self._victim()
        if worker is None:
            return False
        self._fleet.freeze(worker)
        # Shorter than its lease, or longer.
        self._later(self._chance.choice((0.5, 1.5, 4.5)), lambda: self._fleet.thaw(worker))
        return True

    def _drain_worker(self) -> bool:
        """SIGTERM under load; a new one takes its place."""
        worker = self._victim()
        if worker is None:
            return False
        worker.terminate()
        self._fleet.workers.remove(worker)
        self._leaving.append(worker)
        self._start_worker()
        return True

    def _computing(self, workers: Sequence[subprocess.Popen[bytes]]) -> list[psutil.Process]:
        """Their sandboxes that run a circuit now."""
        found = []
        for worker in workers:
            for child in self._fleet.sandbox_children(worker):
                with contextlib.suppress(psutil.NoSuchProcess):
                    if child.status() == psutil.STATUS_RUNNING:
                        found.append(child)
        return found

    def _child(self) -> psutil.Process | None:
        computing = self._computing(self._fleet.workers)
        return self._chance.choice(computing) if computing else None

    def _kill_child(self) -> bool:
        child = self._child()
        if child is None:
            return False
        try:
            child.kill()
        except psutil.NoSuchProcess:
            return False
        return True

    def _freeze_child(self) -> bool:
        child = self._child()
        if child is None:
            return False

        def thaw() -> None:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.resume()

        try:
            child.suspend()
        except psutil.NoSuchProcess:
            return False
        self._later(self._chance.uniform(0.3, 2), thaw)
        return True

    def _gateway(self) -> tuple[int, subprocess.Popen[bytes]]:
        return self._chance.choice(list(self._fleet.gateways.items()))

    def _kill_gateway(self) -> bool:
        port, gateway = self._gateway()
        self._fleet.kill(gateway)
        self._start_gateway(port)
        return True

    def _freeze_gateway(self) -> bool:
        _, gateway = self._gateway()
        self._fleet.freeze(gateway)
        self._later(self._chance.uniform(0.3, 2), lambda: self._fleet.thaw(gateway))
        return True

    def _kill_valkey(self) -> bool:
        self._fleet.kill_valkey()
        threading.Event().wait(self._chance.uniform(0.05, 0.6))
        self._fleet.start_valkey()
        return True

    def _freeze_valkey(self) -> bool:
        valkey = self._fleet.valkey.process
        assert valkey is not None
        self._fleet.freeze(valkey)
        self._later(self._chance.uniform(0.3, 2.5), lambda: self._fleet.thaw(valkey))
        return True

    def _spoil_line(self, spoil: Callable[[], None]) -> bool:
        if not any(worker.pid in self._behind_proxy for worker in self._serving()):
            return False
        spoil()
        self._later(self._chance.choice((0.5, 1.5, 4.5)), self._proxy.heal)
        return True

    def _cut_line(self) -> bool:
        if not any(worker.pid in self._behind_proxy for worker in self._serving()):
            return False
        self._proxy.cut()
        return True

    # --- afterwards -------------------------------------------------------------------------------

    def _come_to_rest(self) -> collections.Counter[str]:
        """Wait until every accepted job is final, or none has become so for too long."""
        states, pause = self._states(), threading.Event()
        end = time.monotonic() + self._plan.stuck_s
        while not set(states) <= FINAL and time.monotonic() < end:
            self._replace_the_dead()
            pause.wait(0.2)
            before, states = states, self._states()
            if states != before:
                end = time.monotonic() + self._plan.stuck_s
        return states

    def _states(self) -> collections.Counter[str]:
        with self._fleet.redis() as client:
            pipe = client.pipeline(transaction=False)
            for task in self._accepted:
                pipe.hget(f"job:{task}", "status")
            return collections.Counter(str(status) for status in pipe.execute())

    def _rest(self) -> Rest:
        with self._fleet.redis() as client:
            tasks = list(self._accepted)
            pipe = client.pipeline(transaction=False)
            for task in tasks:
                pipe.hgetall(f"job:{task}")
            records = {
                task: record for task, record in zip(tasks, pipe.execute(), strict=True) if record
            }
            results: dict[str, dict[int, dict[str, int]]] = {}
            for key in client.scan_iter("result:*", count=1000):
                _, task, attempt, _ = key.split(":")
                counts = json.loads(client.get(key))["counts"]
                results.setdefault(task, {})[int(attempt)] = counts
            leftovers = {key for pattern in ACTIVE_KEYS for key in client.scan_iter(pattern)}
            running = {name: int(n) for name, n in client.hgetall("running").items()}
            listed = frozenset(client.zrange("jobs:local:default", 0, -1))
        return Rest(
            records=records,
            results=results,
            listed=listed,
            leftovers=frozenset(leftovers),
            running=running,
        )

    def _counters(self) -> dict[str, int]:
        """What the store says of its own work; what it says of each executor is added up."""
        told = {
            "jobs_requeued_total": "given back",
            "finishes_fenced_total": "late finishes refused",
            "claims_handed_back_total": "claims given again",
            "leases_reaped_total": "leases that ran out",
            "wakeups_topped_up_total": "wake-ups topped up",
            "jobs_dead_total": "dead letters",
        }
        found = dict.fromkeys(told.values(), 0)
        with self._fleet.redis() as client:
            for name, value in client.hgetall("stats").items():
                word, _, label = name.partition("|")
                if word in told:
                    row = told[word]
                    if word == "jobs_requeued_total":
                        row = f"{row}: {label}"
                    found[row] = found.get(row, 0) + int(value)
        del found["given back"]
        return found
