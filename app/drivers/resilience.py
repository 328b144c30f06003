"""What is done when a driver or a device fails? Retry, break the circuit, take another device."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

import pybreaker
import structlog
import tenacity

from app.drivers.process import Fault
from app.errors import DriverUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.drivers.configuration import BreakerConfig, ResilienceConfig

log = structlog.get_logger()

Answer = TypeVar("Answer")

#: Faults that say nothing about driver or device: the caller's circuit, the caller's kill, and a
#: deadline so short that everybody could open breakers with it.
BLAMELESS = frozenset(("invalid_circuit", "killed", "overdue", "breaker_open"))
#: Faults of the driver itself; of the others, the device is to blame.
OF_THE_DRIVER = frozenset(("hung", "died", "raised", "memory", "invalid_driver"))


class BreakerOpen(Fault):
    """A circuit breaker is open: nothing was tried."""

    kind = "breaker_open"

    def __init__(self, name: str, again_s: float) -> None:
        """Make it.

        Args:
            name: of the breaker.
            again_s: seconds until it lets a call through again.
        """
        super().__init__(
            f"the circuit breaker of {name} is open after repeated failures;"
            f" it lets a call through in {again_s:.1f} s"
        )
        self.again_s = again_s


class Breaker:
    """A circuit breaker for calls that overlap.

    pybreaker holds its lock while a call runs, so calls would wait for each other. It is told of
    outcomes only: ``admit`` before a call, ``record`` or ``withdraw`` after it. While it is not
    closed, one call at a time is its trial, and no other call's outcome counts. What was down for
    a moment is back after a moment: the first trial comes soon, the next ones after ever longer.
    """

    def __init__(self, name: str, config: BreakerConfig) -> None:
        """Make a closed one."""
        self.name = name
        self._config = config
        #: how long it stays open.
        self._reset_s = 0.0
        self._lock = threading.Lock()
        self._opened = 0.0
        self._trial = False
        self._breaker = pybreaker.CircuitBreaker(
            fail_max=config.fail_max,
            reset_timeout=config.reset_timeout_s,
            listeners=[_Listener(self)],
            name=name,
            throw_new_error_on_trip=False,
        )

    @property
    def state(self) -> str:
        """``closed``, ``open`` or ``half-open``."""
        with self._lock:
            is_trial = self._trial
        state = str(self._breaker.current_state)
        return "half-open" if state != "closed" and is_trial else state

    def admit(self) -> bool:
        """Let a call through; gives whether it is the trial.

        Raises:
            BreakerOpen: the breaker is open, or another call is finding out whether it may close.
        """
        with self._lock:
            if self._breaker.current_state == "closed":
                return False
            left = self._opened + self._reset_s - time.monotonic()
            if left > 0 or self._trial:
                raise BreakerOpen(self.name, max(left, 0.0))
            self._trial = True
        log.info("breaker_changed", breaker=self.name, state="half-open")
        return True

    def record(self, fault: Fault | None, *, is_trial: bool) -> None:
        """Say how a call that was let through ended; None: well."""
        with self._lock:
            if is_trial:
                # The clock is ours: the trial was admitted, whatever pybreaker's own clock says.
                self._breaker.half_open()
                self._trial = False
            elif self._breaker.current_state != "closed":
                # It began before the breaker opened.
                return
            try:
                self._breaker.call(_outcome, fault)
            except (Fault, pybreaker.CircuitBreakerError):
                return

    def withdraw(self, *, is_trial: bool) -> None:
        """Say that a call that was let through ended without saying anything."""
        if is_trial:
            with self._lock:
                self._trial = False

    def reset(self) -> None:
        """Close it by hand."""
        with self._lock:
            self._trial = False
            self._breaker.close()

    def opened(self, *, again: bool) -> None:
        """Note when it opened; ``again``: because its trial failed."""
        self._opened = time.monotonic()
        wanted_s = 2 * self._reset_s if again else self._config.reset_first_s
        self._reset_s = min(wanted_s, self._config.reset_timeout_s)


class _Listener(pybreaker.CircuitBreakerListener):
    def __init__(self, breaker: Breaker) -> None:
        self._breaker = breaker

    def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
        del cb
        if new_state.name == "open":
            self._breaker.opened(again=old_state is not None and old_state.name == "half-open")
        if new_state.name != "half-open" and (
            old_state is None or old_state.name != new_state.name
        ):
            log.warning("breaker_changed", breaker=self._breaker.name, state=new_state.name)


def _outcome(fault: Fault | None) -> None:
    if fault is not None:
        raise fault


class ResilienceManager:
    """The breakers of all drivers and devices, and the retries of calls through them."""

    def __init__(self, config: ResilienceConfig) -> None:
        """Make it.

        Args:
            config: how often, how long; another one is for breakers that are made from then on.
        """
        self.config = config
        self._lock = threading.Lock()
        self._breakers: dict[str, Breaker] = {}

    def breaker(self, driver: str, device: str | None = None) -> Breaker:
        """The breaker of a driver, or of one of its devices."""
        name = driver if device is None else f"{device}@{driver}"
        with self._lock:
            if name not in self._breakers:
                self._breakers[name] = Breaker(name, self.config.breaker)
            return self._breakers[name]

    def forget(self, driver: str) -> None:
        """Drop the breakers of a driver and its devices."""
        with self._lock:
            self._breakers = {
                name: breaker
                for name, breaker in self._breakers.items()
                if name.rpartition("@")[2] != driver
            }

    def call(
        self,
        ask: Callable[[], Answer],
        *,
        driver: str,
        device: str | None,
        idempotent: bool,
        timeout_s: float,
        stop: threading.Event | None = None,
    ) -> Answer:
        """Ask, through both breakers, again and again while that may help.

        Args:
            ask: raises ``Fault``.
            driver: its driver.
            device: its device, if it has one.
            idempotent: whether asking twice is the same as asking once.
            timeout_s: after this time there is no further try.
            stop: set when nobody wants the answer any more.

        Raises:
            Fault: the last one.
        """
        retry = self.config.retry
        unwanted = threading.Event() if stop is None else stop

        def worth_trying(error: BaseException) -> bool:
            retryable = isinstance(error, Fault) and error.retryable
            return idempotent and retryable and not unwanted.is_set()

        def tell(state: tenacity.RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            log.warning(
                "driver_call_retried",
                driver_name=driver,
                device_id=device,
                attempt=state.attempt_number,
                reason=error.kind if isinstance(error, Fault) else "unknown",
            )

        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(retry.attempts)
            | tenacity.stop_before_delay(timeout_s),
            wait=tenacity.wait_random_exponential(
                multiplier=retry.first_wait_s, max=retry.max_wait_s
            ),
            retry=tenacity.retry_if_exception(worth_trying),
            before_sleep=tell,
            sleep=tenacity.sleep_using_event(unwanted),
            reraise=True,
        )
        return retrying(lambda: self._guarded(ask, driver, device))

    def _guarded(self, ask: Callable[[], Answer], driver: str, device: str | None) -> Answer:
        breakers = [self.breaker(driver)]
        if device is not None:
            breakers.append(self.breaker(driver, device))
        admitted: list[tuple[Breaker, bool]] = []
        try:
            for breaker in breakers:
                admitted.append((breaker, breaker.admit()))  # noqa: PERF401 - the next may refuse
            answer = ask()
        except BaseException as exc:
            if isinstance(exc, Fault) and exc.kind not in BLAMELESS:
                self._blame(exc, admitted)
            else:
                for breaker, is_trial in admitted:
                    breaker.withdraw(is_trial=is_trial)
            raise
        for breaker, is_trial in admitted:
            breaker.record(None, is_trial=is_trial)
        return answer

    def _blame(self, fault: Fault, admitted: list[tuple[Breaker, bool]]) -> None:
        (own, is_trial), *of_device = admitted
        own.record(fault if fault.kind in OF_THE_DRIVER else None, is_trial=is_trial)
        for breaker, is_trial in of_device:
            breaker.record(fault, is_trial=is_trial)


def unavailable(fault: Fault, *, driver: str, device: str) -> DriverUnavailable:
    """What a caller is told of a fault that nobody could mend."""
    details: dict[str, object] = {"reason": fault.kind, "driver": driver, "device": device}
    if isinstance(fault, BreakerOpen):
        details["again_s"] = round(fault.again_s, 1)
    return DriverUnavailable(f"device {device!r}: {fault.message}", **details)
