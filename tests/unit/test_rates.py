"""How many requests a key may make."""

from __future__ import annotations

import pytest

from app.auth import rates
from app.auth.rates import RequestRates
from app.errors import RateExceeded


class Clock:
    def __init__(self) -> None:
        self.now = 6000.0

    def __call__(self) -> float:
        return self.now


def allowed(counted: RequestRates, key: str = "k", tries: int = 1000) -> int:
    """How many requests go through now."""
    for i in range(tries):
        try:
            counted.count(key)
        except RateExceeded:
            return i
    return tries


def test_as_many_as_allowed_go_through_in_a_minute() -> None:
    counted = RequestRates(10, clock=Clock())

    assert allowed(counted) == 10
    with pytest.raises(RateExceeded, match="more than 10 requests in a minute"):
        counted.count("k")
    assert allowed(counted, "another") == 10


def test_what_was_asked_in_the_last_minute_counts_by_its_share_of_the_window() -> None:
    clock = Clock()
    counted = RequestRates(10, clock=clock)
    allowed(counted)

    clock.now += 60
    assert allowed(counted) == 0
    clock.now += 30
    assert allowed(counted) == 5
    clock.now += 120
    assert allowed(counted) == 10


@pytest.mark.parametrize("passed_s", [0.0, 17.0, 59.0, 60.0, 75.5])
def test_who_waits_as_long_as_told_may_ask_again(passed_s: float) -> None:
    clock = Clock()
    counted = RequestRates(10, clock=clock)
    allowed(counted)
    clock.now += passed_s
    allowed(counted)

    with pytest.raises(RateExceeded) as refused:
        counted.count("k")

    wait_s = refused.value.details["retry_after_s"]
    assert isinstance(wait_s, int)
    assert 1 <= wait_s <= 66
    clock.now += wait_s
    counted.count("k")


def test_zero_is_no_limit() -> None:
    assert allowed(RequestRates(0)) == 1000


def test_only_so_many_keys_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "MOST_KEYS", 100)
    clock = Clock()
    counted = RequestRates(10, clock=clock)

    for i in range(1000):
        clock.now += 1
        counted.count(f"key{i}")

    assert len(counted._counts) <= 100
