"""What an operator sees of everybody's jobs and sessions, and ends."""

from __future__ import annotations

import asyncio
import os
import re
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from app import cli, oversight
from app.auth.principal import Principal
from app.bootstrap import open_keys, open_oversight
from app.config import Settings
from app.errors import SessionClosed
from app.jobs import sessions as session_store
from app.jobs.claims import Claim, ClaimStore, Finish
from app.jobs.connection import connect_worker
from app.jobs.job import Failure, JobStatus, Submission, WorkerReport
from app.jobs.session import Session, SessionMode, SessionRequest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ANA = Principal(owner="ana")
LAB = Principal(owner="ana", instance="lab")
BOB = Principal(owner="bob")
ERASE = "\x1b[2J"


@pytest.fixture(autouse=True)
def database(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, redis_url: str) -> str:
    """An empty database, with keys of two owners, one with two instances."""
    for name in os.environ:
        if name.startswith(("QFLEET_", "REDIS_")) or name == "BROKER_URL":
            monkeypatch.delenv(name)
    monkeypatch.setenv("QFLEET_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("QFLEET_REDIS_URL", redis_url)

    async def issue() -> None:
        async with open_keys(Settings(), redis_url) as keys:
            await keys.issue(owner="ana")
            await keys.issue(owner="ana", instance="lab", plan="small")
            await keys.issue(owner="bob")

    asyncio.run(issue())
    return redis_url


@pytest.fixture
def worker(redis_url: str) -> Iterator[ClaimStore]:
    with connect_worker(redis_url) as client:
        yield ClaimStore(
            client=client,
            worker="w1",
            lease_s=60,
            wakeup_cap=4,
            max_attempts=5,
            max_crashes=3,
            retention_s=1000,
        )


def submitted(principal: Principal, **changes: Any) -> str:
    """The id of a new job of somebody's."""
    values: dict[str, Any] = {
        "program_id": "qasm3",
        "params": b"the program itself",
        "backend": "simulator@aer",
    }

    async def submit() -> str:
        settings = Settings()
        async with open_oversight(settings, settings.redis or "") as everybody:
            job = await everybody._dispatcher.submit(principal, Submission(**(values | changes)))
            return job.id

    return asyncio.run(submit())


def opened(principal: Principal, mode: SessionMode = SessionMode.DEDICATED) -> str:
    """The id of a new session of somebody's."""
    request = SessionRequest(
        mode=mode, backend="simulator@aer", max_ttl_s=3600, interactive_ttl_s=60
    )

    async def open_one() -> str:
        settings = Settings()
        async with open_oversight(settings, settings.redis or "") as everybody:
            return (await everybody._dispatcher.open_session(principal, request)).id

    return asyncio.run(open_one())


def sessions() -> dict[str, Session]:
    """All sessions, by id."""

    async def read() -> dict[str, Session]:
        settings = Settings()
        async with open_oversight(settings, settings.redis or "") as everybody:
            return {session.id: session for session in await everybody.sessions(limit=1000)}

    return asyncio.run(read())


def accepting() -> dict[str, bool]:
    """Whether each session takes jobs."""
    return {session.id: session.accepting for session in sessions().values()}


def stepped(worker: ClaimStore, finish: Finish | None = None) -> Claim | None:
    """Finish a job, or claim the next."""
    return worker.next(slot="0", executor="aer", wakeup="w", finish=finish, claim=finish is None)[1]


def failed(worker: ClaimStore, *, message: str, log: str = "") -> str:
    """Claim the next job and let it fail; gives its id."""
    claim = stepped(worker)
    assert claim is not None
    stepped(
        worker,
        Finish(
            job_id=claim.job.id,
            attempt=claim.job.attempt,
            status=JobStatus.FAILED,
            failure=Failure(code="invalid_program", message=message),
            log=log,
        ),
    )
    return claim.job.id


def states() -> dict[str, str]:
    """What `jobs list` says of each job."""

    async def read() -> dict[str, str]:
        settings = Settings()
        async with open_oversight(settings, settings.redis or "") as everybody:
            return {job.id: job.status.value for job in await everybody.jobs(limit=1000)}

    return asyncio.run(read())


# --- jobs list ------------------------------------------------------------------------------------


def test_jobs_of_everybody_are_listed_newest_first(
    worker: ClaimStore, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = [submitted(ANA), submitted(LAB), submitted(BOB)]
    failed(worker, message="no such gate")
    stepped(worker)

    assert cli.run(["jobs", "list"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ids[::-1]
    assert [line.split()[1] for line in lines].count("Queued") == 1
    assert re.search(r"Failed .* ana +default +simulator@aer +invalid_program$", lines[2])
    assert " ana  lab  simulator@aer" in lines[1]


def test_a_list_is_narrowed_by_owner_state_and_number(
    worker: ClaimStore, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, his = submitted(ANA), submitted(ANA), submitted(BOB)
    assert failed(worker, message="no") == first

    def listed(*options: str) -> list[str]:
        assert cli.run(["jobs", "list", *options]) == 0
        return [line.split()[0] for line in capsys.readouterr().out.splitlines()]

    assert listed("--owner", "ana") == [second, first]
    assert listed("--pending") == [his, second]
    assert listed("--ended") == [first]
    assert listed("--limit", "1") == [his]
    assert listed("--owner", "nobody") == []
    assert cli.run(["jobs", "list", "--limit", "0"]) == 2


def test_jobs_from_the_time_without_keys_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    job_id = submitted(Principal(owner="local"))

    assert cli.run(["jobs", "list"]) == 0

    assert capsys.readouterr().out.startswith(job_id)


# --- jobs show ------------------------------------------------------------------------------------


def test_why_a_job_failed_is_shown_and_nothing_of_what_was_sent(
    worker: ClaimStore, capsys: pytest.CaptureFixture[str]
) -> None:
    job_id = submitted(LAB)
    failed(worker, message="gate 'foo'\nis not defined", log="a line of the log")

    assert cli.run(["jobs", "show", job_id]) == 0

    told = capsys.readouterr().out
    assert "owner    ana, instance lab\n" in told
    assert "error    invalid_program\nmessage  gate 'foo'\n         is not defined\n" in told
    assert "a line of the log" in told
    assert "program itself" not in told


def test_what_a_caller_wrote_cannot_steer_the_terminal(
    worker: ClaimStore, capsys: pytest.CaptureFixture[str]
) -> None:
    job_id = submitted(ANA)
    failed(worker, message=f"what is {ERASE}", log=f"{ERASE}\r\x07")

    assert cli.run(["jobs", "show", job_id]) == 0

    told = capsys.readouterr().out
    assert "what is \ufffd[2J" in told
    assert all(each.isprintable() or each == "\n" for each in told)


def test_of_a_private_job_neither_message_nor_log_is_shown(
    worker: ClaimStore, capsys: pytest.CaptureFixture[str]
) -> None:
    job_id = submitted(ANA, private=True)
    failed(worker, message="my recipe", log="my ingredients")

    assert cli.run(["jobs", "show", job_id]) == 0

    told = capsys.readouterr().out
    assert "invalid_program" in told
    assert "the job is private" in told
    assert "my " not in told


def test_a_job_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["jobs", "show", "nothing"]) == 1
    assert "there is no job 'nothing'" in capsys.readouterr().err


# --- jobs cancel ----------------------------------------------------------------------------------


def test_jobs_are_ended_whoevers_they_are(
    worker: ClaimStore, capsys: pytest.CaptureFixture[str]
) -> None:
    running, queued, other = submitted(ANA), submitted(BOB), submitted(BOB)
    assert stepped(worker) is not None

    assert cli.run(["jobs", "cancel", running, queued]) == 0

    assert capsys.readouterr().err == "2 cancelled\n"
    assert states() == {running: "Cancelled", queued: "Cancelled", other: "Queued"}


def test_a_job_that_has_ended_does_not_keep_others_from_being_ended(
    worker: ClaimStore, capsys: pytest.CaptureFixture[str]
) -> None:
    over, queued = submitted(ANA), submitted(ANA)
    failed(worker, message="no")

    assert cli.run(["jobs", "cancel", over, "nothing", queued]) == 1

    told = capsys.readouterr().err
    assert "has ended (Failed)" in told
    assert "there is no job 'nothing'" in told
    assert told.endswith("1 cancelled\n")
    assert states() == {over: "Failed", queued: "Cancelled"}


def listed_to_be_ended() -> set[str]:
    """Which jobs of ana's `jobs cancel` takes in hand."""

    async def read() -> set[str]:
        settings = Settings()
        async with open_oversight(settings, settings.redis or "") as everybody:
            return set(await everybody.pending("ana"))

    return asyncio.run(read())


def test_all_jobs_of_an_owner_are_ended_and_nobody_elses(
    worker: ClaimStore, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oversight, "PAGE", 2)
    over = submitted(ANA)
    failed(worker, message="no")
    hers = [submitted(ANA) for _ in range(5)] + [submitted(LAB)]
    his = submitted(BOB)
    before = dict.fromkeys([*hers, his], "Queued") | {over: "Failed"}

    assert cli.run(["jobs", "cancel"]) == 2
    assert cli.run(["jobs", "cancel", his, "--owner", "ana"]) == 2
    assert states() == before
    assert listed_to_be_ended() == set(hers)
    capsys.readouterr()
    assert cli.run(["jobs", "cancel", "--owner", "ana"]) == 0

    assert capsys.readouterr().err == "6 cancelled\n"
    assert states() == before | dict.fromkeys(hers, "Cancelled")


def test_a_job_that_ends_meanwhile_is_no_fault_of_whoever_ends_all(
    worker: ClaimStore, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    over, queued = submitted(ANA), submitted(ANA)
    failed(worker, message="no")

    async def as_it_was(*_: object) -> tuple[str, ...]:
        return (over, queued)

    monkeypatch.setattr(oversight.Oversight, "pending", as_it_was)

    assert cli.run(["jobs", "cancel", "--owner", "ana"]) == 0

    assert capsys.readouterr().err == "1 cancelled\n"
    assert states() == {over: "Failed", queued: "Cancelled"}


# --- jobs delete ----------------------------------------------------------------------------------


def test_jobs_are_deleted_whoevers_they_are(
    worker: ClaimStore, redis_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    over, queued, his = submitted(ANA), submitted(ANA), submitted(BOB)
    failed(worker, message="no", log="a line")

    assert cli.run(["jobs", "delete", "--yes", over, "nothing", queued]) == 1

    told = capsys.readouterr().err
    assert "there is no job 'nothing'" in told
    assert told.endswith("2 deleted\n")
    assert states() == {his: "Queued"}
    with connect_worker(redis_url) as client:
        assert [key for key in client.scan_iter() if over.encode() in key] == []


def test_all_jobs_of_an_owner_are_deleted_after_a_question(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oversight, "PAGE", 2)
    hers = [submitted(ANA) for _ in range(3)] + [submitted(LAB)]
    his = submitted(BOB)

    asked: list[str] = []
    answers = ["n", "y"]

    def answer(prompt: str) -> str:
        asked.append(prompt)
        return answers[len(asked) - 1]

    monkeypatch.setattr("click.termui.visible_prompt_func", answer)
    assert cli.run(["jobs", "delete", "--owner", "ana"]) == cli.INTERRUPTED
    assert states() == dict.fromkeys([*hers, his], "Queued")
    assert cli.run(["jobs", "delete", "--owner", "ana"]) == 0

    assert asked == ["Delete 4 jobs? [y/N]: "] * 2
    assert states() == {his: "Queued"}
    assert cli.run(["jobs", "delete"]) == 2


# --- sessions list --------------------------------------------------------------------------------


def test_sessions_of_everybody_are_listed_newest_first_with_their_jobs(
    worker: ClaimStore, capsys: pytest.CaptureFixture[str]
) -> None:
    hers, lab, his = opened(ANA), opened(LAB, SessionMode.BATCH), opened(BOB)
    submitted(ANA, session_id=hers), submitted(ANA, session_id=hers)
    stepped(worker)

    assert cli.run(["sessions", "list"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [his, lab, hers]
    assert "  batch      0 queued  0 running  ana  lab  simulator@aer" in lines[1]
    assert f"{hers}  active    2" in lines[2]
    assert lines[2].endswith("  dedicated  1 queued  1 running  ana  default  simulator@aer")


def test_a_list_of_sessions_is_narrowed_by_owner_state_and_number(
    worker: ClaimStore, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_store, "PAGE", 1)
    over, active, first, second = opened(ANA), opened(ANA), opened(BOB), opened(ANA)
    submitted(ANA, session_id=active)
    stepped(worker)
    assert cli.run(["sessions", "close", over]) == 0
    capsys.readouterr()

    def listed(*options: str) -> list[str]:
        assert cli.run(["sessions", "list", *options]) == 0
        return [line.split()[0] for line in capsys.readouterr().out.splitlines()]

    assert listed("--owner", "ana") == [second, active, over]
    assert listed("--state", "closed") == [over]
    assert listed("--state", "open", "--state", "active") == [second, first, active]
    assert listed("--state", "open", "--limit", "1", "--owner", "bob") == [first]
    assert listed("--limit", "2") == [second, first]
    assert listed("--owner", "nobody") == []
    assert cli.run(["sessions", "list", "--state", "gone"]) == 2


# --- sessions show --------------------------------------------------------------------------------


def test_a_session_is_shown_with_its_times_and_its_jobs(
    worker: ClaimStore, capsys: pytest.CaptureFixture[str]
) -> None:
    session_id = opened(LAB)
    submitted(LAB, session_id=session_id), submitted(LAB, session_id=session_id)
    stepped(worker)

    assert cli.run(["sessions", "show", session_id]) == 0

    told = capsys.readouterr().out
    assert told.startswith(f"session  {session_id}, dedicated\nstate    active\n")
    assert "owner    ana, instance lab\nbackend  simulator@aer\nexecutor aer\n" in told
    assert "jobs     1 queued, 1 running\nran      0.0 s\n" in told
    assert "ended" not in told
    created, started, until = (
        datetime.fromisoformat(re.search(rf"^{name} +(.*) UTC$", told, re.MULTILINE)[1])  # type: ignore[index]
        for name in ("created", "started", "until")
    )
    assert created <= started
    assert until == started + timedelta(hours=1)


def test_a_session_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    session_id = opened(ANA)
    submitted(ANA, session_id=session_id)

    for missing in ("nothing", f"{session_id}:ready"):
        assert cli.run(["sessions", "show", missing]) == 1
        assert f"there is no session {missing!r}" in capsys.readouterr().err


# --- sessions close -------------------------------------------------------------------------------


def test_a_closed_session_takes_no_more_jobs_and_runs_those_it_has(
    worker: ClaimStore, capsys: pytest.CaptureFixture[str]
) -> None:
    hers, his = opened(ANA), opened(BOB)
    first, second = submitted(ANA, session_id=hers), submitted(ANA, session_id=hers)
    stepped(worker)

    assert cli.run(["sessions", "close", hers]) == 0

    assert capsys.readouterr().err == "1 closed\n"
    assert states() == {first: "Running", second: "Queued"}
    assert accepting() == {hers: False, his: True}
    with pytest.raises(SessionClosed):
        submitted(ANA, session_id=hers)
    cli.run(["sessions", "show", hers])
    assert "state    active, takes no more jobs\n" in capsys.readouterr().out
    cli.run(["sessions", "list", "--owner", "ana"])
    assert capsys.readouterr().out.endswith("  simulator@aer  takes no more jobs\n")


def test_a_cancelled_session_runs_nothing_that_has_not_begun(
    worker: ClaimStore, capsys: pytest.CaptureFixture[str]
) -> None:
    hers, his = opened(ANA), opened(BOB)
    running, queued = submitted(ANA, session_id=hers), submitted(ANA, session_id=hers)
    stepped(worker)
    other = submitted(BOB, session_id=his)

    assert cli.run(["sessions", "close", "--cancel", hers]) == 0

    assert states() == {running: "Running", queued: "Cancelled", other: "Queued"}
    assert accepting() == {hers: False, his: True}


def test_all_sessions_of_an_owner_are_closed_and_nobody_elses(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_store, "PAGE", 2)
    over = opened(ANA)
    cli.run(["sessions", "close", over])
    hers = [opened(ANA), opened(LAB), opened(ANA), opened(ANA)]
    his = opened(BOB)
    before = dict.fromkeys([*hers, his], True) | {over: False}
    capsys.readouterr()

    assert cli.run(["sessions", "close"]) == 2
    assert cli.run(["sessions", "close", his, "--owner", "ana"]) == 2
    assert accepting() == before
    capsys.readouterr()
    assert cli.run(["sessions", "close", "--owner", "ana"]) == 0

    assert capsys.readouterr().err == "4 closed\n"
    assert accepting() == before | dict.fromkeys(hers, False)


def test_a_session_that_is_not_there_does_not_keep_others_from_being_closed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    over, hers = opened(ANA), opened(ANA)
    cli.run(["sessions", "close", over])
    before = sessions()[over]
    capsys.readouterr()

    assert cli.run(["sessions", "close", "nothing", over, hers]) == 1

    told = capsys.readouterr().err
    assert "there is no session 'nothing'; `sessions list` shows those there are" in told
    assert told.endswith("2 closed\n")
    assert sessions()[over] == before
    assert not accepting()[hers]
    assert cli.run(["sessions", "show", over]) == 0
    assert "state    closed\n" in capsys.readouterr().out


# --- usage, fleet ---------------------------------------------------------------------------------


def test_usage_has_a_line_for_each_instance_of_who_has_a_key(
    worker: ClaimStore, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.run(["plans", "set", "small", "--seconds", "600", "--kept-bytes", "9000"])
    submitted(ANA), submitted(LAB), submitted(LAB)
    stepped(worker), stepped(worker)
    capsys.readouterr()

    assert cli.run(["usage"]) == 0

    told = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in told] == [
        ["ana", "default"],
        ["ana", "lab"],
        ["bob", "default"],
    ]
    assert re.fullmatch(
        r"ana  lab  plan small  \d queued  \d running  [\d.]+ of 600 s  4132 of 9000 bytes kept",
        told[1],
    )
    assert told[0].endswith(" s  2066 bytes kept")
    assert told[2].endswith(" s  0 bytes kept")
    numbers = [[int(word) for word in line.split() if word.isdigit()][:2] for line in told]
    assert [sum(column) for column in zip(*numbers, strict=True)] == [2, 1]
    assert cli.run(["usage", "--owner", "nobody"]) == 0
    assert "nobody like that has a key" in capsys.readouterr().err


def test_the_fleet_is_its_workers_and_its_queues(
    worker: ClaimStore, capsys: pytest.CaptureFixture[str]
) -> None:
    submitted(ANA)
    assert cli.run(["fleet"]) == 0
    assert "no worker lives: jobs wait" in capsys.readouterr().err
    report = WorkerReport(
        id="w1", host="lab7", pid=42, executors=("aer",), slots=2, busy=1, versions={}
    )
    worker.beat(report=report, busy=())

    assert cli.run(["fleet"]) == 0

    told = capsys.readouterr().out
    assert "worker w1  lab7, process 42  1 of 2 slots busy  aer\n" in told
    assert re.search(r"^queue aer  1 queued, the oldest for \d+ s  0 running$", told, re.MULTILINE)


def test_without_redis_the_commands_say_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QFLEET_REDIS_URL", "redis://127.0.0.1:1/0")

    for command in (
        *(["jobs", "list"], ["jobs", "cancel", "--owner", "ana"]),
        *(["sessions", "list"], ["sessions", "close", "nothing"]),
        *(["usage"], ["fleet"]),
    ):
        assert cli.run(command) == 1
        assert "Redis does not answer" in capsys.readouterr().err
