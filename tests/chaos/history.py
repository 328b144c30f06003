"""What did clients ask, and what were they told? A log that the checker judges afterwards."""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

Operation = Literal["submit", "cancel", "read"]
#: ``fail``: nothing has happened. ``unknown``: the answer did not arrive; it may have happened.
Outcome = Literal["ok", "fail", "unknown"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What a client wants to have run, under one Idempotency-Key."""

    #: which circuit.
    kind: str
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One operation of one client, from its invocation to its outcome."""

    #: seconds of one monotonic clock.
    began_s: float
    ended_s: float
    operation: Operation
    #: an Idempotency-Key for ``submit``, a task otherwise.
    subject: str
    outcome: Outcome
    #: the task that a submission made, the state that a read saw, why something failed.
    value: str = ""
    #: attempt that a read saw.
    attempt: int | None = None
    #: counts that a read saw.
    result: Mapping[str, int] | None = None


class Invocation:
    """An operation under way. Without a word of how it ended, it is ``unknown``."""

    def __init__(self) -> None:
        self.outcome: Outcome = "unknown"
        self.value = ""
        self.attempt: int | None = None
        self.result: Mapping[str, int] | None = None

    def end(
        self,
        outcome: Outcome,
        value: str = "",
        *,
        attempt: int | None = None,
        result: Mapping[str, int] | None = None,
    ) -> None:
        self.outcome, self.value = outcome, value
        self.attempt, self.result = attempt, result


class History:
    """Events of all clients, in the order in which they ended. May be written by any thread."""

    def __init__(self, file: Path | None = None) -> None:
        """Make an empty history; with a file it can be read after a crash of ours too."""
        self._lock = threading.Lock()
        self._events: list[Event] = []
        self._file = None if file is None else file.open("w")

    @contextmanager
    def invoke(self, operation: Operation, subject: str) -> Iterator[Invocation]:
        """An operation that ends with the block; an exception in it leaves it ``unknown``."""
        invocation, began_s = Invocation(), time.monotonic()
        try:
            yield invocation
        finally:
            self._add(
                Event(
                    began_s=began_s,
                    ended_s=time.monotonic(),
                    operation=operation,
                    subject=subject,
                    outcome=invocation.outcome,
                    value=invocation.value,
                    attempt=invocation.attempt,
                    result=invocation.result,
                )
            )

    def _add(self, event: Event) -> None:
        with self._lock:
            self._events.append(event)
            if self._file is not None:
                self._file.write(json.dumps(asdict(event)) + "\n")

    def events(self) -> list[Event]:
        """All that has ended so far."""
        with self._lock:
            return list(self._events)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
