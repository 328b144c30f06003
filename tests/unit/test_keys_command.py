"""What an operator does with keys, who is asked for one, and who is shown the first."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest

from app import cli
from app.auth.keys import id_of, new_key
from app.auth.store import ADMIN
from app.bootstrap import first_key, open_keys
from app.config import Settings, is_loopback
from app.errors import ConfigurationInvalid, InvalidKey, Unavailable
from app.local.valkey import EmbeddedValkey, running_url

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from app.auth.keys import ApiKey

NOBODY = "redis://127.0.0.1:1/0"


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """An environment with a data folder of its own, in which nothing runs."""
    for name in os.environ:
        if name.startswith(("QFLEET_", "REDIS_")) or name == "BROKER_URL":
            monkeypatch.delenv(name)
    monkeypatch.setenv("QFLEET_DATA", str(tmp_path / "data"))
    return monkeypatch


@pytest.fixture
def database(environment: pytest.MonkeyPatch, redis_url: str) -> str:
    environment.setenv("QFLEET_REDIS_URL", redis_url)
    return redis_url


def found(key: str) -> ApiKey:
    """What the configured store knows of a key."""

    async def find() -> ApiKey:
        settings = Settings()
        async with open_keys(settings, settings.redis or "") as keys:
            return await keys.find(key)

    return asyncio.run(find())


def instances_of(owner: str) -> dict[str, str]:
    """An owner's instances and their plans."""

    async def read() -> dict[str, str]:
        settings = Settings()
        async with open_keys(settings, settings.redis or "") as keys:
            return {each.name: each.plan for each in await keys.instances(owner)}

    return asyncio.run(read())


# --- keys create, list, revoke --------------------------------------------------------------------


def test_a_key_that_was_made_is_the_only_output(
    database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["keys", "create", "--owner", "ana", "--name", "laptop"]) == 0

    told = capsys.readouterr()
    assert found(told.out.strip()).name == "laptop"
    assert "crn:v1:qfleet:public:quantum-computing:local:a/ana:default::" in told.err


