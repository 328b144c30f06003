"""Which worker has the GPUs? One of its own, one slot for each; where there is none, nobody suffers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
import redis

from app import cli
from app.bootstrap import build_celery, build_worker
from app.config import Settings
from app.errors import ConfigurationInvalid
from app.executors import gpus
from app.executors.engines import probe
from app.executors.engines.devices import Gpu
from app.executors.engines.probe import Survey
from app.jobs.claims import ClaimStore
from app.jobs.job import WorkerReport

if TYPE_CHECKING:
    from tests.gpu.emulation import Emulation

TWO = Survey(
    gpus=tuple(Gpu(index=index, name="card", memory_bytes=1 << 34) for index in (0, 1)),
    qubits=29,
    worth_from=16,
)
NONE = Survey(reason="the CUDA driver finds no GPU")


@pytest.fixture
def library_path(libraries: Emulation, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine with the emulated driver, for processes that are started."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(libraries.folder))
    return monkeypatch


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The commands that the command line became."""
    became: list[str] = []
    monkeypatch.setattr("os.execv", lambda _, arguments: became.append(" ".join(arguments)))
    for name in ("QFLEET_EXECUTORS", "QFLEET_SLOTS"):
        # What a command changes is put back when the test ends.
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("QFLEET_REDIS_URL", "redis://lab")
    return became


def found(monkeypatch: pytest.MonkeyPatch, survey: Survey) -> None:
    monkeypatch.setattr(gpus, "survey", lambda **_: survey)


# ---- what there is ----


def test_a_survey_tries_the_library_in_another_process(
    library_path: pytest.MonkeyPatch,
) -> None:
    library_path.setenv("EMULATED_GPUS", "2")
    library_path.setenv("EMULATED_GPU_BYTES", str(2**32))

    survey = gpus.survey(measure=False)

    assert survey.reason == ""
    assert [gpu.name for gpu in survey.gpus] == ["emulated GPU"] * 2
    # An eighth of the memory of so small a GPU is not given away.
    assert (survey.qubits, survey.worth_from) == (27, None)


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"EMULATED_GPUS": "0"}, "does not start: CUDA_ERROR_NO_DEVICE"),
        ({"EMULATED_CUDA": "12080"}, "for CUDA 12.8; CUDA 13 needs driver 580 or newer"),
        ({"EMULATED_GPU_BYTES": "16"}, "cuStateVec cannot be used: 3 qubits in double"),
        ({"LD_LIBRARY_PATH": ""}, "no CUDA driver: libcuda.so.1 cannot be loaded"),
    ],
)
def test_a_survey_says_why_there_is_nothing(
    library_path: pytest.MonkeyPatch, environment: dict[str, str], reason: str
) -> None:
    if "LD_LIBRARY_PATH" in environment and gpus.may_have_gpus():
        pytest.skip("there is a driver")
    for name, value in environment.items():
        library_path.setenv(name, value)

    survey = gpus.survey(measure=False)

    assert survey.gpus == ()
    assert reason in survey.reason


def test_a_survey_survives_the_death_of_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")

    assert gpus.survey(measure=False).reason == "asking for GPUs ended with 1: "


def test_the_crossover_is_the_first_width_at_which_the_gpu_is_quicker(
    emulation: Emulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {"custatevec": lambda _: 1.0, "aer": lambda n: 2.0 ** (n - 16.5)}
    monkeypatch.setattr(probe, "_seconds", lambda executor, n: seconds[executor._name](n))

    assert probe.crossover() == 18
    assert probe.crossover(range(12, 16, 2)) == 15


def test_both_sides_of_the_crossover_can_be_timed(emulation: Emulation) -> None:
    assert probe.crossover(range(11, 12)) in (11, 12)


def test_gpus_are_called_as_the_operator_calls_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpus.names(2) == ("0", "1")

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-1234,5")
    assert gpus.names(2) == ("3", "GPU-1234")


# ---- the command line ----


def test_without_a_gpu_the_other_executors_are_served(
    started: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    found(monkeypatch, NONE)
    monkeypatch.setenv("QFLEET_EXECUTORS", "aer,custatevec,auto")
    monkeypatch.setenv("QFLEET_SLOTS", "3")

    assert cli.run(["worker"]) == 0

    assert "--concurrency 3 --queues aer,auto" in started[0]
    assert os.environ["QFLEET_EXECUTORS"] == "aer,auto"
    assert "executor_left_out" in (said := capfd.readouterr().err)
    assert NONE.reason in said


def test_a_worker_for_gpus_alone_does_not_start_without_one(
    started: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found(monkeypatch, NONE)
    monkeypatch.setenv("QFLEET_EXECUTORS", "custatevec")

    assert cli.run(["worker"]) != 0

    assert started == []
    assert f"cannot be served here: {NONE.reason}" in capsys.readouterr().err


def test_every_gpu_has_one_slot(started: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    found(monkeypatch, TWO)
    monkeypatch.setenv("QFLEET_EXECUTORS", "custatevec")

    assert cli.run(["worker"]) == 0
    monkeypatch.setenv("QFLEET_SLOTS", "9")
    assert cli.run(["worker"]) == 0
    monkeypatch.setenv("QFLEET_SLOTS", "1")
    assert cli.run(["worker"]) == 0

    assert [command.partition("--concurrency ")[2][:1] for command in started] == ["2", "2", "1"]
    assert all("--queues custatevec " in command for command in started)


def test_gpus_are_not_shared_with_other_executors(
    started: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found(monkeypatch, TWO)
    monkeypatch.setenv("QFLEET_EXECUTORS", "aer,custatevec")

    assert cli.run(["worker"]) != 0

    assert started == []
    assert "start one with QFLEET_EXECUTORS=custatevec, and one with" in capsys.readouterr().err


# ---- the worker ----


def settings_of(url: str, **more: Any) -> Settings:
    return Settings(redis_url=url, executors=("custatevec",), slots=2, **more)


def test_a_worker_for_gpus_reports_what_they_hold(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found(monkeypatch, TWO)
    settings = settings_of(redis_url)

    worker = build_worker(settings, build_celery(settings))
    try:
        worker.sweeper.tick()
        claims = worker.claims

        assert claims.live() == {"custatevec": 29}
        assert claims.worth_from() == {"custatevec": 16}
        assert worker.sandboxes._zygote._gpus == ("0", "1")
    finally:
        worker.leave()


@pytest.mark.parametrize(
    ("survey", "slots", "because"),
    [(NONE, 1, "cannot be served here: the CUDA driver"), (TWO, 3, "3 slots for 2 GPUs")],
)
def test_a_worker_that_cannot_have_its_gpus_is_not_built(
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
    survey: Survey,
    slots: int,
    because: str,
) -> None:
    found(monkeypatch, survey)
    settings = settings_of(redis_url).model_copy(update={"slots": slots})

    with pytest.raises(ConfigurationInvalid, match=because):
        build_worker(settings, build_celery(settings))

    with redis.Redis.from_url(redis_url) as client:
        assert client.keys("worker*") == []


def test_the_least_threshold_of_all_workers_counts(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        for name, worth_from in (("w1", 20), ("w2", 17), ("w3", None)):
            claims = ClaimStore(
                client=client,
                worker=name,
                lease_s=10,
                wakeup_cap=1,
                max_attempts=1,
                max_crashes=1,
                retention_s=10,
            )
            report = WorkerReport(
                id=name,
                host="h",
                pid=1,
                executors=("custatevec",),
                slots=1,
                busy=0,
                versions={},
                worth_from=worth_from,
            )
            claims.beat(report=report, busy=[])

        assert claims.worth_from() == {"custatevec": 17}
