"""What is this, and where does one read on? The answer at ``/``."""

from __future__ import annotations

import asyncio
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

import app
from app.api.dependencies import Services, Shared
from app.errors import Unavailable

#: How long the workers may take to say what they serve; the settings' answer is good enough.
PATIENCE_S = 0.15

router = APIRouter(tags=["service"])


class Greeting(BaseModel):
    """What the service is."""

    name: Literal["Qfleet"] = "Qfleet"
    version: str
    status: Literal["running"] = "running"
    message: str = "Post OpenQASM 3 to /tasks, read the counts at /tasks/{task_id}."
    executors: list[str] = Field(description="what runs jobs", examples=[["aer"]])
    docs: str = "/docs"


@router.get("/")
async def greet(services: Shared) -> Greeting:
    """What the service is, and what runs jobs: of the live workers, or as configured."""
    return Greeting(version=app.__version__, executors=sorted(await _executors(services)))


async def _executors(services: Services) -> set[str]:
    configured = set(services.settings.executors)
    try:
        async with asyncio.timeout(PATIENCE_S):
            workers = await services.dispatcher.workers()
    except (TimeoutError, Unavailable):
        return configured
    return {name for worker in workers for name in worker.executors} or configured
