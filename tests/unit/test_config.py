"""What the environment says is what the settings hold."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError
from pydantic_settings import SettingsError

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


def test_a_log_level_may_be_written_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_LEVEL", "debug")

    assert Settings().log_level == "DEBUG"


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
        ("QFLEET_EXECUTORS", ","),
        ("BROKER_URL", "amqp://lab"),
        ("REDIS_PORT", "65536"),
        ("REDIS_DB", "-1"),
    ],
)
def test_what_makes_no_sense_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(ValidationError):
        Settings()


# --- Redis by user and TLS ------------------------------------------------------------------------


def test_a_user_of_redis_is_part_of_its_url() -> None:
    settings = Settings(redis_host="there", redis_username="gate way", redis_password="a/b@c")

    assert settings.redis == "redis://gate%20way:a%2Fb%40c@there:6379/0"


def test_redis_by_tls_shows_a_certificate_that_is_checked() -> None:
    assert Settings(redis_host="there", redis_tls=True).redis == (
        "rediss://there:6379/0?ssl_cert_reqs=required"
    )
    assert Settings(redis_host="there", redis_tls=True, redis_ca_file="/etc/ca b.pem").redis == (
        "rediss://there:6379/0?ssl_ca_certs=%2Fetc%2Fca+b.pem&ssl_cert_reqs=required"
    )


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("redis://there/0", "redis://there/0"),
        ("rediss://there/0", "rediss://there/0?ssl_cert_reqs=required"),
        ("rediss://there?db=1", "rediss://there?db=1&ssl_cert_reqs=required"),
        ("rediss://there/0?ssl_cert_reqs=none", "rediss://there/0?ssl_cert_reqs=none"),
    ],
)
def test_a_url_with_tls_asks_for_a_valid_certificate_unless_it_says_otherwise(
    given: str, used: str
) -> None:
    assert Settings(redis_url=given).redis == used


# --- secrets in files -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "setting"),
    [
        ("QFLEET_SECRET_FILE", "secret"),
        ("QFLEET_BOOTSTRAP_KEY_FILE", "bootstrap_key"),
        ("QFLEET_REDIS_PASSWORD_FILE", "redis_password"),
        ("REDIS_PASSWORD_FILE", "redis_password"),
        ("REDIS_URL_FILE", "redis_url"),
        ("BROKER_URL_FILE", "redis_url"),
    ],
)
def test_a_secret_may_stand_in_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, setting: str
) -> None:
    text = "redis://lab" if setting == "redis_url" else "0123456789abcdef0123456789abcdef"
    file = tmp_path / "secret"
    file.write_text(f"{text}\n")
    monkeypatch.setenv(variable, str(file))

    assert getattr(Settings(), setting) == text


def test_a_secret_in_a_file_is_checked_like_any_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("short")
    monkeypatch.setenv("QFLEET_SECRET_FILE", str(tmp_path / "secret"))

    with pytest.raises(ValidationError, match="at least 32"):
        Settings()


def test_a_secret_that_is_given_twice_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("a")
    monkeypatch.setenv("REDIS_PASSWORD", "b")
    monkeypatch.setenv("REDIS_PASSWORD_FILE", str(tmp_path / "secret"))

    with pytest.raises(SettingsError, match="keep one"):
        Settings()


def test_a_file_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QFLEET_SECRET_FILE", "/nowhere/secret")

    with pytest.raises(SettingsError, match="QFLEET_SECRET_FILE: /nowhere/secret cannot be read"):
        Settings()


# --- origins --------------------------------------------------------------------------------------


def test_origins_are_split_at_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QFLEET_CORS_ORIGINS", "https://a.example, http://[::1]:3000")

    assert Settings().cors_origins == ("https://a.example", "http://[::1]:3000")


@pytest.mark.parametrize("origin", ["*", "https://*", "a.example", "https://a.example/", "null"])
def test_what_is_no_origin_is_refused(monkeypatch: pytest.MonkeyPatch, origin: str) -> None:
    monkeypatch.setenv("QFLEET_CORS_ORIGINS", origin)

    with pytest.raises(ValidationError, match="never"):
        Settings()
