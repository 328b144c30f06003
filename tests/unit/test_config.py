"""What the environment says is what the settings hold."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from app.config import Settings


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("QFLEET_", "REDIS_")) or name in {
            "BROKER_URL",
            "LOG_LEVEL",
            "ENVIRONMENT",
        }:
            monkeypatch.delenv(name)


def test_without_any_setting_the_gateway_is_for_this_machine_only() -> None:
    settings = Settings()

    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert settings.data == Path("var")
    assert settings.redis is None


def test_slots_are_the_cores_this_process_may_use() -> None:
    assert Settings().slots == len(os.sched_getaffinity(0))


def test_executors_are_split_at_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QFLEET_EXECUTORS", "aer, noisy,,auto")

    assert Settings().executors == ("aer", "noisy", "auto")


def test_a_limit_is_set_by_two_underscores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QFLEET_PROGRAM__QUBITS", "40")

    settings = Settings()

    assert settings.program.qubits == 40
    assert settings.program.shots == 1_000_000


def test_an_empty_variable_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QFLEET_PORT", "")

    assert Settings().port == 8000


@pytest.mark.parametrize("name", ["QFLEET_REDIS_URL", "REDIS_URL", "BROKER_URL"])
def test_each_name_of_the_redis_url_counts(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "redis://there:1/2")

    assert Settings().redis == "redis://there:1/2"


def test_our_own_name_wins_over_a_deployments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://theirs")
    monkeypatch.setenv("QFLEET_REDIS_URL", "redis://ours")

    assert Settings().redis == "redis://ours"


def test_the_url_of_redis_is_put_together_from_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_HOST", "there")
    monkeypatch.setenv("REDIS_PORT", "7000")
    monkeypatch.setenv("REDIS_DB", "3")

    assert Settings().redis == "redis://there:7000/3"


def test_a_password_may_hold_every_character(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_HOST", "there")
    monkeypatch.setenv("REDIS_PASSWORD", "p@ss/wo:rd")

    assert Settings().redis == "redis://:p%40ss%2Fwo%3Ard@there:6379/0"


def test_a_password_does_not_show_when_settings_are_printed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REDIS_PASSWORD", "hidden")

    assert "hidden" not in repr(Settings())


def test_settings_do_not_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QFLEET_PORT", "8001")
    settings = Settings()

    with pytest.raises(ValidationError, match="frozen"):
        settings.port = 1  # type: ignore[misc]
    assert settings.port == 8001


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("QFLEET_PORT", "65536"),
        ("QFLEET_SLOTS", "0"),
        ("QFLEET_LEASE_S", "-1"),
        ("QFLEET_PROGRAM__SHOTS", "0"),
        ("QFLEET_PROGRAM__QUBIT", "3"),
        ("LOG_LEVEL", "loud"),
    ],
)
def test_what_makes_no_sense_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(ValidationError):
        Settings()
