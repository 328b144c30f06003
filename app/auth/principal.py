"""Who calls? The owner and the instance that every job, session, result and list is scoped by."""

from __future__ import annotations

from dataclasses import dataclass, field

#: The instance of callers who name none.
DEFAULT_INSTANCE = "default"


@dataclass(frozen=True, kw_only=True)
class Principal:
    """The caller of a request."""

    #: whose jobs these are; ``[a-z0-9][a-z0-9._-]{0,63}``.
    owner: str
    #: which of the owner's instances is used; the same alphabet.
    instance: str = DEFAULT_INSTANCE
    #: id of the API key that the caller has shown; empty: the service did not ask for one. The
    #: same caller may have several.
    key: str = field(default="", compare=False)

    @property
    def scope(self) -> str:
        """Owner and instance in one word, as keys of the store name it."""
        return f"{self.owner}:{self.instance}"


#: Every caller, as long as the service does not ask for a key.
LOCAL = Principal(owner="local")
