"""A child with a GPU: its own, touched by nobody before, and confined but for that."""

from __future__ import annotations

import shutil
import sys
import tempfile
import threading
from typing import TYPE_CHECKING

import orjson
import psutil
import pytest

from app.config import ProgramLimits, SandboxLimits
from app.errors import SandboxCrashed
from app.executors import Resources
from app.primitives.params import QasmParams, encode_qasm_params
from app.sandbox import files
from app.sandbox.pool import PERFORM, SandboxPool
from app.sandbox.protocol import Request, SandboxKilled

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.gpu.emulation import Emulation

MIB = 1 << 20
RESOURCES = Resources(threads=1, memory_bytes=1024 * MIB, max_result_bytes=MIB)
GHZ = (
    'OPENQASM 3.0; include "stdgates.inc"; qubit[12] q; bit[12] c; h q[0]; t q[0];'
    f" {' '.join(f'cx q[{i}], q[{i + 1}];' for i in range(11))} c = measure q;"
)


def made(
    gpus: tuple[str, ...], slots: int, perform: str = "tests.gpu.sandbox_jobs:perform"
) -> SandboxPool:
    return SandboxPool(
        limits=SandboxLimits(memory_bytes=RESOURCES.memory_bytes),
        resources=RESOURCES,
        slots=slots,
        perform=perform,
        gpus=gpus,
    )


@pytest.fixture(scope="module")
def pool(libraries: Emulation) -> Iterator[SandboxPool]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LD_LIBRARY_PATH", str(libraries.folder))
        pool = made(gpus=("2", "3"), slots=2)
    yield pool
    pool.close()


def asked(job: str, params: bytes = b"") -> Request:
    return Request(
        job_id="id",
        program_id=job,
        target="simulator",
        executor="custatevec",
        params=params,
        limits=ProgramLimits(),
        resources=RESOURCES,
    )


def answered(pool: SandboxPool, job: str, *, slot: int = 0) -> object:
    reply = pool.slots[slot].run(owner="o", request=asked(job), time_limit_s=30)
    assert reply.result is not None, reply.failure
    return orjson.loads(reply.result)


def test_every_slot_has_a_gpu_and_is_the_first_to_touch_it(pool: SandboxPool) -> None:
    first, second = (answered(pool, "gpu", slot=slot) for slot in (0, 1))

    assert first == {"visible": "2", "order": "PCI_BUS_ID", "own": True, "pid": pool.slots[0].pid}
    assert second == {"visible": "3", "order": "PCI_BUS_ID", "own": True, "pid": pool.slots[1].pid}


def test_a_program_runs_on_the_gpu_of_its_child(pool: SandboxPool) -> None:
    params = encode_qasm_params(QasmParams(source=GHZ, shots=100, seed=1))

    reply = pool.slots[0].run(owner="o", request=asked("qasm3", params), time_limit_s=30)

    assert reply.failure is None
    assert reply.metadata["executor"] == "custatevec"
    assert reply.metadata["device"] == "GPU 0: emulated GPU"
    assert reply.metadata["methods"] == ["custatevec"]
    assert reply.result is not None
    counts = orjson.loads(reply.result)["counts"]
    assert set(counts) == {"0" * 12, "1" * 12}
    assert sum(counts.values()) == 100


def test_a_worker_s_child_finds_the_library_itself(libraries: Emulation) -> None:
    """Confined as it is: nothing was loaded before, and all it may read is Python's and ours."""
    params = encode_qasm_params(QasmParams(source=GHZ, shots=100, seed=1))
    with tempfile.TemporaryDirectory(dir=sys.prefix) as folder, pytest.MonkeyPatch.context() as m:
        m.setenv("LD_LIBRARY_PATH", folder)
        shutil.copytree(libraries.folder, folder, dirs_exist_ok=True)
        pool = made(gpus=("0",), slots=1, perform=PERFORM)
        try:
            reply = pool.slots[0].run(owner="o", request=asked("qasm3", params), time_limit_s=30)
        finally:
            pool.close()

    assert reply.failure is None, reply.failure
    assert reply.metadata["device"] == "GPU 0: emulated GPU"


