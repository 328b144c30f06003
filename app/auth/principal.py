"""Who calls? The owner that every job, result and list is scoped by."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Principal:
    """The caller of a request."""

    #: whose jobs these are.
    owner: str


#: Every caller, as long as the service does not ask for a key.
LOCAL = Principal(owner="local")
