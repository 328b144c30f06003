"""A client of the event loop: what is cancelled ends."""

from __future__ import annotations

import asyncio

import pytest

from app.jobs.connection import connect_gateway

pytestmark = pytest.mark.anyio
#: Steps of the event loop that a command takes, generously; and how often each is tried.
STEPS = 30
TIMES = 20


async def test_a_task_that_is_cancelled_at_any_step_of_a_command_ends(redis_url: str) -> None:
    client = connect_gateway(redis_url)
    cancelled = 0
    try:
        await client.set("word", "said")
        for steps in [*range(STEPS)] * TIMES:
            task = asyncio.create_task(client.get("word"))
            for _ in range(steps):
                await asyncio.sleep(0)
            if task.cancel():
                cancelled += 1
                with pytest.raises(asyncio.CancelledError):
                    await task
        # An answer that was not read is not the answer of the next command.
        assert await client.get("word") == b"said"
        assert await client.ping()
    finally:
        await client.aclose()
    assert cancelled > STEPS
