"""What does a child do with one job? Decode the program, run it, encode the result; never raise."""

from __future__ import annotations

import logging
import sys
import traceback
from functools import cache
from time import perf_counter
from typing import TYPE_CHECKING, cast

from app.backends.recordings import find_recordings
from app.config import ProgramLimits
from app.errors import ExecutionError, JobFailure, MemoryLimitReached, ServiceError
from app.executors import registry
from app.jobs.job import Failure
from app.primitives.codec import decode_program, encode_result
from app.primitives.programs import QASM3_CHECK, DeviceFiles, Target
from app.primitives.qasm.load import load_circuit
from app.sandbox.protocol import Reply
from app.telemetry.tracing import trace_id_of

if TYPE_CHECKING:
    from app.executors import Executor, Resources
    from app.primitives.programs import Choice, Program
    from app.sandbox.protocol import Request

#: The job's own log, which its caller reads.
log = logging.getLogger("qfleet")

#: Read once by the zygote, so that every child is born with warm parser tables.
_WARM_UP = """OPENQASM 3.0; include "stdgates.inc";
qubit[2] q; bit[2] c; h q[0]; cx q[0], q[1]; c = measure q;
"""


def prepare() -> None:
    """Warm up what starts no thread: runs in the zygote."""
    load_circuit(_WARM_UP, ProgramLimits())
    registry.preload()
    _recordings()


def perform(request: Request) -> Reply:
    """Run one job. Whatever goes wrong is a failure in the reply."""
    try:
        return _perform(request)
    except JobFailure as exc:
        return _failed(exc)
    except MemoryError:
        allowed = request.resources.memory_bytes
        message = (
            f"the job needed more than the {allowed / 2**20:.0f} MiB of memory a sandbox has;"
            " use fewer qubits or shots"
        )
        return _failed(MemoryLimitReached(message, allowed_bytes=allowed))
    except BaseException as exc:  # noqa: BLE001 - the border of the process; Rust panics are BaseException
        traceback.print_exc(file=sys.stderr)
        message = "the program could not be run: an internal error, which the operator's log has"
        return _failed(ExecutionError(message, error=type(exc).__name__))


def _perform(request: Request) -> Reply:
    began = perf_counter()
    program = decode_program(request.program_id, request.params, request.limits)
    decoded = perf_counter()
    if request.program_id == QASM3_CHECK:
        return Reply(result=b"{}", failure=None)
    log.info("%s for %s on %s: decoded", request.program_id, request.target, request.executor)
    target, name, choice = _target(request.target), request.executor, request.choice
    if name == registry.AUTO:
        choice = _choice(program, target, request)
        log.info("auto: %s, because %s", choice.executor, choice.because)
        if choice.executor in request.live and choice.executor not in request.served:
            return Reply(result=None, failure=None, hand_over=choice)
        name = choice.executor
    result = _executor(name, request.resources).run(program, target)
    result.metadata["attempt"] = request.attempt
    if request.traceparent:
        result.metadata["trace_id"] = trace_id_of(request.traceparent)
    result.metadata["timings_s"] = {"decode": decoded - began, "run": perf_counter() - decoded}
    if choice is not None:
        result.metadata["auto"] = {"chosen": choice.executor, "because": choice.because}
    without_effect = result.metadata.get("options_without_effect", {})
    for path, reason in cast("dict[str, str]", without_effect).items():
        log.warning("option %s has no effect: %s", path, reason)
    log.info("run: %s", result.metadata)
    return Reply(result=encode_result(result), failure=None, metadata=result.metadata)


def _choice(program: Program, target: Target, request: Request) -> Choice:
    # Reading this module must not import Qiskit Aer; the zygote has, before it forks.
    from app.executors.auto import choose  # noqa: PLC0415

    return choose(program, target, request.live, request.worth_from)


@cache
def _recordings() -> dict[str, DeviceFiles]:
    return {
        name: DeviceFiles(configuration=found.configuration, properties=found.properties)
        for name, found in find_recordings().items()
    }


def _target(name: str) -> Target:
    return Target(name=name, recording=_recordings().get(name))


@cache
def _executor(name: str, resources: Resources) -> Executor:
    """An executor stays warm as long as its child lives."""
    return registry.load(name, resources)


def _failed(error: ServiceError) -> Reply:
    log.error("%s: %s", error.code, error)
    failure = Failure(code=error.code, message=str(error), details=error.details)
    return Reply(result=None, failure=failure)
