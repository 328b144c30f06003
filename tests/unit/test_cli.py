"""What a person sees who types ``python -m app``."""

from __future__ import annotations

import itertools
import json
import os
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from app import __version__, cli
from app.local import doctor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from app.local.valkey import EmbeddedValkey


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port of loopback that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """An environment with a data folder of its own and a free port."""
    for name in os.environ:
        if name.startswith(("QFLEET_", "REDIS_")) or name == "BROKER_URL":
            monkeypatch.delenv(name)
    monkeypatch.setenv("QFLEET_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("QFLEET_PORT", "0")
    return monkeypatch


@pytest.mark.parametrize("arguments", [["--help"], ["-h"]])
def test_help_names_every_command(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert cli.run(arguments) == 0

    told = capsys.readouterr().out
    assert all(
        f"  {name}" in told
        for name in ("up", "serve", "worker", "doctor", "jobs", "sessions", "usage")
    )


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--version"]) == 0
    assert __version__ in capsys.readouterr().out


def test_an_unknown_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["down"]) == 2
    assert "down" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["up", "serve", "worker", "doctor"])
def test_a_setting_that_makes_no_sense_is_named(
    environment: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    command: str,
) -> None:
    environment.setenv("QFLEET_PROGRAM__QUBITS", "many")

    assert cli.run([command]) == 1
    assert "QFLEET_PROGRAM__QUBITS: " in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("QFLEET_PORT", "http", "QFLEET_PORT: "),
        ("REDIS_PORT", "six", "REDIS_PORT: "),
        ("LOG_LEVEL", "loud", "it is 'LOUD'"),
        ("QFLEET_PROGRAM__QUBIT", "3", "no such setting; QFLEET_PROGRAM__QUBITS is one"),
        ("QFLEET_PROGRAM", "{", "QFLEET_PROGRAM: it is not JSON"),
        ("QFLEET_EXECUTORS", ",", "QFLEET_EXECUTORS: it names no executor"),
    ],
)
def test_what_is_wrong_with_a_setting_is_told_by_the_name_it_came_by(
    environment: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: str,
    told: str,
) -> None:
    environment.setenv(name, value)

    assert cli.run(["serve"]) == 1
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("name", ["QFLEET_SECRET", "BROKER_URL"])
def test_a_secret_that_makes_no_sense_is_not_shown(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    environment.setenv(name, "x://hush")

    assert cli.run(["serve"]) == 1
    told = capsys.readouterr().err
    assert name in told
    assert "hush" not in told


def test_a_worker_without_redis_is_told_what_to_set(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.setattr(os, "execv", lambda *_: pytest.fail("it was started"))

    assert cli.run(["worker"]) == 1
    assert "QFLEET_REDIS_URL" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["up", "serve"])
def test_a_taken_port_is_named_with_its_setting(
    environment: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    taken_port: int,
    command: str,
) -> None:
    environment.setenv("QFLEET_PORT", str(taken_port))

    assert cli.run([command]) == 1

    told = capsys.readouterr().err
    assert str(taken_port) in told
    assert "QFLEET_PORT" in told
    assert not (tmp_path / "data/valkey").exists()


def test_a_data_folder_that_cannot_be_made_is_named_with_its_setting(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    environment.setenv("QFLEET_DATA", str(tmp_path / "file/data"))

    assert cli.run(["up"]) == 1

    told = capsys.readouterr().err
    assert str(tmp_path / "file/data") in told
    assert "QFLEET_DATA" in told


def test_a_missing_package_is_named_with_the_way_to_get_it(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.setitem(sys.modules, "uvicorn", None)

    assert cli.run(["serve"]) == 1

    told = capsys.readouterr().err
    assert "uvicorn" in told
    assert "pip install -r requirements.txt" in told


def test_a_worker_becomes_celery_with_the_settings(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("QFLEET_SLOTS", "3")
    environment.setenv("QFLEET_REDIS_URL", "redis://lab")
    environment.setenv("QFLEET_EXECUTORS", "aer,noisy")
    became: list[list[str]] = []
    environment.setattr("os.execv", lambda _program, arguments: became.append(arguments))

    assert cli.run(["worker"]) == 0

    command = " ".join(became[0])
    assert command.startswith(f"{sys.executable} -m celery ")
    assert "--app app.workers.celery_app worker" in command
    assert "--pool threads --concurrency 3 --queues aer,noisy" in command
    assert "--without-gossip --without-mingle --without-heartbeat" in command


def test_a_doctor_finds_nothing_on_a_good_machine(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    environment.setenv("QFLEET_SANDBOX__MEMORY_BYTES", str(2**31))

    assert cli.run(["doctor"]) == 0

    told = capsys.readouterr().out
    assert "fail" not in told
    assert "2.0 GiB for each slot: state vectors of 27 qubits" in told
    assert not (tmp_path / "data").exists()


def test_a_doctor_has_a_remedy_for_each_fault(
    environment: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    taken_port: int,
) -> None:
    environment.setenv("QFLEET_PORT", str(taken_port))
    environment.setenv("QFLEET_SLOTS", "1000")
    environment.setenv("QFLEET_SANDBOX__MEMORY_BYTES", str(2**20))
    environment.setenv("QFLEET_REDIS_URL", "redis://127.0.0.1:1/0")

    assert cli.run(["doctor"]) == 1

    told = capsys.readouterr().out.splitlines()
    faults = {line.split()[1]: remedy for line, remedy in itertools.pairwise(told)}
    assert "QFLEET_PORT" in faults["port:"]
    assert "QFLEET_SLOTS" in faults["cores:"]
    assert "QFLEET_SANDBOX__MEMORY_BYTES" in faults["memory:"]
    assert "QFLEET_REDIS_URL" in faults["Redis:"]


@pytest.mark.parametrize(("answer", "is_well"), [({"status": "alive"}, True), ("hello", False)])
def test_a_doctor_knows_a_gateway_that_runs_from_another_server(
    environment: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answer: object,
    is_well: bool,
) -> None:
    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    environment.setenv("QFLEET_SANDBOX__MEMORY_BYTES", str(2**31))
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environment.setenv("QFLEET_PORT", str(server.server_port))

        assert cli.run(["doctor"]) == (0 if is_well else 1)
        server.shutdown()

    told = capsys.readouterr().out
    assert ("a gateway answers on 127.0.0.1:" in told) is is_well


def test_a_doctor_does_not_mind_a_user_who_may_not_ask_redis(
    environment: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    valkey_server: EmbeddedValkey,
) -> None:
    environment.setenv("QFLEET_SANDBOX__MEMORY_BYTES", str(2**31))
    environment.setenv(
        "QFLEET_REDIS_URL", f"redis://worker:its-word@127.0.0.1:{valkey_server.port}/0"
    )
    with valkey_server.client() as client:
        client.acl_setuser(
            "worker", enabled=True, passwords=["+its-word"], categories=["+@all", "-@dangerous"]
        )
        try:
            assert cli.run(["doctor"]) == 0
        finally:
            client.acl_deluser("worker")
    assert "Redis: answers" in capsys.readouterr().out


def test_a_doctor_finds_a_setting_that_is_mistyped(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.setenv("QFLEET_SLOT", "1")
    environment.setenv("QFLEET_PUBLISH_PORT", "8010")

    assert cli.run(["doctor"]) == 1

    told = capsys.readouterr().out
    assert "nothing reads QFLEET_SLOT\n" in told
    assert "QFLEET_SLOTS may be meant" in told


def test_a_doctor_stops_at_missing_packages(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.setattr(doctor, "PACKAGES", ("fastapi", "no_such_package"))

    assert cli.run(["doctor"]) == 1

    told = capsys.readouterr().out
    assert "no_such_package missing" in told
    assert "fastapi" not in told
    assert "memory" not in told


def test_a_doctor_warns_of_a_redis_that_forgets(
    environment: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    valkey_server: EmbeddedValkey,
) -> None:
    environment.setenv("QFLEET_REDIS_URL", valkey_server.url)
    assert cli.run(["doctor"]) == 0

    with valkey_server.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            assert cli.run(["doctor"]) == 1
        finally:
            client.config_set("maxmemory-policy", "noeviction")
    assert "noeviction" in capsys.readouterr().out