def test_the_librarys_abort_without_a_driver_ends_one_job_only(pool: SandboxPool) -> None:
    other = answered(pool, "gpu", slot=1)

    with pytest.raises(SandboxCrashed, match="ended by SIGABRT") as crash:
        pool.slots[0].run(owner="o", request=asked("abort"), time_limit_s=30)

    assert crash.value.details["signal"] == "SIGABRT"
    assert answered(pool, "gpu", slot=1) == other
    assert answered(pool, "gpu") == {
        "visible": "2",
        "order": "PCI_BUS_ID",
        "own": True,
        "pid": pool.slots[0].pid,
    }


def test_cancelling_kills_the_child_and_the_gpu_with_it(pool: SandboxPool) -> None:
    pid = answered(pool, "gpu")["pid"]
    ended: list[BaseException] = []

    def run() -> None:
        try:
            pool.slots[0].run(owner="o", request=asked("compute"), time_limit_s=30)
        except SandboxKilled as exc:
            ended.append(exc)

    job = threading.Thread(target=run)
    job.start()
    while psutil.Process(pid).status() == psutil.STATUS_SLEEPING and not job.is_alive():
        pass
    pool.slots[0].kill()
    job.join(10)

    assert len(ended) == 1
    assert not psutil.pid_exists(pid)
    assert answered(pool, "gpu")["pid"] != pid


def test_addresses_are_free_where_cuda_is_and_memory_is_not(pool: SandboxPool) -> None:
    assert answered(pool, "reserve") == [True, True, False]


def test_cuda_may_look_for_its_multi_process_service_and_for_nothing_else(
    pool: SandboxPool,
) -> None:
    """It asks for exactly this socket when it starts, and takes ENOENT for an answer."""
    assert answered(pool, "sockets") == {
        "AF_UNIX SOCK_SEQPACKET": "FileNotFoundError",
        "AF_UNIX SOCK_STREAM": "PermissionError",
        "AF_UNIX SOCK_DGRAM": "PermissionError",
        "AF_INET SOCK_SEQPACKET": "PermissionError",
        "AF_INET SOCK_STREAM": "PermissionError",
        "files": "1024",
    }


def test_a_child_that_failed_is_replaced_as_its_gpu_may_be_lost_to_it(pool: SandboxPool) -> None:
    pid = answered(pool, "gpu")["pid"]
    assert answered(pool, "gpu")["pid"] == pid

    reply = pool.slots[0].run(owner="o", request=asked("fail"), time_limit_s=30)

    assert reply.failure is not None
    assert answered(pool, "gpu")["pid"] != pid


def test_a_child_without_a_gpu_is_confined_as_ever(libraries: Emulation) -> None:
    with pytest.MonkeyPatch.context() as patch:
        # An ordinary zygote has no library path: the libraries are not even found.
        patch.setenv("LD_LIBRARY_PATH", str(libraries.folder))
        pool = SandboxPool(
            limits=SandboxLimits(memory_bytes=RESOURCES.memory_bytes),
            resources=RESOURCES,
            slots=1,
            perform="tests.gpu.plain_jobs:perform",
        )
    try:
        assert answered(pool, "reserve") == [False, False, False]
        assert set(answered(pool, "sockets").values()) == {"PermissionError", "64"}
        assert answered(pool, "environment") == {"cuda": [], "library_path": None}
    finally:
        pool.close()


def test_only_children_with_a_gpu_may_open_its_devices(tmp_path: Path) -> None:
    for name in ("null", "zero", "nvidia0", "nvidiactl", "nvidia-uvm", "sda"):
        (tmp_path / name).touch()

    without = files.devices(gpu=False, folder=tmp_path)
    with_gpu = files.devices(gpu=True, folder=tmp_path)

    assert [path.name for path in without] == ["null", "zero"]
    assert [path.name for path in with_gpu] == [
        *("null", "zero"),
        *("nvidia-uvm", "nvidia0", "nvidiactl"),
    ]
