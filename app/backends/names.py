"""What does a backend's name say? ``metadata@executor``: what it claims to be, and what runs it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from app.errors import BackendNotFound

#: The metadata half of the ideal, all-to-all simulator.
SIMULATOR = "simulator"
#: How the name of a dry run's backend begins.
MOCK = "mock"

_FIRST_PART = re.compile("[^_]+")
_NAME = re.compile(r"(?P<metadata>[a-z][a-z0-9_]{0,63})@(?P<executor>[a-z][a-z0-9_]{0,31})")


def mock_of(name: str) -> str:
    """Where the Qiskit client sends what it was told to run dry on ``name``."""
    return _FIRST_PART.sub(MOCK, name, count=1)


@dataclass(frozen=True, kw_only=True)
class BackendName:
    """A backend's name in its two halves."""

    metadata: str
    executor: str

    def __str__(self) -> str:
        """The name as callers write it."""
        return f"{self.metadata}@{self.executor}"

    @classmethod
    def of(cls, name: str) -> BackendName:
        """The halves of a name.

        Raises:
            BackendNotFound: it is no backend name.
        """
        match = _NAME.fullmatch(name)
        if match is None:
            shown = name[:64]
            message = (
                f"{shown!r} is no backend name; a name reads METADATA@EXECUTOR, as {SIMULATOR}@aer"
            )
            raise BackendNotFound(message)
        return cls(**match.groupdict())
