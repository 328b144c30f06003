"""What was true a moment ago? Remembers what was looked up, for a short and bounded time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

Value = TypeVar("Value")


class Recent(Generic[Value]):
    """The answers of the last seconds. A lookup that fails is not remembered."""

    def __init__(self, *, life_s: float, most: int, clock: Callable[[], float]) -> None:
        """Remember nothing yet.

        Args:
            life_s: how long an answer is good for, seconds.
            most: how many are remembered; the oldest go first.
            clock: gives seconds that only grow.
        """
        self._life_s = life_s
        self._most = most
        self._clock = clock
        #: in the order in which they end.
        self._answers: dict[str, tuple[float, Value]] = {}

    async def get(self, name: str, look_up: Callable[[str], Awaitable[Value]]) -> Value:
        """The answer for this name, looked up now or a moment ago."""
        known = self._answers.get(name)
        now = self._clock()
        if known is not None and now < known[0]:
            return known[1]
        answer = await look_up(name)
        self._answers.pop(name, None)
        while len(self._answers) >= self._most:
            del self._answers[next(iter(self._answers))]
        # From before the lookup: what changed while it was under way is seen in time too.
        self._answers[name] = (now + self._life_s, answer)
        return answer
