"""What does a sandbox child do? Jobs, one after another, until its parent hangs up."""

from __future__ import annotations

import logging
import os
import resource
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from app.sandbox.confinement import limit_cpu
from app.sandbox.protocol import (
    Condition,
    decode_request,
    encode_reply,
    read_frame,
    write_frame,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.sandbox.protocol import Reply, Request

#: Where the child finds its jobs.
JOBS_FD = 3
#: A service manager sends them to every process when the worker shall stop; but the worker drains,
#: and ends its children with SIGKILL.
WORKERS_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: How a log record reads: time in UTC, level, who, what.
LOG_FORMAT = "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s"
LOG_TIME = "%Y-%m-%dT%H:%M:%S"
#: Longest params of one job; the gateway has its own, smaller limit.
PARAMS_BYTES = 1 << 30


def take_over(jobs_fd: int, output_fd: int) -> None:
    """Keep the job socket and the output pipe, close the rest, forget the zygote's signals."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDONLY)
    # The two may stand where the others go: move them out of the way first.
    jobs, output = (os.dup(fd) for fd in (jobs_fd, output_fd))
    os.dup2(null, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.dup2(jobs, JOBS_FD)
    os.closerange(JOBS_FD + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with suppress(OSError):
            signal.signal(number, signal.SIG_DFL)
    for number in (signal.SIGXFSZ, signal.SIGPIPE, *WORKERS_SIGNALS):
        signal.signal(number, signal.SIG_IGN)


def serve(perform: Callable[[Request], Reply]) -> None:
    """Run jobs until the parent hangs up."""
    _log_to_output()
    while frame := read_frame(JOBS_FD, most_body=PARAMS_BYTES):
        request, cpu_limit_s = decode_request(*frame)
        limit_cpu(cpu_limit_s)
        logging.getLogger().setLevel(request.log_level)
        reply = perform(request)
        write_frame(JOBS_FD, encode_reply(reply, Condition(rss_bytes=_rss_bytes())))


def _log_to_output() -> None:
    """Let Python's log be part of the job's output, which the worker keeps."""
    formatter = logging.Formatter(LOG_FORMAT, LOG_TIME)
    formatter.converter = time.gmtime
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.getLogger().handlers = [handler]


def _rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
