"""Which executors are there, and how is one made? Imports an executor only to make it."""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, cast

from app.errors import ConfigurationInvalid
from app.executors.engines import bindings

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.executors import Executor, Resources

#: packages that bring an executor name it in this group: ``name = "module:factory"``.
GROUP = "qfleet.executors"
#: picks one of the executors for a program; is none itself.
AUTO = "auto"

#: a factory is called with ``resources=`` and gives an ``Executor``.
_BUILT_IN = {
    "aer": "app.executors.aer:AerExecutor",
    "custatevec": "app.executors.custatevec:custatevec_executor",
    "noisy": "app.executors.noisy:noisy_executor",
}


def names() -> tuple[str, ...]:
    """What a worker may serve, sorted: all executors, and ``auto``.

    Raises:
        ConfigurationInvalid: two executors have the same name.
    """
    return tuple(sorted((AUTO, *_factories())))


def load(name: str, resources: Resources) -> Executor:
    """Make the executor ``name``.

    Raises:
        ConfigurationInvalid: no executor has that name, or it cannot be imported.
    """
    return _factory(name)(resources=resources)


def preload() -> None:
    """Import every executor, and what ``auto`` looks with, so that forked processes need not.

    Raises:
        ConfigurationInvalid: one cannot be imported.
    """
    for name in _factories():
        _factory(name)
    import_module("app.executors.auto")
    # They look for compilers when they are imported, which a sandbox child may not. They touch no
    # GPU before the first call.
    with suppress(ImportError):
        bindings.load()


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
        if entry.name == AUTO:
            message = f"no executor can be called {AUTO!r}, as {entry.value!r} is; uninstall it"
            raise ConfigurationInvalid(message, executor=AUTO)
        if factories.setdefault(entry.name, entry.value) != entry.value:
            message = (
                f"executor {entry.name!r} is both {factories[entry.name]!r} and {entry.value!r}; "
                "uninstall one of the two packages"
            )
            raise ConfigurationInvalid(message, executor=entry.name)
    return factories


def _plugins() -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=GROUP))