def test_a_key_is_made_with_its_instance(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--owner", "ana", "--instance", "lab", "--plan", "internal"]

    assert cli.run(["keys", "create", *options]) == 0

    assert "instance lab, plan internal: crn:" in capsys.readouterr().err


def test_a_key_of_a_wrong_owner_is_not_made(
    database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["keys", "create", "--owner", "A B"]) == 1
    assert cli.run(["keys", "create"]) == 2

    told = capsys.readouterr()
    assert "owner 'A B' is no name" in told.err
    assert told.out == ""
    assert cli.run(["keys", "list"]) == 0
    assert capsys.readouterr().out == ""


def test_keys_are_listed_without_their_texts(
    database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.run(["keys", "create", "--owner", "ana", "--name", "laptop"])
    key = capsys.readouterr().out.strip()

    assert cli.run(["keys", "list"]) == 0

    (line,) = capsys.readouterr().out.splitlines()
    assert line.split()[0] == id_of(key)
    assert line.split()[-3:] == ["valid", "ana", "laptop"]
    assert key[11:] not in line


def test_a_revoked_key_is_refused_and_listed_as_such(
    database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.run(["keys", "create", "--owner", "ana"])
    key = capsys.readouterr().out.strip()

    assert cli.run(["keys", "revoke", id_of(key)]) == 0

    with pytest.raises(InvalidKey):
        found(key)
    cli.run(["keys", "list"])
    assert "revoked 2" in capsys.readouterr().out


def test_a_key_that_is_not_there_cannot_be_revoked(
    database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["keys", "revoke", "nobody"]) == 1
    assert "no API key has the id 'nobody'" in capsys.readouterr().err


def test_a_leaked_key_is_revoked_by_its_text_and_not_shown(
    database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.run(["keys", "create", "--owner", "ana"])
    key = capsys.readouterr().out.strip()

    assert cli.run(["keys", "revoke", key]) == 0
    assert cli.run(["keys", "revoke", new_key()]) == 1

    told = capsys.readouterr()
    with pytest.raises(InvalidKey):
        found(key)
    assert key[11:] not in told.out + told.err
    assert all(len(word) < 20 for word in told.err.split())


def test_all_keys_of_an_owner_are_revoked_and_nobody_elses(
    database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for owner in ("ana", "ana", "bob"):
        cli.run(["keys", "create", "--owner", owner])
    *hers, his = capsys.readouterr().out.split()

    assert cli.run(["keys", "revoke"]) == 2
    assert cli.run(["keys", "revoke", id_of(his), "--owner", "ana"]) == 2
    assert [found(key).owner for key in (*hers, his)] == ["ana", "ana", "bob"]
    assert cli.run(["keys", "revoke", "--owner", "ana"]) == 0
    assert cli.run(["keys", "revoke", "--owner", "ana"]) == 1

    assert "ana has no key that is valid" in capsys.readouterr().err
    for key in hers:
        with pytest.raises(InvalidKey):
            found(key)
    assert found(his).owner == "bob"
    assert cli.run(["keys", "list", "--owner", "bob"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [id_of(his)]


def test_no_key_is_made_with_another_secret_than_the_gateways(
    database: str, environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.setenv("QFLEET_SECRET", "a secret of thirty-two characters")
    assert cli.run(["keys", "create", "--owner", "ana"]) == 0
    environment.delenv("QFLEET_SECRET")
    capsys.readouterr()

    assert cli.run(["keys", "create", "--owner", "bob"]) == 1

    told = capsys.readouterr()
    assert "QFLEET_SECRET: set it here" in told.err
    assert told.out == ""
    assert cli.run(["keys", "list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_without_redis_the_commands_say_so(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.setenv("QFLEET_REDIS_URL", NOBODY)

    assert cli.run(["keys", "list"]) == 1
    assert "Redis does not answer" in capsys.readouterr().err


# --- the local stack's database -------------------------------------------------------------------


@pytest.fixture
def local_valkey(environment: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[EmbeddedValkey]:
    server = EmbeddedValkey(folder=tmp_path / "data/valkey", fsync="everysec")
    server.start()
    yield server
    server.stop()


def test_the_database_of_a_running_local_stack_is_found(
    local_valkey: EmbeddedValkey, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["keys", "create", "--owner", "ana"]) == 0

    key_id = id_of(capsys.readouterr().out.strip())
    with local_valkey.client() as client:
        assert client.hget(f"apikey:{key_id}", "owner") == b"ana"


def test_without_a_running_stack_the_commands_say_what_to_do(
    environment: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["keys", "create", "--owner", "ana"]) == 1

    told = capsys.readouterr()
    assert "python -m app up" in told.err
    assert "QFLEET_REDIS_URL" in told.err
    assert told.out == ""
    assert not (tmp_path / "data").exists()


def test_the_database_of_another_users_stack_is_said_to_be_so(
    local_valkey: EmbeddedValkey,
    environment: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(*_: object) -> bool:
        raise PermissionError(13, "Permission denied")

    environment.setattr("pathlib.Path.exists", refuse)

    assert cli.run(["keys", "create", "--owner", "ana"]) == 1

    told = capsys.readouterr()
    assert "is another user's: run this command as the user who started" in told.err
    assert told.out == ""
    with local_valkey.client() as client:
        assert client.exists("apikeys") == 0


def test_a_stack_that_has_ended_is_not_taken_for_one_that_runs(
    local_valkey: EmbeddedValkey,
) -> None:
    folder = local_valkey._folder
    assert running_url(folder) == local_valkey.url
    before = {path.name: path.read_bytes() for path in folder.glob("p*")}

    local_valkey.stop()

    with pytest.raises(ConfigurationInvalid, match="no local stack runs"):
        running_url(folder)
    assert {path.name: path.read_bytes() for path in folder.glob("p*")} == before


# --- the first key --------------------------------------------------------------------------------


def test_the_first_key_is_the_admins_and_shown_once(database: str) -> None:
    settings = Settings(auth="on")

    key = first_key(settings, database)

    assert key is not None
    assert found(key).owner == ADMIN
    assert first_key(settings, database) is None


@pytest.mark.parametrize("given", [{"auth": "off"}, {"auth": "on", "bootstrap_key": new_key()}])
def test_there_is_no_first_key_where_none_is_wanted(
    environment: pytest.MonkeyPatch, given: dict[str, str]
) -> None:
    assert first_key(Settings(**given), NOBODY) is None


def test_a_gateway_shows_the_first_key_to_who_starts_it(
    environment: pytest.MonkeyPatch, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.setenv("QFLEET_AUTH", "on")
    environment.setenv("QFLEET_PORT", "0")
    environment.setattr("uvicorn.run", lambda *_, **__: None)

    assert cli.run(["serve"]) == 0
    told = capsys.readouterr().err
    assert cli.run(["serve"]) == 0

    assert found(told.split()[2]).owner == ADMIN
    assert capsys.readouterr().err == ""


def test_a_gateway_starts_without_redis(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.setenv("QFLEET_AUTH", "on")
    environment.setenv("QFLEET_PORT", "0")
    environment.setenv("QFLEET_REDIS_URL", NOBODY)
    started: list[object] = []
    environment.setattr("uvicorn.run", lambda app, **_: started.append(app))

    assert cli.run(["serve"]) == 0

    assert started == ["app.main:app"]
    assert "no first key was made: Redis does not answer" in capsys.readouterr().err
    with pytest.raises(Unavailable):
        first_key(Settings(), NOBODY)


# --- who is asked ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "asks"),
    [
        ("127.0.0.1", False),
        ("127.8.9.1", False),
        ("::1", False),
        ("localhost", False),
        ("::ffff:127.0.0.1", False),
        ("0.0.0.0", True),
        ("::", True),
        ("192.168.0.7", True),
        ("::ffff:0.0.0.0", True),
        ("localhost.example.org", True),
        ("api", True),
        ("127.0.0.1.example.org", True),
    ],
)
def test_callers_are_asked_for_keys_unless_only_this_machine_can_call(
    environment: pytest.MonkeyPatch, host: str, asks: bool
) -> None:
    assert is_loopback(host) is not asks
    assert Settings(host=host).asks_for_keys is asks
    assert Settings(host=host, auth="on").asks_for_keys
    assert not Settings(host=host, auth="off").asks_for_keys


@pytest.mark.parametrize(
    ("given", "asks"),
    [
        ({}, False),
        ({"grpc_host": "0.0.0.0"}, True),
        ({"host": "0.0.0.0"}, True),
        ({"auth": "on"}, True),
        ({"auth": "off", "host": "0.0.0.0", "grpc_host": "0.0.0.0"}, False),
    ],
)
def test_who_is_asked_over_http_is_asked_over_grpc(
    environment: pytest.MonkeyPatch, given: dict[str, str], asks: bool
) -> None:
    assert Settings(**given).asks_for_keys_over_grpc is asks


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("QFLEET_BOOTSTRAP_KEY", "short"),
        ("QFLEET_BOOTSTRAP_KEY", "with.a.stop"),
        ("QFLEET_BOOTSTRAP_KEY", "with a blank"),
        ("QFLEET_SECRET", "x" * 31),
    ],
)
def test_a_secret_that_makes_no_sense_is_refused_without_being_told(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    environment.setenv(name, value)

    assert cli.run(["serve"]) == 1

    told = capsys.readouterr().err
    assert name in told
    assert value not in told


def test_settings_do_not_show_their_secrets(environment: pytest.MonkeyPatch) -> None:
    shown = repr(
        Settings(bootstrap_key="the-key-itself", secret="the secret itself, of 32 bytes!!")
    )

    assert "itself" not in shown


# --- plans set, list ------------------------------------------------------------------------------


def test_a_plan_is_set_and_listed(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["plans", "set", "small", "--queued", "100", "--running", "2"]) == 0
    assert cli.run(["plans", "set", "open", "--seconds", "600", "--kept-bytes", "9"]) == 0
    assert cli.run(["plans", "set", "large"]) == 0

    assert cli.run(["plans", "list"]) == 0

    assert (
        capsys.readouterr().out == "open: seconds 600, kept_bytes 9\nsmall: queued 100, running 2\n"
    )


def test_what_a_plan_allows_from_now_on_is_told(
    database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.run(["plans", "set", "small", "--queued", "100"])
    cli.run(["plans", "set", "small", "--running", "2"])
    cli.run(["plans", "set", "small"])

    assert capsys.readouterr().err == "small: queued 100\nsmall: running 2\nsmall: no quota\n"


def test_an_instance_gets_another_plan_without_another_key(
    database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.run(["plans", "set", "small", "--queued", "100"])
    cli.run(["keys", "create", "--owner", "ana", "--instance", "lab"])
    capsys.readouterr()

    assert cli.run(["plans", "assign", "small", "ana"]) == 0
    assert cli.run(["plans", "assign", "large", "ana", "lab"]) == 0

    assert capsys.readouterr().err == (
        "ana, instance default: plan small: queued 100\nana, instance lab: plan large: no quota\n"
    )
    assert instances_of("ana") == {"default": "small", "lab": "large"}


def test_a_plan_goes_to_nobody_who_is_not_there(
    database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.run(["keys", "create", "--owner", "ana"])

    assert cli.run(["plans", "assign", "small", "bob"]) == 1
    assert cli.run(["plans", "assign", "small", "ana", "lab"]) == 1
    assert cli.run(["plans", "assign", "A b", "ana"]) == 1

    told = capsys.readouterr().err
    assert "no API key has the owner 'bob'" in told
    assert "ana has no instance 'lab', but default" in told
    assert instances_of("ana") == {"default": "open"}
    assert instances_of("bob") == {"default": "open"}


def test_a_plan_with_a_wrong_quota_is_not_set(
    database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["plans", "set", "small", "--running", "0"]) == 2
    assert cli.run(["plans", "set", "A b"]) == 1

    assert cli.run(["plans", "list"]) == 0
    assert capsys.readouterr().out == ""
