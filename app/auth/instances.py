"""What is an instance? A named part of an owner's account, with a plan and an address (CRN)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from app.auth.principal import DEFAULT_INSTANCE
from app.errors import InvalidRequest
from app.lua.keys import DEFAULT_PLAN

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_PLAN = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
#: IBM's Cloud Resource Name with our words in it. Clients count its colons, and make its sixth
#: field, the region, part of a host name.
_CRN = re.compile(
    r"crn:v1:qfleet:public:quantum-computing:local:a/"
    rf"(?P<owner>{_NAME.pattern}):(?P<name>{_NAME.pattern})::"
)


@dataclass(frozen=True, kw_only=True)
class Instance:
    """A part of an owner's account."""

    owner: str
    name: str = DEFAULT_INSTANCE
    #: how large it is, as a word of the operator's choice.
    plan: str = DEFAULT_PLAN

    @property
    def crn(self) -> str:
        """Its address, as Qiskit clients name it in ``Service-CRN``."""
        return f"crn:v1:qfleet:public:quantum-computing:local:a/{self.owner}:{self.name}::"


@dataclass(frozen=True, kw_only=True)
class Quota:
    """How much a plan allows each of its instances; None: as much as the service does."""

    #: jobs that wait.
    queued: int | None = None
    #: jobs that run, at least 1; those beyond it wait.
    running: int | None = None
    #: run time of all jobs in the usage period, seconds; when it is used up, no new job is taken.
    seconds: int | None = None
    #: what all jobs take until they are deleted, bytes.
    kept_bytes: int | None = None


def owner_and_name(crn: str) -> tuple[str, str] | None:
    """Whose instance a CRN is, and its name; None when the CRN is none of ours."""
    found = _CRN.fullmatch(crn)
    return (found["owner"], found["name"]) if found else None


def require_name(kind: str, name: str) -> None:
    """Refuse what cannot name an owner or an instance.

    Raises:
        InvalidRequest: it cannot.
    """
    if _NAME.fullmatch(name) is None:
        message = (
            f"{kind} {name[:64]!r} is no name: 1 to 64 of a-z, 0-9, '.', '_' and '-',"
            " a letter or digit first"
        )
        raise InvalidRequest(message)


def require_plan(plan: str) -> None:
    """Refuse what cannot be a plan.

    Raises:
        InvalidRequest: it cannot.
    """
    if _PLAN.fullmatch(plan) is None:
        message = f"plan {plan[:64]!r} is none: 1 to 64 of a-z, 0-9 and '-', no '-' first"
        raise InvalidRequest(message)
