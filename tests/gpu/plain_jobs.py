"""What children without a GPU run in the tests of the sandbox."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import orjson

from app.sandbox.protocol import Reply
from tests.gpu.sandbox_jobs import reserve, sockets

if TYPE_CHECKING:
    from app.sandbox.protocol import Request


def perform(request: Request) -> Reply:
    """Do what the request's program id says."""
    jobs = {"reserve": reserve, "environment": environment, "sockets": sockets}
    answer = jobs[request.program_id]()
    return Reply(result=orjson.dumps(answer), failure=None)


def environment() -> dict[str, object]:
    """What of CUDA there is in the child's environment."""
    return {
        "cuda": [name for name in os.environ if name.startswith("CUDA")],
        "library_path": os.environ.get("LD_LIBRARY_PATH"),
    }
