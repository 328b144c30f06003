"""Where in a program did something go wrong?"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from app.errors import JobFailure

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def located(path: str) -> Iterator[None]:
    """Put ``path``, e.g. ``pubs[2]``, before the message of a failure."""
    try:
        yield
    except JobFailure as failure:
        failure.message = f"{path}: {failure.message}"
        failure.args = (failure.message,)
        if "problem" in failure.details:
            failure.details["problem"] = failure.message
        raise
