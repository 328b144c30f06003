"""Which executors are there, and how is one made? Imports an executor only to make it."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, cast

from app.errors import ConfigurationInvalid

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.executors import Executor, Resources

#: packages that bring an executor name it in this group: ``name = "module:factory"``.
GROUP = "qfleet.executors"

#: a factory is called with ``resources=`` and gives an ``Executor``.
_BUILT_IN = {"aer": "app.executors.aer:AerExecutor"}


def names() -> tuple[str, ...]:
    """Names of all executors, sorted.

    Raises:
        ConfigurationInvalid: two executors have the same name.
    """
    return tuple(sorted(_factories()))


def load(name: str, resources: Resources) -> Executor:
    """Make the executor ``name``.

    Raises:
        ConfigurationInvalid: no executor has that name, or it cannot be imported.
    """
    return _factory(name)(resources=resources)


def preload(name: str) -> None:
    """Import the executor ``name``, so that processes forked later need not.

    Raises:
        ConfigurationInvalid: no executor has that name, or it cannot be imported.
    """
    _factory(name)


def _factory(name: str) -> Callable[..., Executor]:
    factories = _factories()
    if name not in factories:
        known = ", ".join(sorted(factories))
        message = f"executor {name!r} does not exist; installed are: {known}"
        raise ConfigurationInvalid(message, executor=name)
    module, _, attribute = factories[name].partition(":")
    try:
        factory = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as exc:
        message = f"executor {name!r} cannot be imported from {factories[name]!r}: {exc}"
        raise ConfigurationInvalid(message, executor=name) from exc
    return cast("Callable[..., Executor]", factory)


def _factories() -> dict[str, str]:
    factories = dict(_BUILT_IN)
    for entry in _plugins():
        if factories.setdefault(entry.name, entry.value) != entry.value:
            message = (
                f"executor {entry.name!r} is both {factories[entry.name]!r} and {entry.value!r}; "
                "uninstall one of the two packages"
            )
            raise ConfigurationInvalid(message, executor=entry.name)
    return factories


def _plugins() -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=GROUP))
